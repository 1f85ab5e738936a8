from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon.lessons import Loss
from pantheon.training import schedule
from pantheon.training.packing import Course, Pack, Sequenced, epoch_packs, packed

TOKENS = st.lists(st.integers(3, 5), min_size=2, max_size=12).map(tuple)  # of three words: much begins alike


@st.composite
def a_row(draw: st.DrawFn) -> Sequenced:
    tokens = draw(TOKENS)
    weight = draw(st.sampled_from((0.25, 0.5, 1.0)))
    group, level = draw(st.sampled_from("abc")), draw(st.integers(0, 2))
    return Sequenced(tokens, draw(st.integers(0, len(tokens) - 1)), weight, group, level)


ROWS = st.lists(a_row(), min_size=1, max_size=12)


def ancestors(pack: Pack, place: int) -> list[int]:
    """The tokens that a token of a pack sees, itself included."""
    return [at for at in range(place + 1) if place < pack.ends[at]]


@given(ROWS, st.integers(1, 40), st.none() | st.integers(0, 9))
def test_every_token_of_a_completion_is_predicted_from_exactly_what_came_before_it(
    rows: list[Sequenced], limit: int, seed: int | None
) -> None:
    seen: Counter[int] = Counter()
    for pack in packed(rows, limit, seed):
        for number, places in pack.paths:
            row = rows[number]
            seen[number] += 1
            edges = [pack.edges[place] for place in places]
            assert len(edges) == len(row.tokens) - max(1, row.prompt)
            for at, (parent, child, _) in enumerate(edges, max(1, row.prompt)):
                before = ancestors(pack, parent)
                assert [pack.tokens[place] for place in before] == list(row.tokens[:at])
                assert [pack.depths[place] for place in before] == list(range(at))
                assert pack.tokens[child] == row.tokens[at]
    assert seen == Counter(range(len(rows)))  # each once, none twice


@given(ROWS, st.integers(1, 40), st.integers(0, 9))
def test_weights_add_up_and_only_what_fits_nowhere_is_longer_than_the_limit(
    rows: list[Sequenced], limit: int, seed: int
) -> None:
    packs = list(packed(rows, limit, seed))
    weight = sum(row.weight * (len(row.tokens) - max(1, row.prompt)) for row in rows)
    assert math.isclose(sum(pack.weight for pack in packs), weight)
    assert sum(pack.row_tokens for pack in packs) == sum(len(row.tokens) for row in rows)
    for pack in packs:
        assert len(pack.tokens) <= limit or len(pack.tokens) == max(len(rows[n].tokens) for n, _ in pack.paths)
        assert len(pack.tokens) <= pack.row_tokens


@given(ROWS, st.integers(1, 40), st.integers(0, 9))
def test_an_epoch_is_the_same_for_the_same_seed_and_the_first_one_goes_from_easy_to_hard(
    rows: list[Sequenced], limit: int, seed: int
) -> None:
    assert epoch_packs(rows, limit, seed, 1) == epoch_packs(rows, limit, seed, 1)
    levels = [{rows[number].level for number, _ in pack.paths} for pack in epoch_packs(rows, limit, seed, 0)]
    assert all(len(level) == 1 for level in levels)
    assert [min(level) for level in levels] == sorted(min(level) for level in levels)
    course = Course.of(rows, limit, seed, 3)
    assert course.epoch(0) == 0 and course.epoch(len(course.packs)) == 3
    assert len(course.packs) == sum(course.epochs)


def test_a_shared_beginning_is_packed_once() -> None:
    rows = [Sequenced((*range(100), 200 + tail, 7), 101, group="item") for tail in range(8)]
    (pack,) = packed(rows, 2048)
    assert (len(pack.tokens), pack.row_tokens) == (100 + 2 * 8, 8 * 102)
    assert len(list(packed(rows, 1))) == 8  # a limit that nothing fits: every row alone


@pytest.fixture(scope="module")
def model(weights: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return weights._load(tiny_model.build(tmp_path_factory.mktemp("model") / "tiny"), quantised=False)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=12)
@given(st.lists(a_row(), min_size=1, max_size=6), st.integers(8, 60))
def test_losses_and_gradients_are_those_of_rows_alone(
    weights: ModuleType, model: Any, rows: list[Sequenced], limit: int
) -> None:
    def sums(packs: list[Pack]) -> tuple[float, Any]:
        model.zero_grad()
        total = sum(weights._loss(model, pack) * pack.weight for pack in packs)
        total.backward()
        return float(total), [one.grad.clone() for one in model.parameters()]

    loss, gradient = sums([pack for pack in packed(rows, limit) if pack.edges])
    alone, other = sums([pack for row in rows for pack in packed([row], 1)])
    assert math.isclose(loss, alone, rel_tol=1e-4)
    for mine, theirs in zip(gradient, other, strict=True):
        assert weights.torch.allclose(mine, theirs, rtol=1e-3, atol=1e-4 * max(1.0, abs(alone)))


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_runs_along_the_tokens_is_found_out(weights: ModuleType, model: Any) -> None:
    assert weights._sees_trees(model)
    layer = model.model.layers[0]
    hook = layer.register_forward_hook(lambda _, __, out: out.cumsum(1))
    try:
        assert not weights._sees_trees(model)
    finally:
        hook.remove()


# --- the schedule ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.floats(1e-6, 1e-1))
def test_the_rate_warms_up_and_falls_and_stays_within_its_peak(total: int, peak: float) -> None:
    rates = [schedule.rate(step, total, peak) for step in range(total)]
    assert all(0 < rate <= peak for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert top <= max(1, total // 20)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6))
def test_the_dev_rows_are_looked_at_twice_an_epoch_and_at_its_end(epochs: list[int]) -> None:
    found = schedule.looks(epochs)
    begin = 0
    for steps in epochs:
        own = {step for step in found if begin < step <= begin + steps}
        assert begin + steps in own and len(own) >= min(2, steps)
        begin += steps
    assert max(found) == begin
    gaps = sorted({0, *found})
    assert all(b - a <= schedule.LOOK_EVERY for a, b in itertools.pairwise(gaps))


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=30))
def test_the_first_of_the_lowest_losses_is_kept_and_patience_ends(losses: list[float]) -> None:
    watch = schedule.Watch()
    for step, loss in enumerate(losses):
        watch = watch.seen(step, loss)
        assert (watch.best, watch.step) == (min(losses[: step + 1]), losses.index(min(losses[: step + 1])))
        assert watch.over == (step - watch.step >= schedule.PATIENCE)


@given(st.integers(1, 2048), st.integers(1, 2048), st.booleans())
def test_a_longer_pack_needs_more_and_checkpoints_less(one: int, other: int, checkpoints: bool) -> None:
    need = schedule.Need.measured(1e9, [(64, 64 * 2_600_000), (192, 192 * 2_600_000)], 30, 4 * 576, 4 * 49152)
    short, long = sorted((one, other))
    assert need.of(short, 1, checkpoints) <= need.of(long, 1, checkpoints)
    assert need.of(long, 1, True) <= need.of(long, 1, False)
    assert need.square == 0


def test_memory_decides_first_over_the_pack_and_then_over_checkpoints() -> None:
    need = schedule.Need.measured(1e9, [(64, 64 * 2_600_000), (192, 192 * 2_600_000)], 30, 4 * 576, 4 * 49152)
    sizes = [(2048, [(2000, 200)]), (512, [(500, 60)])]
    plans = [schedule.choose(need, sizes, int(gib * 2**30)) for gib in (16, 3.5, 2.2, 0.5)]
    assert [(plan.pack, plan.checkpoints) for plan in plans] == [(2048, False), (512, False), (2048, True), (512, True)]
    assert plans[-1].needs > 2**29  # nothing fits: what would is said


def test_few_rows_go_in_short_packs_so_that_an_epoch_has_steps() -> None:
    assert schedule.offered([(2048, 30), (1024, 60), (256, 99)]) == (2048, 1024, 256)
    assert schedule.offered([(2048, 2), (1024, 9), (256, 12)]) == (1024, 256)
    assert schedule.offered([(2048, 1), (1024, 3), (256, 3)]) == (1024,)


def test_losses_are_drawn_on_one_scale() -> None:
    points = [(0, None, 2.0), (5, 1.5, 1.4), (10, 1.0, 1.2), (15, 0.5, 1.3)]
    losses = [Loss(step=step, epoch=0, train=train, dev=dev) for step, train, dev in points]
    assert schedule.curve(losses, 10) == [
        "train  1.500  ▆▃▁ 0.500",
        "dev    2.000 █▅▄▅ 1.300, lowest 1.200 after 10 steps",
    ]
    assert schedule.curve([], 0) == []


def test_the_tiny_model_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    one, same, other = (
        tiny_model.build(tmp_path / name, seed) / "model.safetensors" for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one.read_bytes() == same.read_bytes() != other.read_bytes()
