"""The bench that replays a night: it sends what the night sent, and counts time as it says."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import MakeRepo
from rich.progress import Progress
from test_night import NOTES, TASK

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import saturation

from pantheon.engine import ScriptedEngine


def test_seconds_without_a_request_are_those_that_no_span_covers() -> None:
    assert saturation.idle([], 0.0, 4.0) == 4.0
    assert saturation.idle([(1.0, 2.0), (1.5, 3.0), (5.0, 6.0)], 0.0, 7.0) == 1.0 + 2.0 + 1.0
    assert saturation.idle([(0.0, 9.0), (2.0, 3.0)], 0.0, 9.0) == 0.0


def test_the_tail_is_what_comes_after_nine_tenths() -> None:
    assert saturation.tail([]) == 0.0
    assert saturation.tail([float(n) for n in range(1, 11)]) == 1.0
    assert saturation.tail([1.0, 1.0, 1.0, 5.0]) == 0.0, "of four the last is in the nine tenths"


def test_an_interval_holds_the_middle_and_is_the_same_each_time() -> None:
    values = [0.90, 0.95, 0.93, 0.97, 0.91]
    low, high = saturation.interval(values)
    assert min(values) <= low <= saturation.middle(values) <= high <= max(values)
    assert saturation.interval(values) == (low, high)


def test_a_replay_sends_exactly_what_the_night_sent(
    make_repo: MakeRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saturation, "busy", lambda: 0.0)
    asked: list[tuple[str, str]] = []

    def hears(prompt: str, schema: dict[str, object]) -> str | None:
        asked.append((prompt, str(schema)))
        return None

    async def play() -> tuple[saturation.Leg, saturation.Leg, int]:
        with Progress(disable=True) as bar:
            stand = saturation.Stand(ScriptedEngine(hears, latency_s=0.002), template, tmp_path / "legs", 3, bar)
            night, log = await stand.night()
            count = len(asked)
            return night, await stand.replay(log), count

    template = make_repo({**NOTES, "docs/tasks/tidy.md": TASK})
    night, replay, count = asyncio.run(play())
    assert Counter(asked[:count]) == Counter(asked[count:])
    assert (night.requests, night.tokens, night.unanswered) == (replay.requests, replay.tokens, 0)
    assert night.items == 3
    assert min(night.seconds, replay.seconds) > 0
