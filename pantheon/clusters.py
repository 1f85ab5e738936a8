"""Where repetition is highest: defects that are near-identical, and functions that are alike. Pure.

Findings are grouped by flow, by the set of rules that a file breaks (near-identical sets are joined) and by where the
files lie. Functions are grouped by their shape: the node types of their syntax tree, without names and values. Both
cost about linear time, whatever a repository holds. What a cluster becomes is drafts.py's.
"""

from __future__ import annotations

import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from rapidfuzz import process
from rapidfuzz.distance import Indel

from pantheon.records import Finding, Record, Repair

NEAR = 0.75  # of two sets of rules: twice what they share by what both have (Dice)
MOST_DETAILS = 16  # names that a kind of rule may come with
MOST_LEADERS = 64  # sets of rules that found a cluster; further ones join the nearest
SMALLEST = 5  # files that make a directory a place of its own
MOST_PLACES = 16  # about how many places one set of rules may fall into
MAX_DEPTH = 64  # directories of a path that count

ALIKE = 0.9  # of two shapes: twice their longest common subsequence by both lengths
FEWEST_ALIKE = 3  # functions that are repetition
FEWEST_NODES = 40  # of a function that says something
MOST_SHAPES = 30_000
SHINGLE = 5  # node types that are hashed together
BINS, ROWS = 16, 2  # of the sketch: minima of one hash by its low bits, and how many of them make a key
MOST_IN_BUCKET = 8  # shapes under one key that others are compared with
REPETITION = "repetition"


class Cluster(Record):
    """Near-identical defects that lie together. `flow` is empty where no flow repairs them; `by_hand`: the rules leave
    each of them to a person. `count` is of files, or of functions that are alike; `directory` is empty at the root."""

    flow: str
    rules: tuple[str, ...]  # the most frequent first
    directory: str
    paths: tuple[str, ...]
    count: int
    examples: tuple[str, ...] = ()
    by_hand: bool = False


def group(findings: Mapping[str, Mapping[str, Sequence[Finding]]]) -> tuple[Cluster, ...]:
    """Clusters of what is broken, largest first. `findings` maps a flow to the files it is about and what each breaks;
    every file that breaks something is in exactly one cluster of each flow."""
    found: list[Cluster] = []
    for flow, files in sorted(findings.items()):
        kinds = kinds_of(files.values())
        alike: dict[tuple[bool, tuple[str, ...]], list[str]] = defaultdict(list)
        for path, broken in files.items():
            if broken:
                by_hand = all(finding.repair is Repair.REPORT for finding in broken)
                alike[by_hand, tuple(sorted({kinds[finding.rule] for finding in broken}))].append(path)
        for by_hand in (False, True):
            sets = {rules: len(paths) for (hand, rules), paths in alike.items() if hand is by_hand}
            joined: dict[tuple[str, ...], list[str]] = defaultdict(list)
            for rules, leader in _leaders(sets).items():
                joined[leader] += alike[by_hand, rules]
            for paths in joined.values():
                for directory, inside in _places(paths):
                    found.append(_cluster(flow, files, kinds, directory, sorted(inside), by_hand))
    return ordered(found)


def kinds_of(broken: Iterable[Sequence[Finding]]) -> dict[str, str]:
    """Each rule with what it is called here: `missing:title` as it is where such names are few and recur, as fields do;
    `missing-docstring:load` without the name, which says nothing of other files."""
    often = Counter(finding.rule for findings in broken for finding in findings)
    details: dict[str, list[str]] = defaultdict(list)
    for rule in often:
        details[rule.partition(":")[0]].append(rule)
    kinds: dict[str, str] = {}
    for kind, rules in details.items():
        times = sum(often[rule] for rule in rules)
        kept = len(rules) <= MOST_DETAILS and (times >= 2 * len(rules) or times == 1)
        kinds |= {rule: rule if kept else kind for rule in rules}
    return kinds


def _cluster(
    flow: str,
    files: Mapping[str, Sequence[Finding]],
    kinds: Mapping[str, str],
    directory: str,
    paths: Sequence[str],
    by_hand: bool,
) -> Cluster:
    often = Counter(rule for path in paths for rule in {kinds[finding.rule] for finding in files[path]})
    rules = tuple(sorted(often, key=lambda rule: (-often[rule], rule)))
    examples = tuple(_example(path, files[path][0]) for path in paths[:3])
    return Cluster(
        flow=flow,
        rules=rules,
        directory=directory,
        paths=tuple(paths),
        count=len(paths),
        examples=examples,
        by_hand=by_hand,
    )


def _example(path: str, finding: Finding) -> str:
    return f"{path}:{finding.line}: {finding.message}" if finding.line else f"{path}: {finding.message}"


def ordered(found: Iterable[Cluster]) -> tuple[Cluster, ...]:
    """The largest first."""
    return tuple(sorted(found, key=lambda c: (-c.count, c.flow, c.directory, c.rules, c.paths)))


def narrowed(cluster: Cluster, paths: Sequence[str]) -> Cluster:
    """The cluster with only these of its paths."""
    kept = set(paths)
    examples = tuple(e for p, e in zip(cluster.paths, cluster.examples, strict=False) if p in kept) or tuple(paths[:3])
    return cluster.model_copy(update={"paths": tuple(paths), "count": len(paths), "examples": examples})


def place_of(paths: Sequence[str]) -> str:
    """Where files lie, for people: their directory, or at the root the names that they lie below."""
    directory = common_directory(paths)
    if directory:
        return f"{directory}/"
    tops = sorted({path.partition("/")[0] + "/" if "/" in path else "the root" for path in paths})
    return ", ".join([*tops[:3], *(["..."] if len(tops) > 3 else [])])


def _leaders(sets: Mapping[tuple[str, ...], int]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Each set of rules with the one it is joined to: the nearest of those that come before it by frequency."""
    leaders: list[tuple[str, ...]] = []
    joined: dict[tuple[str, ...], tuple[str, ...]] = {}
    for rules in sorted(sets, key=lambda each: (-sets[each], each)):
        cutoff = NEAR if len(leaders) < MOST_LEADERS else None
        near = process.extractOne(rules, leaders, scorer=Indel.normalized_similarity, score_cutoff=cutoff)
        if near is None:
            leaders.append(rules)
        joined[rules] = rules if near is None else leaders[near[2]]
    return joined


def _places(paths: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The paths by directory: from the deepest up, what is too few to be a place of its own goes to the parent."""
    least = max(SMALLEST, -(-len(paths) // MOST_PLACES))
    waiting: dict[int, dict[tuple[str, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        folder = tuple(path.split("/")[:-1][:MAX_DEPTH])
        waiting[len(folder)][folder].append(path)
    found: list[tuple[str, list[str]]] = []
    for depth in range(max(waiting, default=0), -1, -1):
        for folder, inside in waiting[depth].items():
            if depth == 0 or len(inside) >= least:
                found.append((common_directory(inside), inside))
            else:
                waiting[depth - 1][folder[:-1]] += inside
    return found


def common_directory(paths: Sequence[str]) -> str:
    """The deepest directory that holds all of these paths; empty for the root."""
    first, last = min(paths).split("/")[:-1], max(paths).split("/")[:-1]
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return "/".join(first[:shared])


# --- shapes ----------------------------------------------------------------------------------------------------------


def repetitions(shapes: Iterable[tuple[str, int, str, tuple[str, ...]]]) -> tuple[Cluster, ...]:
    """Clusters of functions that are alike, largest first. Each is (path, line, name, shape), the shape being the types
    of the nodes of its syntax tree; what is too small to say anything is left out."""
    same: dict[tuple[str, ...], list[tuple[str, int, str]]] = defaultdict(list)
    for path, line, name, shape in shapes:
        if len(shape) >= FEWEST_NODES:
            same[shape].append((path, line, name))
    order = sorted(same, key=lambda shape: (-len(same[shape]), shape))[:MOST_SHAPES]
    groups: dict[int, list[tuple[str, int, str]]] = defaultdict(list)
    for number, leader in enumerate(_alike(_encoded(order))):
        groups[leader] += same[order[number]]
    found = []
    for places in groups.values():
        if len(places) >= FEWEST_ALIKE:
            places.sort()
            paths = tuple(sorted({path for path, _, _ in places}))
            found.append(
                Cluster(
                    flow="",
                    rules=(REPETITION,),
                    directory=common_directory(paths),
                    paths=paths,
                    count=len(places),
                    examples=tuple(f"{path}:{line}: {name}" for path, line, name in places[:3]),
                )
            )
    return ordered(found)


def _encoded(shapes: Iterable[tuple[str, ...]]) -> list[str]:
    """Each shape with one character for each node: a hash of its type, outside of the surrogates."""
    known: dict[str, str] = {}
    found = []
    for shape in shapes:
        for word in shape:
            if word not in known:
                known[word] = chr(0x10000 + (zlib.crc32(word.encode()) & 0xFFFF))
        found.append("".join([known[word] for word in shape]))
    return found


def _alike(shapes: Sequence[str]) -> list[int]:
    """For each shape the number of the one it is like: itself, or one before it that founded a group. Candidates come
    from keys of a one-permutation MinHash sketch; rapidfuzz decides."""
    buckets: dict[tuple[int, ...], list[int]] = defaultdict(list)
    leaders: list[int] = []
    for number, shape in enumerate(shapes):
        keys = _keys(shape)
        candidates = dict.fromkeys(leader for key in keys for leader in buckets[key])
        best = process.extractOne(
            shape,
            {leader: shapes[leader] for leader in candidates},
            scorer=Indel.normalized_similarity,
            score_cutoff=ALIKE,
        )
        leaders.append(number if best is None else best[2])
        if best is None:
            for key in keys:
                if len(buckets[key]) < MOST_IN_BUCKET:
                    buckets[key].append(number)
    return leaders


def _keys(shape: str) -> list[tuple[int, ...]]:
    """The sketch's keys: two shapes that are much alike share one, most likely."""
    data = array("I", map(ord, shape)).tobytes()
    least = [1 << 32] * BINS
    for at in range(0, max(1, len(data) - 4 * SHINGLE + 1), 4):
        value = zlib.crc32(data[at : at + 4 * SHINGLE])
        if value < least[value % BINS]:
            least[value % BINS] = value
    return [(row, *least[row : row + ROWS]) for row in range(0, BINS, ROWS) if min(least[row : row + ROWS]) < 1 << 32]
