"""Trains, merges and asks for losses in a child of its own, in the sandbox: no network, and nothing in sight but a
model, rows, and one directory to write to.

Ring 3. Owns the lock of a training, its working directory with the checkpoint, the progress bar, and the merged models
in the cache. What is computed and how is weights.py's; which rows, and what becomes of an adapter, others decide.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pantheon import lora, process
from pantheon.errors import Interrupted, TrainingError
from pantheon.lessons import Tuned
from pantheon.limits import Limits
from pantheon.records import Record, Tuning
from pantheon.sandbox import Sandbox
from pantheon.training import schedule
from pantheon.training.orders import (
    ADAPTER,
    CHECKPOINT,
    EVENT,
    MERGED,
    Done,
    Event,
    Failed,
    LossOrder,
    Merged,
    MergeOrder,
    Pair,
    Phase,
    Step,
    Stopped,
    TuneOrder,
)

MODEL, DATASET, ROOM, ADAPTERS = Path("/model"), Path("/dataset"), Path("/room"), Path("/adapter")  # inside
POLL_S = 0.1
STOP_S = 120.0  # a step of a large pack, and a checkpoint
PLAIN_EVERY_S = 15.0
UNUSED_S = 30 * 86_400.0  # a merged model that nothing asked for so long is deleted
SHARE = 0.8  # of the memory that is available, where nobody says how much

Hear = Callable[[Event], None]


# --- what others call ------------------------------------------------------------------------------------------------


def tune(
    dataset_dir: Path,
    model_dir: Path,
    tuning: Tuning,
    *,
    agent: str,
    out: Path,
    work: Path,
    budget_s: float | None = None,
    memory_bytes: int | None = None,
    quiet: bool,
    save_s: float = 60.0,
) -> Tuned:
    """Train an adapter of `agent` on a dataset's rows; its two files are in `out`, unless `Tuned.best` is 0: then the
    base's own dev loss was never beaten, and there is no adapter.

    Below `work` it keeps a checkpoint until it is done: called again after it was stopped or killed, it goes on, and
    comes to the same weights. `budget_s` counts over all of that. `memory_bytes`: a hard limit where there are control
    groups; None: most of what is available. Ctrl-C ends it cleanly. Raises TrainingError (also where another training
    of the agent runs), SandboxError, EngineError, and Interrupted.
    """
    order = TuneOrder(
        model_dir=MODEL,
        model=model_dir.name,
        dataset_dir=DATASET,
        work=ROOM,
        tuning=tuning,
        budget_s=budget_s,
        memory_bytes=memory_bytes or int(SHARE * available()),
        save_s=save_s,
    )
    done = train(order, dataset_dir, model_dir, agent=agent, out=out, work=work, quiet=quiet)
    if not quiet:
        for line in (schedule.summary(agent, done), *schedule.curve(done.losses, done.best)):
            print(line, file=sys.stderr)
    return done


def train(
    order: TuneOrder, dataset_dir: Path, model_dir: Path, *, agent: str, out: Path, work: Path, quiet: bool
) -> Tuned:
    """`tune`, with everything about the training said by an order."""
    own = work / agent
    room, log = own / "room", own / "training.log"
    room.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _sole(work / f"{agent}.lock", agent), _bar(f"training {agent}", quiet) as hear:
        log.write_bytes(b"")
        seen = ((model_dir, MODEL), (dataset_dir, DATASET))
        done = _obeyed("tune", order, room, seen, log, order.memory_bytes, hear, f"git pantheon train {agent}")
        if done.tuned is None:
            raise TrainingError("cannot train", agent, "it ended without a word", f"less {log}")
        if done.tuned.best:
            out.mkdir(parents=True, exist_ok=True)
            for name in lora.FILES:
                with lora.opened(room / ADAPTER, name) as made, (out / name).open("wb") as kept:
                    shutil.copyfileobj(made, kept)
        shutil.rmtree(own)
    return done.tuned


def losses(
    model_dir: Path, pairs: Sequence[tuple[str, str]], *, work: Path, memory_bytes: int | None = None, quiet: bool
) -> list[float]:
    """The mean loss per token of each (prompt, completion) under the model: how much it would have surprised it. The
    prompts are in the model's own chat form. Raises TrainingError, SandboxError, EngineError, Interrupted."""
    if not pairs:
        return []
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix="losses-", dir=work))
    try:
        lines = [Pair(prompt=prompt, completion=completion).to_json() for prompt, completion in pairs]
        (room / "pairs.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        order = LossOrder(model_dir=MODEL, pairs=ROOM / "pairs.jsonl")
        with _bar("losses", quiet) as hear:
            done = _obeyed("losses", order, room, ((model_dir, MODEL),), room.with_suffix(".log"), memory_bytes, hear)
    finally:
        shutil.rmtree(room)
    room.with_suffix(".log").unlink()
    return list(done.losses)


def merged(model_dir: Path, adapter_dir: Path, digest: str, cache: Path, *, quiet: bool) -> Path:
    """A model directory with the adapter merged in, below `<cache>/merged/`, named by the digests of both: made when it
    is not there yet, and compared with its manifest every time. Everything there may be deleted when nothing runs.
    Raises TrainingError, SandboxError, EngineError, Interrupted."""
    base = _digests(model_dir, "*.safetensors")
    name = hashlib.sha256(json.dumps([base, digest], sort_keys=True).encode()).hexdigest()
    parent = cache / "merged"
    target = parent / name
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            _verify(target, base, digest)
            os.utime(target)
            return target
        _sweep(parent)
        partial = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        try:
            order = MergeOrder(model_dir=MODEL, adapter_dir=ADAPTERS, adapter=digest, target=ROOM / "model")
            seen = ((model_dir, MODEL), (adapter_dir, ADAPTERS))
            with _bar(f"merging {digest[:19]}", quiet) as hear:
                _obeyed("merge", order, partial, seen, partial / "log", None, hear)
            _verify(partial / "model", base, digest)
            (partial / "model").rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def available() -> int:
    """Bytes of memory that a new process can have, by the kernel's estimate."""
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 4 << 30


# --- merged models ---------------------------------------------------------------------------------------------------


def _digests(directory: Path, pattern: str) -> dict[str, str]:
    found = {}
    for path in sorted(directory.glob(pattern)):
        if path.is_symlink() or not path.is_file():
            raise TrainingError("cannot use the model", str(path), "it is no regular file")
        with path.open("rb") as stream:
            found[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _verify(target: Path, base: dict[str, str], digest: str) -> None:
    """Whether a merged model is what its manifest says, made from this base and this adapter. Raises TrainingError."""
    hint = f"rm -r {target}"
    try:
        manifest = Merged.model_validate_json((target / MERGED).read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainingError("cannot use the merged model", str(target), "it has no manifest", hint) from error
    if (manifest.base, manifest.adapter) != (base, digest):
        raise TrainingError("cannot use the merged model", str(target), "it was made from something else", hint)
    found = _digests(target, "*")
    found.pop(MERGED)
    odd = sorted(name for name in {*found, *manifest.files} if found.get(name) != manifest.files.get(name))
    if odd:
        why = f"{odd[0]} is not what the manifest says: somebody changed it"
        raise TrainingError("cannot use the merged model", str(target), why, hint)


def _sweep(parent: Path) -> None:
    """Delete what killed runs left, and merged models that nothing asked for in a month."""
    for path in parent.iterdir():
        if path.name.startswith(".new-") or (path.is_dir() and time.time() - path.stat().st_mtime > UNUSED_S):
            shutil.rmtree(path, ignore_errors=True)


# --- the child -------------------------------------------------------------------------------------------------------


def sandbox(room: Path, seen: Sequence[tuple[Path, Path]]) -> Sandbox:
    """What the child sees: `seen` (host, inside) to read, `room` to write."""
    return Sandbox(
        readable=(*seen, (Path("/sys"), Path("/sys"))),
        writable=((room, ROOM),),
        devices=tuple(sorted(Path("/dev").glob("nvidia*"))),
        env={
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "DO_NOT_TRACK": "1",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # else a GPU adds up in another order each time
            "TOKENIZERS_PARALLELISM": "false",
            # Threads that wait must sleep: spinning, they lose to whatever else runs (to a tenth of the speed).
            "OMP_WAIT_POLICY": "PASSIVE",
            "KMP_BLOCKTIME": "0",
            # Freed tensors go back at once: kept for later, they were 1.7 times what a step needs (2.7 GB against 1.6).
            "MALLOC_MMAP_THRESHOLD_": str(1 << 18),
        },
        hostname="training",
        tmp_bytes=2 << 30,
    )


def _obeyed(
    command: str,
    order: Record,
    room: Path,
    seen: Sequence[tuple[Path, Path]],
    log: Path,
    memory_bytes: int | None,
    hear: Hear,
    again: str = "",
) -> Done:
    """Start the child, hear it to its end, and return what it did. Ctrl-C asks it to stop, a second one kills it."""
    (room / "order.json").write_text(order.to_json(), encoding="utf-8")
    log.touch()
    limits = Limits(
        cpu_s=None, memory_bytes=memory_bytes, address_space=False, processes=None, file_bytes=None, disk_bytes=None
    )
    argv = [sys.executable, "-m", "pantheon.training.weights", command, str(ROOM / "order.json")]
    child = process.start(argv, sandbox=sandbox(room, seen), limits=limits, stdout_path=log)
    last: Event | None = None
    try:
        with log.open(encoding="utf-8", errors="replace") as stream:
            alive = True
            while alive:
                alive = child.alive()  # asked before the log is read, so that nothing of it is missed
                for event in _heard(stream):
                    last = event
                    hear(event)
                if isinstance(last, Done | Failed | Stopped):
                    break
                if alive:
                    time.sleep(POLL_S)
    except KeyboardInterrupt as error:
        hear(Phase(text="stopping"))
        try:
            child.stop(STOP_S)
        except KeyboardInterrupt:
            child.stop(0)
        kept = "a checkpoint was kept" if (room / CHECKPOINT).is_file() else "nothing was kept"
        raise Interrupted("stopped", again or command, kept, again) from error
    finally:
        code = child.returncode
        child.stop(0)
    return _ended(last, code, command, log, memory_bytes, again)


def _heard(stream: TextIO) -> Iterator[Event]:
    """The events in what came since: whole lines, among whatever the libraries say."""
    while True:
        place = stream.tell()
        line = stream.readline()
        if not line.endswith("\n"):
            stream.seek(place)
            return
        if line.startswith("{"):
            with contextlib.suppress(ValidationError):
                yield EVENT.validate_json(line)


def _ended(last: Event | None, code: int | None, command: str, log: Path, memory_bytes: int | None, again: str) -> Done:
    """What was done, or the error that says why not."""
    if isinstance(last, Done):
        return last
    if isinstance(last, Failed):
        raise TrainingError(last.what, last.thing, last.why, last.hint)
    if isinstance(last, Stopped):
        raise Interrupted("stopped", again or command, f"a checkpoint was kept after step {last.step}", again)
    if code in (-9, 137):
        limit = f"more than the {memory_bytes >> 20} MiB allowed" if memory_bytes else "too much memory"
        more = f"{again} --memory {2 + memory_bytes // 2**30}g" if again and memory_bytes else again
        raise TrainingError(f"cannot {command}", again, f"it was killed: it used {limit}, or somebody ended it", more)
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line and not line.startswith("{")]
    raise TrainingError(
        f"cannot {command}", str(log), lines[-1][:300] if lines else f"exit status {code}", f"less {log}"
    )


# --- for people ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _sole(path: Path, agent: str) -> Iterator[None]:
    """One training per agent; the kernel drops the lock when its process dies."""
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            why = "another training of this agent is running"
            raise TrainingError("cannot train", agent, why, f"git pantheon train {agent}, when it has ended") from error
        yield


@contextlib.contextmanager
def _bar(what: str, quiet: bool) -> Iterator[Hear]:
    """Progress on stderr: steps, losses, tokens per second, what is left. Without a terminal a line now and then."""
    shown = Console(stderr=True, highlight=False, soft_wrap=True)
    if quiet:
        yield lambda _: None
    elif shown.is_terminal:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[tally]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )
        with Progress(*columns, console=shown, transient=True) as bar:
            job = bar.add_task(escape(what), total=None, tally="")
            pace = _Pace()

            def draw(event: Event) -> None:
                if isinstance(event, Phase):
                    bar.update(job, description=escape(f"{what}: {event.text}" if not event.note else what))
                    if event.note:
                        bar.console.print(escape(f"{what}: {event.text}"))
                elif isinstance(event, Step):
                    tally = pace.tally(event)
                    bar.update(
                        job, description=escape(what), total=event.of_tokens, completed=event.tokens, tally=tally
                    )

            yield draw
    else:
        yield _plain(what)


class _Pace:
    """The last losses heard of, and how fast tokens go by since the first step."""

    def __init__(self) -> None:
        self.loss = self.dev = None
        self._first: tuple[float, int] | None = None

    loss: float | None
    dev: float | None

    def tally(self, event: Step) -> str:
        self.loss = event.loss if event.loss is not None else self.loss
        self.dev = event.dev if event.dev is not None else self.dev
        now = time.monotonic()
        self._first = self._first or (now, event.tokens)
        parts = [f"step {event.step}/{event.steps}"]
        parts += [f"loss {self.loss:.3f}"] if self.loss is not None else []
        parts += [f"dev {self.dev:.3f}"] if self.dev is not None else []
        began, tokens = self._first
        if event.tokens > tokens and now > began:
            parts.append(f"{(event.tokens - tokens) / (now - began):.0f} tokens/s")
        return ", ".join(parts)


def _plain(what: str) -> Hear:
    pace, last = _Pace(), [0.0]

    def say(event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Phase):
            print(f"{what}: {event.text}", file=sys.stderr, flush=True)
        elif isinstance(event, Step):
            tally = pace.tally(event)
            if event.dev is not None or now - last[0] > PLAIN_EVERY_S:
                last[0] = now
                print(f"{what}: {tally}", file=sys.stderr, flush=True)

    return say
