"""Packs rows that begin alike into trees of tokens, so that what they share is computed once. Pure: no torch in here.

All rows of an agent begin with the same system message, and those of one item with the same text. In a pack such a
beginning stands once: a token sees its ancestors only, its position is its depth, and a completion is predicted from
exactly the tokens that the model would have got alone. The sums are those of unpacked training, at a fraction of the
tokens. (A prefix tree, as prefix caches use it; the mask by the intervals of a depth-first walk.)
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sequenced:
    """A row as token ids: `tokens[prompt:]` is the completion, which alone has a loss. Rows of one `group` (an item)
    stay together. `level`: of the curriculum, from 0, the easiest."""

    tokens: tuple[int, ...]
    prompt: int
    weight: float = 1.0
    group: str = ""
    level: int = 0


@dataclass(frozen=True)
class Pack:
    """A tree in depth-first order. Token j sees token i when i <= j < ends[i]; its position is depths[j]. An edge
    (i, j, weight) is a token of a completion: j is predicted at i. A path (n, places) is a row: its number among the
    rows that were packed, and where in `edges` its completion is. `row_tokens`: how many tokens the rows have one by
    one."""

    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    ends: tuple[int, ...]
    edges: tuple[tuple[int, int, float], ...]
    paths: tuple[tuple[int, tuple[int, ...]], ...]
    row_tokens: int

    @property
    def weight(self) -> float:
        """What the losses of its edges add up to in weight."""
        return sum(weight for _, _, weight in self.edges)

    @property
    def predictors(self) -> int:
        """How many tokens something is predicted at: so many rows of logits are needed."""
        return len({parent for parent, _, _ in self.edges})


@dataclass
class _Tree:
    """A prefix tree that grows row by row; node 0 is above the first token."""

    tokens: list[int] = field(default_factory=lambda: [-1])
    children: list[dict[int, int]] = field(default_factory=lambda: [{}])
    losses: dict[int, float] = field(default_factory=dict)  # node -> weight of being predicted
    paths: list[tuple[int, list[int]]] = field(default_factory=list)  # row -> the nodes of its completion
    row_tokens: int = 0

    def missing(self, other: _Tree) -> int:
        """How many of the other's tokens are not in this one."""
        found = 0
        waiting: list[tuple[int | None, int]] = [(0, 0)]
        while waiting:
            mine, theirs = waiting.pop()
            for token, child in other.children[theirs].items():
                same = self.children[mine].get(token) if mine is not None else None
                found += same is None
                waiting.append((same, child))
        return found

    def add(self, number: int, row: Sequenced) -> None:
        node, path = 0, []
        for place, token in enumerate(row.tokens):
            found = self.children[node].get(token)
            if found is None:
                found = len(self.tokens)
                self.tokens.append(token)
                self.children.append({})
                self.children[node][token] = found
            node = found
            if place >= row.prompt and place > 0:  # a first token is predicted from nothing
                self.losses[node] = self.losses.get(node, 0.0) + row.weight
                path.append(node)
        self.paths.append((number, path))
        self.row_tokens += len(row.tokens)

    @property
    def size(self) -> int:
        return len(self.tokens) - 1

    def pack(self) -> Pack:
        """The tree as arrays."""
        tokens: list[int] = []
        depths: list[int] = []
        ends: list[int] = []
        edges: list[tuple[int, int, float]] = []
        edge_of: dict[int, int] = {}  # node -> its place in `edges`
        waiting = [(node, 0, -1) for node in reversed(self.children[0].values())]
        open_: list[int] = []  # the path from the root, as places in `tokens`
        while waiting:
            node, depth, parent = waiting.pop()
            while len(open_) > depth:
                ends[open_.pop()] = len(tokens)
            here = len(tokens)
            tokens.append(self.tokens[node])
            depths.append(depth)
            ends.append(0)
            open_.append(here)
            if node in self.losses:
                edge_of[node] = len(edges)
                edges.append((parent, here, self.losses[node]))
            waiting += [(child, depth + 1, here) for child in reversed(self.children[node].values())]
        for place in open_:
            ends[place] = len(tokens)
        paths = tuple((number, tuple(edge_of[node] for node in path)) for number, path in self.paths)
        return Pack(tuple(tokens), tuple(depths), tuple(ends), tuple(edges), paths, self.row_tokens)


def packed(rows: Sequence[Sequenced], limit: int, seed: int | str | None = None) -> Iterator[Pack]:
    """The rows in packs of at most `limit` tokens where a group fits; groups in an order that `seed` decides, None: as
    they come. A group that is longer gets more packs, a row that is longer one of its own."""
    return _packed(list(enumerate(rows)), limit, seed)


def epoch_packs(rows: Sequence[Sequenced], limit: int, seed: int, epoch: int) -> list[Pack]:
    """All rows in the packs of one epoch, in an order that seed and epoch decide; in the first one the easier levels
    come before the harder ones (a curriculum: Bengio et al., 2009)."""
    numbered = list(enumerate(rows))
    stages = sorted({row.level for row in rows}) if epoch == 0 else [None]
    return [
        pack
        for stage in stages
        for pack in _packed(
            [one for one in numbered if stage in (None, one[1].level)], limit, f"{seed}:{epoch}:{stage}"
        )
    ]


@dataclass(frozen=True)
class Course:
    """All steps of a training in their order: its packs, how many are in each epoch, and their tokens in all."""

    packs: tuple[Pack, ...]
    epochs: tuple[int, ...]
    tokens: int

    @classmethod
    def of(cls, rows: Sequence[Sequenced], limit: int, seed: int, epochs: int) -> Course:
        every = [epoch_packs(rows, limit, seed, epoch) for epoch in range(epochs)]
        packs = tuple(pack for epoch in every for pack in epoch)
        return cls(packs, tuple(map(len, every)), sum(len(pack.tokens) for pack in packs))

    def epoch(self, step: int) -> float:
        """How many epochs so many steps are."""
        begin = 0
        for number, steps in enumerate(self.epochs):
            if step <= begin + steps:
                return round(number + (step - begin) / steps, 3)
            begin += steps
        return float(len(self.epochs))


def _packed(numbered: Sequence[tuple[int, Sequenced]], limit: int, seed: int | str | None) -> Iterator[Pack]:
    groups: dict[str, list[tuple[int, Sequenced]]] = {}
    for number, row in numbered:
        groups.setdefault(row.group, []).append((number, row))
    order = list(groups.values())
    if seed is not None:
        random.Random(seed).shuffle(order)
    tree = _Tree()
    for group in order:
        whole = _tree(group)
        for part, alone in [(group, whole)] if whole.size <= limit else [([one], _tree([one])) for one in group]:
            if tree.paths and tree.size + tree.missing(alone) > limit:
                yield tree.pack()
                tree = _Tree()
            for number, row in part:
                tree.add(number, row)
    if tree.paths:
        yield tree.pack()


def _tree(numbered: Sequence[tuple[int, Sequenced]]) -> _Tree:
    tree = _Tree()
    for number, row in numbered:
        tree.add(number, row)
    return tree
