"""What tune.py asks of weights.py, and what weights.py says while it works: one JSON record a line. Words only.

Two processes: one has the user's disk in sight, the other has torch, no network, and what it is shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from pantheon.lessons import Loss, Tuned
from pantheon.records import Record, Tuning
from pantheon.training.schedule import Plan, Watch

CHECKPOINT = "checkpoint.safetensors"
ADAPTER = "adapter"  # a directory beside it
MERGED = "pantheon-merged.json"  # the manifest of a merged model, in its directory


class TuneOrder(Record):
    """Train an adapter: paths as the trainer sees them, `work` writable. `model`: its name, as rows name it. None: no
    limit, or the trainer chooses. `budget_s` counts over all resumes."""

    model_dir: Path
    model: str
    dataset_dir: Path
    work: Path
    tuning: Tuning
    budget_s: float | None = None
    memory_bytes: int | None = None
    save_s: float = 60.0  # a checkpoint at least so often
    pack: int | None = None  # tokens; 1: every row alone
    checkpoints: bool | None = None


class Pair(Record):
    """A prompt in the model's own chat form, and what may follow it."""

    prompt: str
    completion: str


class LossOrder(Record):
    """The mean loss per token of each completion. `pairs`: a file with one `Pair` a line."""

    model_dir: Path
    pairs: Path


class MergeOrder(Record):
    """Put base and adapter together in a new directory `target`."""

    model_dir: Path
    adapter_dir: Path
    adapter: str  # its digest
    target: Path


class Merged(Record):
    """The manifest of a merged model: name -> sha256 of the weights it was made from, and of every file it has."""

    schema_version: int = 1
    base: dict[str, str]
    adapter: str
    files: dict[str, str]


class State(Record):
    """What a checkpoint says besides its tensors. `since`: the sum of the losses since the last look at the dev rows,
    and how many they are; `seconds` of all resumes."""

    identity: str  # of model, rows and settings: a checkpoint of another training is of no use
    plan: Plan
    step: int = 0
    watch: Watch = Watch()
    losses: tuple[Loss, ...] = ()
    since: tuple[float, int] = (0.0, 0)
    tokens: int = 0
    row_tokens: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    resumed: int = 0


class Phase(Record):
    """What is done now, for a person. `note`: to be told, not only shown."""

    event: Literal["phase"] = "phase"
    text: str
    note: bool = False


class Step(Record):
    """So far: steps and tokens done of all, the last loss of the rows trained on and of the dev rows."""

    event: Literal["step"] = "step"
    step: int
    steps: int
    tokens: int
    of_tokens: int
    loss: float | None = None
    dev: float | None = None


class Failed(Record):
    """It could not be done: the four parts of an error."""

    event: Literal["failed"] = "failed"
    what: str
    thing: str = ""
    why: str = ""
    hint: str = ""


class Stopped(Record):
    """It was asked to end before it was done, and kept a checkpoint after so many steps."""

    event: Literal["stopped"] = "stopped"
    step: int


class Done(Record):
    """What was asked for: of a training how it went, of losses one per pair, of a merge its manifest."""

    event: Literal["done"] = "done"
    tuned: Tuned | None = None
    losses: tuple[float, ...] = ()
    merged: Merged | None = None


Event = Annotated[Phase | Step | Failed | Stopped | Done, Field(discriminator="event")]
EVENT: TypeAdapter[Phase | Step | Failed | Stopped | Done] = TypeAdapter(Event)
