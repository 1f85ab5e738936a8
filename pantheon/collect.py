"""Retention as it is done: what old nights leave behind is listed, taken away and told.

Where the decision (retention.py) meets the doors. Everything is told in the archive before it goes, and it never runs
beside a night. A kill between two steps leaves what the next run takes away.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime

from pantheon import adapters, archive, artifacts, attest, faults, nights, prs, retention, upkeep
from pantheon.errors import RepositoryError
from pantheon.git import Repo, Signer
from pantheon.names import night_order
from pantheon.records import Collected, Record, Run

DATASETS = "datasets"  # below `pantheon/` in the common git dir: of each agent, by digest
ROWS = ("train.jsonl", "dev.jsonl", "negatives.jsonl")
NIGHT_WHY, RUN_WHY = (
    "its night is not among the newest {keep}",
    "of night {night}, which is not among the newest {keep}",
)


class Gathering(Record):
    """What goes, or went. `bytes` and `objects` are those that only this kept; None where git cannot tell."""

    keep_nights: int
    keep_closed: int
    nights: tuple[str, ...]
    runs: int
    pulls: tuple[int, ...]
    refs: int  # fewer
    old: int  # nights that are not among the newest
    pinned: dict[str, int]
    objects: int | None
    bytes: int | None
    packed: str = ""
    dry: bool = False

    @property
    def nothing(self) -> bool:
        return not (self.nights or self.runs or self.pulls)


@contextlib.contextmanager
def _alone(repo: Repo) -> Iterator[None]:
    """Hold the night's lock. Raises RepositoryError while a night runs."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(nights.alone(repo))
        except RepositoryError as error:
            raise RepositoryError("cannot collect what is old", str(repo.root), error.why, error.hint) from error
        yield


def collect(
    repo: Repo, *, keep_nights: int, keep_closed: int, when: datetime, signer: Signer, dry: bool = False
) -> Gathering:
    """Take away what old nights left, but for what is needed still; `dry`: only say what that would be."""
    with contextlib.nullcontext() if dry else _alone(repo):
        at = {ref.removeprefix(nights.NIGHTS): oid for ref, oid in repo.refs(nights.NIGHTS).items()}
        ordered = sorted(at, key=night_order)
        runs = _runs(repo)
        gone = {ref.removeprefix(nights.NIGHTS) for ref in archive.collected(repo) if ref.startswith(nights.NIGHTS)}
        pulls = prs.load_all(repo)
        found = retention.decide(
            [retention.NightSeen(id=name, ended=_ended(repo, at[name])) for name in ordered],
            {name: run.night for name, run in runs.items()},
            pulls,
            mined(repo),
            gone,
            keep_nights=keep_nights,
            keep_closed=keep_closed,
        )
        leaving = {artifacts.run_ref(name): runs[name].run_commit or "" for name in found.runs}
        leaving |= {nights.NIGHTS + name: at[name] for name in found.nights}
        live = prs.held(repo)
        weight = upkeep.weigh(repo, leaving.values(), leaving)
        said = Gathering(
            keep_nights=keep_nights,
            keep_closed=keep_closed,
            nights=found.nights,
            runs=len(found.runs),
            pulls=tuple(number for number in found.pulls if number in live),
            refs=len(leaving) + sum(live[number] for number in found.pulls if number in live),
            old=len(found.old),
            pinned=found.pinned,
            objects=weight.objects if weight else None,
            bytes=weight.bytes if weight else None,
            dry=dry,
        )
        if dry:
            return said
        prs.retire(repo, said.pulls, when, signer)
        _take(repo, leaving, {artifacts.run_ref(name): runs[name] for name in found.runs}, keep_nights, when, signer)
        return said.model_copy(update={"packed": upkeep.pack_refs(repo)})


def _take(repo: Repo, leaving: dict[str, str], runs: dict[str, Run], keep: int, when: datetime, signer: Signer) -> None:
    """Tell, delete, then the notes: of what was told and whose refs are gone, also by a run that was killed."""
    lines = []
    for ref, oid in leaving.items():
        run = runs.get(ref)
        why = RUN_WHY.format(night=run.night, keep=keep) if run else NIGHT_WHY.format(keep=keep)
        homes = artifacts.homes_of(repo, run) if run else ()
        lines.append(Collected(ref=ref, oid=oid, why=why, when=when, homes=homes))
    archive.tell(repo, lines, when, signer)
    faults.point("collected told")
    if leaving:
        repo.delete_refs(leaving)
    faults.point("collected")
    there = set(_runs(repo))
    bare = [
        home
        for one in archive.collected(repo).values()
        for home in one.homes
        if one.ref.rpartition("/")[2] not in there
    ]
    if bare:
        artifacts.forget_notes(repo, bare, when, signer)
        attest.forget(repo, bare, when, signer)


def _ended(repo: Repo, night: str) -> bool:
    """Whether a night has its report; one that cannot be read is left alone."""
    try:
        return repo.read_path(night, "report.json") is not None
    except RepositoryError:
        return False


def _runs(repo: Repo) -> dict[str, Run]:
    """Every stored run that can be read; a damaged one stays where it is, and `verify` says so."""
    found = {}
    for ref in repo.refs(artifacts.RUNS):
        with contextlib.suppress(RepositoryError):
            run = artifacts.load_run(repo, ref.rpartition("/")[2])
            found[run.id] = run
    return found


def mined(repo: Repo) -> set[str]:
    """The runs that rows of a dataset come from, of every dataset that a card names and that is on this disk."""
    found: set[str] = set()
    for ref in repo.refs(adapters.CARDS):
        agent = ref.removeprefix(adapters.CARDS)
        for card in adapters.listed(repo, agent).values():
            place = repo.common_dir / "pantheon" / DATASETS / card.dataset.agent / card.dataset.digest
            for name in ROWS:
                with contextlib.suppress(OSError), (place / name).open("rb") as lines:
                    for line in lines:
                        with contextlib.suppress(ValueError, KeyError, TypeError):
                            found.add(str(json.loads(line)["source"]["run"]))
    return found
