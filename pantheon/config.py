"""Everything under `.pantheon/`, as records: settings, agents, flows, checks, rules, prompts.

Read from one commit (never from a working tree an agent could edit), each file on its own: the repository's file
overrides the packaged default of the same name in `templates/`. Does not decide; does not touch the disk except for
the packaged defaults.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from pantheon import tomlfile
from pantheon.errors import ConfigError
from pantheon.records import Agent, Bounds, Check, Flow, Glob, Record, seconds

DIRECTORY = ".pantheon"
TOOLS = "tools/"  # below it: a repository's own tools, declarations and programs
R = TypeVar("R", bound=Record)
Reader = Callable[[str], bytes | None]


class TaskSettings(Record):
    """Where task files live and which statuses the night takes."""

    paths: tuple[Glob, ...] = ("docs/tasks/**/*.md", "tasks/**/*.md")
    ready: tuple[str, ...] = ("ready", "todo")


class NightSettings(Record):
    budget: str = "6h"
    window: int = Field(default=0, ge=0, le=4096)  # runs in flight; 0: what the engine wants
    max_items_per_pr: int = Field(default=25, ge=1, le=1000)
    max_open_prs: int = Field(default=20, ge=1, le=10_000)
    max_open_prs_per_task: int = Field(default=0, ge=0, le=10_000)  # 0: no limit
    protected: tuple[Glob, ...] = ()


class GateSettings(Bounds):
    """What the gate asks of its reviewers, and the share of a night that is sown to measure them."""

    canaries: float = Field(default=0.1, ge=0, le=0.5)


class EngineSettings(Record):
    """`openai`: the server whose address the user's own configuration names."""

    kind: Literal["vllm", "openai", "scripted"] = "vllm"
    model: str = "default"


class AcceptSettings(Record):
    strategy: Literal["merge", "ff", "rebase"] = "merge"


class TrainingSettings(Record):
    """How agents learn. `held_out`: the share of targets, by a hash of their oldest name, that nothing is ever mined
    from: they measure. `dev`: the share of the others that tells when to stop. A level of the curriculum opens when the
    one below passes with `level_pass`; an agent is told as ready when its held-out items pass with `aim`."""

    held_out: float = Field(default=0.25, ge=0.05, le=0.8)
    dev: float = Field(default=0.1, ge=0.02, le=0.5)
    p_value: float = Field(default=0.05, gt=0, le=0.5)
    unjudged: float = Field(default=0.5, ge=0, le=1)  # the weight of green work that nobody accepted yet
    levels: int = Field(default=3, ge=1, le=10)
    level_pass: float = Field(default=0.5, ge=0, le=1)
    aim: float = Field(default=0.8, gt=0, le=1)


class PushSettings(Record):
    """Branches (gitignore patterns) that are not pushed with work of the bot that nobody accepted."""

    protected: tuple[Glob, ...] = ("main", "master", "trunk", "develop", "release/**")


class RetentionSettings(Record):
    """What `git pantheon gc` keeps: the newest nights with all their runs, and closed PRs with refs of their own. What
    was accepted, mined or waits in an open PR stays in any case."""

    nights: int = Field(default=90, ge=1)
    closed_prs: int = Field(default=50, ge=0)


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


class DaemonSettings(Record):
    """`[daemon]` of the user's own config.toml: when and how nights run by themselves. `zone`: a name of the tz
    database, the machine's when empty."""

    window: str = "22:00-06:00"
    zone: str = ""
    on_battery: bool = False
    nice: int = Field(default=10, ge=0, le=19)
    idle_io: bool = True  # of the disk only what nobody else wants
    poll: str = "30s"  # how often branches are looked at although nothing rang


class UserSettings(Record):
    """`git-pantheon/config.toml` below the user's configuration directory; no repository reads or writes it."""

    schema_version: Literal[1] = 1
    limits: UserLimits = UserLimits()
    engine: UserEngine = UserEngine()
    planner: PlannerSettings = PlannerSettings()
    daemon: DaemonSettings = DaemonSettings()


class Settings(Record):
    """`.pantheon/pantheon.toml`."""

    schema_version: Literal[1] = 1
    tasks: TaskSettings = TaskSettings()
    night: NightSettings = NightSettings()
    gate: GateSettings = GateSettings()
    engine: EngineSettings = EngineSettings()
    accept: AcceptSettings = AcceptSettings()
    training: TrainingSettings = TrainingSettings()
    push: PushSettings = PushSettings()
    retention: RetentionSettings = RetentionSettings()


class Config(Record):
    """What one commit says. `prompts`, `rules` and `tools` are raw; `sources` says which file is in force for each name
    (`agents/doc.rename.toml`); `digest` covers every file that was read; `ignored` says what it tried to set that is
    not a repository's to set, or set beyond the user's limits."""

    settings: Settings
    agents: dict[str, Agent]
    flows: dict[str, Flow]
    checks: dict[str, Check]
    prompts: dict[str, str]
    rules: dict[str, bytes]
    tools: dict[str, bytes] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)
    # of the flows' and agents' files, for the lines of errors; raw, so that it is no part of what is in force
    texts: dict[str, str] = Field(default_factory=dict, exclude=True)
    own_checks: frozenset[str] = frozenset()  # those that the repository brings along
    digest: str
    ignored: tuple[str, ...] = ()
    limits: UserLimits = UserLimits()


# What decides how safe a night is comes from the user, never from a repository: such keys are left out, and said.
NOT_A_REPOSITORYS = frozenset(
    {
        *("trust", "sandbox", "network", "keys", "signing", "signers", "limits", "privileged", "env", "environment"),
        *("endpoint", "url", "base_url", "host", "port", "socket", "uds", "api_key", "token", "daemon"),
    }
)


def packaged(*parts: str) -> Path:
    """A packaged default: beside the package in a clone, inside it in an installed wheel."""
    here = Path(__file__).resolve().parent
    beside = here.parent.joinpath("templates", "pantheon")
    root = beside if beside.is_dir() else here.joinpath("templates", "pantheon")
    return root.joinpath(*parts)


def load(read: Reader, names: tuple[str, ...], faults: list[ConfigError] | None = None) -> Config:
    """The configuration. `read` gives a repository file's bytes or None; `names` are all paths of that commit.

    The repository's file overrides the packaged one of the same name; of checks, the repository's own are put over the
    packaged ones. Raises ConfigError with file and line; given `faults`, they are gathered there and what is wrong is
    left out, but for the settings.
    """
    packaged_files = _defaults()
    files = dict(packaged_files)
    for name in sorted(names):
        inside = name.removeprefix(DIRECTORY + "/")
        if inside != name and (inside.endswith((".toml", ".j2")) or inside.startswith(TOOLS)):
            data = read(name)
            if data is not None:
                files[inside] = (name, data)
    covered = {**{f"packaged/{name}": packaged_files[name] for name in ("checks.toml",)}, **files}
    digest = hashlib.sha256()
    for inside, (_, data) in sorted(covered.items()):
        digest.update(f"{inside}\0{len(data)}\0".encode() + data)
    ignored: list[str] = []

    def every(folder: str, parse: Callable[[str, bytes], Any]) -> dict[str, Any]:
        found = {}
        for name in sorted(files):
            if name.startswith(folder) and (folder != TOOLS or name.endswith(".toml")):
                try:
                    found[name.removeprefix(folder)] = parse(*files[name])
                except ConfigError as error:
                    if faults is None:
                        raise
                    faults.append(error)
        return found

    checks = _checks(*packaged_files["checks.toml"], [])
    own: dict[str, Check] = {}
    if files["checks.toml"] != packaged_files["checks.toml"]:
        own = every("checks.toml", lambda path, data: _checks(path, data, ignored)).get("", {})
        own = {name: check for name, check in own.items() if checks.get(name) != check}
        checks |= own
    return Config(
        settings=_record(Settings, *files["pantheon.toml"], ignored),
        agents={a.name: a for a in every("agents/", lambda path, data: _agent(path, data, ignored)).values()},
        flows={flow.name: flow for flow in every("flows/", _flow).values()},
        checks=checks,
        own_checks=frozenset(own),
        prompts=every("prompts/", _text),
        rules=every("rules/", lambda path, data: data),
        tools={name.removeprefix(TOOLS): data for name, (_, data) in files.items() if name.startswith(TOOLS)},
        sources={name: path for name, (path, _) in files.items()},
        texts={
            n: data.decode(errors="replace") for n, (_, data) in files.items() if n.startswith(("agents/", "flows/"))
        },
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
            if name in found.own_checks:  # of a packaged one it is the user's own wish
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


def _record(kind: type[R], path: str, data: bytes, ignored: list[str] | None = None) -> R:
    text, values = tomlfile.read(data, path)
    if ignored is not None:
        _leave_out(path, "", values, ignored)
        for name, table in values.items():
            if isinstance(table, dict):
                _leave_out(path, name, table, ignored)
    return tomlfile.validated(kind, values, text, path)


def _agent(path: str, data: bytes, ignored: list[str]) -> Agent:
    text, values = tomlfile.read(data, path)
    table = _table(path, text, values, "agent")
    runtime = table.get("runtime")
    if isinstance(runtime, dict):
        _leave_out(path, "agent.runtime", runtime, ignored)
    return _named(tomlfile.validated(Agent, table, text, path, ("agent",)), path, text, "agent")


def _flow(path: str, data: bytes) -> Flow:
    text, values = tomlfile.read(data, path)
    table = _table(path, text, values, "flow")
    return _named(tomlfile.validated(Flow, table, text, path, ("flow",)), path, text, "flow")


N = TypeVar("N", Agent, Flow)


def _named(found: N, path: str, text: str, table: str) -> N:
    """The record, whose name is that of its file: so two files never speak of the same thing."""
    name = path.rpartition("/")[2].removesuffix(".toml")
    if found.name != name:
        why = f"it is named {found.name!r}, and the file {name!r}: they must be the same"
        raise ConfigError("cannot use", path, why, tomlfile.line_of(text, (table, "name")))
    return found


def _table(path: str, text: str, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    extra = sorted(set(values) - {name})
    if name not in values or extra:
        why = f"unknown table {extra[0]!r}" if extra else "is missing"
        line = tomlfile.line_of(text, (extra[0],)) if extra else 1
        raise ConfigError("cannot use", path, f"the file has one table [{name}]; {why}", line)
    if not isinstance(values[name], dict):
        raise ConfigError("cannot use", path, f"{name} is not a table", tomlfile.line_of(text, (name,)))
    return dict(values[name])


def _checks(path: str, data: bytes, ignored: list[str]) -> dict[str, Check]:
    text, values = tomlfile.read(data, path)
    found: dict[str, Check] = {}
    for name, value in _table(path, text, values, "check").items():
        if not isinstance(value, dict):
            line = tomlfile.line_of(text, ("check", name))
            raise ConfigError("cannot use", path, f"check.{name} is not a table", line)
        _leave_out(path, f"check.{name}", value, ignored)
        found[name] = tomlfile.validated(Check, {**value, "name": name}, text, path, ("check", name))
    return found
