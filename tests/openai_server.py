"""A small model server in a thread that speaks the OpenAI API, for tests: it answers as the scripted engine would.

`asked` holds what came in, byte for byte. `misbehave` is called with each question first: what it returns, as (status,
headers, body), is sent instead of an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pantheon.engine import ScriptedEngine
from pantheon.errors import ContextOverflow

MODEL = "somebodys-model:1b"
Reply = tuple[int, dict[str, str], bytes]
Misbehave = Callable[[dict[str, Any]], Reply | None]


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    url: str
    engine: ScriptedEngine = field(default_factory=lambda: ScriptedEngine(latency_s=0.05))
    misbehave: Misbehave = lambda question: None
    models: dict[str, Any] = field(default_factory=lambda: {"data": [{"id": MODEL, "max_model_len": 8192}]})
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    def questions(self) -> list[dict[str, Any]]:
        return [json.loads(one.body) for one in self.asked if one.method == "POST"]

    def reply(self, question: dict[str, Any]) -> Reply:
        wrong = self.misbehave(question)
        if wrong is not None:
            return wrong
        system, user = (one["content"] for one in question["messages"])
        prompt = self.engine.render(system, user)
        schema = question["response_format"]["json_schema"]["schema"]
        try:
            job = self.engine.complete(prompt, schema=schema, max_tokens=question["max_tokens"], deadline_s=60)
            done = asyncio.run(job)
        except ContextOverflow as error:
            return 400, {}, json.dumps({"error": {"message": f"maximum context length: {error}"}}).encode()
        choice = {"message": {"role": "assistant", "content": done.text}, "finish_reason": done.finish_reason}
        if question.get("logprobs"):
            top = [{"token": done.text[:5], "logprob": -0.5}, {"token": done.text[:2], "logprob": -1.5}]
            tokens = [{"token": done.text[:5], "logprob": -0.5, "top_logprobs": top}]
            choice["logprobs"] = {"content": tokens}
        usage = {"prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens}
        return 200, {}, json.dumps({"choices": [choice], "usage": usage}).encode()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            server.connections += 1

        def do_GET(self) -> None:
            server.asked.append(Asked("GET", self.path, dict(self.headers), b""))
            self._send(200, {}, json.dumps(server.models).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.asked.append(Asked("POST", self.path, dict(self.headers), body))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._send(*server.reply(json.loads(body)))

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "relay"

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


class _Unix(ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)


@contextlib.contextmanager
def running(at: Path | None = None) -> Iterator[Server]:
    """The server, on a loopback port or on a Unix socket."""
    server = Server("")
    if at is not None:
        listener: ThreadingHTTPServer = _Unix(str(at), _handler(server))  # type: ignore[arg-type]
        server.url = f"unix://{at}"
    else:
        listener = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
        server.url = f"http://127.0.0.1:{listener.server_address[1]}/v1"
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
