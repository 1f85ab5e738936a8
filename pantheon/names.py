"""Which names a tree of ours may hold, and what the id of a night is.

Owns the one rule for new path components: what git, HFS+, NTFS or a terminal would read as something else is refused;
and the one for patterns that choose paths. Pure text in, reason out; it never touches a disk or a repository.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable
from functools import lru_cache

import pathspec

MAX_NAME_BYTES = 255
MAX_PATTERN, MAX_STARS = 200, 3  # the time to match grows with the length of a path to the power of stars
NIGHT = r"\d{4}-\d\d-\d\d-[1-9]\d*(?:-[0-9a-f]{4}){0,2}"  # a date, a counter, whose night it is, which of two it is
_NIGHT = re.compile(r"(\d{4}-\d\d-\d\d)-(\d+)((?:-[0-9a-f]{4})*)", re.ASCII)
_JOINERS = frozenset("\u200c\u200d")  # used inside emoji and several scripts; harmless unless they hide `.git`
_GIT_SHORT = re.compile(r"git~\d+", re.ASCII)
_SHORT = re.compile(r"[^.]{1,6}~\d{1,6}(\.[^.]{0,3})?", re.ASCII)


def is_git_name(name: str) -> bool:
    """Whether some system reads this component as `.git` (case, ignorable characters, NTFS streams and short names)."""
    text = unicodedata.normalize("NFKD", name).replace("\u0131", "i")
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Mn", "Cc")).casefold()
    text = text.split(":", 1)[0].rstrip(". \u2026")
    return text == ".git" or _GIT_SHORT.fullmatch(text) is not None


@lru_cache(maxsize=8192)  # directories of a large repository are asked for with each of their files
def name_fault(name: str) -> str:
    """Why `name` may not be a new path component; "" when it may."""
    if name in ("", ".", ".."):
        return "empty or a dot directory"
    if "/" in name or "\\" in name:
        return "holds a slash or backslash"
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "not valid UTF-8"
    if size > MAX_NAME_BYTES:
        return f"longer than {MAX_NAME_BYTES} bytes"
    if is_git_name(name):
        return "read as .git by some systems"
    if _SHORT.fullmatch(name):
        return "read as the short name of another file by Windows"
    if name[-1] in ". ":
        return "ends in a dot or space"
    for char in name:
        kind = unicodedata.category(char)
        if kind in ("Cc", "Zl", "Zp"):
            return f"holds the control character U+{ord(char):04X}"
        if (kind == "Cf" and char not in _JOINERS) or kind in ("Co", "Cn"):
            return f"holds the invisible or unassigned character U+{ord(char):04X}"
    return ""


def valid_name(name: str) -> bool:
    """Whether `name` may be a new path component."""
    return not name_fault(name)


def fold_name(name: str) -> str:
    """The key under which two names are one file on a disk that ignores case or Unicode form."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def pattern_fault(pattern: str) -> str:
    """Why `pattern` may not choose paths (a gitignore pattern relative to the repository); "" when it may."""
    if not pattern.strip():
        return "is empty"
    if len(pattern) > MAX_PATTERN:
        return f"is longer than {MAX_PATTERN} characters"
    parts = pattern.split("/")
    if parts.count("**") > MAX_STARS or any(part != "**" and part.count("*") > MAX_STARS for part in parts):
        return f"has more than {MAX_STARS} stars in one name, or ** more often: matching it could take hours"
    if pattern.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:", pattern):
        return "leaves the repository: give a pattern relative to its root, such as docs/**/*.md"
    if ".." in parts:
        return "leaves the repository through '..'"
    if any(ord(c) < 32 for c in pattern):
        return "holds control characters"
    if "[" in pattern:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of a set that Python may read in another way one day
                pathspec.GitIgnoreSpec.from_lines([pattern])
        except (re.error, ValueError, Warning) as error:
            return f"is no pattern: {error}"
    return ""


@lru_cache(maxsize=256)
def path_spec(patterns: tuple[str, ...]) -> pathspec.GitIgnoreSpec:
    """Gitignore patterns, compiled once: `match_file` says whether they choose a path."""
    return pathspec.GitIgnoreSpec.from_lines(patterns)


# --- nights -----------------------------------------------------------------------------------------------------------


def is_night(text: str) -> bool:
    """Whether this is the id of a night: `2026-11-27-1`, and with the clone that it is of `2026-11-27-1-a3f2`."""
    return re.fullmatch(NIGHT, text, re.ASCII) is not None


def night_order(night_id: str) -> tuple[str, int, str]:
    """What nights are sorted by: the date, the counter, and then whose it is. What is no id comes first."""
    match = _NIGHT.fullmatch(night_id)
    return (match[1], int(match[2]), match[3]) if match else ("", 0, night_id)


def night_tag(night_id: str) -> str:
    """The clone that a night is of: four hexadecimal digits; "" where its repository had no remote."""
    match = _NIGHT.fullmatch(night_id)
    return match[3][1:5] if match else ""


def next_night(day: str, known: Iterable[str], tag: str) -> str:
    """The next free id of a day among those that are known, whoever's they are."""
    taken = [night_order(name)[1] for name in known if name.startswith(f"{day}-")]
    return f"{day}-{1 + max(taken, default=0)}{f'-{tag}' if tag else ''}"
