"""The reports of nights that ended here, and what they say of the next one. Ring 3: reads through night.py, and asks
measured.py and capacity.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from pantheon import canaries, capacity, measured
from pantheon import night as nights
from pantheon.checks import AT_ONCE
from pantheon.config import EngineSettings
from pantheon.engine import expected_window
from pantheon.errors import EngineError
from pantheon.git import Repo
from pantheon.measured import Measured
from pantheon.models import DEFAULT_MODEL
from pantheon.records import Forecast, Item, NightReport


def measure(reports: Iterable[NightReport], engine: str, model: str = "") -> Measured:
    """What earlier nights say of this engine; without a model, of the one that its latest night had."""
    try:
        slots = measured.slots_of(expected_window(engine))
    except EngineError:  # it is not installed: a person may look at the figures all the same
        slots = 0
    return measured.measure(tuple(reports), engine, model, slots, AT_ONCE)


def model_of(settings: EngineSettings) -> str:
    """The model's name as a night records it; "" of a server of the user's, which the repository does not name."""
    if settings.kind == "vllm":
        return DEFAULT_MODEL if settings.model == "default" else Path(settings.model).name
    return "scripted" if settings.kind == "scripted" else ""


def canaries_for(items_by_flow: Mapping[str, int], share: float) -> int:
    """How many canaries a queue will get so that they are `share` of the night, where its files give as many."""
    return sum(canaries.wanted(count, share) for count in items_by_flow.values())


def expected(
    repo: Repo, items: Iterable[Item], share: float, *, budget_s: float, engine: str, model: str, window: int
) -> Forecast | None:
    """The forecast of a night with this queue and this share of canaries; before the first night of its kind a guess,
    marked by `nights` of 0. None where there is nothing to do."""
    queue = Counter(item.flow for item in items)
    if not queue:
        return None
    found = measure(nights.reports(repo, nights.RATED_NIGHTS), engine, model)
    sown = canaries_for(queue, share)
    known = capacity.forecast(queue, sown, budget_s, found, window)
    return known or capacity.guess(queue.total(), sown, budget_s, engine == "scripted")
