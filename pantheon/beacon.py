"""The socket of a running night: whoever may read it gets the night's metrics as Prometheus text.

A Unix socket of the user's own, mode 0600, that answers any HTTP request with one page and reads no more than its first
lines; never TCP. Owns the conversation, not the figures. `curl --unix-socket PATH http://night/metrics` reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

PATH_MOST = 100  # bytes: a Unix socket's path has 108
ASKED_MOST = 8192  # bytes of a request that are read
ASKED_S = 5.0
CONTENT = "text/plain; version=0.0.4; charset=utf-8"
PAGE_MOST = 16 << 20  # bytes


@contextlib.asynccontextmanager
async def serving(path: Path, page: Callable[[], bytes]) -> AsyncIterator[bool]:
    """Answer on `path` while the context lasts; False where no socket can be there (its path is too long, or the disk
    refuses): a night goes on without it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            async with asyncio.timeout(ASKED_S):
                await reader.readuntil(b"\r\n\r\n")
                body = page()
                head = f"HTTP/1.1 200 OK\r\nContent-Type: {CONTENT}\r\nContent-Length: {len(body)}\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()

    server = None
    if len(bytes(path)) <= PATH_MOST:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            server = await asyncio.start_unix_server(answer, path, limit=ASKED_MOST)
            path.chmod(0o600)
    try:
        yield server is not None
    finally:
        if server is not None:
            server.close()
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def ask(path: Path) -> bytes | None:
    """The page of a night that is running; None where none answers."""
    data = b""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(ASKED_S)
            line.connect(str(path))
            line.sendall(b"GET /metrics HTTP/1.1\r\nHost: night\r\n\r\n")
            while len(data) < PAGE_MOST and (part := line.recv(1 << 16)):
                data += part
    except OSError:
        return None
    head, found, body = data.partition(b"\r\n\r\n")
    return body if found and head.startswith(b"HTTP/1.1 200") else None
