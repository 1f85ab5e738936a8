"""From inside a night whose model server is outside: through the relay that one address is reached, and no other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import openai_server
import pytest
from conftest import MakeRepo
from openai_server import MODEL, Server

from pantheon import egress, enclosure, process, relay
from pantheon.git import Repo
from pantheon.places import places

Inside = Callable[[str], str]
HELLO = "import os, socket; line = socket.socket(fileno=os.dup(0)); line.sendall(b'h'); line.close()\n"
ASK = """
def ask(path, data=b'GET /v1/models HTTP/1.1\\r\\n\\r\\n'):
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(path)
            s.sendall(data)
            said = b''
            while part := s.recv(65536):
                said += part
            return said.decode()
    except OSError as error:
        return type(error).__name__
"""


class Night:
    """The enclosure of one repository's night, with a relay to one server."""

    def __init__(self, root: Path, way: Path | None, capfd: pytest.CaptureFixture[str]) -> None:
        self.way, self._capfd = way, capfd
        self._sandbox = enclosure.night_sandbox(Repo.discover(root), places(os.environ), None, {}, way)

    def run(self, code: str) -> str:
        """What Python code prints there."""
        argv = [sys.executable, "-P", "-c", HELLO + ASK + code]
        process.enclosed(argv, sandbox=self._sandbox, order=b"", keep=(), on_ready=lambda: None)
        said = self._capfd.readouterr()
        return said.out + said.err


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


@pytest.fixture
def server(held: ExitStack) -> Server:
    return held.enter_context(openai_server.running())


@pytest.fixture
def night(held: ExitStack, server: Server, make_repo: MakeRepo, capfd: pytest.CaptureFixture[str]) -> Night:
    target = relay.reach(relay.resolve(relay.parse(server.url)))
    way = held.enter_context(relay.serving(target, MODEL, places(os.environ).runtime))
    return Night(make_repo(), way, capfd)


INSIDE = str(relay.INSIDE / relay.SOCKET)


def test_the_night_reaches_its_server_through_the_relay(night: Night, server: Server) -> None:
    assert MODEL in night.run(f"print(ask({INSIDE!r}))")
    assert [one.path for one in server.asked] == ["/v1/models"]


def test_the_servers_own_address_is_not_there(night: Night, server: Server) -> None:
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    code = f"""
for address in (('127.0.0.1', {port}), ('::1', {port})):
    try:
        socket.create_connection(address, 3).close(); print('OUT')
    except OSError as error:
        print(type(error).__name__)
"""
    assert night.run(code).split() == ["ConnectionRefusedError"] * 2


def test_another_of_the_servers_doors_is_closed(night: Night, server: Server) -> None:
    """What would make the server itself fetch something, or run another model, somewhere else."""
    for data in (
        b"POST /api/pull HTTP/1.1\r\nContent-Length: 28\r\n\r\n" + b'{"model": "host.invalid/x/y"}'[:28],
        b"GET http://203.0.113.7/ HTTP/1.1\r\n\r\n",
        b"CONNECT 203.0.113.7:443 HTTP/1.1\r\n\r\n",
    ):
        said = night.run(f"print(ask({INSIDE!r}, {data!r}))")
        assert "only questions and the list of models pass" in said or "no HTTP/1.1 request" in said
    assert server.asked == []


def test_the_relay_cannot_be_moved_or_replaced_from_inside(night: Night, tmp_path: Path) -> None:
    code = f"""
for act in (
    lambda: os.unlink({INSIDE!r}),
    lambda: os.rename({INSIDE!r}, {INSIDE!r} + 'x'),
    lambda: os.chmod({INSIDE!r}, 0o777),
    lambda: os.symlink('/etc', {str(relay.INSIDE)!r} + '/more'),
    lambda: socket.socket(socket.AF_UNIX).bind({str(relay.INSIDE)!r} + '/mine'),
):
    try:
        act(); print('CHANGED')
    except OSError as error:
        print(type(error).__name__)
"""
    assert set(night.run(code).split()) == {"OSError"}  # a read-only file system
    assert night.way is not None
    assert [path.name for path in night.way.iterdir()] == [relay.SOCKET]


def test_a_tool_of_that_night_does_not_see_the_relay(night: Night, server: Server) -> None:
    """Its sandbox is made inside the night's, and gets only what is bound into it."""
    tried = f"import os, socket\n{ASK}\nprint(ask({INSIDE!r}), os.path.exists('/run/relay'))"
    code = f"""
import sys
from pantheon.process import Limits, run
from pantheon.sandbox import Sandbox
code = {tried!r}
print(run([sys.executable, '-I', '-c', code], limits=Limits(wall_s=20), sandbox=Sandbox()).stdout.decode())
"""
    assert night.run(code).split() == ["FileNotFoundError", "False"]
    assert server.asked == []


def test_a_second_repositorys_night_does_not_reach_the_first_ones_server(
    night: Night, server: Server, held: ExitStack, make_repo: MakeRepo, capfd: pytest.CaptureFixture[str]
) -> None:
    assert night.way is not None
    theirs = str(night.way / relay.SOCKET)
    code = f"print([ask({theirs!r}), ask({INSIDE!r})])"
    bare = Night(make_repo(name="second"), None, capfd)
    assert bare.run(code) == "['FileNotFoundError', 'FileNotFoundError']\n"
    another = held.enter_context(openai_server.running())
    another.models = {"data": [{"id": "another"}]}
    target = relay.reach(relay.resolve(relay.parse(another.url)))
    way = held.enter_context(relay.serving(target, "another", places(os.environ).runtime))
    said = Night(make_repo(name="third"), way, capfd).run(code)
    assert said.startswith("['FileNotFoundError', ")
    assert '{"id": "another"}' in said
    assert server.asked == []


def test_the_probe_stays_closed_and_tries_the_relays_own_path(night: Night) -> None:
    assert night.way is not None
    with egress.listening(os.environ, [str(night.way / relay.SOCKET)]) as targets:
        controls, _ = egress.attempts(targets, "host")
        assert targets.paths[1] == str(night.way / relay.SOCKET)
        code = f"""
from pantheon import egress
targets = egress.Targets.model_validate_json({targets.model_copy(update={"resolvers": ()}).to_json()!r})
found, links = egress.attempts(targets, 'night')
proof = egress.EgressProof(attempts=found, interfaces=links, controls=(), closed=True)
print(proof.ways, [one.error for one in found if one.target == {str(night.way / relay.SOCKET)!r}])
"""
        assert night.run(code) == "() ['ENOENT']\n"
    assert [one for one in controls if one.error] == []
