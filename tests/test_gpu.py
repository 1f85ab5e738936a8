"""The number of requests that a card takes: from its memory, the model's weights and the keys of a token."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pantheon import gpu
from pantheon.errors import EngineError

SMALL = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64}
SEVEN = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
GIB = 1 << 30


@pytest.fixture(autouse=True)
def unasked() -> None:
    """No card was asked yet."""
    gpu.memory.cache_clear()


def model(place: Path, config: dict[str, Any], weights: int = 0) -> Path:
    (place / "config.json").write_text(json.dumps(config))
    with (place / "model.safetensors").open("wb") as file:
        os.truncate(file.fileno(), weights)
    return place


def test_a_small_model_on_a_large_card_gets_the_most(tmp_path: Path) -> None:
    assert gpu.window(model(tmp_path, SMALL, GIB // 4), 80 * GIB) == gpu.MOST


def test_weights_take_their_share_and_the_rest_is_for_requests(tmp_path: Path) -> None:
    """24 GiB, 14 GiB of weights: 5.6 GiB are left, and a request of 2048 tokens takes 256 MiB."""
    assert gpu.window(model(tmp_path, SEVEN, 14 * GIB), 24 * GIB) == 16
    assert gpu.window(model(tmp_path, SEVEN, 14 * GIB), 80 * GIB) == 224


def test_numbers_of_four_bytes_take_twice_the_room(tmp_path: Path) -> None:
    assert gpu.window(model(tmp_path, SEVEN | {"dtype": "float32"}, 14 * GIB), 80 * GIB) == 112


def test_the_text_part_of_a_larger_configuration_counts(tmp_path: Path) -> None:
    assert gpu.window(model(tmp_path, {"text_config": SEVEN}, 14 * GIB), 80 * GIB) == 224


def test_a_card_that_is_too_small_still_gets_a_few(tmp_path: Path) -> None:
    assert gpu.window(model(tmp_path, SEVEN, 14 * GIB), 8 * GIB) == gpu.FEWEST


@pytest.mark.parametrize(
    "config", [{}, SEVEN | {"kv_lora_rank": 512}, SEVEN | {"num_attention_heads": 0}, {"text_config": 1}]
)
def test_what_the_model_does_not_tell_is_not_guessed(tmp_path: Path, config: dict[str, Any]) -> None:
    assert gpu.window(model(tmp_path, config), 80 * GIB) == gpu.USUAL


def test_without_a_driver_nothing_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.memory() is None
    assert gpu.window(model(tmp_path, SEVEN), None) == gpu.USUAL


def test_the_first_card_of_the_driver_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 81559\necho 24576\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpu.memory() == 81559 << 20


def test_a_directory_that_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot read the model"):
        gpu.window(tmp_path, None)
