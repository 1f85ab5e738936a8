"""The reports of nights that ended here, and what they say of the next one. Ring 3: reads through night.py, and asks
measured.py, capacity.py and curriculum.py.

Owns `pantheon/tries/` below the common git dir, a cache: what a night says of its items is a hundredth of its report.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from pantheon import adapters, canaries, capacity, curriculum, growth, measured, nights
from pantheon.checks import AT_ONCE
from pantheon.config import Config, EngineSettings
from pantheon.curriculum import Staged, Tried
from pantheon.engine import expected_window
from pantheon.errors import EngineError, RepositoryError
from pantheon.git import Repo
from pantheon.growth import Growth
from pantheon.measured import Measured
from pantheon.models import DEFAULT_MODEL
from pantheon.places import TRIES
from pantheon.plan import Plan
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


# --- what was tried --------------------------------------------------------------------------------------------------

TRIED_NIGHTS = 30


def tried(repo: Repo, engine: str) -> list[Tried]:
    """What the last nights with this kind of engine say of their items, oldest first: of a dry run nothing is learned
    about a model, nor the other way round."""
    cache = repo.common_dir / "pantheon" / TRIES
    found: list[Tried] = []
    commits = nights.latest(repo)[: 2 * TRIED_NIGHTS]
    for commit in commits:
        if len(found) < TRIED_NIGHTS and (one := _tried(repo, cache, commit)) is not None and one.engine == engine:
            found.append(one)
    _forget(cache, commits)
    return found[::-1]


def _tried(repo: Repo, cache: Path, commit: str) -> Tried | None:
    """Of one night, from the cache, else from its report; None where it has none that can be read."""
    place = cache / f"{commit}.json"
    with contextlib.suppress(OSError, ValidationError):
        return Tried.model_validate_json(place.read_bytes())
    try:
        report = nights.read_report(repo, commit)
        found = curriculum.tried(report) if report else None
    except (ValidationError, RepositoryError):  # of a later version, or damaged
        return None
    if found is not None:
        with contextlib.suppress(OSError):  # read only, or full: it is read again next time
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=cache, delete=False) as stream:
                stream.write(found.to_json().encode("utf-8", "surrogateescape"))
            os.replace(stream.name, place)
    return found


def _forget(cache: Path, commits: Iterable[str]) -> None:
    """Take what is no longer asked for out of the cache."""
    kept = {f"{commit}.json" for commit in commits}
    with contextlib.suppress(OSError):
        for path in cache.iterdir():
            if path.name not in kept:
                path.unlink()


def levels(repo: Repo, engine: str, count: int) -> dict[str, int]:
    """Item -> its level of `count`, from 0, the easiest; of all items that the last nights tried."""
    return curriculum.levels([one for night in tried(repo, engine) for one in night.tries], count)


def staged(repo: Repo, found: Config, planned: Plan, teacher: str = "") -> Staged:
    """The plan from easy to hard, without what waits for its level. `teacher`: the model that would do the work that
    edits, "" for the agents' own."""
    if not planned.items:
        return Staged(planned)
    settings = found.settings
    known = tried(repo, settings.engine.kind)
    now = teams(found, planned.items, known[-1].model if known else "", teacher)
    tries = [one for night in known for one in night.tries]
    return curriculum.stage(planned, tries, now, settings.training.levels, settings.training.level_pass)


def teams(found: Config, items: Iterable[Item], served: str, teacher: str = "") -> dict[str, str]:
    """Item -> the team that would try it tonight, named as nights name theirs. `served`: the model of the last night,
    where the repository does not name one."""
    model = model_of(found.settings.engine) or served
    with_adapters = {agent.label: agent.runtime.adapter for agent in found.agents.values() if agent.runtime.adapter}
    templates = nights.template_digests(found)
    return {item.id: curriculum.team(item.agents, model, with_adapters, templates, teacher) for item in items}


def grown(
    repo: Repo, in_force: Mapping[str, tuple[int, str]], known: Sequence[Tried], aim: float
) -> tuple[Growth, ...]:
    """How the agents grow that have measured adapters. `in_force`: agent -> its version and its adapter, "" for none;
    `known`: what nights tried, oldest first."""
    found = []
    for name in sorted(ref.removeprefix(adapters.CARDS) for ref in repo.refs(adapters.CARDS)):
        with contextlib.suppress(RepositoryError):  # a trust root that cannot be read: no card counts
            if name in in_force:
                found.append(growth.look(name, *in_force[name], adapters.cards(repo, name), known, aim))
    return tuple(one for one in found if one is not None)


def grown_now(repo: Repo, found: Config) -> tuple[Growth, ...]:
    """The same with the agents of a configuration in force; without a card nothing is read."""
    if not repo.refs(adapters.CARDS):
        return ()
    in_force = {agent.name: (agent.version, agent.runtime.adapter or "") for agent in found.agents.values()}
    return grown(repo, in_force, tried(repo, found.settings.engine.kind), found.settings.training.aim)
