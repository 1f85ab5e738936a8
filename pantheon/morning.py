"""Gathers what the morning report shows: a night's report, earlier ones, PRs as they are now with their diffs.

Ring 3, where git and the pure renderers meet. Reads refs and the packaged templates; writes nothing, decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from pantheon import adapters, artifacts, config, curriculum, nights, page, past, prs, redact, refresh
from pantheon.errors import PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.growth import Learned
from pantheon.records import Night, NightReport, PullItem, PullRequest, PullState, Run
from pantheon.report import ItemView, Morning, PullView
from pantheon.survey import read_config

PAST = 30  # earlier nights
PATCH = 1 << 20  # bytes of one item's patch
PATCHES = 32 << 20  # of all of them; what comes after has none
PATCHED = 1000  # items: nor has what comes after so many


def templates() -> dict[str, str]:
    """The text of the packaged templates by file name. Raises PantheonError when they are missing."""
    folder = config.packaged().parent / "report"
    try:
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir()) if path.is_file()}
    except OSError as error:
        raise PantheonError(
            "cannot write the report", str(folder), "its templates are missing", "./install.sh"
        ) from error


def current(repo: Repo, night_id: str | None = None) -> NightReport:
    """A night's report, the latest one by default, with its PRs as they are now. Raises RepositoryError when there is
    no such night or it has no report."""
    found = nights.load_report(repo, night_id)
    return Morning(found, pulls=tuple(PullView(pull, ()) for pull in prs.load_all(repo))).current


def gather(repo: Repo, night_id: str | None = None, now: datetime | None = None) -> Morning:
    """Everything about a night, as it stands now; with `now` also how the PRs stand beside their branches. Raises
    RepositoryError as `current` does."""
    return compose(repo, nights.load_report(repo, night_id), now)


def compose(repo: Repo, report: NightReport, now: datetime | None = None) -> Morning:
    """The same of a report that need not be in git yet. Past are the nights with the same kind of engine: what a dry
    run did says nothing of a model."""
    found = prs.load_all(repo)
    mine = [pull for pull in found if pull.night == report.night.id]
    older = [pull for pull in found if pull.night != report.night.id and pull.state is PullState.OPEN]
    before = [one for one in nights.reports(repo, PAST + 1) if _before(one.night, report.night)]
    runs = {run.id: run for run in report.runs}
    views = tuple(
        replace(view, look=refresh.look(repo, view.pull, now)) if now else view
        for view in _views(repo, [*mine, *older], runs)
    )
    return Morning(report, tuple(before[-PAST:]), views, learned(repo, report))


def learned(repo: Repo, report: NightReport) -> Learned:
    """What agents had learned by a night, with those in force that the night had."""
    night = report.night
    known = [one for one in past.tried(repo, night.engine) if one.at < night.started_at]
    known.append(curriculum.tried(report))
    lift = curriculum.lift([one for each in known if not each.teacher for one in each.tries], night.started_at)
    if not repo.refs(adapters.CARDS):
        return Learned(lift=lift)
    in_force = {}
    for label in night.agents:
        name, _, version = label.rpartition("@")
        in_force[name] = (int(version) if version.isdecimal() else 0, night.adapters.get(label, ""))
    aim = read_config(repo, night.base, repo.entries(night.base)).settings.training.aim
    return Learned(past.grown(repo, in_force, known, aim), lift)


def written(repo: Repo, report: NightReport) -> bytes:
    """The page as the night keeps it in git: without the secrets that a diff may show."""
    found = compose(repo, report)
    pulls = tuple(
        PullView(view.pull, tuple(ItemView(i.item, i.run, redact.scrub_text(i.patch)) for i in view.items))
        for view in found.pulls
    )
    return page.html(Morning(found.report, found.past, pulls, found.learned), templates()).encode()


def _before(one: Night, other: Night) -> bool:
    return one.engine == other.engine and one.started_at < other.started_at and one.id != other.id


def _views(repo: Repo, pulls: Sequence[PullRequest], runs: Mapping[str, Run]) -> Iterator[PullView]:
    room, left = PATCHES, PATCHED
    for pull in pulls:
        views = []
        for item in pull.items:
            run = runs.get(item.run) or _run(repo, item)
            if run is None:
                continue  # the commit that says the task is done, or a run that is gone
            patch = _patch(repo, item)[:PATCH] if room > 0 and left > 0 else b""
            room, left = room - len(patch), left - 1
            views.append(ItemView(item, run, patch.decode("utf-8", "surrogateescape")))
        yield PullView(pull, tuple(views))


def _run(repo: Repo, item: PullItem) -> Run | None:
    try:
        return artifacts.load_run(repo, item.run) if item.run else None
    except RepositoryError:
        return None


def _patch(repo: Repo, item: PullItem) -> bytes:
    """The change of an item's commit; nothing where the commit is gone."""
    try:
        info = repo.commit_info(item.commit)
        return repo.diff(repo.tree_of(info.parents[0]), info.tree).patch if info.parents else b""
    except RepositoryError:
        return b""
