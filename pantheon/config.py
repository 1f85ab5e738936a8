"""Everything under `.pantheon/`, as records: settings, agents, flows, checks, rules, prompts.

Read from one commit (never from a working tree an agent could edit), each file on its own: the repository's file
overrides the packaged default of the same name in `templates/`. Does not decide; does not touch the disk except for
the packaged defaults.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomlkit
from pydantic import Field, ValidationError
from tomlkit.exceptions import ParseError, TOMLKitError

from pantheon.errors import ConfigError
from pantheon.records import Agent, Check, Flow, FlowNode, Record, seconds

DIRECTORY = ".pantheon"
R = TypeVar("R", bound=Record)
Reader = Callable[[str], bytes | None]


class TaskSettings(Record):
    """Where task files live and which statuses the night takes."""

    paths: tuple[str, ...] = ("docs/tasks/**/*.md", "tasks/**/*.md")
    ready: tuple[str, ...] = ("ready", "todo")


class NightSettings(Record):
    budget: str = "6h"
    window: int = Field(default=0, ge=0, le=4096)  # runs in flight; 0: what the engine suggests
    max_items_per_pr: int = Field(default=25, ge=1, le=1000)
    max_open_prs: int = Field(default=20, ge=1, le=10_000)
    protected: tuple[str, ...] = ()


class EngineSettings(Record):
    """`openai`: the server whose address the user's own configuration names."""

    kind: Literal["vllm", "openai", "scripted"] = "vllm"
    model: str = "default"


class AcceptSettings(Record):
    strategy: Literal["merge", "ff", "rebase"] = "merge"


class PushSettings(Record):
    """Branches (gitignore patterns) that are not pushed with work of the bot that nobody accepted."""

    protected: tuple[str, ...] = ("main", "master", "trunk", "develop", "release/**")


class UserLimits(Record):
    """`[limits]` of the user's own config.toml: what no repository can go beyond."""

    budget: str = "24h"
    max_open_prs: int = Field(default=10_000, ge=1, le=10_000)
    check_timeout_s: float = Field(default=3600.0, gt=0, le=3600)
    check_memory_mib: int = Field(default=1024, ge=64)
    check_processes: int = Field(default=64, ge=1)
    check_disk_mib: int = Field(default=256, ge=1)  # of each private directory of a check


class PlannerSettings(Record):
    """`[planner]` of the user's own config.toml: a program that proposes how to split a task, by day only. `env` names
    the variables that it gets beside the usual ones; an empty command means that there is none."""

    command: tuple[str, ...] = ()
    env: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)], ...] = ()
    timeout_s: float = Field(default=120.0, gt=0, le=3600)


class UserEngine(Record):
    """`[engine]` of the user's own config.toml: a model server of theirs on this machine, for `kind = "openai"`."""

    url: str = ""  # http://127.0.0.1:11434/v1, or unix:///run/user/1000/model.sock:/v1
    model: str = ""  # the name that the server knows
    context: int = Field(default=4096, ge=512, le=1 << 20)  # tokens, where the server does not tell


class UserSettings(Record):
    """`git-pantheon/config.toml` below the user's configuration directory; no repository reads or writes it."""

    schema_version: Literal[1] = 1
    limits: UserLimits = UserLimits()
    engine: UserEngine = UserEngine()
    planner: PlannerSettings = PlannerSettings()


class Settings(Record):
    """`.pantheon/pantheon.toml`."""

    schema_version: Literal[1] = 1
    tasks: TaskSettings = TaskSettings()
    night: NightSettings = NightSettings()
    engine: EngineSettings = EngineSettings()
    accept: AcceptSettings = AcceptSettings()
    push: PushSettings = PushSettings()


class Config(Record):
    """What one commit says. `prompts` and `rules` are raw; `digest` covers every file that was read; `ignored` says
    what it tried to set that is not a repository's to set, or set beyond the user's limits."""

    settings: Settings
    agents: dict[str, Agent]
    flows: dict[str, Flow]
    checks: dict[str, Check]
    prompts: dict[str, str]
    rules: dict[str, bytes]
    digest: str
    ignored: tuple[str, ...] = ()
    limits: UserLimits = UserLimits()


# What decides how safe a night is comes from the user, never from a repository: such keys are left out, and said.
NOT_A_REPOSITORYS = frozenset(
    {
        *("trust", "sandbox", "network", "keys", "signing", "signers", "limits", "privileged", "env", "environment"),
        *("endpoint", "url", "base_url", "host", "port", "socket", "uds", "api_key", "token"),
    }
)


def packaged(*parts: str) -> Path:
    """A packaged default: beside the package in a clone, inside it in an installed wheel."""
    here = Path(__file__).resolve().parent
    beside = here.parent.joinpath("templates", "pantheon")
    root = beside if beside.is_dir() else here.joinpath("templates", "pantheon")
    return root.joinpath(*parts)


def load(read: Reader, names: tuple[str, ...]) -> Config:
    """The configuration. `read` gives a repository file's bytes or None; `names` are all paths of that commit.

    Raises ConfigError with file and line.
    """
    files = _defaults()
    for name in sorted(names):
        inside = name.removeprefix(DIRECTORY + "/")
        if inside != name and inside.endswith((".toml", ".j2")):
            data = read(name)
            if data is not None:
                files[inside] = (name, data)
    digest = hashlib.sha256()
    for inside, (_, data) in sorted(files.items()):
        digest.update(f"{inside}\0{len(data)}\0".encode() + data)
    ignored: list[str] = []
    agents = [_agent(*files[name], ignored) for name in sorted(files) if name.startswith("agents/")]
    flows = [_flow(*files[name]) for name in sorted(files) if name.startswith("flows/")]
    return Config(
        settings=_record(Settings, *files["pantheon.toml"], ignored),
        agents={agent.name: agent for agent in agents},
        flows={flow.name: flow for flow in flows},
        checks=_checks(*files["checks.toml"], ignored),
        prompts={
            name.removeprefix("prompts/"): _text(*files[name]) for name in sorted(files) if name.startswith("prompts/")
        },
        rules={name.removeprefix("rules/"): files[name][1] for name in sorted(files) if name.startswith("rules/")},
        digest=digest.hexdigest(),
        ignored=tuple(ignored),
    )


def load_user(directory: Path) -> UserSettings:
    """The user's own settings; the defaults where there is no file. Raises ConfigError."""
    path = directory / "config.toml"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return UserSettings()
    except OSError as error:
        raise ConfigError("cannot read", str(path), str(error.strerror)) from error
    return _record(UserSettings, str(path), data)


def within(found: Config, limits: UserLimits, protected: tuple[str, ...] = ()) -> Config:
    """The configuration with nothing beyond the user's limits, and with further paths protected; what was cut is said
    in `ignored`."""
    said = list(found.ignored)
    night = found.settings.night
    night = night.model_copy(update={"protected": (*night.protected, *protected)})
    if night.max_open_prs > limits.max_open_prs:
        said.append(f"night.max_open_prs {night.max_open_prs} is beyond your limit: {limits.max_open_prs} is used")
        night = night.model_copy(update={"max_open_prs": limits.max_open_prs})
    if seconds(night.budget) > seconds(limits.budget):
        said.append(f"night.budget {night.budget} is beyond your limit: {limits.budget} is used")
        night = night.model_copy(update={"budget": limits.budget})
    checks = dict(found.checks)
    for name, check in checks.items():
        if check.timeout_s > limits.check_timeout_s:
            said.append(
                f"check {name}: {check.timeout_s:g} s is beyond your limit: {limits.check_timeout_s:g} s is used"
            )
            checks[name] = check.model_copy(update={"timeout_s": limits.check_timeout_s})
    settings = found.settings.model_copy(update={"night": night})
    update = {"settings": settings, "checks": checks, "ignored": tuple(said), "limits": limits}
    return found.model_copy(update=update)


def _leave_out(path: str, where: str, table: dict[str, Any], ignored: list[str]) -> None:
    """Take out of a table what is not a repository's to set."""
    for key in sorted(table.keys() & NOT_A_REPOSITORYS):
        del table[key]
        name = f"{where}.{key}" if where else key
        ignored.append(f"{path}: {name} is ignored: it is yours to set, not a repository's")


def _defaults() -> dict[str, tuple[str, bytes]]:
    root = packaged()
    found = {
        path.relative_to(root).as_posix(): (
            f"templates/pantheon/{path.relative_to(root).as_posix()}",
            path.read_bytes(),
        )
        for path in sorted(root.rglob("*"))
        if path.suffix in (".toml", ".j2")
    }
    if "pantheon.toml" not in found:
        raise ConfigError(
            "cannot find the packaged defaults", str(root), "the installation is incomplete", hint="./install.sh"
        )
    return found


def _text(path: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError("cannot read", path, "not UTF-8", line) from error


def _document(path: str, data: bytes) -> tuple[str, dict[str, Any]]:
    text = _text(path, data)
    try:
        return text, tomlkit.parse(text).unwrap()
    except ParseError as error:
        raise ConfigError("cannot read", path, str(error), error.line) from error
    except TOMLKitError as error:
        raise ConfigError("cannot read", path, str(error)) from error


def _record(kind: type[R], path: str, data: bytes, ignored: list[str] | None = None) -> R:
    text, values = _document(path, data)
    if ignored is not None:
        _leave_out(path, "", values, ignored)
        for name, table in values.items():
            if isinstance(table, dict):
                _leave_out(path, name, table, ignored)
    return _validated(kind, path, text, values)


def _validated(kind: type[R], path: str, text: str, values: Mapping[str, Any]) -> R:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        keys = [str(key) for key in first["loc"]]
        why = f"{'.'.join(keys)}: {first['msg']}"
        if first["type"] == "extra_forbidden":
            why = f"unknown key {keys[-1]!r}; known here: {', '.join(_known(kind, keys[:-1]))}"
        raise ConfigError("cannot use", path, why, _line_of(text, keys)) from error


def _known(kind: type[Record], keys: list[str]) -> list[str]:
    """The keys a record accepts at a nested place, for the message."""
    for key in keys:
        field = kind.model_fields.get(key)
        inner = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, Record)):
            return ["see the documentation"]
        kind = inner
    return sorted(kind.model_fields)


def _line_of(text: str, keys: list[str]) -> int:
    """The line (from 1) of the innermost named key that can be found; 0 when none can."""
    for key in reversed([k for k in keys if not k.isdigit()]):
        pattern = re.compile(rf"(^|[\[{{,.\s]){re.escape(key)}\s*[=\]]")
        for number, line in enumerate(text.splitlines(), 1):
            if not line.lstrip().startswith("#") and pattern.search(line):
                return number
    return 0


def _agent(path: str, data: bytes, ignored: list[str]) -> Agent:
    text, values = _document(path, data)
    table = _table(path, values, "agent")
    runtime = table.get("runtime")
    if isinstance(runtime, dict):
        _leave_out(path, "agent.runtime", runtime, ignored)
    return _validated(Agent, path, text, table)


def _table(path: str, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    extra = sorted(set(values) - {name})
    if name not in values or extra:
        why = f"unknown table {extra[0]!r}" if extra else "is missing"
        raise ConfigError("cannot use", path, f"the file has one table [{name}]; {why}")
    if not isinstance(values[name], dict):
        raise ConfigError("cannot use", path, f"{name} is not a table")
    return dict(values[name])


def _flow(path: str, data: bytes) -> Flow:
    text, values = _document(path, data)
    table = _table(path, values, "flow")
    nodes = table.pop("node", [])
    parsed = tuple(_validated(FlowNode, path, text, node) for node in nodes)
    flow = _validated(Flow, path, text, {**table, "nodes": parsed})
    return flow


def _checks(path: str, data: bytes, ignored: list[str]) -> dict[str, Check]:
    text, values = _document(path, data)
    found: dict[str, Check] = {}
    for name, value in _table(path, values, "check").items():
        if not isinstance(value, dict):
            raise ConfigError("cannot use", path, f"check.{name} is not a table", _line_of(text, ["check", name]))
        _leave_out(path, f"check.{name}", value, ignored)
        found[name] = _validated(Check, path, text, {**value, "name": name})
    return found


def refuse_remote(config: Config) -> None:
    """Raise ConfigError when any agent's runtime is not local: night is local, there is no fallback."""
    for agent in config.agents.values():
        if agent.runtime.origin != "local":
            raise ConfigError(
                "refused",
                f"agent {agent.name}",
                f"runtime.origin is {agent.runtime.origin!r}; only 'local' may run at night",
                hint=f"edit {DIRECTORY}/agents/{agent.name}.toml",
            )
