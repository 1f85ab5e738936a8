"""The form of an adapter's two files: what peft writes is taken, all else is refused, and nothing makes it fall."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from adapter_files import CONFIG, header, safetensors, tensors, write_adapter
from hypothesis import given
from hypothesis import strategies as st

from pantheon import lora
from pantheon.errors import EngineError

SAID = r"\w"  # something
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def test_what_peft_writes_is_read(tmp_path: Path) -> None:
    shape = lora.examine(write_adapter(tmp_path / "a"))
    assert (shape.rank, shape.alpha, shape.modules) == (8, 16.0, ("q_proj", "v_proj"))
    assert shape.parameters == 4 * 8 * 4
    assert shape.size == sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    assert lora.examine(tmp_path / "a", shape.digest) == shape


@pytest.mark.parametrize(("kind", "size"), [("F32", 4), ("F16", 2), ("BF16", 2)])
def test_every_type_that_can_be_served_is_read(tmp_path: Path, kind: str, size: int) -> None:
    weights = safetensors(header(tensors(), kind, size))
    assert lora.examine(write_adapter(tmp_path / "a", weights=weights)).parameters == 128


def test_the_digest_is_of_both_files(tmp_path: Path) -> None:
    one = lora.examine(write_adapter(tmp_path / "a")).digest
    other = lora.examine(write_adapter(tmp_path / "b", {"lora_alpha": 32})).digest
    weights = bytearray(safetensors(header(tensors())))
    weights[-1] = 1
    third = lora.examine(write_adapter(tmp_path / "c", weights=bytes(weights))).digest
    assert len({one, other, third}) == 3
    assert lora.examine(write_adapter(tmp_path / "d")).digest == one


def test_what_is_kept_names_no_place_and_is_the_same_for_the_same_training() -> None:
    one = {**CONFIG, "base_model_name_or_path": "/home/ann/model", "target_modules": ["v_proj", "q_proj"]}
    other = {**CONFIG, "base_model_name_or_path": "/tmp/x", "target_modules": ["q_proj", "v_proj"]}
    kept = lora.plain(json.dumps(one).encode())
    assert kept == lora.plain(json.dumps(other).encode())
    assert b"ann" not in kept
    assert lora.parse_config(kept) == (8, 16.0, frozenset({"q_proj", "v_proj"}))


def test_an_option_that_a_later_peft_knows_is_taken_only_where_it_is_off() -> None:
    unused: tuple[Any, ...] = (None, False, {}, [])
    for off in unused:
        lora.parse_config(json.dumps({**CONFIG, "use_something_new": off}).encode())
    for on in (True, {"a": 1}, "name", 7):
        with pytest.raises(ValueError, match="use_something_new is set"):
            lora.parse_config(json.dumps({**CONFIG, "use_something_new": on}).encode())


@given(st.dictionaries(st.sampled_from([*CONFIG, "new"]), JSON, max_size=6))
def test_a_configuration_is_plain_or_refused(changes: dict[str, Any]) -> None:
    try:
        rank, alpha, targets = lora.parse_config(json.dumps({**CONFIG, **changes}).encode())
    except ValueError:
        return
    assert 1 <= rank <= lora.MAX_RANK
    assert 0 < alpha <= lora.MAX_ALPHA
    assert all(name.isascii() and name.replace("_", "").isalnum() for name in targets)
    for key in ("auto_mapping", "base_model_name_or_path", "modules_to_save", "rank_pattern", "use_dora", "revision"):
        assert not {**CONFIG, **changes}[key]


@given(st.binary(max_size=300))
def test_bytes_that_are_no_header_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=SAID):
        lora.parse_header(data, 0)


@given(st.data())
def test_a_header_whose_numbers_were_changed_is_refused(data: st.DataObject) -> None:
    """A file describes its bytes in one way only: no number of it can be another one."""
    said = header(tensors())
    room = 4 * 128
    assert len(lora.parse_header(json.dumps(said).encode(), room)) == 2
    name = data.draw(st.sampled_from([one for one in said if one != "__metadata__"]))
    field = data.draw(st.sampled_from(["shape", "data_offsets"]))
    at = data.draw(st.sampled_from([0, 1]))
    value = data.draw(st.integers(-5, 1 << 40).filter(lambda number: number != said[name][field][at]))
    said[name][field][at] = value
    with pytest.raises(ValueError, match=SAID):
        pairs = lora.parse_header(json.dumps(said).encode(), room)
        lora._fits(pairs, 8, frozenset({"q_proj", "v_proj"}))


@given(JSON)
def test_any_other_json_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=SAID):
        lora.parse_header(json.dumps(value).encode(), 0)
    with pytest.raises(ValueError, match=SAID):
        lora.parse_config(json.dumps(value).encode())


def test_a_refusal_says_which_file_and_how_to_go_on(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "doc.frontmatter" / ("a" * 64), {"use_dora": True})
    with pytest.raises(EngineError) as raised:
        lora.examine(directory)
    assert raised.value.thing == str(directory / "adapter_config.json")
    assert raised.value.hint == "git pantheon agents rollback doc.frontmatter"
