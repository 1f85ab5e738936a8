"""A dataset on disk: its files, whole or not at all, and the datasheet that tells a person what is in it.

The headings follow Gebru et al., Datasheets for Datasets (2021), as far as they mean something here. Chooses no rows.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pantheon.errors import RepositoryError
from pantheon.lessons import Dataset, Row
from pantheon.plan import printable
from pantheon.records import Agent, pretty

SHEET, RECORD = "DATASHEET.md", "dataset.json"
MOST_LINES = 40  # of one table
TEXT = """# What {label} can learn

Mined on {day} at commit {commit}. Digest of the rows: {digest}.

## Why

{summary}: rows to train an adapter of {model} with, so that it does more of what people
accepted here. They are for this repository, and for nothing else.

## What is in it

Each row is one call of a model ({models}) in a run whose change the gate passed: the prompt,
byte for byte as the model got it, and its answer. Prompts of another model than {model} were
rendered anew, in the form that it knows. `kind` is `call` where the model chose among values
that tools had computed, and `text` where it wrote one itself. `source` says of which run,
node and step a row is.

- `train.jsonl`: {rows} rows to train on, of {targets} targets.
- `dev.jsonl`: {dev} rows of {dev_targets} other targets, which tell when to stop.
- `negatives.jsonl`: {negatives} rows whose change a person refused; their weight is 0.

The rows to learn from are of {runs} runs. A row weighs 1 when a person accepted its change,
and less while it waits in an open PR.

{tables}
## What is not in it

{left_out}
## How it is split

{held_out} of all targets are held out, by a hash of their names: of every name that renames and
copies join, in git's history and in what the bot renamed. Nothing is mined from them, nor
from files that read nearly like one of them; they measure what an adapter learned. Of the
other targets a share, by another hash, is in `dev.jsonl`. No target is on two sides.

## What to mind

The text is this repository's own, under its own licence, and may name whoever is named
there. Rows with what looks like a secret are left out; a scan finds forms, not everything.
The dataset lies below the git directory: no push takes it along.

## How to load it

```python
from datasets import load_dataset

rows = load_dataset("json", data_files={{"train": "train.jsonl", "dev": "dev.jsonl"}})
```

`messages` and `tools` are as TRL's trainers take them; `tools` is JSON in a text, which they
read, because the schemas differ from row to row.
"""


def write(directory: Path, rows: Mapping[str, bytes], dataset: Dataset, sheet: str) -> Path:
    """Put a dataset in its place and return it. Rows that lie there already, by their digest, stay; what tells of them
    is written anew. Raises RepositoryError."""
    files = {**rows, RECORD: pretty(dataset.model_dump(mode="json")), SHEET: sheet.encode("utf-8", "replace")}
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".new-", dir=directory.parent))
        try:
            for name, data in files.items():
                (partial / name).write_bytes(data)
            if all(_holds(directory / name, data) for name, data in rows.items()):
                for name in (RECORD, SHEET):
                    os.replace(partial / name, directory / name)
            else:
                shutil.rmtree(directory, ignore_errors=True)  # of our own, and damaged
                partial.rename(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise RepositoryError("cannot keep the dataset", str(directory), str(error.strerror), "df -h .") from error
    return directory


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and not path.is_symlink() and path.read_bytes() == data


def datasheet(
    dataset: Dataset,
    agent: Agent,
    train: Sequence[Row],
    dev: Sequence[Row],
    negatives: Sequence[Row],
    flows: Mapping[str, str],
    *,
    when: datetime,
    commit: str,
) -> str:
    """What a dataset is, in Markdown. `flows`: run -> the flow of its item."""
    good = [*train, *dev]
    tables = (
        *_table("decision", [*good, *negatives], lambda row: row.source.decision),
        *_table("flow", good, lambda row: flows.get(row.source.run, "")),
        *_table("night", good, lambda row: row.source.night),
        *_table("level", good, lambda row: str(row.level)),
        *_table("kind", good, lambda row: row.kind),
        *_table("agent", good, lambda row: row.source.agent),
        *_table("model", good, lambda row: row.source.model),
    )
    return TEXT.format(
        label=agent.label,
        day=f"{when:%Y-%m-%d}",
        commit=commit,
        digest=dataset.digest,
        summary=printable(agent.summary),
        model=dataset.model,
        models=", ".join((dataset.model, *dataset.teachers)),
        rows=dataset.rows,
        targets=_targets(train),
        dev=dataset.dev,
        dev_targets=_targets(dev),
        negatives=dataset.negatives,
        runs=dataset.runs,
        tables="\n".join(tables),
        left_out="\n".join(_left_out(dataset)),
        held_out=f"{dataset.held_out:.0%}",
    )


def _targets(rows: Sequence[Row]) -> int:
    return len({row.source.family for row in rows})


def _table(name: str, rows: Sequence[Row], of: Callable[[Row], str]) -> list[str]:
    """How many rows there are of each, the most first."""
    counts = Counter(map(of, rows))
    if not counts:
        return []
    lines = [
        f"| {printable(value)} | {count} |" for value, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
    ]
    more = [f"| {len(lines) - MOST_LINES} more | |"] if len(lines) > MOST_LINES else []
    return [f"| {name} | rows |", "| --- | ---: |", *lines[:MOST_LINES], *more, ""]


def _left_out(dataset: Dataset) -> list[str]:
    """Why calls are not among the rows, the most frequent reason first."""
    found = sorted(dataset.left_out.items(), key=lambda one: (-one[1], one[0]))
    if not found:
        return ["Nothing: every call that the agent made for these nights is among the rows.", ""]
    return ["Calls of the agent that were left out:", "", *(f"- {count}: {why}." for why, count in found), ""]
