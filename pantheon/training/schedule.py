"""When a training steps how far, when it looks at its dev rows, when it stops, and what it needs of memory. Pure.

Decides nothing about rows (packing.py orders them) and computes no loss (weights.py does). Also draws a training's
losses in a few characters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pantheon.lessons import Loss, Tuned
from pantheon.records import Record

PACK = 2048  # tokens at most: longer packs share no more of what rows begin with, and make fewer steps
PACKS = (PACK, 1536, 1024, 768, 512, 256)  # tried from the longest
STEPS = 8  # in an epoch at least, where there are so many items: few rows in one long pack would teach little
PATIENCE = 4  # looks at the dev rows without a better loss: two epochs
LOOK_EVERY = 50  # steps at most between two looks
MARGIN = 1.2  # what was computed against what is used: the allocator's waste, and what lives for an instant only
LOGITS = 5  # copies of the logits that live at a time: themselves, picked, their log-softmax, two gradients
_BARS = "▁▂▃▄▅▆▇█"


def rate(step: int, total: int, peak: float) -> float:
    """The learning rate of the step after `step` steps: a linear warm-up over a twentieth of all, then a cosine that
    ends at zero (Loshchilov and Hutter, SGDR, 2017, without restarts)."""
    warm_up = min(1.0, (step + 1) / max(1, total // 20))
    return peak * warm_up * 0.5 * (1 + math.cos(math.pi * step / max(1, total)))


def looks(epochs: Sequence[int]) -> frozenset[int]:
    """After which steps the dev rows are looked at: at least twice per epoch where it has two steps, its end always.
    `epochs`: the number of steps of each."""
    found: set[int] = set()
    done = 0
    for steps in epochs:
        parts = min(steps, max(2, math.ceil(steps / LOOK_EVERY)))
        found |= {done + math.ceil(steps * part / parts) for part in range(1, parts + 1)}
        done += steps
    return frozenset(found)


class Watch(Record):
    """Early stopping: the least dev loss, the step that had it, and how many looks ago. Of equal ones the first."""

    best: float | None = None
    step: int = 0
    since: int = 0

    def seen(self, step: int, loss: float) -> Watch:
        if self.best is None or loss < self.best:
            return Watch(best=loss, step=step)
        return self.model_copy(update={"since": self.since + 1})

    @property
    def over(self) -> bool:
        return self.since >= PATIENCE


# --- memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """What a step needs, in bytes: `base` whatever it is given, `linear` and `square` of what the forward pass keeps
    for a pack of n tokens (linear n + square n^2), and the model's shape. With checkpoints only each layer's input is
    kept, and one layer's activations are computed again at a time (Chen et al., Sublinear Memory Cost, 2016)."""

    base: float
    linear: float
    square: float
    layers: int
    input_bytes: int  # of one layer, for one token
    logit_bytes: int  # of one row of logits

    @classmethod
    def measured(
        cls, base: float, probes: Sequence[tuple[int, int]], layers: int, input_bytes: int, logit_bytes: int
    ) -> Need:
        """From what two forward passes kept: (tokens, bytes) each."""
        (short, less), (long, more) = probes
        square = max(0.0, (more / long - less / short) / (long - short))
        return cls(base, less / short - square * short, square, layers, input_bytes, logit_bytes)

    def of(self, tokens: int, predictors: int, checkpoints: bool) -> int:
        """Bytes for one step on a pack of so many tokens, at so many of which something is predicted."""
        kept = self.linear * tokens + self.square * tokens**2
        if checkpoints:
            kept = kept / self.layers + tokens * self.input_bytes * (self.layers + 1)
        mask = 5 * tokens**2  # bytes: as numbers, and as what decides them
        return int(self.base + MARGIN * (kept + mask + LOGITS * predictors * self.logit_bytes))


class Plan(Record):
    """How a training fits its memory. `pack`: tokens at most; `needs`: bytes, as computed from what was measured."""

    pack: int
    checkpoints: bool
    needs: int

    def text(self) -> str:
        how = "with gradient checkpoints" if self.checkpoints else "without gradient checkpoints"
        return f"packs of {self.pack} tokens at most, {how}: about {self.needs / 2**30:.1f} GiB"


def offered(counts: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Of limits with the number of packs that each makes of an epoch, those that make enough steps; where none does,
    the one that makes most, and of equal ones the longest."""
    enough = tuple(limit for limit, steps in counts if steps >= STEPS)
    return enough or (max(counts, key=lambda one: (one[1], one[0]))[0],)


def choose(
    need: Need,
    sizes: Sequence[tuple[int, Sequence[tuple[int, int]]]],
    budget: int,
    ways: Sequence[bool] = (False, True),
) -> Plan:
    """The first plan that fits: long packs before short ones, and no checkpoints, which cost a third of the speed,
    before checkpoints (`ways`). `sizes`: a limit, and (tokens, predictors) of each pack that is made under it. Where
    none fits, the least one: its `needs` is above the budget."""
    plans = [
        Plan(pack=limit, checkpoints=checkpoints, needs=max(need.of(*pack, checkpoints) for pack in packs))
        for checkpoints in ways
        for limit, packs in sizes
    ]
    return next((plan for plan in plans if plan.needs <= budget), min(plans, key=lambda plan: plan.needs))


# --- for people ------------------------------------------------------------------------------------------------------


def bars(values: Sequence[float], least: float, most: float) -> str:
    """Numbers as bars of eight heights between `least` and `most`; what is no finite number stands as a blank."""
    span = most - least
    return "".join(
        _BARS[min(7, max(0, int((value - least) / span * 8))) if span > 0 else 0] if math.isfinite(value) else " "
        for value in values
    )


def curve(losses: Sequence[Loss], best: int) -> list[str]:
    """The losses of a training as two lines of one scale: of the rows trained on, and of the dev rows."""
    found = {
        "train": [(loss.step, loss.train) for loss in losses if loss.train is not None],
        "dev": [(loss.step, loss.dev) for loss in losses if loss.dev is not None],
    }
    every = [value for line in found.values() for _, value in line]
    lines = []
    for name, line in found.items():
        if line:
            drawn = bars([value for _, value in line], min(every), max(every))
            indent = (
                " " if name == "train" and found["dev"] and found["dev"][0][0] == 0 else ""
            )  # no step, no train loss
            end = f"{name:5}  {line[0][1]:.3f} {indent}{drawn} {line[-1][1]:.3f}"
            lowest = next((value for step, value in line if step == best), None) if name == "dev" else None
            lines.append(end if lowest is None else f"{end}, lowest {lowest:.3f} after {best} steps")
    return lines


def summary(agent: str, tuned: Tuned) -> str:
    """One sentence on how a training ended."""
    why = {"epochs": "all epochs", "early": "the dev loss no longer fell", "budget": "its time was over"}[tuned.ended]
    speed = tuned.tokens / tuned.step_seconds if tuned.step_seconds else 0.0
    shared = tuned.row_tokens / tuned.tokens if tuned.tokens else 1.0
    pace = f"{speed:.0f} tokens/s, {shared:.1f} times that by row"
    head = f"{agent}: {tuned.steps} steps on {tuned.rows} rows ({why}), {pace}"
    if tuned.best == 0:
        return f"{head}; the base's own dev loss was never beaten: no adapter"
    return head
