"""A language model of four hundred thousand random weights with its tokenizer and chat template, for tests.

A Llama that peft, bitsandbytes (sides that 64 divides) and vLLM (heads of 64) load as they load a real one; the same
bytes for the same seed. It knows nothing, so that whatever it does better after a training it has learned.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = """You are a librarian. You fill in the front matter of notes, one field at a time. You see the beginning of a
note and the open goal, and answer with one JSON object: one call of a tool. Tools: set_field, read_note, finalize.
Example: {"tool":"set_field","field":"title","value":"Nightly backups of the mail server"} {"tool":"set_field",
"field":"tags","value":"backup"} {"tool":"set_field","field":"description","value":"The oven is cleaned every Friday."}
Conventions: title: names the subject of the note in a few words, as its first heading does. description: one sentence
from the note that says what the note is about. Acceptance: every required field is there, nothing is invented, and the
text of the note stays as it is. Note: docs/garden.md Text: Goal: {"verdict":"pass","reason":""} {"verdict":"fail"}"""
LAYERS, HIDDEN, HEADS, INNER, VOCABULARY, CONTEXT = 2, 128, 2, 256, 768, 8192


def build(directory: Path, seed: int = 0) -> Path:
    """Write the model into `directory`, which is made; returns it."""
    directory.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    ends = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    _write(
        directory / "tokenizer_config.json",
        {
            **ends,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
        },
    )
    (directory / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    _write(directory / "config.json", _config())
    _write(directory / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})
    save_file(_weights(seed), directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def _tokenizer() -> Tokenizer:
    """Byte-level, so that every text is in it and comes out as it went in; some words of our prompts are one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    controls = [AddedToken(word, special=True, normalized=False) for word in CONTROLS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=controls,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    return tokenizer


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "dtype": "float32",
        "eos_token_id": 2,
        "head_dim": HIDDEN // HEADS,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "max_position_embeddings": CONTEXT,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 1,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


def _weights(seed: int) -> dict[str, numpy.ndarray[Any, numpy.dtype[numpy.float32]]]:
    chance = numpy.random.default_rng(seed)
    shapes: dict[str, tuple[int, int]] = {"model.embed_tokens": (VOCABULARY, HIDDEN)}
    side = HIDDEN // HEADS
    for layer in range(LAYERS):
        own = f"model.layers.{layer}"
        for name, rows in (("q_proj", HIDDEN), ("k_proj", side), ("v_proj", side), ("o_proj", HIDDEN)):
            shapes[f"{own}.self_attn.{name}"] = (rows, HIDDEN)
        shapes |= {f"{own}.mlp.{name}": (INNER, HIDDEN) for name in ("gate_proj", "up_proj")}
        shapes[f"{own}.mlp.down_proj"] = (HIDDEN, INNER)
    found = {
        f"{name}.weight": (chance.standard_normal(shape) * 0.08).astype(numpy.float32) for name, shape in shapes.items()
    }
    norms = [
        f"model.layers.{layer}.{name}"
        for layer in range(LAYERS)
        for name in ("input_layernorm", "post_attention_layernorm")
    ]
    return found | {f"{name}.weight": numpy.ones(HIDDEN, dtype=numpy.float32) for name in (*norms, "model.norm")}


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
