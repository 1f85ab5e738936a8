"""The relay: which addresses are local, what passes to the server, what is never reached. One escape each."""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai_server
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_server import MODEL

from pantheon import relay
from pantheon.errors import EngineError
from pantheon.relay import Message, Question

SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}}}
QUESTION: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    "max_tokens": 8,
    "temperature": 0,
    "stream": False,
    "response_format": SCHEMA,
}


# --- which addresses are local ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "root"),
    [
        ("http://127.0.0.1:11434/v1", "127.0.0.1", 11434, "/v1"),
        ("http://127.8.0.1:1", "127.8.0.1", 1, "/v1"),
        ("http://[::1]:8000/v3/", "::1", 8000, "/v3"),
        ("http://localhost/", "localhost", 80, "/v1"),
        ("http://model.test:8000/a/b", "model.test", 8000, "/a/b"),
    ],
)
def test_a_loopback_address_is_read(url: str, host: str, port: int, root: str) -> None:
    found = relay.parse(url)
    assert (found.host, found.port, found.root, found.socket) == (host, port, root, "")


def test_a_unix_socket_is_read_with_and_without_a_path() -> None:
    assert relay.parse("unix:///run/user/1000/x.sock").socket == "/run/user/1000/x.sock"
    found = relay.parse("unix:///run/x.sock:/v3")
    assert (found.socket, found.root) == ("/run/x.sock", "/v3")


@pytest.mark.parametrize(
    "url",
    [
        "http://203.0.113.7:80/v1",
        "http://192.168.0.1/v1",
        "http://169.254.169.254/v1",
        "http://[fe80::1]:80/v1",
        "http://[2001:db8::1]/v1",
        "http://0.0.0.0:11434/v1",
        "http://[::]:11434/v1",
        "http://[::ffff:127.0.0.1]:11434/v1",
        "http://[::ffff:203.0.113.7]/v1",
        "http://[64:ff9b::7f00:1]/v1",
        "http://3405803783/v1",
        "http://2130706433/v1",
        "http://0x7f000001/v1",
        "http://0177.0.0.1/v1",
        "http://127.1/v1",
        "http://127.0.0.1./v1",
        "http://127.0.0.1.0x1/v1",
        "http://[fe80::1%lo]/v1",
        "http://[127.0.0.1/v1",
        "http://127.0.0.1@203.0.113.7/v1",
        "http://user:secret@127.0.0.1/v1",
        "http://127.0.0.1#@203.0.113.7/v1",
        "http://127.0.0.1\\@203.0.113.7/v1",
        "http://127.0.0.1:80@203.0.113.7/v1",
        "http://127.0.0.1:99999/v1",
        "http://127.0.0.1:0/v1",
        "http://127.0.0.1:\u0661\u0661/v1",
        "http://\u2460\u2461\u2466.0.0.1/v1",
        "http://127.0.0.1/v1?to=elsewhere",
        "http://127.0.0.1/../api",
        "http://127.0.0.1/v1/%2e%2e",
        "http://127.0.0.1/v1\r\nHost: elsewhere",
        " http://127.0.0.1/v1",
        "https://127.0.0.1/v1",
        "ftp://127.0.0.1/v1",
        "file:///etc/passwd",
        "HTTP+UNIX://x",
        "127.0.0.1:11434",
        "unix://relative.sock",
        "unix://host/x.sock",
        "unix:///a\nb",
        "unix:///x:/../y",
        "",
    ],
)
def test_an_address_that_is_not_plainly_local_is_refused(url: str) -> None:
    try:
        found = relay.parse(url)
    except EngineError as error:
        assert error.hint
        return
    assert found.socket == "/host/x.sock", f"{url} was taken for {found}"  # a path all the same


@given(st.text(max_size=60))
def test_whatever_is_taken_for_an_address_names_loopback_or_a_plain_name(text: str) -> None:
    for url in (text, f"http://{text}", f"http://{text}/v1", f"unix://{text}"):
        try:
            found = relay.parse(url)
        except EngineError:
            continue
        assert found.socket.startswith("/") or found.host.isascii()


def looked_up(*numbers: str) -> Callable[..., list[tuple[Any, ...]]]:
    return lambda host, port, **_: [(0, 0, 0, "", (number, port)) for number in numbers]


@pytest.mark.parametrize(
    "numbers",
    [
        ("203.0.113.7",),
        ("127.0.0.1", "203.0.113.7"),
        ("::1", "2001:db8::7"),
        ("169.254.169.254",),
        ("fe80::1%lo",),
        ("::ffff:127.0.0.1",),
        ("0.0.0.0",),
        (),
    ],
    ids=str,
)
def test_a_name_with_one_address_that_is_not_loopback_is_refused(numbers: tuple[str, ...]) -> None:
    with pytest.raises(EngineError, match="not this machine's loopback"):
        relay.resolve(relay.parse("http://model.test:80/v1"), looked_up(*numbers))


def test_a_name_of_this_machine_is_resolved_to_its_numbers() -> None:
    found = relay.resolve(relay.parse("http://model.test:80/v1"), looked_up("::1", "127.0.0.1", "127.0.0.1"))
    assert [str(one) for one in found] == ["[::1]:80", "127.0.0.1:80"]
    assert "127.0.0.1" in {one.host for one in relay.resolve(relay.parse("http://localhost:80/v1"))}


def test_a_name_that_nobody_knows_is_refused() -> None:
    def nobody(*_: object, **__: object) -> list[tuple[Any, ...]]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(EngineError, match="has no address here"):
        relay.resolve(relay.parse("http://model.test/v1"), nobody)


def test_only_a_socket_of_ours_is_a_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as real:
        real.bind(str(tmp_path / "real"))
        (tmp_path / "link").symlink_to("real")
        relay.resolve(relay.parse(f"unix://{tmp_path}/real"))
        for name in ("file", "link", "missing"):
            with pytest.raises(EngineError):
                relay.resolve(relay.parse(f"unix://{tmp_path}/{name}"))


@pytest.mark.skipif(os.geteuid() != 0, reason="root only: an ordinary user cannot give a socket away")
def test_a_socket_of_another_user_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(tmp_path / "s"))
        os.chown(tmp_path / "s", 4711, 4711)
        if os.lstat(tmp_path / "s").st_uid == os.geteuid():
            pytest.skip("this file system keeps no owners")
        with pytest.raises(EngineError, match="belongs to user 4711"):
            relay.resolve(relay.parse(f"unix://{tmp_path}/s"))


def test_where_nothing_listens_the_night_does_not_begin() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(EngineError, match=r"does not answer.*ECONNREFUSED"):
            relay.reach(relay.resolve(relay.parse(url)))


@pytest.mark.parametrize("name", ["gpt-oss:120b-cloud", "glm:cloud", "cloud", "x-CLOUD", ""])
def test_a_model_that_its_server_asks_for_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(EngineError):
        relay.local_model(name)
    assert relay.local_model("cloudy-7b:latest") == "cloudy-7b:latest"


# --- what passes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory for sockets: their paths have at most a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="pantheon-test-") as made:
        yield Path(made)


class Through:
    """A relay to a small server, and raw bytes sent through it."""

    def __init__(self, server: openai_server.Server, way: Path) -> None:
        self.server, self.way = server, way

    def send(self, data: bytes, ends: bool = False) -> bytes:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(20)
            line.connect(str(self.way / relay.SOCKET))
            answer = b""
            try:
                line.sendall(data)
                if ends:
                    line.shutdown(socket.SHUT_WR)
                while part := line.recv(1 << 16):
                    answer += part
            except ConnectionError:  # it was closed with bytes of ours unread
                pass
            return answer

    def post(self, body: bytes, path: str = "/v1/chat/completions", *more: str) -> bytes:
        lines = [f"POST {path} HTTP/1.1", "Host: relay", f"Content-Length: {len(body)}", *more, "", ""]
        return self.send("\r\n".join(lines).encode() + body)


@pytest.fixture(params=["tcp", "unix"])
def through(request: pytest.FixtureRequest, short: Path) -> Iterator[Through]:
    at = short / "theirs.sock" if request.param == "unix" else None
    with openai_server.running(at) as server:
        (target,) = relay.resolve(relay.parse(server.url))
        with relay.serving(target, MODEL, short) as way:
            yield Through(server, way)


def encoded(**changes: Any) -> bytes:
    return json.dumps({**QUESTION, **changes}).encode()


def test_a_question_passes(through: Through) -> None:
    assert through.post(encoded()).startswith(b"HTTP/1.1 200")
    asked = through.server.asked[-1]
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    assert asked.body == relay.question_json(Question.model_validate(QUESTION)).encode()
    assert asked.headers["Connection"] == "close"


def test_a_question_may_ask_for_probabilities(through: Through) -> None:
    assert through.post(encoded(logprobs=True)).startswith(b"HTTP/1.1 200")
    asked = json.loads(through.server.asked[-1].body)
    assert (asked.pop("logprobs"), asked.pop("top_logprobs")) == (True, 5)
    through.post(encoded(logprobs=False))
    assert json.loads(through.server.asked[-1].body) == asked, "who does not ask says nothing of them"


def test_headers_of_the_night_do_not_pass(through: Through) -> None:
    through.post(encoded(), "/v1/chat/completions", "Authorization: marker-4711", "X-Forward-To: marker-4711")
    assert "marker-4711" not in repr(through.server.asked)


BARE = b"GET /v1/models HTTP/1.1\r\nHost: relay\r\n"
REQUESTS = {
    "another path": b"GET /api/tags HTTP/1.1\r\n\r\n",
    "a path below": b"GET /v1/models/x HTTP/1.1\r\n\r\n",
    "a way back up": b"GET /v1/models/../../api/pull HTTP/1.1\r\n\r\n",
    "an encoded way up": b"GET /v1/%2e%2e/api HTTP/1.1\r\n\r\n",
    "a query": b"GET /v1/models?from=elsewhere HTTP/1.1\r\n\r\n",
    "another server's address": b"GET http://203.0.113.7/v1/models HTTP/1.1\r\n\r\n",
    "a tunnel": b"CONNECT 203.0.113.7:443 HTTP/1.1\r\n\r\n",
    "another method": b"DELETE /v1/models HTTP/1.1\r\n\r\n",
    "a small get": b"get /v1/models HTTP/1.1\r\n\r\n",
    "an old version": b"GET /v1/models HTTP/1.0\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\n\r\n",
    "a bare line feed": BARE + b"X: y\nTransfer-Encoding: chunked\r\n\r\n",
    "a folded header": BARE + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n",
    "a space before the colon": BARE + b"Transfer-Encoding : chunked\r\n\r\n",
    "no colon": BARE + b"X\r\n\r\n",
    "pieces": b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 5\r\ncontent-length: 2\r\n\r\n{}xyz",
    "a length with a sign": b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: +2\r\n\r\n{}",
    "a list of lengths": b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2, 2\r\n\r\n{}",
    "no body": b"POST /v1/chat/completions HTTP/1.1\r\n\r\n",
    "a body where there is none": BARE + b"Content-Length: 2\r\n\r\n{}",
    "a huge body": b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n{",
    "a huge head": BARE + b"X: " + b"y" * (1 << 17),
    "a cut body": b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
    "nothing": b"",
}


@pytest.mark.parametrize("data", REQUESTS.values(), ids=REQUESTS.keys())
def test_no_other_request_reaches_the_server(through: Through, data: bytes) -> None:
    said = through.send(data, ends=True)
    assert said == b"" or (said.startswith(b"HTTP/1.1 4") and b'"type": "relay"' in said)
    assert through.server.connections == 0


BODIES = {
    "no json": b"hello",
    "a list": b"[]",
    "another model": encoded(model="another:cloud"),
    "a further key": encoded(tools=[{"type": "web_search"}]),
    "a stream": encoded(stream=True),
    "a picture to be fetched": encoded(
        messages=[
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://203.0.113.7/"}}]},
        ]
    ),
    "a name in a message": encoded(messages=[{"role": "user", "content": "x", "name": "y"}]),
    "a tool's role": encoded(messages=[{"role": "tool", "content": "x"}]),
    "no message": encoded(messages=[]),
    "a reference to elsewhere": encoded(response_format={"x": [{"y": {"$ref": "http://203.0.113.7/"}}]}),
    "a million tokens": encoded(max_tokens=1_000_000),
    "a probability that is no word": encoded(logprobs=2),
    "more probabilities": encoded(logprobs=True, top_logprobs=20),
    "a number that is none": b'{"model": NaN}',
    "half a character": encoded(messages=[{"role": "user", "content": "\ud800"}]),
    "a deep one": b'{"response_format": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    "no utf-8": encoded()[:-2] + b"\xff}}",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_no_other_question_reaches_the_server(through: Through, body: bytes) -> None:
    assert through.post(body).startswith(b"HTTP/1.1 403")
    assert through.server.connections == 0


def test_of_a_key_that_stands_twice_the_server_sees_one(through: Through) -> None:
    """Readers differ in which of two they believe; a reader that ignores case is told no other spelling either."""
    twice = b'{"model": "another:cloud", ' + encoded()[1:]
    assert through.post(twice).startswith(b"HTTP/1.1 200")
    assert b"another" not in through.server.asked[-1].body
    assert through.post(b'{"MODEL": "another:cloud", ' + encoded()[1:]).startswith(b"HTTP/1.1 403")


def test_of_two_requests_on_a_line_one_is_passed_on(through: Through) -> None:
    body = encoded()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    through.send(head + body + b"POST /api/pull HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
    assert [one.path for one in through.server.asked] in ([], ["/v1/chat/completions"])


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
keys = texts.filter(lambda text: not text.startswith("$"))
plain = (
    texts | st.booleans() | st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    plain, lambda one: st.lists(one, max_size=3) | st.dictionaries(keys, one, max_size=3), max_leaves=10
)


@given(system=texts, user=texts, schema=st.dictionaries(keys, values, max_size=4), asked=st.booleans())
def test_a_question_is_written_anew_as_it_was(system: str, user: str, schema: dict[str, Any], asked: bool) -> None:
    messages = (Message(role="system", content=system), Message(role="user", content=user))
    question = Question(model=MODEL, messages=messages, max_tokens=8, response_format=schema, logprobs=asked)
    data = relay.question_json(question).encode()
    assert relay._body(data, MODEL) == data
    assert relay.messages_json(messages).encode() in data


# --- where it leads --------------------------------------------------------------------------------------------------


def test_a_redirect_is_handed_back_and_followed_by_nobody(through: Through) -> None:
    with openai_server.running() as elsewhere:
        through.server.misbehave = lambda _: (307, {"Location": elsewhere.url}, b"")
        answer = through.post(encoded())
        assert answer.startswith(b"HTTP/1.1 307")
        assert elsewhere.connections == 0


def test_a_name_that_changes_its_mind_is_not_asked_again(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with openai_server.running() as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        answers = [["127.0.0.1"], ["203.0.113.7"]]
        asked: list[str] = []

        def changing(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
            asked.append(host)
            return looked_up(*answers.pop(0))(host, port)

        target = relay.reach(relay.resolve(relay.parse(f"http://model.test:{port}/v1"), changing))
        names: list[object] = []
        real = socket.getaddrinfo

        def watched(host: str, *args: Any, **options: Any) -> Any:
            names.append(host)
            return real(host, *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", watched)
        with relay.serving(target, MODEL, short) as way:
            for _ in range(3):
                assert Through(server, way).post(encoded()).startswith(b"HTTP/1.1 200")
        assert asked == ["model.test"]
        assert set(names) <= {"127.0.0.1"}
        assert server.asked[-1].headers["Host"] == f"model.test:{port}"


def test_a_server_that_is_gone_is_told(short: Path) -> None:
    with openai_server.running() as server:
        target = relay.reach(relay.resolve(relay.parse(server.url)))
    with relay.serving(target, MODEL, short) as way:
        assert Through(server, way).post(encoded()).startswith(b"HTTP/1.1 502")


# --- its life --------------------------------------------------------------------------------------------------------


def relays() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "relay"]


def test_its_socket_is_the_users_alone_and_is_gone_afterwards(short: Path) -> None:
    with openai_server.running() as server:
        target = relay.reach(relay.resolve(relay.parse(server.url)))
        with relay.serving(target, MODEL, short / "run") as way:
            assert stat.S_IMODE(way.stat().st_mode) == 0o700
            assert stat.S_IMODE((way / relay.SOCKET).stat().st_mode) == 0o600
            assert len(relays()) == 1
            held = socket.socket(socket.AF_UNIX)
            held.connect(str(way / relay.SOCKET))
    with held:
        assert not way.exists()
        assert relays() == []
        assert held.recv(1) == b""


def test_a_path_that_is_too_long_for_a_socket_is_refused(short: Path) -> None:
    target = relay.Target(address=relay.parse("http://127.0.0.1:9/v1"), host="127.0.0.1")
    with pytest.raises(EngineError, match="bytes"), relay.serving(target, MODEL, short / ("x" * 100)):
        pass
    assert list((short / ("x" * 100)).iterdir()) == []


def test_connections_are_bounded_and_come_free_again(through: Through, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "CONNECTIONS", 2)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    try:
        for one in waiting:
            one.connect(str(through.way / relay.SOCKET))
        time.sleep(0.1)
        said = through.post(encoded())
        assert said == b"" or said.startswith(b"HTTP/1.1 503")
    finally:
        for one in waiting:
            one.close()
    deadline = time.monotonic() + 5
    while not (said := through.post(encoded())).startswith(b"HTTP/1.1 200"):
        assert time.monotonic() < deadline, said
        time.sleep(0.02)


def test_a_request_that_never_comes_is_given_up(through: Through, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "SLOW_S", 0.1)
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(10)
        line.connect(str(through.way / relay.SOCKET))
        line.sendall(b"POST /v1/chat")
        assert line.recv(100).startswith(b"HTTP/1.1 408")


def test_who_goes_away_takes_the_question_along(short: Path) -> None:
    """A server stops working on an answer that nobody waits for when its line ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(4)
        listener.settimeout(10)
        target = relay.Target(address=relay.parse(f"http://127.0.0.1:{listener.getsockname()[1]}/v1"), host="127.0.0.1")
        with relay.serving(target, MODEL, short) as way, socket.socket(socket.AF_UNIX) as line:
            line.connect(str(way / relay.SOCKET))
            line.sendall(BARE + b"\r\n")
            there, _ = listener.accept()
            there.settimeout(10)
            assert there.recv(1000).startswith(b"GET /v1/models HTTP/1.1\r\n")
            line.close()
            with there:
                assert there.recv(1) == b""
