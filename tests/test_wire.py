"""Lines to a server on a Unix socket: which are kept, which are closed, and what is no reply."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pantheon.wire import Broken, Lines, Reply

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Far:
    """A server that says `said` to each request of a line; `heads` has the requests, by line."""

    def __init__(self, said: bytes, *, ends: bool = False) -> None:
        self.said, self.ends = said, ends
        self.heads: list[list[bytes]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.left = 0  # lines that were closed on us

    async def met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine: list[bytes] = []
        self.heads.append(mine)
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                mine.append(await reader.readuntil(b"\r\n\r\n"))
                if b"POST" in mine[-1]:
                    mine[-1] += await reader.readexactly(4)
                writer.write(self.said)
                if self.ends:
                    break
        self.left += not self.ends
        writer.close()


def go(place: Path, far: Far, work: Callable[[Lines], Awaitable[None]], keep_s: float = 60.0) -> None:
    async def all_of_it() -> None:
        server = await asyncio.start_unix_server(far.met, place / "s")
        lines = Lines(place / "s", "there", keep_s)
        await work(lines)
        lines.close()
        server.close()

    asyncio.run(asyncio.wait_for(all_of_it(), 20))


async def ask(lines: Lines, most: int = 1 << 20) -> Reply:
    return await lines.ask("POST", "/v1", b"[12]", most=most)


def test_a_line_is_kept_for_the_next_request_and_carries_one_at_a_time(tmp_path: Path) -> None:
    async def work(lines: Lines) -> None:
        assert [await ask(lines) for _ in range(3)] == [(200, b"hi")] * 3
        assert len(far.heads) == 1
        await asyncio.gather(*(ask(lines) for _ in range(3)))
        assert len(far.heads) == 3

    go(tmp_path, far := Far(OK), work)
    assert b"POST /v1 HTTP/1.1\r\nHost: there\r\nContent-Length: 4\r\n" in far.heads[0][0]
    assert far.heads[0][0].endswith(b"\r\n\r\n[12]")


def test_a_line_that_carries_one_request_says_so_and_is_closed(tmp_path: Path) -> None:
    async def work(lines: Lines) -> None:
        await ask(lines)
        await ask(lines)
        await asyncio.sleep(0.05)
        assert far.left == 2

    go(tmp_path, far := Far(OK), work, keep_s=0.0)
    assert all(b"Connection: close" in head for (head,) in far.heads)


@pytest.mark.parametrize("unasked", [b"", OK, b"x"], ids=["closed", "reply", "junk"])
def test_a_line_that_the_server_closed_or_spoke_on_unasked_is_not_used_again(tmp_path: Path, unasked: bytes) -> None:
    async def work(lines: Lines) -> None:
        await ask(lines)
        far.writers[0].write(unasked) if unasked else far.writers[0].close()
        await asyncio.sleep(0.05)
        assert await ask(lines) == (200, b"hi")
        assert len(far.heads) == 2

    go(tmp_path, far := Far(OK), work)


@pytest.mark.parametrize("said", [OK + b"more", OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
def test_a_line_that_did_not_end_as_agreed_is_not_used_again(tmp_path: Path, said: bytes) -> None:
    async def work(lines: Lines) -> None:
        assert [await ask(lines) for _ in range(2)] == [(200, b"hi")] * 2
        assert len(far.heads) == 2

    go(tmp_path, far := Far(said), work)


def test_a_line_is_kept_only_for_a_time(tmp_path: Path) -> None:
    async def work(lines: Lines) -> None:
        await ask(lines)
        await asyncio.sleep(0.05)
        await ask(lines)
        assert len(far.heads) == 2

    go(tmp_path, far := Far(OK), work, keep_s=0.02)


def test_who_gives_up_closes_the_line_so_that_the_server_knows(tmp_path: Path) -> None:
    async def work(lines: Lines) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask(lines)
        with pytest.raises(Broken, match=r"nothing within 0\.05 s"):
            await lines.ask("GET", "/", most=1 << 20, within_s=0.05)
        await asyncio.sleep(0.05)
        assert far.left == 2

    go(tmp_path, far := Far(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi"), work)


def test_the_parts_of_a_body_are_heard_as_they_come(tmp_path: Path) -> None:
    heard: list[int] = []

    async def work(lines: Lines) -> None:
        asked = asyncio.create_task(lines.ask("GET", "/", most=9, part=heard.append))
        await asyncio.sleep(0.05)
        assert heard == [201]
        far.writers[0].write(b"1\r\n!\r\n0\r\n\r\n")
        assert await asked == (201, b"hi!")
        assert heard == [201, 201]

    go(tmp_path, far := Far(b"HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"), work)


def test_a_body_without_a_length_ends_with_the_line(tmp_path: Path) -> None:
    async def work(lines: Lines) -> None:
        assert await ask(lines) == (200, b"all")

    go(tmp_path, Far(b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\n\r\nall", ends=True), work)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "closed the line"),
        (b"HTTP/1.1 200 OK\r\nConte", "closed the line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "complete message body"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\n" + b" " * (3 << 20), "longer than 2 MiB"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20), "too long"),
        (b"SMTP ready\r\n\r\n", "status line"),
    ],
    ids=["nothing", "half a head", "half a body", "too much", "a long head", "another protocol"],
)
def test_what_is_no_whole_reply_is_broken(tmp_path: Path, said: bytes, why: str) -> None:
    async def work(lines: Lines) -> None:
        with pytest.raises(Broken, match=why):
            await ask(lines, most=2 << 20)

    go(tmp_path, Far(said, ends=True), work)


def test_where_nobody_listens_and_where_the_way_is_closed_nothing_is_waited_for(tmp_path: Path) -> None:
    async def nobody() -> None:
        with pytest.raises(Broken, match="FileNotFoundError"):
            await ask(Lines(tmp_path / "none", "there"))

    async def work(lines: Lines) -> None:
        asked = asyncio.create_task(ask(lines))
        await asyncio.sleep(0.05)
        lines.close()
        with pytest.raises(Broken):
            await asked

    asyncio.run(nobody())
    go(tmp_path, Far(b""), work)
