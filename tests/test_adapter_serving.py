"""Adapters on one real server: each answers for itself. On a CPU they are asked one after the other: in one batch with
an adapter a request without one is answered wrongly there, which is why serving.py never puts them side by side."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny_model
from adapter_files import write_adapter
from safetensors.numpy import save

from pantheon import lora
from pantheon.engine import VllmEngine
from pantheon.errors import EngineError
from pantheon.records import Runtime

ONE, OTHER, MISSING = ("sha256:" + letter * 64 for letter in "abc")
TEXT: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"type": "string", "minLength": 24, "maxLength": 24}},
    "required": ["value"],
    "additionalProperties": False,
}


def adapter(place: Path, seed: int) -> Path:
    """A LoRA of rank 8 with random weights that are large enough to be heard."""
    chance = numpy.random.default_rng(seed)
    tensors: dict[str, numpy.ndarray[Any, Any]] = {}
    for layer in range(tiny_model.LAYERS):
        stem = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        shape = (8, tiny_model.HIDDEN)
        tensors[f"{stem}.lora_A.weight"] = chance.normal(0, 1, shape).astype(numpy.float32)
        tensors[f"{stem}.lora_B.weight"] = chance.normal(0, 1, shape[::-1]).astype(numpy.float32)
    directory = write_adapter(place, {"target_modules": ["q_proj"]}, save(tensors, metadata={"format": "pt"}))
    lora.examine(directory)
    return directory


@pytest.mark.live
def test_each_adapter_answers_for_itself_and_one_that_was_not_given_for_nobody(tmp_path: Path) -> None:
    model = tiny_model.build(tmp_path / "Tiny")
    given = {ONE: adapter(tmp_path / "one", 1), OTHER: adapter(tmp_path / "other", 2)}

    async def job(short: Path) -> Mapping[str | None, list[str]]:
        engine = await VllmEngine.start(
            model,
            runtime_dir=short,
            cache_dir=tmp_path / "cache",
            log_path=tmp_path / "engine.log",
            on_progress=lambda _: None,
            adapters=given,
        )
        try:
            prompt = engine.render("You are a librarian.", "Note: docs/garden.md")

            async def ask(digest: str | None) -> str:
                voice = engine.of(Runtime(origin="local", adapter=digest))
                done = await voice.complete(prompt, schema=TEXT, max_tokens=64, deadline_s=240)
                return done.text

            heard: dict[str | None, list[str]] = {None: [], ONE: [], OTHER: []}
            for digest in [*heard] * 2:
                heard[digest].append(await ask(digest))
            with pytest.raises(EngineError, match="started without it"):
                await ask(MISSING)
            return heard
        finally:
            await engine.close()

    with tempfile.TemporaryDirectory(prefix="pantheon-test-") as short:
        heard = asyncio.run(job(Path(short)))
    assert all(first == second for first, second in heard.values()), "the same voice says the same"
    assert len({texts[0] for texts in heard.values()}) == 3, heard
