"""How probable an answer was, from the log-probabilities that a model server tells. Owns nothing but the arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

TOP: Final = 5  # alternatives to ask for at each token


class Step(NamedTuple):
    """One token of an answer with its log-probability, and the likeliest tokens at its place with theirs."""

    token: str
    logprob: float
    top: Mapping[str, float]


def probability(text: str, steps: Sequence[Step]) -> float | None:
    """About the probability of `text`, however it is cut into tokens; None without steps, or where they are no
    logarithms.

    The product of the tokens' own probabilities is that of one cutting: even a text that the schema forces has a
    small one. So at each place the tokens are added up with which the text could have gone on as it does; where nothing
    is to choose they add up to 1. A token that begins another text as well counts as this one's, and tokens that are
    not among the likeliest are missing.
    """
    if not steps or not all(_is_log(one) for step in steps for one in (step.logprob, *step.top.values())):
        return None
    found, at = 1.0, 0
    for token, logprob, top in steps:
        others = (p for other, p in top.items() if other and other != token and text.startswith(other, at))
        found *= min(1.0, math.fsum(map(math.exp, (logprob, *others))))
        at += len(token) if text.startswith(token, at) else 0  # the token that ends it has no text
    return found


def _is_log(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= 0
