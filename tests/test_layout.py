"""The layout of prompts is an interface: what the items of an agent share comes first, so that the engine computes it
once. Counted in characters, and in the model's own tokens by the blocks that the engine keeps."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, takewhile
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeRepo
from test_night import build, night

from pantheon import loop
from pantheon.engine import CPU_BLOCK, ScriptedEngine
from pantheon.models import ChatTemplate
from pantheon.records import Offer

Split = Callable[[str], Sequence[Any]]


class Listening(ScriptedEngine):
    """Keeps the prompts that it gets, by what their agents say of themselves; rendered as a model has it."""

    def __init__(self, template: ChatTemplate | None = None) -> None:
        super().__init__()
        self.template = template
        self.asked: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)  # system -> (prompt, user)

    def render(self, system: str, user: str) -> str:
        whole = self.template.render(system, user) if self.template else super().render(system, user)
        self.asked[system].append((whole, user))
        return whole


def prompts_of(make_repo: MakeRepo, tmp_path: Path, template: ChatTemplate | None) -> Mapping[str, Any]:
    engine = Listening(template)
    night(build(make_repo), tmp_path, engine)
    return engine.asked


def common(one: Sequence[Any], other: Sequence[Any]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def held(asked: Mapping[str, list[tuple[str, str]]], split: Split, block: int) -> None:
    """Of any two prompts of an agent 95 % of what stands before the target is the same, and every whole block of it."""
    several = {system: prompts for system, prompts in asked.items() if len({user for _, user in prompts}) > 1}
    assert len(several) >= 3, "an editor and two reviewers"
    for system, prompts in several.items():
        for (one, user), (other, _) in combinations(prompts[:12], 2):
            before = len(split(one[: one.rindex(user)]))
            same = common(split(one), split(other))
            assert same >= 0.95 * before, f"{same} of {before}: {system[:80]}"
            assert same // block >= (before - 1) // block, "a whole block before the target is not shared"


def test_what_items_share_comes_first(make_repo: MakeRepo, tmp_path: Path) -> None:
    held(prompts_of(make_repo, tmp_path, None), list, 1)


def test_in_the_models_tokens_no_block_before_the_target_is_lost(
    make_repo: MakeRepo, tmp_path: Path, model_dir: Path
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(model_dir / "tokenizer.json"))

    def split(text: str) -> Sequence[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    held(prompts_of(make_repo, tmp_path, ChatTemplate(model_dir)), split, CPU_BLOCK)


def test_the_same_offers_are_the_same_bytes() -> None:
    """A server compiles a schema once, and knows it again by its bytes."""

    def offers() -> tuple[Offer, ...]:
        return (
            Offer(tool="set_field", args={"field": ("title",), "value": ("Tides", "Boats")}),
            Offer(tool="set_field", args={"field": ("description",), "value": None}, max_length=160),
        )

    first, second = (json.dumps(loop.schema_of(offers())) for _ in range(2))
    assert first == second
    assert json.dumps(loop.schema_of(offers()[::-1])) != first, "and the order of what is offered counts"
