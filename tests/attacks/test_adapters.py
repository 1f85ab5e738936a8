"""Adapters as an enemy leaves them: refused by name, before anything that could run or load them sees them. And a
repository that wants another adapter loaded than the one a person trusted."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapter_files import CONFIG, WHEN, card_of, header, safetensors, tensors, write_adapter

from pantheon import adapters, attest, desk, lora
from pantheon.errors import EngineError
from pantheon.git import Repo

from .conftest import Field

AGENT = "doc.frontmatter"


@pytest.fixture
def repo(make_field: Callable[..., Field]) -> Repo:
    return make_field().repo


def planted(repo: Repo, config: dict[str, Any] | None = None, weights: bytes | None = None) -> tuple[str, Path]:
    """An adapter put in its place by somebody who can write there: under the digest that its files have."""
    made = write_adapter(repo.common_dir / "made", config, weights)
    with lora.opened(made, lora.CONFIG) as first, lora.opened(made, lora.WEIGHTS) as second:
        digest = lora.digest(first.read(), second)
    place = adapters.place(repo, AGENT, digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    made.rename(place)
    return digest, place


def refused(repo: Repo, digest: str, why: str) -> None:
    """By name, at once, and with a way on."""
    started = time.monotonic()
    with pytest.raises(EngineError, match=why) as raised:
        adapters.verified(repo, AGENT, digest)
    assert time.monotonic() - started < 2
    assert raised.value.what == "cannot use the adapter"
    assert raised.value.hint == f"git pantheon agents rollback {AGENT}"


def test_an_honest_adapter_passes(repo: Repo) -> None:
    digest, place = planted(repo)
    assert adapters.verified(repo, AGENT, digest) == place


# --- the directory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [lora.CONFIG, lora.WEIGHTS])
def test_a_link_in_the_place_of_a_file(repo: Repo, name: str, tmp_path: Path) -> None:
    digest, place = planted(repo)
    (place / name).rename(tmp_path / name)  # the very bytes, elsewhere
    (place / name).symlink_to(tmp_path / name)
    refused(repo, digest, "there is no such regular file")


def test_a_link_in_the_place_of_the_directory(repo: Repo, tmp_path: Path) -> None:
    digest, place = planted(repo)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    refused(repo, digest, "it is no directory")


@pytest.mark.parametrize("name", [lora.CONFIG, lora.WEIGHTS])
def test_a_fifo_does_not_make_it_wait(repo: Repo, name: str) -> None:
    digest, place = planted(repo)
    (place / name).unlink()
    os.mkfifo(place / name)
    refused(repo, digest, "it is no regular file")


def test_a_device_or_a_directory_in_the_place_of_a_file(repo: Repo) -> None:
    digest, place = planted(repo)
    (place / lora.WEIGHTS).unlink()
    (place / lora.WEIGHTS).mkdir()
    refused(repo, digest, "it is no regular file")


@pytest.mark.parametrize("name", [lora.CONFIG, lora.WEIGHTS])
def test_a_file_that_was_swapped(repo: Repo, name: str, tmp_path: Path) -> None:
    """For that of another sound adapter."""
    digest, place = planted(repo)
    other = write_adapter(tmp_path / "other", {"lora_alpha": 32}, safetensors(header(tensors(side=8))))
    shutil.copyfile(other / name, place / name)
    refused(repo, digest, "somebody changed them")


def test_one_bit_of_a_weight(repo: Repo) -> None:
    digest, place = planted(repo)
    data = bytearray((place / lora.WEIGHTS).read_bytes())
    data[-1] ^= 1
    (place / lora.WEIGHTS).write_bytes(data)
    refused(repo, digest, "somebody changed them")


@pytest.mark.parametrize(
    "name",
    [
        *("adapter_model.bin", "adapter_model.pt", "new_embeddings.safetensors", "tokenizer.json", "modeling_x.py"),
        *("config.json", "tokenizer_config.json", "chat_template.jinja", "__init__.py", "\x1b[2Jx", ".hidden"),
    ],
)
def test_anything_beside_the_two_files(repo: Repo, name: str) -> None:
    digest, place = planted(repo)
    (place / name).write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    refused(repo, digest, "beside its two files it holds")


def test_a_missing_file_and_a_missing_directory(repo: Repo) -> None:
    digest, place = planted(repo)
    (place / lora.WEIGHTS).unlink()
    refused(repo, digest, "there is no such regular file")
    shutil.rmtree(place)
    refused(repo, digest, "it was trained in another clone, or deleted")


# --- the configuration ------------------------------------------------------------------------------------------------

TRAPS: dict[str, tuple[dict[str, Any], str]] = {
    "an import": ({"auto_mapping": {"base_model_class": "X", "parent_library": "os"}}, "auto_mapping is set"),
    "another base": ({"base_model_name_or_path": "/home/ann/evil"}, "base_model_name_or_path is set"),
    "a base to fetch": ({"base_model_name_or_path": "evil/model"}, "base_model_name_or_path is set"),
    "a revision": ({"revision": "refs/pr/1"}, "revision is set"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
    "rank 10,000": ({"r": 10_000}, "its rank is 10000"),
    "rank 0": ({"r": 0}, "its rank is 0"),
    "rank true": ({"r": True}, "its rank is True"),
    "rank of a pattern": ({"rank_pattern": {"(a+)+$": 64}}, "rank_pattern is set"),
    "alpha of a pattern": ({"alpha_pattern": {".*": 1e9}}, "alpha_pattern is set"),
    "huge alpha": ({"lora_alpha": 1e308}, "its lora_alpha is"),
    "an expression": ({"target_modules": "(.*a|b|ab)*q_proj"}, "not a list of names"),
    "an expression in a list": ({"target_modules": ["(a+)+$"]}, "no plain name"),
    "a thousand names": ({"target_modules": [f"m{n}" for n in range(1000)]}, "not a list of names"),
    "code of a server": ({"megatron_config": {"a": 1}, "megatron_core": "os.path"}, "megatron_co"),
    "another method": ({"peft_type": "PROMPT_TUNING"}, "not that of a LoRA"),
    "another task": ({"task_type": "SEQ_CLS"}, "not that of a LoRA of a language model"),
    "dora": ({"use_dora": True}, "use_dora is set"),
    "tokens": ({"trainable_token_indices": [0, 1]}, "trainable_token_indices is set"),
    "layers twice": ({"layer_replication": [[0, 30], [0, 30]]}, "layer_replication is set"),
    "a start from elsewhere": ({"init_lora_weights": "pissa"}, "init_lora_weights is set"),
    "a runtime": ({"runtime_config": {"ephemeral_gpu_offload": True}}, "runtime_config is set"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_configuration_that_does_more_than_a_plain_lora(repo: Repo, trap: str) -> None:
    changes, why = TRAPS[trap]
    refused(repo, planted(repo, changes)[0], why)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[" * 60_000, "nested deeper"),
        (b"{" + b'"a":{' * 10_000, "."),
        (b"\xff\xfe{}", "."),
        (b"", "."),
        (b'{"r": 8, "r": 64}', "a name stands twice"),
        (json.dumps(CONFIG).replace('"lora_alpha": 16', '"lora_alpha": NaN').encode(), "NaN is not a number"),
        (json.dumps(CONFIG).replace('"r": 8', f'"r": {"9" * 5000}').encode(), "."),
    ],
    ids=["deep lists", "deep objects", "no text", "empty", "a name twice", "no number", "a number of 5000 digits"],
)
def test_a_configuration_that_is_no_honest_json(repo: Repo, text: bytes, why: str) -> None:
    made = write_adapter(repo.common_dir / "made")
    (made / lora.CONFIG).write_bytes(text)
    with pytest.raises(EngineError, match=why):
        lora.examine(made)


def test_a_huge_configuration_is_not_even_read(repo: Repo) -> None:
    digest, place = planted(repo)
    with (place / lora.CONFIG).open("r+b") as file:
        file.truncate(1 << 40)
    refused(repo, digest, "more than 65,536")


# --- the weights ------------------------------------------------------------------------------------------------------


def test_a_header_of_hundreds_of_megabytes_is_not_read(repo: Repo) -> None:
    digest, place = planted(repo, weights=struct.pack("<Q", 200 << 20) + b"{")
    with (place / lora.WEIGHTS).open("r+b") as file:
        file.truncate(300 << 20)  # sparse: the header would be there
    with lora.opened(place, lora.CONFIG) as config, lora.opened(place, lora.WEIGHTS) as weights:
        named = lora.digest(config.read(), weights)
    there = adapters.place(repo, AGENT, named)
    place.rename(there)
    assert digest != named
    refused(repo, named, "it announces a header of 209,715,200 bytes")


def test_a_file_of_terabytes_is_not_even_read(repo: Repo) -> None:
    digest, place = planted(repo)
    with (place / lora.WEIGHTS).open("r+b") as file:
        file.truncate(1 << 42)
    refused(repo, digest, "more than 4,294,967,296")


def _changed(change: Callable[[dict[str, Any]], object], data: bytes | None = None) -> bytes:
    said = header(tensors())
    change(said)
    return safetensors(said, bytes(512) if data is None else data)


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = A.replace("_A.", "_B.")
WEIGHTS: dict[str, tuple[bytes, str]] = {
    "no header": (b"\x00" * 4, "."),
    "a header longer than the file": (struct.pack("<Q", 1 << 63) + b"{}", "it announces a header"),
    "a pickle": (b"\x80\x04cos\nsystem\n(S'touch ran'\ntR." + bytes(64), "."),
    "an A without its B": (safetensors(header({A: [8, 4]})), "only one of A and B"),
    "ranks that differ": (safetensors(header({A: [8, 4], B: [4, 4]})), "A has rank 8, B 4"),
    "rank 10,000 in the tensors": (safetensors(header(tensors(rank=10_000))), "has rank 10000"),
    "another rank than it says": (safetensors(header(tensors(rank=16))), "has rank 16, its configuration 8"),
    "a whole embedding": (safetensors(header({"base_model.model.lm_head.weight": [8, 4]})), "no A or B of a LoRA"),
    "a name with a path": (safetensors(header({f"../../{A}": [8, 4]})), "no A or B of a LoRA"),
    "modules nobody named": (safetensors(header(tensors(modules=("o_proj",)))), "none of the target_modules"),
    "too few modules": (safetensors(header(tensors(modules=("q_proj",)))), "no weights for v_proj"),
    "overlapping tensors": (
        _changed(lambda said: said[B].update(data_offsets=[0, 128])),
        "overlap or leave a hole",
    ),
    "offsets beyond the end": (
        _changed(lambda said: said[B].update(data_offsets=[1 << 40, (1 << 40) + 128])),
        "overlap or leave a hole",
    ),
    "negative offsets": (_changed(lambda said: said[A].update(data_offsets=[-128, 0])), "its shape does not fill"),
    "a shape that overflows": (_changed(lambda said: said[A].update(shape=[1 << 40, 1 << 40])), "a matrix is expected"),
    "a type that is none": (_changed(lambda said: said[A].update(dtype="PYOBJ")), "can be served"),
    "a field more": (_changed(lambda said: said[A].update(code="x")), "the three fields"),
    "bytes behind the tensors": (_changed(lambda said: None, bytes(512) + b"PK\x03\x04 a zip"), "the file"),
    "metadata that are no texts": (_changed(lambda said: said["__metadata__"].update(a={"b": 1})), "not texts"),
    "ten thousand tensors": (safetensors(header(tensors(rank=1, side=1, layers=2100))), "tensors, more than"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_are_no_plain_lora(repo: Repo, case: str) -> None:
    data, why = WEIGHTS[case]
    refused(repo, planted(repo, weights=data)[0], why)


# --- what a training leaves -------------------------------------------------------------------------------------------


def test_a_trainer_that_links_to_a_secret_gets_nothing_kept(arena: Field) -> None:
    made = write_adapter(arena.tmp / "made")
    (made / lora.WEIGHTS).unlink()
    (made / lora.WEIGHTS).symlink_to(arena.secret)
    with pytest.raises(EngineError, match="there is no such regular file"):
        adapters.keep(arena.repo, AGENT, made)
    assert not list((arena.repo.common_dir / "pantheon/adapters").rglob("*.safetensors"))


def test_a_trainer_that_leaves_more_than_an_adapter_gets_two_files_kept(arena: Field) -> None:
    made = write_adapter(arena.tmp / "made", {"base_model_name_or_path": "/home/ann/models/x"})
    (made / "adapter_model.bin").write_bytes(b"cos\nsystem\n")
    (made / "README.md").write_text("# peft writes this")
    digest, place = adapters.keep(arena.repo, AGENT, made)
    assert sorted(path.name for path in place.iterdir()) == sorted(lora.FILES)
    assert adapters.verified(arena.repo, AGENT, digest) == place
    assert b"ann" not in (place / lora.CONFIG).read_bytes()


def test_a_trainer_that_makes_no_plain_lora_gets_nothing_kept(arena: Field) -> None:
    made = write_adapter(arena.tmp / "made", {"modules_to_save": ["lm_head"]})
    with pytest.raises(EngineError, match="modules_to_save is set"):
        adapters.keep(arena.repo, AGENT, made)
    assert list((arena.repo.common_dir / "pantheon/adapters" / AGENT).iterdir()) == []


# --- cards ------------------------------------------------------------------------------------------------------------


def test_a_card_that_nobody_signed_or_a_stranger_does_not_count(repo: Repo, tmp_path: Path) -> None:
    signer, digest = desk.signer(repo), f"sha256:{'a' * 64}"
    trust = attest.trust_root(repo.common_dir)
    adapters.write_card(repo, card_of(AGENT, digest), WHEN, signer)
    assert adapters.trusted_cards(repo, AGENT, trust)[digest].base_model == "scripted"
    adapters.write_card(repo, card_of(AGENT, digest, base_model="evil"), WHEN, None)
    stranger = type(signer).load_or_create(tmp_path / "strange")
    adapters.write_card(repo, card_of(AGENT, f"sha256:{'b' * 64}"), WHEN, stranger)
    found = adapters.trusted_cards(repo, AGENT, trust)
    assert {name: card.base_model for name, card in found.items()} == {digest: "scripted"}
