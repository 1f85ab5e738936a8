"""The socket of a running night: one page for whoever may read it, and nothing else."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from pantheon import beacon


def test_whoever_may_read_the_socket_gets_the_page(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"

    async def talk() -> tuple[int, bytes | None, str]:
        async with beacon.serving(path, lambda: b"up 1\n") as there:
            assert there
            mode = stat.S_IMODE(path.stat().st_mode)
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(transport=transport) as client:
                reply = await client.get("http://night/metrics")
            return mode, await asyncio.to_thread(beacon.ask, path), f"{reply.headers['content-type']}|{reply.text}"

    mode, asked, fetched = asyncio.run(talk())
    assert mode == 0o600
    assert asked == b"up 1\n"
    assert fetched == f"{beacon.CONTENT}|up 1\n"
    assert [family.name for family in text_string_to_metric_families("up 1\n")] == ["up"]
    assert not path.exists()


def test_where_no_night_runs_nobody_answers(tmp_path: Path) -> None:
    assert beacon.ask(tmp_path / "m.sock") is None
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    assert beacon.ask(stale) is None


def test_a_night_goes_on_where_no_socket_can_be(tmp_path: Path) -> None:
    async def there(path: Path) -> bool:
        async with beacon.serving(path, lambda: b"") as found:
            return found

    assert not asyncio.run(there(tmp_path / ("long" * 40) / "m.sock"))
    assert not asyncio.run(there(tmp_path / "missing" / "m.sock"))


def test_who_sends_no_end_or_too_much_gets_nothing_and_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"

    async def talk() -> bytes | None:
        async with beacon.serving(path, lambda: b"up 1\n"):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x" * (2 * beacon.ASKED_MOST))
            await writer.drain()
            assert await reader.read() == b""
            writer.close()
            return await asyncio.to_thread(beacon.ask, path)

    assert asyncio.run(talk()) == b"up 1\n"
