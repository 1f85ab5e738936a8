"""The commands `verify`, `reindex` and `keys`. Ring 4: plain values in, text or JSON out, an exit code back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console

from pantheon import keys as ring
from pantheon import nights, screen
from pantheon import reindex as indexing
from pantheon.git import Repo, Signer
from pantheon.plan import many, printable
from pantheon.verify import load_trust
from pantheon.verify import verify as check


@contextmanager
def _steps(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line on the terminal that says what is looked at; nothing where there is no terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("verifying") as status:
        yield lambda text: status.update(f"verifying {printable(text)}")


def verify(repo: Repo, what: str | None, *, signers: Path | None, as_json: bool) -> int:
    """Recompute everything; 0: it holds, 1: it does not."""
    trust = load_trust(repo.common_dir, signers)
    with _steps(as_json) as step:
        found = check(repo.common_dir, trust, what, step)
    if as_json:
        screen.print_json(found.model_dump(mode="json"))
        return 1 if found.faults else 0
    for fault in found.faults:
        print(f"{fault.kind}: {printable(fault.where)}: {printable(fault.why)}")
    for text in found.said:
        print(f"note: {printable(text)}")
    print(found.summary)
    published = {key.fingerprint for key in ring.listed(repo) if key.published and not key.trusted and not key.revoked}
    if any(fault.kind == "key" and name in fault.why for fault in found.faults for name in published):
        print("next: git pantheon keys accept   (it shows the published keys; accept one that you know)")
    return 1 if found.faults else 0


# --- reindex ---------------------------------------------------------------------------------------------------------


def reindex(repo: Repo, when: datetime, signer: Signer, *, dry_run: bool, as_json: bool) -> int:
    """Find every run again; 0: nothing is lost, 1: something could not be found or read."""
    found = indexing.reindex(repo, when, signer, dry_run=dry_run)
    if as_json:
        screen.print_json({**found.model_dump(mode="json"), "wrote": found.wrote and not dry_run})
        return 1 if found.lost or found.unreadable else 0
    for ref in found.mended:
        back = f"put back to {ref.back_to[:12]} and completed" if ref.back_to else "built anew"
        print(f"{ref.ref}: {printable(ref.why)}; {back} from the runs")
    if found.own:
        print(f"{many(len(found.own), 'commit')} of runs lacked notes")
    if found.decisions:
        print(f"{many(found.decisions, 'decision')} written again")
    for one in found.carriers:
        how = "by its trailer" if "trailer" in one.runs.values() else "by its change"
        what = many(len(one.runs), "run")
        names = ", ".join(run[:12] for run in one.runs)
        lacked = f"; notes written: {', '.join(ref.rpartition('/')[2] for ref in one.written)}" if one.written else ""
        print(f"{one.commit[:12]} {printable(one.subject)[:60]}: {what} found {how} ({names}){lacked}")
    for commit, strangers in found.unknown.items():
        print(f"{commit[:12]} names {', '.join(strangers)}, which is not here; next: git pantheon pull")
    for lost in found.lost:
        print(f"in no branch: {printable(lost.target)} of PR {lost.pr}; it is kept: git show {lost.commit[:12]}")
    for text in found.unreadable:
        print(f"cannot be read: {printable(text)}")
    print(f"{many(found.runs, 'run')} looked at, {many(len(found.carriers), 'rewritten commit')} found")
    if not found.wrote:
        print("every note is in its place: nothing is written")
    elif dry_run:
        print("dry run: nothing was written")
    return 1 if found.lost or found.unreadable else 0


# --- keys -------------------------------------------------------------------------------------------------------------


def keys(repo: Repo, *, as_json: bool) -> int:
    found = ring.listed(repo)
    if as_json:
        return screen.print_json([key.model_dump(mode="json") for key in found])
    for key in found:
        print(_line(key))
    if not found:
        print("no key yet: the first night makes one")
    return 0


def _line(key: ring.KeyInfo) -> str:
    marks = [
        "revoked" if key.revoked else "",
        "in use" if key.in_use else "",
        "" if key.trusted else "published, not trusted here",
    ]
    span = f"{key.since or 'the beginning'} to {key.until or 'now'}"
    return ", ".join([f"{key.fingerprint}  {span}", *(mark for mark in marks if mark)])


def rotate(repo: Repo, when: datetime) -> int:
    with nights.alone(repo):
        signer = ring.rotate(repo, when)
    print(f"a new key signs from now on: {signer.fingerprint}")
    print("what the old one signed still verifies; its private half is gone")
    return 0


def revoke(repo: Repo, fingerprint: str, when: datetime) -> int:
    with nights.alone(repo):
        signer = ring.revoke(repo, fingerprint, when)
    print(f"revoked: {fingerprint}; nothing that it ever signed verifies now")
    print(f"in use: {signer.fingerprint}")
    return 0


def accept(repo: Repo, fingerprint: str | None) -> int:
    """Show the published keys, then copy into the trust root the one that is named, or all if a person says so."""
    shown = [key for key in ring.listed(repo) if key.published]
    for key in shown:
        print(_line(key))
    if not shown:
        print("nothing is published here; next: git pantheon pull")
        return 1
    chosen = [fingerprint] if fingerprint else [key.fingerprint for key in shown if not key.revoked]
    if not fingerprint:
        if not sys.stdin.isatty():
            print("next: git pantheon keys accept SHA256:...   (ask the person who runs the bot which key is theirs)")
            return 1
        if input("trust what these keys sign? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was accepted")
            return 1
    ring.accept(repo, chosen)
    print(f"accepted: {', '.join(chosen)}")
    return 0
