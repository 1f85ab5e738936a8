"""Somebody else's model server, asked through the relay: any that speaks the OpenAI API on this machine.

Owns the conversation with it: how a question looks (relay.py has its form), what an answer must be, which errors mean
what. The prompt that is stored is the JSON of the messages, byte for byte as it stands in the request; the server's own
chat template is not seen here. A server is believed in nothing but its counts: the loop judges every answer again. No
key is ever sent, no redirect followed. Starting and stopping it is its owner's matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import Any

from pantheon.errors import ContextOverflow, DeadlineExceeded, EngineError
from pantheon.logprobs import Step, probability
from pantheon.models import disarmed
from pantheon.records import Completion, EngineMetrics, Runtime
from pantheon.relay import CONFIG_HINT, Message, Question, messages_json, question_json
from pantheon.slots import Load, Slots
from pantheon.wire import Broken, Lines

WINDOW = 8  # requests in flight: such servers have few slots, and what waits for one waits against its deadline
ANSWER_MOST = 4 << 20  # bytes of a reply
MODELS_S = 30.0
TRIES, PAUSE_S = 3, 1.0  # before a server that does not answer counts as gone
_TOO_LONG = re.compile(
    r"maximum context length|context[ _](length|size|window)|exceeds? (the )?model max|prompt is too long",
    re.IGNORECASE,
)
_GONE = (502, 503, 504)


class OpenAIEngine:
    """A server behind the relay's socket. Make one with `connect`."""

    name = "openai"

    def __init__(self, socket: Path, *, url: str, root: str, model: str, context: int) -> None:
        self.model, self.window, self.max_model_len = model, WINDOW, context
        self._url, self._root = url, root
        self._alive = True
        self._asking = asyncio.Lock()
        self._slots = Slots(WINDOW)
        self._tells_logprobs = True  # until it has refused them
        self._metrics = EngineMetrics()
        # A line to the relay carries one request, so that nothing can follow behind it unread. A new one costs 0.3 ms
        # of processor time, which an answer of seconds hides.
        self._lines = Lines(socket, "relay")

    @classmethod
    async def connect(cls, socket: Path, *, url: str, root: str, model: str, context: int) -> OpenAIEngine:
        """Ask the server for its models: `model` must be one of them. `context` is how many tokens it takes where it
        does not tell. Raises EngineError."""
        engine = cls(socket, url=url, root=root, model=model, context=context)
        async with contextlib.AsyncExitStack() as held:
            held.push_async_callback(engine.close)
            told = await engine._models()
            if told is not None and model not in told:
                names = ", ".join(sorted(told)[:12]) or "none"
                raise EngineError("the server does not have the model", model, f"at {url} it has: {names}", CONFIG_HINT)
            engine.max_model_len = (told or {}).get(model) or context
            held.pop_all()
        return engine

    async def _models(self) -> dict[str, int] | None:
        """The server's models, each with its context where that is told (else 0); None when it has no such list."""
        try:
            async with asyncio.timeout(MODELS_S):
                status, data = await self._send("GET", "/models")
        except TimeoutError as error:
            raise self._error("no answer", f"within {MODELS_S:g} s") from error
        if status in (404, 405):
            return None
        if status != 200:
            raise _refusal(self._url, status, data)
        try:
            return {str(one["id"]): _context_of(one) for one in json.loads(data)["data"]}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._error("cannot read the list of models", "it is not in the form of the OpenAI API") from error

    def alive(self) -> bool:
        return self._alive

    def of(self, runtime: Runtime) -> OpenAIEngine:
        """A server of the user's has no adapters of ours."""
        if runtime.adapter is not None:
            why = "your own server cannot load an adapter of this repository"
            raise self._error(f"cannot use the adapter {runtime.adapter[:19]}", why)
        return self

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    def render(self, system: str, user: str) -> str:
        """The messages as JSON. The server's control tokens are not known here: the usual forms are broken up."""
        parts = Message(role="system", content=disarmed(system)), Message(role="user", content=disarmed(user))
        return messages_json(parts)

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        content = self._request(prompt, schema, max_tokens, logprobs and self._tells_logprobs)
        try:
            async with asyncio.timeout(deadline_s), self._slots.one() as ticket:
                status, data = await self._ask(content)
                if status in (400, 422) and b'"logprobs":true' in content and not _is_too_long(data):
                    status, data = await self._ask(self._request(prompt, schema, max_tokens, False))
                    self._tells_logprobs = self._tells_logprobs and status != 200
                if status != 200:
                    raise _refusal(self.model, status, data)
                done = ticket.stamped(self._completion(data))
                in_flight = self._slots.running
        except TimeoutError as error:
            raise DeadlineExceeded("no answer", self.model, f"within {deadline_s:g} s") from error
        self._count(done, in_flight)
        if done.prompt_tokens + max_tokens > self.max_model_len or (
            done.finish_reason == "length" and 0 < done.completion_tokens < max_tokens
        ):  # some servers cut a prompt that is too long without a word
            raise ContextOverflow(
                "the prompt does not fit",
                self.model,
                f"{done.prompt_tokens} + {max_tokens} > {self.max_model_len} tokens",
                f"if the server takes more, set context: {CONFIG_HINT}",
            )
        return done

    async def _ask(self, content: bytes) -> tuple[int, bytes]:
        """What the server says to a question. Raises EngineError when it is gone."""
        if not self._alive:
            raise self._error("no answer", "the server is gone")
        try:
            status, data = await self._send("POST", "/chat/completions", content)
        except EngineError:
            await self._look()
            raise
        if status in _GONE:
            await self._look()
        if not self._alive:
            raise self._error("no answer", f"the server is gone: {_refusal(self.model, status, data).why}")
        return status, data

    def _request(self, prompt: str, schema: dict[str, Any], max_tokens: int, logprobs: bool) -> bytes:
        form = {"name": "answer", "strict": True, "schema": schema}
        try:
            messages = tuple(Message(**one) for one in json.loads(prompt))
            question = Question(
                model=self.model,
                messages=messages,
                max_tokens=max_tokens,
                response_format={"type": "json_schema", "json_schema": form},
                logprobs=logprobs,
            )
            if messages_json(messages) != prompt:
                raise ValueError("it is not what `render` gave")
            return question_json(question).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise EngineError("cannot ask the server", self.model, f"the prompt or its schema: {error}") from error

    async def _send(self, method: str, path: str, content: bytes = b"") -> tuple[int, bytes]:
        """(status, body), the body bounded. Raises EngineError when the server or the relay is not there."""
        try:
            return await self._lines.ask(method, self._root + path, content, most=ANSWER_MOST)
        except Broken as error:
            raise self._error("no answer", str(error)) from error

    async def _look(self) -> None:
        """Whether the server is still there; one asks for all."""
        async with self._asking:
            for attempt in range(TRIES if self._alive else 0):
                if attempt:
                    await asyncio.sleep(PAUSE_S)
                with contextlib.suppress(EngineError):
                    await self._models()
                    return
            self._alive = False

    def _completion(self, data: bytes) -> Completion:
        """What the reply says. A text that is not there (a refusal, a tool call) is empty: the loop counts it."""
        try:
            reply = json.loads(data)
            choice = reply["choices"][0]
            usage = reply.get("usage") or {}
            details = usage.get("prompt_tokens_details") or {}
            text = str(choice["message"].get("content") or "")
            return Completion(
                text=text,
                finish_reason=str(choice.get("finish_reason") or "stop"),
                prompt_tokens=_number(usage.get("prompt_tokens")),
                cached_tokens=_number(details.get("cached_tokens")),
                completion_tokens=_number(usage.get("completion_tokens")),
                seconds=0.0,  # the ticket knows
                confidence=_confidence(text, choice.get("logprobs")),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise self._error("no answer", "the reply is not in the form of the OpenAI API") from error

    def _count(self, done: Completion, in_flight: int) -> None:
        """The engine's own counters: such a server has none in common with others. Its steps are estimated: with n
        requests in flight a token is an nth of one."""
        before = self._metrics
        self._metrics = EngineMetrics(
            prompt_tokens=before.prompt_tokens + done.prompt_tokens,
            generation_tokens=before.generation_tokens + done.completion_tokens,
            engine_steps=before.engine_steps + done.completion_tokens / in_flight,
            prefix_cache_queries=before.prefix_cache_queries + done.prompt_tokens,
            prefix_cache_hits=before.prefix_cache_hits + done.cached_tokens,
        )

    async def metrics(self) -> EngineMetrics:
        return self._metrics.model_copy(update=self.load()._asdict())

    def load(self) -> Load:
        return self._slots.load

    async def close(self) -> None:
        self._alive = False
        self._lines.close()

    def _error(self, what: str, why: str) -> EngineError:
        return EngineError(what, self._url, why, "git pantheon doctor")


def _context_of(one: dict[str, Any]) -> int:
    """Where vLLM and llama.cpp tell it; 0 where nobody does."""
    meta = one.get("meta") or {}
    return _number(one.get("max_model_len")) or _number(meta.get("n_ctx"))


def _number(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 40 else 0


def _confidence(text: str, told: Any) -> float | None:
    """The probability of the text as the server tells it; None where it does not, or not in the form of the OpenAI API.
    A server that tells what it was before the schema had its say gives less than it was."""
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        steps = []
        for one in told["content"]:
            top = {str(other["token"]): other["logprob"] for other in one.get("top_logprobs") or ()}
            steps.append(Step(str(one["token"]), one["logprob"], top))
        return probability(text, steps)
    return None


def _is_too_long(data: bytes) -> bool:
    return isinstance(_refusal("", 400, data), ContextOverflow)


def _refusal(thing: str, status: int, data: bytes) -> EngineError:
    message = data[:4000].decode("utf-8", "replace")
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        found = json.loads(data)["error"]
        message = str(found if isinstance(found, str) else found["message"])
    if status in (400, 413, 422, 500) and _TOO_LONG.search(message):
        return ContextOverflow("the prompt does not fit", thing, message[:500])
    if 300 <= status < 400:
        message = "it sends us elsewhere, which is never followed"
    return EngineError("the server refused", thing, f"{status}: {message[:500]}")
