"""Whether the adapters that agents name can be used tonight: by their cards, their files, the model and the prompt.

Pure. What is known of an adapter is an argument (adapters.known finds it); lint, doctor and the start of a night ask
the same question here and differ only in what they do with the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pantheon.lessons import Known
from pantheon.records import Agent, Record


class Doubt(Record):
    """Something about an agent's adapter. `grave`: no night can run with it; else a note, since it only works less
    well than it was measured to."""

    agent: str  # name@version
    grave: bool
    why: str
    hint: str

    def __str__(self) -> str:
        return f"{self.agent}: {self.why}"


def doubts(
    agents: Iterable[Agent],
    known: Mapping[str, Known],
    *,
    templates: Mapping[str, str],
    model: str = "",
    weights: Mapping[str, str] | None = None,
) -> list[Doubt]:
    """What is wrong with the adapters of these agents, in their order. `known`, `templates`: by `name@version`, the
    digest of its prompt. `model`: the name of the one that would be served, and `weights` its files' sha256, each where
    it is known; names alone are compared where a digest is missing."""
    found: list[Doubt] = []
    for agent in agents:
        if agent.runtime.adapter is not None:
            found += _doubts(agent, known.get(agent.label, Known(files=NOWHERE)), templates, model, weights)
    return found


NOWHERE = "nothing is known of it here"


def _doubts(
    agent: Agent, known: Known, templates: Mapping[str, str], model: str, weights: Mapping[str, str] | None
) -> Sequence[Doubt]:
    name = (agent.runtime.adapter or "").removeprefix("sha256:")[:12]
    back, again = f"git pantheon agents rollback {agent.name}", f"git pantheon train {agent.name}"

    def doubt(why: str, hint: str, grave: bool = True) -> Doubt:
        return Doubt(agent=agent.label, grave=grave, why=f"its adapter {name} {why}", hint=hint)

    found = [doubt(f"cannot be loaded: {known.files}", back)] if known.files else []
    card = known.card
    if card is None:
        why = "has no card that counts: nothing signed says what it was made from"
        return [*found, doubt(why, f"git pantheon pull, or {back}")]
    if weights is not None and card.base_sha256 != dict(weights):
        found.append(doubt(f"was trained on {card.base_model}, with other weights than those of {model} here", again))
    elif weights is None and model and card.base_model != model:
        found.append(doubt(f"was trained on {card.base_model}, and {model} is served", again))
    prompt = templates.get(agent.label)
    if prompt is not None and card.dataset.template_sha256 != prompt:
        why = "was trained with another prompt than the one in force: what it learned may not carry over"
        found.append(doubt(why, again, grave=False))
    return found
