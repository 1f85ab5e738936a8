"""Rows as tokens: a prompt in the model's own chat form, what was said, and the token that ends a turn.

Reads rows and a tokenizer, both as data; knows no weights. A row is taken only when its prompt is, byte for byte, the
one that the model got.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError
from tokenizers import Tokenizer

from pantheon.errors import EngineError, TrainingError
from pantheon.lessons import Row
from pantheon.models import ChatTemplate, read_json
from pantheon.training.orders import TuneOrder
from pantheon.training.packing import Sequenced


class Speech:
    """A model's tokens. Raises EngineError for a model without a tokenizer or a chat template."""

    def __init__(self, model_dir: Path) -> None:
        self.template = ChatTemplate(model_dir)
        try:
            self._tokenizer = Tokenizer.from_buffer((model_dir / "tokenizer.json").read_bytes())
        except (OSError, ValueError) as error:
            raise EngineError("cannot read the model", str(model_dir / "tokenizer.json"), str(error)) from error
        self.end = self._end_of_turn(model_dir)
        most = read_json(model_dir / "config.json").get("max_position_embeddings")
        self.context = most if isinstance(most, int) else 1 << 20  # tokens

    def prompt(self, text: str) -> tuple[int, ...]:
        self._tokenizer.encode_special_tokens = False
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def said(self, text: str) -> tuple[int, ...]:
        """A control token in what was said is text: no row may teach the model to end somebody else's turn."""
        self._tokenizer.encode_special_tokens = True
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _end_of_turn(self, model_dir: Path) -> int:
        """The control token that the chat template puts after an answer, or else the one that ends a text."""
        controls = self._tokenizer.get_added_tokens_decoder()
        first = next(iter(self.prompt(self.template.after_answer())), None)
        if first in controls and controls[first].special:
            return int(first)
        end = self._tokenizer.token_to_id(self.template.end_of_text)
        if end is None:
            raise EngineError("cannot use the model", str(model_dir), "it has no token that ends an answer")
        return int(end)


def read_rows(path: Path, speech: Speech, model: str, tell: Callable[[str], None]) -> list[Sequenced]:
    """The rows of a file as tokens; what has no weight, and what the model's context does not hold (a teacher's may be
    longer), is left out. Raises TrainingError for one that is none, or whose
    prompt is not the one that `model` got when the row was made."""
    found = []
    for number, line in enumerate(path.read_text("utf-8").split("\n") if path.is_file() else (), 1):
        if not line:
            continue
        place = f"{path.name}:{number}"
        try:
            row = Row.model_validate_json(line)
            system, user, assistant = row.messages
        except (ValidationError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise TrainingError("cannot train on the row", place, why, "git pantheon mine AGENT") from error
        prompt = speech.template.render(system.content, user.content)
        if row.source.model == model and hashlib.sha256(prompt.encode()).hexdigest() != row.prompt_sha256:
            why = f"its prompt is not the one that {model} got in run {row.source.run[:12]}: one of them was changed"
            raise TrainingError("cannot train on the row", place, why, "git pantheon mine AGENT")
        start = speech.prompt(prompt)
        tokens = (*start, *speech.said(assistant.content), speech.end)
        if row.weight > 0:
            found.append(Sequenced(tokens, len(start), row.weight, row.source.item, row.level))
    fit = [row for row in found if len(row.tokens) <= speech.context]
    if len(fit) < len(found):
        tell(f"{path.name}: {len(found) - len(fit)} rows are longer than the model's context, and left out")
    return fit


def identity(order: TuneOrder) -> str:
    """What a training is: the digest of its model, rows and settings. A checkpoint of another one is of no use."""
    whole = hashlib.sha256(order.tuning.to_json().encode())
    models = [*sorted(order.model_dir.glob("*.safetensors")), order.model_dir / "tokenizer.json"]
    for path in (*models, order.dataset_dir / "train.jsonl", order.dataset_dir / "dev.jsonl"):
        if path.is_file():
            with path.open("rb") as stream:
                whole.update(f"{path.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
    return whole.hexdigest()
