"""What `init` puts into a repository and `uninstall` takes out again: hook stubs, configuration, `.pantheon/`.

Owns the hooks directory's stubs, our lines of the configuration file, the doorbell and the journal `init.json` in the
common git dir, which holds the bytes and modes from before. Both ways are planned first, as values that can be printed.
Foreign hooks are moved aside and run by our stub; a hooks path outside the git dir is never written to.
Does not cover: file times, and a hook that looks at its own file name ($0).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from pantheon import attic, children, remotes, stubs
from pantheon.artifacts import SUMMARY
from pantheon.errors import PantheonError, RepositoryError
from pantheon.git import NAMESPACES, Repo
from pantheon.places import GLANCE, TRIES
from pantheon.process import Limits, base_env, run
from pantheon.records import SCHEMA_VERSION, Record
from pantheon.signing import ALLOWED_SIGNERS, REVOKED_KEYS
from pantheon.stubs import CHAINED, LEGACY, NAMES, ONE_LINE, Before, HookEntry, Version, look

DIRECTORY = ".pantheon"  # in the worktree
STATE = "pantheon"  # in the common git dir
SETTINGS = "pantheon.toml"
JOURNAL = "init.json"
DOORBELL = "doorbell"

_SECTION_MARK = " # git pantheon init"
_CHANGES = ("create", "update", "chain", "set", "remove", "restore")


class Write(Record):
    """One thing that is written, or is not and why. `target` lies below the worktree (file) or the common git dir
    (dir, hook), or is a name (config, ref). `differs`: something of yours is in the way; it stays as it is."""

    kind: Literal["dir", "file", "hook", "config", "ref"]
    target: str
    action: Literal["create", "update", "keep", "chain", "set", "differs", "remove", "restore"]
    detail: str = ""
    content: bytes = Field(default=b"", exclude=True, repr=False)
    mode: int = Field(default=0, exclude=True)


class _Planned(Record):
    writes: tuple[Write, ...]
    git: str  # how the common git dir is shown
    config_now: bytes = Field(default=b"", exclude=True, repr=False)
    config_next: bytes = Field(default=b"", exclude=True, repr=False)

    @property
    def changes(self) -> tuple[Write, ...]:
        return tuple(one for one in self.writes if one.action in _CHANGES)

    def _lines(self) -> list[str]:
        place = {"dir": f"{self.git}/", "hook": f"{self.git}/"}
        return [
            f"{one.action:8}{one.kind:7}{place.get(one.kind, '')}{_show(one.target)}"
            + (f"  ({_show(one.detail)})" if one.detail else "")
            for one in self.writes
        ]


class InitPlan(_Planned):
    """Everything `init` will write. `lines()` shows it, before and after."""

    def lines(self) -> list[str]:
        head = [] if self.changes else ["everything is in place: nothing is written"]
        made = any(one.kind == "file" and one.action == "create" for one in self.writes)
        tail = [f"then: git add {DIRECTORY} && git commit -m 'Pantheon: agents, flows and rules'"] if made else []
        return [*head, *self._lines(), *tail]


class UninstallPlan(_Planned):
    """Everything `uninstall` will put back, remove or leave."""

    purge: bool

    def lines(self) -> list[str]:
        return [*([] if self.changes else ["nothing to put back"]), *self._lines()]


class FileEntry(Record):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    root: bytes  # of the worktree it was written to
    path: str
    sha256: str


class Journal(Record):
    """What `init` wrote and what was there before. `config_before` None: only our lines can be taken out."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    schema_version: int = SCHEMA_VERSION
    files: tuple[FileEntry, ...] = ()
    folders: tuple[FileEntry, ...] = ()  # made in a worktree, sha256 empty
    git_folders: tuple[str, ...] = ()  # made below the common git dir
    hooks: dict[str, HookEntry] = Field(default_factory=dict)
    config_before: bytes | None = None
    config_after: bytes | None = None
    config_blocks: tuple[bytes, ...] = ()


# --- pure ------------------------------------------------------------------------------------------------------------


def strip_config(data: bytes, blocks: Sequence[bytes]) -> bytes:
    """A configuration file without our `blocks`. Every other byte stays, also what a person put among our lines."""
    for block in blocks:
        head, found, tail = data.partition(block)
        following = next((line.strip() for line in tail.splitlines() if line.strip()), b"[")
        if found and following.startswith(b"["):
            data = head + (b"\n" if block.startswith(b"\n") and tail else b"") + tail
    ours = {line for block in blocks for line in block.splitlines(keepends=True) if line.strip()}
    mark = _SECTION_MARK.encode()
    kept: list[bytes] = []
    header: bytes | None = None  # one of our sections that nothing of the user's was seen in yet
    inside = False
    for line in data.splitlines(keepends=True):
        if line.lstrip().startswith(b"["):
            inside = line.rstrip().endswith(mark) and line in ours
            header = line.replace(mark, b"") if inside else None
            if inside:
                continue
        elif inside and (line in ours or (header is not None and not line.strip())):
            continue
        if header is not None:
            kept.append(header)
            header = None
        kept.append(line)
    return b"".join(kept)


def _show(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _quote_config(value: str) -> str:
    for plain, quoted in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t"), ("\b", "\\b")):
        value = value.replace(plain, quoted)
    return f'"{value}"'


# --- reading ---------------------------------------------------------------------------------------------------------


def doorbell(common_dir: Path) -> Path:
    """The file the hooks touch when something happened that the daemon may want to look at."""
    return common_dir / STATE / DOORBELL


def _read_git(repo: Repo, *args: str) -> list[str]:
    """The NUL-separated answer of a reading git child that sees the user's whole configuration."""
    names = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
    env = base_env() | {name: os.environ[name] for name in names if name in os.environ}
    argv = ["git", "-c", "core.fsmonitor=false", *args]
    done = run(argv, limits=Limits(wall_s=30.0), cwd=repo.root, env=env)
    if done.returncode not in (0, 1) or done.timed_out:
        raise RepositoryError(f"git {args[0]} failed", str(repo.root), os.fsdecode(done.stderr).strip(), "git status")
    return os.fsdecode(done.stdout).split("\0")[:-1]


def _setting(repo: Repo, key: str, *options: str) -> list[tuple[str, str]]:
    """Every value of a key that holds here, least specific first: (scope, value)."""
    words = _read_git(repo, "config", "--show-scope", "-z", *options, "--get-all", key)
    return list(zip(words[::2], words[1::2], strict=True))


def inside(repo: Repo) -> tuple[str, ...]:
    """The directory that hooks run from, as a pattern, where core.hooksPath puts it among the tracked files."""
    paths = [repo.root / value for _, value in _setting(repo, "core.hooksPath", "--type=path")]
    return tuple(f"/{p.relative_to(repo.root)}/**" for p in paths if p != repo.root and p.is_relative_to(repo.root))


def _config_file(repo: Repo) -> Path:
    return (repo.common_dir / "config").resolve()


def _read_config(repo: Repo) -> bytes:
    try:
        return _config_file(repo).read_bytes()
    except OSError as error:
        raise RepositoryError("cannot read the configuration", str(_config_file(repo)), str(error)) from error


def read_journal(repo: Repo) -> Journal | None:
    """What `init` wrote here; None when it was not run. RepositoryError when the journal is damaged."""
    path = repo.common_dir / STATE / JOURNAL
    try:
        return Journal.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as error:
        raise RepositoryError(
            "cannot read what init wrote",
            str(path),
            str(error).splitlines()[0],
            f"put the hooks back by hand: yours end in {CHAINED}; then remove this file",
        ) from error


def _shown_git(repo: Repo) -> str:
    return ".git" if repo.common_dir.resolve() == (repo.root / ".git").resolve() else _show(str(repo.common_dir))


# --- planning init ---------------------------------------------------------------------------------------------------


def git_version(repo: Repo) -> Version:
    return stubs.parse_version(os.fsdecode(children.quiet(repo.root, "version").stdout))


def plan_init(
    repo: Repo,
    templates: Path,
    command: str,
    files: Mapping[str, bytes] | None = None,
    version: Version | None = None,
) -> InitPlan:
    """What `init` would write. `templates`: our templates directory, the hook stubs lie beside it. `command`: the
    absolute path of git-pantheon. `files`: what goes below `.pantheon/`, by path, in place of `templates/pantheon`.
    `version`: of git, which is asked when it is not given."""
    if not Path(command).is_absolute():
        raise PantheonError("cannot install the hooks", command, "the program's path is not absolute", "./install.sh")
    wanted = _template_files(templates) if files is None else files
    now = _read_config(repo)
    configured = _in_configuration(repo, version or git_version(repo))
    settings, block = _plan_config(repo, now, configured)
    state = repo.common_dir / STATE
    place = Write(
        kind="dir",
        target=STATE,
        action="keep" if state.is_dir() else "create",
        detail="" if state.is_dir() else f"mode 0700, with the journal {JOURNAL}",
    )
    writes = (
        *_plan_files(repo.root, wanted),
        *_plan_hooks(repo, stubs.load(templates), command, configured),
        *settings,
        place,
    )
    return InitPlan(writes=writes, git=_shown_git(repo), config_now=now, config_next=now + block)


def _template_files(templates: Path) -> dict[str, bytes]:
    """The settings alone: what else is packaged is in force without a copy, and stays so when Pantheon is upgraded."""
    place = templates / "pantheon" / SETTINGS
    try:
        return {SETTINGS: place.read_bytes()}
    except OSError as error:
        raise PantheonError("cannot initialise", str(place), "the templates are missing", "./install.sh") from error


def _plan_files(root: Path, wanted: Mapping[str, bytes]) -> list[Write]:
    writes = []
    for name, data in sorted(wanted.items()):
        target = f"{DIRECTORY}/{name}"
        up = [root.joinpath(*Path(target).parts[:n]) for n in range(1, len(Path(target).parts))]
        blocked = [path for path in up if (found := look(path)) and (found.kind != "other" or not path.is_dir())]
        there = look(root / target)
        if blocked:
            say = ("differs", f"{blocked[0].relative_to(root)} is not a directory: not written")
        elif there is None:
            say = ("create", f"{len(data)} bytes")
        elif there.kind != "file":
            say = ("differs", "not a regular file: yours is kept")
        else:
            say = ("keep", "" if there.content == data else "yours is kept; it is not the template's")
        writes.append(
            Write.model_validate(
                {"kind": "file", "target": target, "action": say[0], "detail": say[1], "content": data}
            )
        )
    return writes


def _in_configuration(repo: Repo, version: Version) -> bool:
    """Whether git is to find our hooks in its configuration: where it can, and they are not in a hooks directory."""
    here = (read_journal(repo) or Journal()).hooks
    return version >= stubs.IN_CONFIGURATION and all(target.startswith(f"{STATE}/hooks/") for target in here)


def in_force(repo: Repo) -> tuple[str, Path]:
    """The directory that git runs hooks from, and the scope of the setting that says so ("": none does)."""
    settings = _setting(repo, "core.hooksPath", "--type=path")
    scope, value = settings[-1] if settings else ("", str(repo.common_dir / "hooks"))
    return scope, (repo.root / value).resolve()


def configured(repo: Repo, name: str) -> str:
    """The command by which git's configuration has our hook of this kind run; "" when it does not."""
    key = f"hook.{stubs.friendly(name)}"
    if name not in [value for _, value in _setting(repo, f"{key}.event")]:
        return ""
    commands = _setting(repo, f"{key}.command")
    return commands[-1][1] if commands else ""


def _plan_hooks(repo: Repo, ours: Mapping[str, bytes], command: str, configured: bool) -> list[Write]:
    """Stubs go to the hooks directory in force where that lies in the git dir. Elsewhere, and where the configuration
    names them, they stand in a directory of their own."""
    common = repo.common_dir.resolve()
    scope, folder = in_force(repo)
    own = common / STATE / "hooks"
    writes = []
    if configured:
        folder = own
    elif not folder.is_relative_to(common) or (folder.exists() and not folder.is_dir()):
        writes.append(Write(kind="hook", target="hooks", action="differs", detail=_not_in_use(scope, folder)))
        folder = own
    journal = read_journal(repo) or Journal()
    for name in NAMES:
        target = (folder / name).relative_to(common).as_posix()
        stub = stubs.render_stub(ours[name], command)
        for suffix, action, detail in stubs.judge(folder / name, stub, journal.hooks.get(target)):
            content = stub if action in ("create", "update", "chain") else b""
            one = {"kind": "hook", "target": target + suffix, "action": action, "detail": detail}
            writes.append(Write.model_validate(one | {"content": content, "mode": 0o755}))
    return writes


def _not_in_use(scope: str, folder: Path) -> str:
    why = f"core.hooksPath, {scope} configuration" if scope else "the hooks directory is a symbolic link"
    husky = folder.name == "_" and (folder / "h").is_file()  # it writes that directory anew each time
    place = f"files of these names in {folder.parent}" if husky else f"{', '.join(NAMES)} there"
    names = f" ({', '.join(NAMES)})" if husky else ""
    return (
        f"not in use: hooks run from {folder} ({why}), whose files stay; to let them call ours, "
        f"add this line to {place}{names}: {ONE_LINE}"
    )


def _plan_config(repo: Repo, now: bytes, configured: bool) -> tuple[list[Write], bytes]:
    """The settings and the block that is appended to the configuration file for those that are missing."""
    root = repo.common_dir.resolve() / STATE
    wanted = (
        ("notes", "displayRef", SUMMARY, True),
        ("notes", "rewriteRef", "refs/notes/pantheon/*", True),
        ("notes", "rewriteMode", "cat_sort_uniq", False),
        ('gpg "ssh"', "allowedSignersFile", str(root / ALLOWED_SIGNERS), False),
        ('gpg "ssh"', "revocationFile", str(root / REVOKED_KEYS), False),
        *(stubs.settings(root / "hooks") if configured else ()),
    )
    writes: list[Write] = []
    sections: dict[str, str] = {}
    for section, name, value, many in wanted:
        key = f"{section.replace(' ', '.').replace(chr(34), '')}.{name}"
        held = _setting(repo, key)
        values = [each for _, each in held]
        before = f"was {', '.join(values)}" if values else "was not set"
        if value in (values if many else values[-1:]):
            writes.append(Write(kind="config", target=key, action="keep", detail=value))
        elif values and not many:
            detail = f"yours is kept: {values[-1]} ({held[-1][0]}); ours would be {value}"
            writes.append(Write(kind="config", target=key, action="differs", detail=detail))
        else:
            writes.append(Write(kind="config", target=key, action="set", detail=f"{'+' * many}{value}; {before}"))
            sections[section] = sections.get(section, "") + f"\t{name} = {_quote_config(value)}\n"
    text = "".join(f"[{section}]{_SECTION_MARK}\n{lines}" for section, lines in sections.items())
    if text and now and not now.endswith(b"\n"):
        text = "\n" + text
    return writes, os.fsencode(text)


# --- applying init ---------------------------------------------------------------------------------------------------


def apply_init(repo: Repo, plan: InitPlan) -> None:
    """Do what the plan says. The journal is written first, so that `uninstall` can undo a half-done `init`."""
    if not plan.changes:
        return
    common = repo.common_dir.resolve()
    if _read_config(repo) != plan.config_now:
        raise RepositoryError("cannot initialise", str(_config_file(repo)), "it changed meanwhile", "git pantheon init")
    journal = _next_journal(repo, plan, read_journal(repo) or Journal())
    (common / STATE).mkdir(mode=0o700, exist_ok=True)
    _write_journal(repo, journal)
    for one in plan.changes:
        if one.kind == "file":
            path = repo.root / one.target
            path.parent.mkdir(parents=True, exist_ok=True)
            _create(path, one.content, 0o666)
        elif one.kind == "hook":
            _place_hook(common / one.target, one)
    if plan.config_next != plan.config_now:
        _swap_config(repo, plan.config_now, plan.config_next)


def _place_hook(path: Path, one: Write) -> None:
    """Carry out one write of a hook: what another tool moved aside goes or comes back before ours is put in place."""
    if one.action == "remove":
        path.unlink(missing_ok=True)
        return
    if one.action == "restore":
        stubs.beside(path.with_name(path.name.removesuffix(stubs.OLD)), CHAINED).replace(path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if one.action == "chain":
        path.rename(stubs.beside(path, CHAINED))
    fresh = path.with_name(f"{path.name}.pantheon-new")
    fresh.unlink(missing_ok=True)
    _create(fresh, one.content, 0o777)
    fresh.replace(path)


def _next_journal(repo: Repo, plan: InitPlan, old: Journal) -> Journal:
    common, root = repo.common_dir.resolve(), os.fsencode(repo.root)
    files, folders, git_folders, hooks = list(old.files), list(old.folders), list(old.git_folders), dict(old.hooks)
    for one in plan.changes:
        if one.kind == "file":
            digest = hashlib.sha256(one.content).hexdigest()
            files = [each for each in files if (each.root, each.path) != (root, one.target)]
            files.append(FileEntry(root=root, path=one.target, sha256=digest))
            for path in _missing(repo.root, one.target):
                folders.append(FileEntry(root=root, path=path, sha256=""))
        elif one.kind == "hook" and one.content:
            git_folders += _missing(common, one.target)
            name = one.target.removesuffix(LEGACY)  # there too it is the stub of that hook
            earlier = old.hooks.get(name)
            before = look(common / one.target) if one.action == "chain" else earlier.before if earlier else None
            hooks[name] = HookEntry(stub=one.content, before=before)
        elif one.kind == "dir" and one.action == "create":
            git_folders.append(one.target)
    values = old.model_dump() | {
        "files": files,
        "folders": list(dict.fromkeys(folders)),
        "hooks": hooks,
        "git_folders": list(dict.fromkeys(git_folders)),
    }
    if plan.config_next != plan.config_now:
        left = strip_config(plan.config_now, old.config_blocks) != plan.config_now  # lines of an earlier init
        exact = old.config_before if plan.config_now == old.config_after else None
        values["config_before"] = exact if left else plan.config_now
        values["config_after"] = plan.config_next
        values["config_blocks"] = (*(old.config_blocks if left else ()), plan.config_next[len(plan.config_now) :])
    return Journal.model_validate(values)


def _missing(top: Path, target: str) -> list[str]:
    parts = Path(target).parts[:-1]
    names = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    return [name for name in names if not (top / name).exists()]


def _create(path: Path, data: bytes, mode: int) -> None:
    """A new file; whatever is there already is never followed nor overwritten."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        raise RepositoryError("cannot write", str(path), error.strerror or str(error), "git pantheon init") from error


def _write_journal(repo: Repo, journal: Journal) -> None:
    path = repo.common_dir.resolve() / STATE / JOURNAL
    fresh = path.with_name(f"{JOURNAL}.new")
    fresh.unlink(missing_ok=True)
    _create(fresh, journal.to_json().encode() + b"\n", 0o600)  # the configuration may hold secrets
    fresh.replace(path)


def _swap_config(repo: Repo, expected: bytes, data: bytes) -> None:
    """Replace the configuration file under git's own lock, if it still holds what we read."""
    path = _config_file(repo)
    lock = path.with_name(path.name + ".lock")
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        hint = f"if no git runs: rm {shlex.quote(str(lock))}"
        raise RepositoryError("cannot lock the configuration", str(path), "another git writes it", hint) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.read_bytes() != expected:
                raise RepositoryError("cannot write the configuration", str(path), "it changed meanwhile", "try again")
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        lock.replace(path)
    finally:
        lock.unlink(missing_ok=True)


# --- uninstall -------------------------------------------------------------------------------------------------------


def plan_uninstall(repo: Repo, purge: bool = False) -> UninstallPlan:
    """What `uninstall` would put back. `purge` also removes what nights and trainings made: refs, notes, branches,
    keys, adapters with their cards, datasets. Models that were merged lie in the cache."""
    journal = read_journal(repo)
    now = _read_config(repo)
    after = now
    writes: list[Write] = []
    if journal is None:
        writes.append(Write(kind="dir", target=f"{STATE}/{JOURNAL}", action="keep", detail="init was not run here"))
        journal = Journal()
    if journal.config_before is not None and now == journal.config_after:
        after = journal.config_before
        writes.append(Write(kind="config", target="config", action="restore", detail="byte for byte"))
    elif (after := strip_config(now, journal.config_blocks)) != now:
        writes.append(Write(kind="config", target="config", action="remove", detail="our lines; yours stay"))
    for target, entry in journal.hooks.items():
        for suffix, action, detail in stubs.undo(repo.common_dir.resolve() / target, entry):
            writes.append(Write(kind="hook", target=target + suffix, action=action, detail=detail))
    writes += _undo_files(repo, journal)
    writes += _undo_refs(repo, purge)
    writes.append(_undo_state(repo, purge))
    return UninstallPlan(writes=tuple(writes), git=_shown_git(repo), config_now=now, config_next=after, purge=purge)


def _undo_files(repo: Repo, journal: Journal) -> list[Write]:
    writes: list[Write] = []
    tracked = set(_read_git(repo, "ls-files", "-z", "--", DIRECTORY)) if journal.files else set()
    for entry in journal.files:
        if entry.root != os.fsencode(repo.root):
            where = os.fsdecode(entry.root) + "/" + entry.path
            if os.path.lexists(where):
                writes.append(Write(kind="file", target=where, action="keep", detail="in another worktree"))
            continue
        there = look(repo.root / entry.path)
        if there is None:
            continue
        same = there.kind == "file" and hashlib.sha256(there.content).hexdigest() == entry.sha256
        why = f"tracked: git rm -r {DIRECTORY}" if entry.path in tracked else "" if same else "changed since init"
        writes.append(Write(kind="file", target=entry.path, action="keep" if why else "remove", detail=why))
    return writes


def _undo_refs(repo: Repo, purge: bool) -> list[Write]:
    writes = []
    for prefix in (*NAMESPACES, remotes.TRACKING):
        names = repo.refs(prefix)
        if names and not purge:
            detail = f"{len(names)} kept; to remove them: git pantheon uninstall --purge"
            writes.append(Write(kind="ref", target=f"{prefix}*", action="keep", detail=detail))
        elif purge:
            for name, oid in names.items():
                writes.append(Write(kind="ref", target=name, action="remove", detail=f"was {oid}"))
    return writes


def _undo_state(repo: Repo, purge: bool) -> Write:
    state = repo.common_dir.resolve() / STATE
    ours = {JOURNAL, DOORBELL, "hooks", TRIES, GLANCE}
    left = [_held(path) for path in sorted(state.iterdir()) if path.name not in ours] if state.is_dir() else []
    if not state.is_dir():
        return Write(kind="dir", target=STATE, action="keep", detail="not there")
    if left and not purge:
        detail = f"kept: {', '.join(left)}; to remove it: git pantheon uninstall --purge"
        return Write(kind="dir", target=STATE, action="keep", detail=detail)
    return Write(kind="dir", target=STATE, action="remove", detail=", ".join(left))


def _held(path: Path) -> str:
    """A name below our directory; with what it takes where weights and rows lie there: they are in no other clone."""
    learned = attic.held(path) if path.name in attic.PLACES and path.is_dir() and not path.is_symlink() else 0
    return f"{path.name} ({attic.shown(learned)}, only here)" if learned else path.name


def apply_uninstall(repo: Repo, purge: bool = False) -> UninstallPlan:
    """Put back what `init` changed. Gives the plan as carried out, with what had to stay. May be repeated."""
    plan = plan_uninstall(repo, purge)
    journal = read_journal(repo) or Journal()
    common = repo.common_dir.resolve()
    if plan.config_next != plan.config_now:
        _swap_config(repo, plan.config_now, plan.config_next)
    done: list[Write] = []
    for one in plan.writes:
        if one.action == "restore" and one.kind == "hook":
            name = one.target.removesuffix(LEGACY)
            _restore_hook(common / one.target, common / (name + CHAINED), journal.hooks[name].before)
        elif one.action == "remove" and one.kind in ("hook", "file"):
            ((common if one.kind == "hook" else repo.root) / one.target).unlink(missing_ok=True)
        elif one.action == "remove" and one.kind == "ref":
            one = _remove_ref(repo, one)
        done.append(one)
    root = os.fsencode(repo.root)
    for folder in [repo.root / each.path for each in reversed(journal.folders) if each.root == root]:
        with contextlib.suppress(OSError):  # not empty: yours
            folder.rmdir()
    _remove_state(common, journal, purge)
    return plan.model_copy(update={"writes": tuple(done)})


def _restore_hook(path: Path, aside: Path, before: Before | None) -> None:
    if os.path.lexists(aside):
        aside.replace(path)
    elif before is not None:
        path.unlink(missing_ok=True)
        if before.kind == "symlink":
            path.symlink_to(os.fsdecode(before.content))
        else:
            _create(path, before.content, 0o600)
            path.chmod(before.mode)


def _remove_ref(repo: Repo, one: Write) -> Write:
    """A branch that is checked out stays, and so does a ref that moved meanwhile."""
    try:
        if one.target.startswith(remotes.TRACKING):
            remotes.forget(repo, one.target, one.detail.removeprefix("was "))
        else:
            repo.move_ref(one.target, None, one.detail.removeprefix("was "), "pantheon uninstall --purge")
    except RepositoryError as error:
        return one.model_copy(update={"action": "keep", "detail": str(error)})
    return one


def _remove_state(common: Path, journal: Journal, purge: bool) -> None:
    state = common / STATE
    if purge:
        shutil.rmtree(state, ignore_errors=True)
    else:
        (state / DOORBELL).unlink(missing_ok=True)
        (state / JOURNAL).unlink(missing_ok=True)
        for cache in (TRIES, GLANCE):
            shutil.rmtree(state / cache, ignore_errors=True)
    for folder in reversed(journal.git_folders):
        with contextlib.suppress(OSError):  # not empty, or gone
            (common / folder).rmdir()
