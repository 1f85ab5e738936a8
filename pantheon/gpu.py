"""How many requests a graphics card works on at once, from its memory and what the model keeps of each token.

vLLM takes nine tenths of a card: what the weights and its own buffers leave is for keys and values. A request that does
not fit is preempted and computed again, so the number is what fits; more than `MOST` gains nothing for a small model.
The prefix that all requests of an agent share is kept once and not counted.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pantheon.errors import SandboxError
from pantheon.models import read_json
from pantheon.process import Limits, run

TAKEN = 0.9  # of the card's memory: vLLM's own default
BUFFERS = 2 << 30  # bytes for activations and captured graphs
REQUEST = 2048  # tokens of a prompt and its answer
FEWEST, USUAL, MOST = 8, 128, 512  # requests; `USUAL` where the card or the model does not tell
_SMI = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


@cache
def memory() -> int | None:
    """Bytes of the first card; None when no driver tells."""
    try:
        done = run(list(_SMI), limits=Limits(wall_s=20, memory_bytes=None, processes=None))
    except SandboxError:
        return None
    first = done.stdout.split(b"\n", 1)[0].strip()
    return int(first) << 20 if done.returncode == 0 and first.isdigit() else None


def window(model: Path, memory_bytes: int | None) -> int:
    """Requests in flight, a multiple of 8. Raises EngineError when the model's directory cannot be read."""
    each = _token_bytes(read_json(model / "config.json"))
    if memory_bytes is None or each is None:
        return USUAL
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    fits = int((memory_bytes * TAKEN - weights - BUFFERS) / (each * REQUEST))
    return max(FEWEST, min(MOST, fits // 8 * 8))


def _token_bytes(config: dict[str, Any]) -> int | None:
    """What one token's keys and values take, in all layers; None where they are kept in another way."""
    text = config.get("text_config", config)
    try:
        layers, heads = int(text["num_hidden_layers"]), int(text["num_attention_heads"])
        kept = int(text.get("num_key_value_heads") or heads)
        size = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
        return None
    if "kv_lora_rank" in text or min(layers, kept, size) < 1:
        return None
    wide = "float32" in (text.get("dtype"), text.get("torch_dtype"))
    return 2 * layers * kept * size * (4 if wide else 2)
