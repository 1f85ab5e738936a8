"""The records of learning: rows, datasets, trainings, trials, adapter cards. Ring 0, as records.py is: no decisions, no
I/O.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from pantheon.records import SCHEMA_VERSION, Digest, Estimate, Record, Share, Tuning


class Message(Record):
    """One message of a conversation, as chat templates know them."""

    role: Literal["system", "user", "assistant"]
    content: str


class Source(Record):
    """Where a row comes from: the model's call `step` of `node` in `run`, on `target`, and who judged it how.

    `decision`: a person accepted the item, or nobody judged it yet and the gate was green; of a negative: a person
    refused it. `family`: the oldest name of the target, which tells it across renames."""

    run: str
    night: str
    item: str
    target: str
    family: str
    node: str
    step: int
    agent: str  # name@version
    model: str
    decision: Literal["accepted", "unjudged", "rejected", "dropped", "retry", "never"]


class Row(Record):
    """One example to learn from: what the model saw and what it said, byte for byte. `kind`: the call of a tool, or a
    text of its own. `tools`: what it could call, a JSON list of functions: as text, because a table of rows has one
    form for all of them, and schemas differ. `weight`: of its loss; 0 of a negative. `level`: of the curriculum, from
    0, the easiest."""

    kind: Literal["call", "text"]
    messages: tuple[Message, ...]  # system, user, assistant
    tools: str = "[]"
    prompt_sha256: str  # of the prompt in the chat form of the model that learns; of its own work, as it got it
    weight: float = 1.0
    level: int = 0
    source: Source


class Dataset(Record):
    """What was mined for one agent: counts, and all that decides which rows are in it. `digest` is the sha256 of the
    three files of rows; `families` are the targets that the rows to train on, and to stop by, come from."""

    schema_version: int = SCHEMA_VERSION
    agent: str
    digest: str
    rows: int
    dev: int  # rows of other targets, which tell when to stop; never trained on
    negatives: int
    runs: int
    families: tuple[str, ...]
    held_out: float  # the share of targets that nothing was mined from
    template_sha256: str
    model: str  # the model that the rows were rendered for
    teachers: tuple[str, ...] = ()  # other models whose accepted work is among the rows
    left_out: dict[str, int] = Field(default_factory=dict)  # why -> rows


class Loss(Record):
    """Mean loss per completion token after `step` optimiser steps: of the rows trained on, and of the dev rows."""

    step: int
    epoch: float
    train: float | None = None
    dev: float | None = None


class Tuned(Record):
    """How a training ended. `best`: the step whose weights were kept. `ended`: all epochs, early (the dev loss rose),
    or the time budget."""

    steps: int
    best: int
    ended: Literal["epochs", "early", "budget"]
    losses: tuple[Loss, ...]
    rows: int
    tokens: int  # that went through the model, beginnings that rows share counted once
    row_tokens: int  # that they have one by one
    seconds: float
    step_seconds: float = 0.0  # of these in optimiser steps
    peak_bytes: int = 0
    resumed: int = 0  # times
    environment: dict[str, str] = Field(default_factory=dict)  # versions of what trained it, and the device


class Trial(Record):
    """One held-out item under one version of an agent: whether the gate would accept it, and what it took. `reviewed`:
    what the reviewers said of it together, "" where it did not reach them. `seconds`: of the engine and of tools, for
    the agent's nodes; what the engine worked on at the same time shares them."""

    item: str
    family: str
    base: str
    passed: bool
    reason: str = ""
    calls: int = 0  # of the agent's tools
    tool_errors: int = 0  # calls that failed or were refused
    reviewed: Literal["", "pass", "fail"] = ""
    seconds: float = 0.0


class Comparison(Record):
    """Two versions of an agent on the same held-out items. `only_before`, `only_after`: items that only one of them
    passed; `p_value`: of a difference so large or larger by chance (exact McNemar test, two-sided). `why`: the figures
    in sentences, also of a version that is kept."""

    agent: str
    before: str  # name@version, with its adapter
    after: str
    items: int
    before_pass: Share
    after_pass: Share
    only_before: int
    only_after: int
    p_value: float
    before_errors: Share  # of tool calls
    after_errors: Share
    before_precision: Estimate = Estimate()  # of what the gate accepts, as the reviewers were measured
    after_precision: Estimate = Estimate()
    before_rate: float = 0.0  # items per hour
    after_rate: float = 0.0
    promote: bool
    why: tuple[str, ...] = ()


class Card(Record):
    """An adapter's card: what it is, what it was made from, how it did. Digests are sha256 in hex, `adapter` and
    `parent` with `sha256:` before it."""

    schema_version: int = SCHEMA_VERSION
    agent: str
    version: int  # that of the agent which loads it, once it is promoted
    adapter: Digest
    parent: Digest | None = None  # the adapter that was in force when it was trained
    base_model: str
    base_sha256: dict[str, str]
    dataset: Dataset
    tuning: Tuning
    tuned: Tuned
    created_at: datetime
    comparison: Comparison | None = None


class Known(Record):
    """What one clone knows of an adapter that an agent names: its card, where one counts, and what is wrong with its
    files; "" when they may be loaded."""

    card: Card | None = None
    files: str = ""
