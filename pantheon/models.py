"""Models on disk: where one is found by its name, and how its own chat template renders a prompt.

A model is a directory with `config.json`, a tokenizer and safetensors. It is data: nothing of it is executed but its
chat template, in Jinja's sandbox. Nothing is downloaded here; shelf.py puts models on the shelf.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pantheon.errors import EngineError

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
INSTALL = "./install.sh"
# Where nobody tells us a model's control tokens: the forms that the families in use have.
KNOWN_CONTROL = re.compile(
    r"<\|[^<>|\s]{1,64}\|?>|<[^<>|\s]{1,64}\|>|<\uff5c[^<>\uff5c]{1,64}\uff5c>|</?s>|<(?:bos|eos|pad|unk|mask)>"
    r"|<(?:start|end)_of_(?:turn|role|text|image)>|<</?SYS>>|</?(?:think|tool_call|tool_response)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|gMASK)\]"
)


def find_model(name: str, models_dir: Path) -> Path:
    """The directory of a local model: `default`, a directory in `models_dir`, or an absolute path. Night is local:
    names of a model hub are refused."""
    relative = Path(DEFAULT_MODEL if name == "default" else name).expanduser()
    if not relative.is_absolute() and (len(relative.parts) != 1 or ":" in name):
        raise EngineError(
            "cannot use the model",
            name,
            "it is not a local directory, and nothing is ever downloaded",
            f"name an absolute path or a directory of {models_dir}",
        )
    found = models_dir / relative
    weights = list(found.glob("*.safetensors")) if (found / "config.json").is_file() else []
    if not weights:
        why = "there is no directory with config.json and *.safetensors"
        raise EngineError("cannot find the model", str(found), why, INSTALL)
    root = found.resolve()
    if any(not weight.resolve().is_relative_to(root) for weight in weights):
        raise EngineError(
            "cannot use the model",
            str(found),
            "its weights are links to files outside of it",
            f"cp -rL {found} {models_dir}/",
        )
    return root


class ChatTemplate:
    """A model's own chat template. Control tokens inside a message are broken up: a note that holds `<|im_end|>`
    must not be able to end the message it is quoted in."""

    def __init__(self, model_dir: Path) -> None:
        settings = read_json(model_dir / "tokenizer_config.json")
        separate = model_dir / "chat_template.jinja"
        source = separate.read_text("utf-8") if separate.is_file() else settings.get("chat_template")
        if isinstance(source, list):  # several named templates
            source = next((one["template"] for one in source if one.get("name") == "default"), None)
        if not isinstance(source, str):
            raise EngineError("cannot use the model", str(model_dir), "it has no chat template")
        added = read_json(model_dir / "tokenizer.json").get("added_tokens", [])
        control = sorted((one["content"] for one in added if one.get("special")), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control)) or "(?!)")
        self._names = {
            key: value["content"] if isinstance(value, dict) else value
            for key, value in settings.items()
            if key.endswith("_token") and value is not None
        }
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise EngineError("cannot use the chat template", str(model_dir), str(error)) from error

    def render(self, system: str, user: str) -> str:
        messages = [
            {"role": role, "content": disarmed(text, self._control)}
            for role, text in (("system", system), ("user", user))
        ]
        return self._rendered(messages, True)

    def after_answer(self) -> str:
        """What follows an answer in the model's own form: the end of its turn."""
        talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "@answer@"}]
        return self._rendered(talk, False).rpartition("@answer@")[2]

    @property
    def end_of_text(self) -> str:
        return self._names.get("eos_token") or ""

    def _rendered(self, messages: list[dict[str, str]], asks: bool) -> str:
        try:
            return self._template.render(messages=messages, add_generation_prompt=asks, **self._names)
        except jinja2.TemplateError as error:
            raise EngineError("cannot render the chat template", "", str(error)) from error


def disarmed(text: str, control: re.Pattern[str] = KNOWN_CONTROL) -> str:
    """The text with its control tokens broken up, also for a tokenizer that normalises what it reads."""
    for form in ("", "NFKC"):
        seen = unicodedata.normalize("NFKC", text) if form else text
        while control.search(seen):
            text = seen = control.sub(lambda found: found[0][0] + " " + found[0][1:], seen)
    return text


def _refuse(message: str) -> str:
    raise jinja2.TemplateError(message)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model's directory. Raises EngineError."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError("cannot read the model", str(path), str(error), INSTALL) from error
    if not isinstance(found, dict):
        raise EngineError("cannot read the model", str(path), "it is not a JSON object", INSTALL)
    return found
