"""How probable a text was: the ways to cut it into tokens are added up, the ways to another text are not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon.logprobs import Step, probability

BEGINS = '{"x":"'
WORDS = {"boat": 0.5, "tide": 0.3, "opera": 0.2}


def model(text: str, at: int, favour: float) -> Mapping[str, float]:
    """What a model under a schema says of the next token: the words by their weights, each cut as it likes; no token
    holds letters and what stands around them, as in real vocabularies."""
    found: dict[str, float] = {}
    words = WORDS if at == len(BEGINS) else {text[len(BEGINS) : -2]: 1.0}
    for word, weight in words.items():
        parts = (BEGINS, word, '"}')
        part, start = next(
            (p, s) for p, s in zip(parts, (0, len(BEGINS), len(text) - 2), strict=True) if at < s + len(p)
        )
        left = part[at - start :][:4]
        cuts = [favour**size for size in range(len(left))]
        for size, cut in enumerate(cuts, 1):
            found[left[:size]] = found.get(left[:size], 0.0) + weight * cut / sum(cuts)
    return found


def answer(word: str, sizes: list[int], favour: float) -> tuple[str, list[Step]]:
    """One cutting of an answer, as a server tells it."""
    text = f'{BEGINS}{word}"}}'
    steps: list[Step] = []
    at = 0
    while at < len(text):
        told = model(text, at, favour)
        mine = [token for token in told if text.startswith(token, at)]
        token = mine[sizes[len(steps) % len(sizes)] % len(mine)]
        steps.append(Step(token, math.log(told[token]), {other: math.log(p) for other, p in told.items()}))
        at += len(token)
    return text, [*steps, Step("<end>", 0.0, {"<end>": 0.0})]


@given(st.sampled_from(sorted(WORDS)), st.lists(st.integers(0, 3), min_size=1, max_size=12), st.floats(0.2, 3.0))
def test_an_answer_is_as_probable_as_it_is_however_it_was_cut(word: str, sizes: list[int], favour: float) -> None:
    text, steps = answer(word, sizes, favour)
    assert probability(text, steps) == pytest.approx(WORDS[word])
    assert probability(text, [step._replace(top={}) for step in steps]) < WORDS[word] * (1 + 1e-9)  # type: ignore[operator]


def test_a_text_that_is_forced_is_certain() -> None:
    steps = [
        Step("to", math.log(0.1), {"t": math.log(0.7), "tool": math.log(0.2), "to": math.log(0.1)}),
        Step("ol", math.log(0.4), {"o": math.log(0.6), "ol": math.log(0.4)}),
        Step("", 0.0, {}),
    ]
    assert probability("tool", steps) == pytest.approx(1.0)


def test_another_text_takes_its_share() -> None:
    steps = [
        Step("M", -0.907, {"M": -0.907, "N": -1.407, "A": -1.407, "R": -3.157, "Min": -3.532}),
        Step("inutes", 0.0, {"inutes": 0.0}),
    ]
    assert probability("Minutes", steps) == pytest.approx(0.433, abs=0.001)


def test_a_part_of_a_character_is_no_way_to_go_on() -> None:
    assert probability("\u00fc", [Step("\u00fc", -1.0, {"": -0.5, "\u00fc": -1.0})]) == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("wrong", [0.1, float("nan"), None, "-1", True])
def test_what_is_no_logarithm_of_a_probability_tells_nothing(wrong: object) -> None:
    assert probability("x", [Step("x", wrong, {})]) is None  # type: ignore[arg-type]
    assert probability("x", [Step("x", -1.0, {"y": wrong})]) is None  # type: ignore[dict-item]


def test_without_steps_nothing_is_known() -> None:
    assert probability("x", []) is None
    assert probability("x", [Step("x", float("-inf"), {})]) == pytest.approx(0.0)
