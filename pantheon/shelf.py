"""The shelf: the models on this disk; which one a repository uses; putting one there from a directory or from the hub.

Ring 4. A model is taken as data: safetensors, JSON, tokenizer and chat template by name, never a program, a pickle or a
link out. It is filled beside its place, checked, and renamed, so that a kill leaves a whole model or none. Only `add
hf:...` uses the network, by day, with one commit of the hub's repository, which is kept in the manifest.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import importlib
import json
import math
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from tomlkit.exceptions import TOMLKitError

from pantheon import config, screen
from pantheon.errors import ConfigError, EngineError, PantheonError
from pantheon.git import Repo
from pantheon.models import DEFAULT_MODEL, INSTALL, ChatTemplate, find_model, read_json
from pantheon.names import name_fault
from pantheon.places import Places
from pantheon.plan import printable
from pantheon.records import Record, pretty
from pantheon.survey import read_config

MANIFEST = "pantheon-model.json"  # as the embedded model's
HUB = "hf:"
WANTED = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "chat_template.*"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.tiktoken"),
    *("LICENSE*", "NOTICE*"),
)
UNWANTED = ("*.py", "*.pkl", "*.so", "*.sh", "*.html")
SMALL_MOST = 128 << 20  # bytes of a file that is not weights
HEADER_MOST = 100 << 20  # of a safetensors file, as its own reader bounds it
HUB_S = 30.0
_FICLONE = 0x40049409
_HUB_NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w./-]{1,200}))?", re.ASCII
)

Advance = Callable[[int], None]


class Model(Record):
    """One model on the shelf. `fault` says why it cannot be used; the rest is then empty where it is not known."""

    name: str
    bytes: int = 0
    parameters: int = 0
    dtype: str = ""
    context: int = 0
    template: bool = False
    source: str = ""  # hf:OWNER/NAME@COMMIT, a package, a directory
    used: bool = False  # by this repository
    fault: str = ""


# --- looking ---------------------------------------------------------------------------------------------------------


def show(start: Path, where: Places, *, as_json: bool) -> int:
    """The models that a night could use."""
    kind, used = _used(start)
    names = sorted(path.name for path in where.models.glob("*") if path.is_dir() and not path.name.startswith("."))
    models = [_look(where.models / name, kind == "vllm" and name == used) for name in names]
    if used.startswith("/"):
        models.append(_look(Path(used), kind == "vllm").model_copy(update={"name": used}))
    server = config.load_user(where.config).engine
    if as_json:
        found = {"models": [one.model_dump(mode="json") for one in models], "server": server.model_dump(mode="json")}
        return screen.print_json({**found, "engine": kind})
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "model", "size", "parameters", "type", "context", "chat", "from"):
        table.add_column(name, overflow="fold", no_wrap=name not in ("model", "from"))
    for one in models:
        row = (
            _size(one.bytes),
            _count(one.parameters),
            one.dtype,
            str(one.context or ""),
            "yes" if one.template else "no",
        )
        table.add_row("*" if one.used else "", printable(one.name), *row, printable(one.fault or one.source))
    if models:
        screen.console().print(table)
    else:
        print(f"no model is in {where.models}\nnext: {INSTALL}")
    if server.url:
        mark = "*" if kind == "openai" else " "
        print(f"{mark} {printable(server.model or '(no model named)')} at {printable(server.url)}, your own server")
    return 0


def _used(start: Path) -> tuple[str, str]:
    """The kind of engine and the model that the repository's last commit names; empty where there is none."""
    with contextlib.suppress(PantheonError):
        repo = Repo.discover(start)
        head = repo.head().commit
        found = read_config(repo, head, repo.entries(head)).settings.engine
        return found.kind, DEFAULT_MODEL if found.model == "default" else found.model
    return "", ""


def _look(directory: Path, used: bool) -> Model:
    try:
        return inspect(directory).model_copy(update={"used": used})
    except EngineError as error:
        return Model(name=directory.name, used=used, fault=error.why)


def inspect(directory: Path) -> Model:
    """What a model's files say, checked as far as it can be without loading it. Raises EngineError."""
    for path in directory.iterdir():
        if path.suffix != ".safetensors" and path.stat().st_size > SMALL_MOST:
            raise _unusable(directory, f"{path.name} has more than {SMALL_MOST >> 20} MiB and is not weights")
    settings = read_json(directory / "config.json")
    if "auto_map" in settings:
        raise _unusable(directory, "it needs a program of its own (auto_map), which is never run")
    shards = sorted(directory.glob("*.safetensors"))
    if not shards:
        raise _unusable(directory, "it has no *.safetensors; weights in another form can execute code")
    for index in directory.glob("*.safetensors.index.json"):
        named = read_json(index).get("weight_map")
        missing = set(named.values()) - {path.name for path in shards} if isinstance(named, dict) else {index.name}
        if missing:
            raise _unusable(directory, f"{min(map(str, missing))} is missing")
    counts: dict[str, int] = {}
    for shard in shards:
        for dtype, count in _tensors(shard).items():
            counts[dtype] = counts.get(dtype, 0) + count
    template = False
    with contextlib.suppress(EngineError):
        template = bool(ChatTemplate(directory))
    context = settings.get("max_position_embeddings")
    return Model(
        name=directory.name,
        bytes=sum(path.stat().st_size for path in directory.iterdir() if path.is_file()),
        parameters=sum(counts.values()),
        dtype=max(counts, key=lambda name: counts[name], default=""),
        context=context if isinstance(context, int) else 0,
        template=template,
        source=_source(directory),
    )


def _unusable(directory: Path, why: str) -> EngineError:
    return EngineError("cannot use the model", str(directory), why, "git pantheon model list")


def _tensors(shard: Path) -> dict[str, int]:
    """How many numbers of each type a safetensors file holds, from its header, which must fit the file."""
    size = shard.stat().st_size
    try:
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(HEADER_MOST, size - 8):
                raise ValueError("its header does not fit")
            header = json.loads(file.read(length))
        found: dict[str, int] = {}
        for name, one in header.items():
            if name == "__metadata__":
                continue
            begin, end = one["data_offsets"]
            if not 0 <= begin <= end <= size - 8 - length:
                raise ValueError(f"{name} lies outside of it")
            found[str(one["dtype"])] = found.get(str(one["dtype"]), 0) + math.prod(one["shape"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unusable(shard.parent, f"{shard.name} is no safetensors file: {error}") from error
    return found


def _source(directory: Path) -> str:
    with contextlib.suppress(EngineError, TypeError, AttributeError):
        found = read_json(directory / MANIFEST)["source"] if (directory / MANIFEST).is_file() else {}
        if "repository" in found:
            return f"{HUB}{found['repository']}@{str(found['revision'])[:12]}"
        return str(found.get("directory") or " ".join(str(found[k]) for k in ("package", "version") if k in found))
    return ""


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"


def _count(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 10**9 else f"{count / 1e6:.0f} M"


# --- using -----------------------------------------------------------------------------------------------------------


def use(start: Path, where: Places, name: str) -> int:
    """Name a model in the working tree's pantheon.toml, with everything else in it as it was."""
    repo = Repo.discover(start)
    given = Path(name).expanduser()
    value = str((start / given).resolve()) if "/" in name and not name.startswith(HUB) else name
    found = find_model(value, where.models)
    checked = inspect(found)
    if not checked.template:
        raise _unusable(found, "it has no chat template")
    if found.parent == where.models.resolve():
        value = "default" if found.name == DEFAULT_MODEL else found.name
    path = repo.root / config.DIRECTORY / "pantheon.toml"
    shown = f"{config.DIRECTORY}/pantheon.toml"
    if path.is_symlink() or path.parent.is_symlink():
        raise ConfigError("cannot change", shown, "it is a link, and what it leads to may be another's")
    try:
        document = tomlkit.parse(path.read_text("utf-8")) if path.exists() else tomlkit.document()
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise ConfigError("cannot change", shown, str(error)) from error
    document.setdefault("schema_version", 1)
    table = document.setdefault("engine", tomlkit.table())
    if not isinstance(table, dict):
        raise ConfigError("cannot change", shown, "engine is not a table")
    if table.get("model", "default") == value:
        print(f"{shown} names {printable(value)} already")
        return 0
    table["model"] = value
    _write(path, tomlkit.dumps(document).encode())
    print(f"{shown}: [engine] model = {printable(value)} ({_count(checked.parameters)}, {checked.dtype})")
    if table.get("kind", "vllm") != "vllm":
        print(f'note: kind is {printable(str(table["kind"]))}: the model counts for kind = "vllm" only')
    print(f'next: git add {shown} && git commit -m "Use {printable(found.name)}" && git pantheon trust')
    return 0


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
        descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
        Path(scratch).replace(path)
    except OSError as error:
        raise ConfigError("cannot change", str(path), str(error.strerror)) from error


# --- adding ----------------------------------------------------------------------------------------------------------


def add(start: Path, where: Places, source: str, environ: Mapping[str, str]) -> int:
    """Put a model on the shelf: a copy of a directory, or by day a download from the hub."""
    if source.startswith(HUB):
        found = _HUB_NAME.fullmatch(source.removeprefix(HUB))
        if found is None:
            raise EngineError("cannot add the model", source, "the hub's models are named hf:OWNER/NAME[@REVISION]")
        if {link for _, link in socket.if_nameindex()} <= {"lo"}:
            why = "there is no network here: models come by day, and at night nothing is downloaded"
            raise EngineError("cannot add the model", source, why, "git pantheon model add PATH")
        name = found["repo"].partition("/")[2]
        with _filled(where.models, name) as partial:
            origin = _download(partial, found["repo"], found["revision"] or "main", environ)
    else:
        directory = (start / Path(source).expanduser()).resolve()
        name = directory.name
        with _filled(where.models, name) as partial:
            origin = _copy(directory, partial)
    made = inspect(where.models / name)
    print(f"{printable(name)}: {_size(made.bytes)}, {_count(made.parameters)}, {made.dtype}, from {printable(origin)}")
    print(f"next: git pantheon model use {printable(name)}")
    return 0


@contextlib.contextmanager
def _filled(models: Path, name: str) -> Iterator[Path]:
    """A directory to fill, which becomes the model `name` when it holds one; else nothing is left of it."""
    fault = name_fault(name) or ("it begins with a dot" if name.startswith(".") else "")
    if fault or ":" in name or name == "default":
        raise EngineError("cannot add the model", name, f"this cannot be its name: {fault or 'it has another meaning'}")
    target = models / name
    if os.path.lexists(target):
        why = "a model of this name is there, and is never overwritten"
        raise EngineError("cannot add the model", str(target), why, f"mv {target} {target}.old")
    try:
        models.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".partial", dir=models))
    except OSError as error:
        raise EngineError("cannot add the model", str(models), str(error.strerror)) from error
    try:
        yield partial
        if not inspect(partial).template:
            raise _unusable(target, "it has no chat template: it is no instruction model")
        partial.chmod(0o755)
        partial.rename(target)
    except EngineError as error:
        raise EngineError("cannot add the model", name, error.why, error.hint) from error
    except OSError as error:
        raise EngineError("cannot add the model", name, f"{error.filename}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_wanted(name: str) -> bool:
    def fits(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return "/" not in name and fits(WANTED) and not fits(UNWANTED)


def _copy(source: Path, partial: Path) -> str:
    """Take the wanted files of a directory; where it came from, in words."""
    if not source.is_dir():
        raise _unusable(source, "there is no such directory")
    wanted: dict[str, Path] = {}
    for path in sorted(source.iterdir()):
        if not _is_wanted(path.name):
            continue
        real = path.resolve()
        if not real.is_relative_to(source):
            raise EngineError("", "", f"{path.name} is a link to outside of it", f"cp -rL {source} DIRECTORY")
        if not real.is_file():
            raise _unusable(source, f"{path.name} is no regular file")
        wanted[path.name] = real
    if "config.json" not in wanted:
        raise _unusable(source, "it has no config.json")
    total = sum(path.stat().st_size for path in wanted.values())
    _must_fit(partial, total)
    with _bar(f"adding {source.name}", total) as advance:
        for name, real in wanted.items():
            _take(real, partial / name, advance)
    _manifest(partial, {"directory": str(source)})
    return str(source)


def _take(source: Path, target: Path, advance: Advance) -> None:
    """The same bytes at another place: a clone where the file system has them, a link where that is as good, else a
    copy."""
    info = source.stat()
    with source.open("rb") as old:
        with target.open("xb") as new:
            try:
                fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
                advance(info.st_size)
                return
            except OSError:  # another file system, or one without clones
                pass
        if info.st_uid == os.geteuid() and not info.st_mode & 0o022:  # else somebody could change it under our hands
            target.unlink()
            try:
                os.link(source, target)
                advance(info.st_size)
                return
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                    raise
        with target.open("wb") as new:
            while part := old.read(1 << 22):
                new.write(part)
                advance(len(part))


def _must_fit(directory: Path, count: int) -> None:
    free = shutil.disk_usage(directory).free
    if count > free - (512 << 20):
        raise EngineError("", "", f"it needs {_size(count)}, and {_size(free)} are free", f"df -h {directory.parent}")


def _manifest(directory: Path, source: Mapping[str, str]) -> None:
    """Where it came from, and the digests of its weights."""
    digests = {}
    for shard in sorted(directory.glob("*.safetensors")):
        with shard.open("rb") as file:
            digests[shard.name] = hashlib.file_digest(file, "sha256").hexdigest()
    (directory / MANIFEST).write_bytes(pretty({"schema": 1, "source": dict(source), "weights_sha256": digests}))


# --- the hub, by day -------------------------------------------------------------------------------------------------


def _download(partial: Path, repository: str, revision: str, environ: Mapping[str, str]) -> str:
    """Fetch one commit of a model from the hub, without any token; where it came from, in words."""
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        errors: Any = importlib.import_module("huggingface_hub.errors")
        utils: Any = importlib.import_module("huggingface_hub.utils")
    except ImportError as error:
        raise EngineError("", "", "huggingface_hub, a part of the engine, is not installed", INSTALL) from error
    endpoint = environ.get("HF_ENDPOINT") or None
    utils.disable_progress_bars()
    try:
        api = hub.HfApi(endpoint=endpoint, token=False)
        info = api.model_info(repository, revision=revision, files_metadata=True, timeout=HUB_S)
        files = {one.rfilename: int(one.size or 0) for one in info.siblings if _is_wanted(one.rfilename)}
        if not any(name.endswith(".safetensors") for name in files):
            raise _unusable(partial, "it has no *.safetensors; weights in another form can execute code")
        if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):
            raise _unusable(partial, "the hub names no commit for it")
        _must_fit(partial, sum(files.values()))
        with _bar(f"downloading {repository}", sum(files.values())) as advance:
            for name, size in sorted(files.items(), key=lambda one: one[1]):
                options = {"revision": info.sha, "local_dir": partial, "token": False, "endpoint": endpoint}
                got = Path(hub.hf_hub_download(repository, name, **options))
                if got != partial / name or got.is_symlink() or got.stat().st_size != size:
                    raise _unusable(partial, f"{name} did not come as the hub announced it")
                advance(size)
    except (errors.HfHubHTTPError, errors.HTTPError, OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "look at the name and the network; git pantheon model add PATH takes a directory"
        raise EngineError(
            "", "", f"the hub ({endpoint or 'huggingface.co'}) did not give it: {why[:300]}", hint
        ) from error
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    _manifest(partial, {"repository": repository, "revision": info.sha})
    return f"{HUB}{repository}@{info.sha}"


@contextlib.contextmanager
def _bar(text: str, total: int) -> Iterator[Advance]:
    """A progress bar in bytes; nothing where there is no terminal."""
    shown = screen.console(stderr=True)
    if not shown.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown, transient=True) as bar:
        job = bar.add_task(printable(text), total=total)
        yield lambda count: bar.advance(job, count)
