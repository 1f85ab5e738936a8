"""Which runs a commit carries: by the trailers in its message, by the lines that it takes and adds. Pure.

A change is known again by what `git patch-id` goes by, file by file: the lines, wherever in the file they stand now. So
a squash carries each run whose files it changes in the same way, whatever its message says.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping

Change = Mapping[str, str]  # path -> its fingerprint
_TRAILER = re.compile(r"^[ \t]*Pantheon-Run: ([0-9a-f]{8,64})[ \t]*\r?$", re.MULTILINE)  # a squash indents messages


def named(message: str) -> tuple[str, ...]:
    """The runs that a message names, in its order."""
    return tuple(dict.fromkeys(_TRAILER.findall(message)))


def fingerprint(old: bytes | None, new: bytes | None, modes: tuple[int, int]) -> str:
    """What is done to one file: its lines that go and that come, in any place; of binary files, and of one whose lines
    only change places, the whole of both sides. None: no file."""
    before, after = old or b"", new or b""
    gone, come = Counter(before.split(b"\n")), Counter(after.split(b"\n"))
    less, more = sorted((gone - come).elements()), sorted((come - gone).elements())
    if b"\0" in before or b"\0" in after or not (less or more):
        less, more = [before], [after]
    told = hashlib.sha256(b"%o %o %d %d\n" % (*modes, old is None, new is None))
    for sign, lines in ((b"-", less), (b"+", more)):
        for line in lines:
            told.update(sign + hashlib.sha256(line).digest())
    return told.hexdigest()


def within(part: Change, whole: Change) -> bool:
    """Whether a commit that does `whole` does all of `part`."""
    return bool(part) and all(whole.get(path) == done for path, done in part.items())


def carried(said: Iterable[str], whole: Change, known: Mapping[str, Change]) -> dict[str, str]:
    """run -> how it was found again ("trailer" or "change") in a commit whose message names the runs `said` and that
    does `whole`. `known`: what each run did, the likelier of two that did the same first."""
    found = {run: "trailer" for run in said if run in known}
    left = dict(whole)
    for run in found:
        for path in known[run]:
            left.pop(path, None)
    for run, change in known.items():
        if run not in found and within(change, left):
            found[run] = "change"
            for path in change:
                left.pop(path, None)
    return found
