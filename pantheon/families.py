"""Which names are one target's, and which targets are held out. Pure.

A family is all names that renames and copies join, in whatever letter case; it goes by its oldest. It is held out when
any of its names hashes below the share, so no new name takes a target out of what measures. What no rename tells, text
does: a file that shares much of its text with a held-out one counts as held out too. lineage.py reads the history.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import accumulate

HELD_OUT, DEV = b"pantheon held out 1", b"pantheon dev 1"  # salts: fixed, so that a target never changes sides
SHINGLE = 3  # words that are hashed together
ALIKE = 0.4  # of the shingles of a text, that stand in another one; of texts that are no kin it is below 0.3
WHOLE = 0.6  # of the shingles of a text, that stand in a longer one
SUBSTANCE = 24  # shingles that a text has which says something by itself
FEWEST = 8  # shingles that are left of a text without what many texts hold; below, all of them count
COMMON_SHARE, COMMON_LEAST = 0.02, 8  # of the texts, and at least so many: what they share tells nothing
MOST_HOLDERS = 64  # texts that are remembered per shingle
MOST_WORDS = 20_000  # of one text
SLOTS = 1 << 20  # counters of the shingles; two that fall into one slot are counted together
_WORD = re.compile(r"\w+")


def fold(path: str) -> str:
    """A path without its letter case and its way of writing accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def place(path: str, salt: bytes) -> float:
    """Where a name falls between 0 and 1: the first 8 bytes of the SHA-256 of the salt, a NUL and the folded path."""
    data = salt + b"\0" + fold(path).encode("utf-8", "surrogateescape")
    return float(int.from_bytes(hashlib.sha256(data).digest()[:8]) / (1 << 64))


class Families:
    """Targets across renames. `edges` are the renames and copies (old, new), oldest first; their order does not change
    which names belong together, only which is the oldest."""

    def __init__(self, edges: Iterable[tuple[str, str]] = ()) -> None:
        self._parents: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}  # of a family by its root: in the order that they were seen
        seen: dict[str, list[str]] = {}
        order: dict[str, int] = {}
        for edge in edges:
            roots = []
            for path in edge:
                key = fold(path)
                spellings = seen.setdefault(key, [])
                if path not in spellings:
                    spellings.append(path)
                order.setdefault(path, len(order))
                self._parents.setdefault(key, key)
                roots.append(self._root(key))
            self._parents[roots[1]] = roots[0]
        joined: defaultdict[str, list[str]] = defaultdict(list)
        for key, spellings in seen.items():
            joined[self._root(key)] += spellings
        for root, names in joined.items():
            self._names[root] = sorted(names, key=order.__getitem__)

    def _root(self, key: str) -> str:
        while (above := self._parents.get(key, key)) != key:
            self._parents[key] = self._parents.get(above, above)  # halves the way for the next who asks
            key = self._parents[key]
        return key

    def __len__(self) -> int:
        """How many families have more than one name."""
        return len(self._names)

    def names(self, path: str) -> tuple[str, ...]:
        """Every known name of the target at `path`, oldest first; the path alone where it never moved."""
        return tuple(self._names.get(self._root(fold(path)), [path]))

    def family(self, path: str) -> str:
        """The oldest name of the target at `path`."""
        return self.names(path)[0]

    def held_out(self, path: str, share: float) -> bool:
        """Whether any name of the target falls below `share`: nothing may be learned from it."""
        return any(place(name, HELD_OUT) < share for name in (path, *self.names(path)))

    def dev(self, path: str, share: float) -> bool:
        """Whether a target that is not held out is one of those that tell when to stop."""
        return any(place(name, DEV) < share for name in (path, *self.names(path)))

    def met(self, path: str, trained: Iterable[str]) -> bool:
        """Whether the target at `path` is of one of these families, as an older history named them: something was
        learned from it, so it cannot measure any more."""
        own = self._root(fold(path))
        return any(self._root(fold(name)) == own for name in trained)


# --- texts -----------------------------------------------------------------------------------------------------------


def shingles(text: str) -> set[int]:
    """The hashes of every few words in a row, in whatever letter case. Of fewer words than that, of all of them."""
    words = [word.encode("utf-8", "surrogatepass") for word in _WORD.findall(text.casefold())[:MOST_WORDS]]
    line = b" ".join(words)
    ends = list(accumulate((len(word) + 1 for word in words), initial=0))  # one behind each word's end
    last = ends[SHINGLE:] or ends[-1:]
    return {zlib.crc32(line[start : end - 1]) for start, end in zip(ends, last, strict=False)} if words else set()


class Common:
    """What stands in so many texts of a repository that it makes no two of them alike: licences, templates."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._counts = array("I", bytes(4 * SLOTS))
        self._least = 0
        for text in texts:
            self._least += 1
            for slot in {one % SLOTS for one in shingles(text)}:
                self._counts[slot] += 1
        self._least = max(COMMON_LEAST, int(COMMON_SHARE * self._least))

    def without(self, found: set[int]) -> set[int]:
        """The shingles that tell a text from others; all of them where too few are left."""
        own = {one for one in found if self._counts[one % SLOTS] <= self._least}
        return own if len(own) >= FEWEST else found


class Likeness:
    """Texts that others may be like. About linear in the words of all texts: each shingle knows the texts that hold it,
    up to a number. (Containment of shingles, after Broder, On the resemblance and containment of documents, 1997.)"""

    def __init__(self, common: Common | None = None) -> None:
        self._common = common or Common()
        self._holders: defaultdict[int, list[int]] = defaultdict(list)
        self._sizes: list[int] = []

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, text: str) -> None:
        """Remember a text. One that says the same as a remembered one is left out: versions of a file do."""
        own = self._common.without(shingles(text))
        same = (n for n, shared in self._shared(own).items() if min(shared, self._sizes[n]) >= 0.95 * len(own))
        if not own or any(self._sizes[number] <= 1.05 * len(own) for number in same):
            return
        for one in own:
            if len(self._holders[one]) < MOST_HOLDERS:
                self._holders[one].append(len(self._sizes))
        self._sizes.append(len(own))

    def _shared(self, own: Iterable[int]) -> Counter[int]:
        return Counter(number for one in own for number in self._holders.get(one, ()))

    def alike(self, text: str) -> bool:
        """Whether much of this text (ALIKE) stands in a remembered one, or most of one that says something (WHOLE)
        stands in it. A text of a few words is like one of as few that has them all."""
        own = self._common.without(shingles(text))
        return any(_alike(len(own), self._sizes[number], shared) for number, shared in self._shared(own).items())


def _alike(own: int, other: int, shared: int) -> bool:
    """The same by numbers of shingles."""
    if own < FEWEST:
        return shared == own and other <= 2 * own
    return shared >= ALIKE * own or (other >= SUBSTANCE and shared >= WHOLE * other)
