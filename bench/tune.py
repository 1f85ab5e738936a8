"""What packing rows into trees of tokens and gradient checkpoints do to a training, with the embedded model.

    python bench/tune.py [--model DIR] [--items 6]

Three trainings of one epoch on the same rows, each in a process of its own in the sandbox: rows in packs, every row
alone, and packs with checkpoints. Prints speeds and peak memory, and their ratios, which hold although the machine's
speed does not; fails nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import random
import tempfile
from pathlib import Path

from pantheon.lessons import Message, Row, Source, Tuned
from pantheon.models import ChatTemplate, find_model
from pantheon.places import places
from pantheon.records import Tuning
from pantheon.training import tune
from pantheon.training.orders import TuneOrder
from pantheon.training.schedule import PACK

SYSTEM = """You are a librarian. You fill in the front matter of notes, one field at a time. You see the beginning of a
note and the open goal, and answer with one JSON object: one call of a tool.

Tools:
set_field: set an open field to the candidate that fits the note best
{"tool":"set_field","field":"title","value":"Nightly backups of the mail server"}
read_more: read the next part of the note, when its beginning does not say what it is about
{"tool":"read_more"}

Conventions:
- title: names the subject of the note in a few words, as its first heading does.
- description: one sentence from the note that says what the note is about.
- tags: topics of the note, lower case, the most particular one first.

Acceptance: every required field is there, nothing is invented, and the text of the note stays as it is.

Example:
Note: docs/oven.md
Text: Care of the oven. The oven is cleaned every Friday after the last loaf. Let it cool for two hours first.
Goal: set_field description
{"tool":"set_field","field":"description","value":"The oven is cleaned every Friday after the last loaf."}"""
WORDS = ("backup", "mail", "server", "garden", "oven", "bread", "night", "queue", "flow", "branch", "review", "merge")
FIELDS = ("title", "description", "tags")


def rows(model: Path, items: int) -> list[Row]:
    """Three calls for each note of about 160 words, as a night's are: the beginning of all is one, and of an item's."""
    template, chance, found = ChatTemplate(model), random.Random(1), []
    for item in range(items):
        text = " ".join(chance.choices(WORDS, k=160))
        for step, field in enumerate(FIELDS):
            user = f"Note: docs/n{item}.md\nText: {text}\nGoal: set_field {field}"
            said = f'{{"tool":"set_field","field":"{field}","value":"{" ".join(chance.choices(WORDS, k=8))}"}}'
            talk = (("system", SYSTEM), ("user", user), ("assistant", said))
            source = Source(
                run=f"r{item}",
                night="n1",
                item=f"i{item}",
                target=f"docs/n{item}.md",
                family=f"docs/n{item}.md",
                node="frontmatter",
                step=step,
                agent="doc.frontmatter@1",
                model=model.name,
                decision="accepted",
            )
            found.append(
                Row(
                    kind="call",
                    messages=tuple(Message.model_validate({"role": role, "content": text}) for role, text in talk),
                    prompt_sha256=hashlib.sha256(template.render(SYSTEM, user).encode()).hexdigest(),
                    source=source,
                )
            )
    return found


def measure(model: Path, dataset: Path, work: Path, pack: int, checkpoints: bool) -> Tuned:
    order = TuneOrder(
        model_dir=tune.MODEL,
        model=model.name,
        dataset_dir=tune.DATASET,
        work=tune.ROOM,
        tuning=Tuning(epochs=1),
        pack=pack,
        checkpoints=checkpoints,
        save_s=3600,
    )
    return tune.train(order, dataset, model, agent="bench", out=work / "out", work=work, quiet=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default", help="a model's directory, or its name on the shelf")
    parser.add_argument("--items", type=int, default=6, help="notes; each has three rows")
    chosen = parser.parse_args()
    model = find_model(chosen.model, places(os.environ).models)
    ways = {"packs": (PACK, False), "rows alone": (1, False), "packs, checkpoints": (PACK, True)}
    with tempfile.TemporaryDirectory() as name:
        dataset = Path(name, "data")
        dataset.mkdir()
        lines = "".join(row.to_json() + "\n" for row in rows(model, chosen.items))
        (dataset / "train.jsonl").write_text(lines, encoding="utf-8")
        found = {way: measure(model, dataset, Path(name, "work"), *how) for way, how in ways.items()}
    print(f"{model.name}, {os.cpu_count()} cores, {platform.machine()}, {3 * chosen.items} rows, one epoch")
    print(f"{'':20} {'tokens':>8} {'of rows':>8} {'seconds':>8} {'tokens/s':>9} {'rows/min':>9} {'peak GiB':>9}")
    for way, one in found.items():
        tokens_s, rows_m = one.tokens / one.step_seconds, 60 * one.rows / one.step_seconds
        numbers = f"{one.tokens:8,} {one.row_tokens:8,} {one.step_seconds:8.1f} {tokens_s:9.0f} {rows_m:9.1f}"
        print(f"{way:20} {numbers} {one.peak_bytes / 2**30:9.2f}")
    packed, alone, less = found.values()
    print(f"packed against alone: {alone.step_seconds / packed.step_seconds:.2f} times the rows per second")
    memory = f"{less.peak_bytes / packed.peak_bytes:.2f} of the memory"
    print(f"checkpoints: {memory}, {packed.step_seconds / less.step_seconds:.2f} of the speed")


if __name__ == "__main__":
    main()
