"""Runs whose objects somebody deleted while the night went on: `git prune` and `git gc --force` ask nobody, and take
what nothing points to yet. Such a run is told as collected and its refs and notes go, so that no ref leads to a
missing object; its item is tried again. Ring 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pantheon import archive, artifacts, attest
from pantheon.errors import RepositoryError
from pantheon.git import Repo, Signer
from pantheon.records import Collected, Run

WHY = "its objects were deleted while its night ran: git prune, or git gc --force"


def lost(repo: Repo, runs: Sequence[Run]) -> list[Run]:
    """The runs that are not whole any more, and those whose results stand on one that is not."""
    fresh = repo.afresh()
    gone = {run.id for run in runs if not artifacts.is_whole(fresh, run)}
    results = {run.result for run in runs if run.id in gone and run.result}
    for run in runs:
        step = run.result if gone else None
        while step is not None and step != run.base and run.id not in gone:
            if step in results:
                gone.add(run.id)
            try:
                step = next(iter(repo.commit_info(step).parents), None)
            except RepositoryError:
                gone.add(run.id)
    return [run for run in runs if run.id in gone]


def strike(repo: Repo, runs: Sequence[Run], when: datetime, signer: Signer) -> None:
    """Tell and take away lost runs, with their notes."""
    refs = {artifacts.run_ref(run.id): run.run_commit or "" for run in runs}
    homes = [run.noted_on for run in runs]
    lines = [
        Collected(ref=r, oid=o, why=WHY, when=when, homes=(h,)) for (r, o), h in zip(refs.items(), homes, strict=True)
    ]
    archive.tell(repo, lines, when, signer)
    repo.delete_refs(refs)
    artifacts.forget_notes(repo, homes, when, signer)
    attest.forget(repo, homes, when, signer)
