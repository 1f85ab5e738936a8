"""The command `git pantheon gc`: what old nights leave behind goes, and is told. Ring 4: reads the settings, prints."""

from __future__ import annotations

from datetime import datetime

from pantheon import desk, screen
from pantheon.collect import Gathering, collect
from pantheon.git import Repo
from pantheon.survey import read_config


def command(repo: Repo, *, keep: int | None, dry_run: bool, when: datetime, as_json: bool) -> int:
    """Take away what the repository's `[retention]` does not keep; `keep` nights in its place."""
    head = repo.head().commit
    settings = read_config(repo, head, repo.entries(head)).settings.retention
    found = collect(
        repo,
        keep_nights=keep or settings.nights,
        keep_closed=settings.closed_prs,
        when=when,
        signer=desk.signer(repo),
        dry=dry_run,
    )
    if as_json:
        return screen.print_json(found.model_dump(mode="json"))
    for line in said(found):
        print(line)
    return 0


def said(found: Gathering) -> list[str]:
    """The lines for a person: what goes, what of the old stays and why, and what that frees."""
    lines = []
    verb = "would go" if found.dry else "are gone"
    if found.nothing:
        lines.append(f"nothing to take away: {_many(found.keep_nights, 'night')} are kept")
    else:
        what = [
            _many(len(found.nights), "night"),
            _many(found.runs, "run"),
            f"the refs of {_many(len(found.pulls), 'closed PR')}, whose record stays in the archive",
        ]
        counts = (len(found.nights), found.runs, len(found.pulls))
        lines.append(f"{', '.join(text for text, count in zip(what, counts, strict=True) if count)} {verb}")
    if found.pinned:
        pins = ", ".join(f"{count} {why}" for why, count in found.pinned.items())
        kept = found.old - len(found.nights)
        lines.append(f"older runs that stay: {pins}; with them the record of {_many(kept, 'night')}")
    if not found.nothing:
        freed = "git cannot tell how much that frees: an object is missing or damaged (git fsck)"
        if found.bytes is not None and found.objects is not None:
            freed = f"{_size(found.bytes)} in {_many(found.objects, 'object')} that nothing else reaches"
        lines.append(f"{_many(found.refs, 'ref')} fewer; {freed}")
    if found.dry and not found.nothing:
        lines.append("next: git pantheon gc")
    elif not found.dry:
        lines.append(f"packed: {found.packed} refs" if found.packed else "refs were not packed: a lock was in the way")
        if found.bytes:
            lines.append("git gc deletes the objects once they are two weeks old; now: git gc --prune=now")
    return lines


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _size(count: int) -> str:
    return f"{count} bytes" if count < 10_000 else f"{count >> 10} KiB" if count < 10 << 20 else f"{count >> 20} MiB"
