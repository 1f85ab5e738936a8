"""HTTP over a Unix socket: a request and its whole reply, each on a line of its own.

Owns the lines; h11 owns the form of what goes over them. What is asked, and what a reply means, is the caller's matter.
A line carries one request at a time and knows of no other: the pool of httpx weighs all of its lines against each other
at every request, and with 64 in flight that took more of the processor than all else that an item costs us.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h11

CONNECT_S = 10.0


class Broken(Exception):
    """No reply, or not all of it: `str()` says why."""


class Reply(NamedTuple):
    status: int
    body: bytes


class Lines:
    """The way to one server. `keep_s`: how long a line is kept for the next request; 0: it carries one. One event loop
    uses it."""

    def __init__(self, socket: Path, host: str, keep_s: float = 0.0) -> None:
        self._socket, self._keep_s = str(socket), keep_s
        self._headers = [("Host", host), *([] if keep_s else [("Connection", "close")])]
        self._free: list[_Line] = []  # the last one used is the last
        self._busy: set[_Line] = set()

    async def ask(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        *,
        most: int,
        within_s: float | None = None,
        part: Callable[[int], None] = lambda status: None,
    ) -> Reply:
        """The reply to one request, at most `most` bytes of it; `part` hears the status as each part of the body comes.
        `content` is JSON. The line of who is cancelled is closed, by which the server knows. Raises Broken."""
        headers = [*self._headers, ("Content-Length", str(len(content))), ("Content-Type", "application/json")]
        request = h11.Request(method=method, target=path, headers=headers if content else self._headers)
        try:
            async with asyncio.timeout(within_s):
                line = self._kept() or await self._opened()
                self._busy.add(line)
                try:
                    return await line.ask(request, content, most, part)
                finally:
                    self._busy.discard(line)
                    if line.rest():
                        self._free.append(line)
        except TimeoutError as error:
            raise Broken(f"nothing within {within_s:g} s") from error

    def _kept(self) -> _Line | None:
        """A line that is good for one more; what the server sent unasked, or closed, is not."""
        while self._free:
            line = self._free.pop()
            if line.open and time.monotonic() - line.since < self._keep_s:
                return line
            line.close()
        return None

    async def _opened(self) -> _Line:
        try:
            async with asyncio.timeout(CONNECT_S):
                return (await asyncio.get_running_loop().create_unix_connection(_Line, self._socket))[1]
        except OSError as error:  # a TimeoutError is one
            raise Broken(f"{type(error).__name__} {error}".strip()) from error

    def close(self) -> None:
        """End every line; who waits for a reply gets Broken."""
        for line in (*self._free, *self._busy):
            line.close()
        self._free.clear()


class _Line(asyncio.Protocol):
    """One connection. `open`: a request may be sent; `since`: when the last reply ended."""

    def __init__(self) -> None:
        self.open, self.since = True, 0.0
        self._http = h11.Connection(h11.CLIENT)
        self._answer: asyncio.Future[Reply] | None = None
        self._status, self._body, self._most = 0, bytearray(), 0
        self._part: Callable[[int], None] = lambda status: None

    async def ask(self, request: h11.Request, content: bytes, most: int, part: Callable[[int], None]) -> Reply:
        self._status, self._body, self._most, self._part = 0, bytearray(), most, part
        self._answer = asyncio.get_running_loop().create_future()
        pieces = self._http.send(request), self._http.send(h11.Data(content)), self._http.send(h11.EndOfMessage())
        self._transport.write(b"".join(piece for piece in pieces if piece))
        return await self._answer

    def rest(self) -> bool:
        """After a request: whether the line is kept for another. It is closed when both sides did not end as agreed."""
        both = {self._http.our_state, self._http.their_state}
        if self.open and both == {h11.DONE} and not self._http.trailing_data[0]:
            self._http.start_next_cycle()
            self._answer, self.since = None, time.monotonic()
        else:
            self.close()
        return self.open

    def close(self) -> None:
        self.open = False
        self._transport.abort()

    # --- what asyncio calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():  # nobody asked
            return self.close()
        try:
            self._http.receive_data(data)
            self._read(self._answer)
        except h11.RemoteProtocolError as error:
            self._fail(str(error))

    def eof_received(self) -> None:
        """The end of a body without a length, or of the line."""
        if self._status:
            self.data_received(b"")
        self.open = False

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self._fail(f"{type(error).__name__} {error}" if error else "the server closed the line")

    def _read(self, answer: asyncio.Future[Reply]) -> None:
        while True:
            match self._http.next_event():
                case h11.Response(status_code=status):
                    self._status = status
                case h11.Data(data=data):
                    self._body += data
                    if len(self._body) > self._most:
                        return self._fail(f"it is longer than {self._most >> 20} MiB")
                    self._part(self._status)
                case h11.EndOfMessage():
                    return answer.set_result(Reply(self._status, bytes(self._body)))
                case h11.InformationalResponse():
                    pass
                case _:  # more has to come
                    return None

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Broken(why))
