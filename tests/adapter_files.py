"""Small LoRA adapters written by hand: eight bytes, a header of JSON and zeros. No torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pantheon.lessons import Card, Dataset, Loss, Tuned
from pantheon.records import Tuning

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
CONFIG: dict[str, Any] = {  # as peft writes it
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 8,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
    "use_dora": False,
}


def tensors(
    rank: int = 8, modules: Sequence[str] = ("q_proj", "v_proj"), side: int = 4, layers: int = 1
) -> dict[str, list[int]]:
    """name -> shape of the pairs of a small LoRA."""
    found = {}
    for layer in range(layers):
        for module in modules:
            stem = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            found[f"{stem}.lora_A.weight"] = [rank, side]
            found[f"{stem}.lora_B.weight"] = [side, rank]
    return found


def header(shapes: Mapping[str, Sequence[int]], kind: str = "F32", size: int = 4) -> dict[str, Any]:
    """The header of safetensors that hold these matrices one after the other."""
    said: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + shape[0] * shape[1] * size
        said[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return said


def safetensors(said: Mapping[str, Any], data: bytes | None = None) -> bytes:
    """A file of safetensors; without `data` as many zeros as its header tells of."""
    text = json.dumps(said).encode()
    ends = [one["data_offsets"][1] for name, one in said.items() if name != "__metadata__"]
    return struct.pack("<Q", len(text)) + text + (bytes(max(ends, default=0)) if data is None else data)


def write_adapter(directory: Path, config: Mapping[str, Any] | None = None, weights: bytes | None = None) -> Path:
    """An adapter's two files in a new directory; `config` changes what stands in its configuration."""
    directory.mkdir(parents=True)
    text = json.dumps({**CONFIG, **(config or {})}, indent=2)
    (directory / "adapter_config.json").write_text(text, encoding="utf-8")
    (directory / "adapter_model.safetensors").write_bytes(
        safetensors(header(tensors())) if weights is None else weights
    )
    return directory


def card_of(agent: str, adapter: str, **changed: Any) -> Card:
    """A card as a training writes it."""
    dataset = Dataset(
        agent=f"{agent}@1",
        digest="d" * 64,
        rows=40,
        dev=4,
        negatives=3,
        runs=20,
        families=("docs/tides.md",),
        held_out=0.25,
        template_sha256="e" * 64,
        model="scripted",
    )
    losses = (Loss(step=1, epoch=0.5, train=2.0, dev=2.1), Loss(step=2, epoch=1.0, train=1.0, dev=1.2))
    tuned = Tuned(steps=2, best=2, ended="epochs", losses=losses, rows=40, tokens=900, row_tokens=2000, seconds=9.5)
    card = Card(
        agent=agent,
        version=2,
        adapter=adapter,
        base_model="scripted",
        base_sha256={"model.safetensors": "f" * 64},
        dataset=dataset,
        tuning=Tuning(),
        tuned=tuned,
        created_at=WHEN,
    )
    return Card.model_validate({**card.model_dump(), **changed})
