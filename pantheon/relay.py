"""The relay: the only way out of a night that uses somebody else's model server, and it leads to one local address.

Owns what an address may be (http on loopback, or a Unix socket), its resolution, the two requests that pass and the
form of a question. The name is resolved once, on the host; every address that it has must be loopback, and only the
number is connected to afterwards. Of what comes from the night nothing is passed on as it came: a request is read
whole, checked, and written anew, so that the server can be asked for its models and for answers to text, and for
nothing else that it could do (fetch a picture, pull a model). Does not cover what the server itself does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from pantheon.errors import EngineError
from pantheon.logprobs import TOP
from pantheon.records import Record

CONNECTIONS = 64  # at once; more are turned away
HEAD_MOST, BODY_MOST = 16 << 10, 8 << 20  # bytes of a request
SLOW_S = 30.0  # for a whole request to come in
CONNECT_S = 5.0
SOCKET = "relay.sock"
SOCKET_MOST = 100  # a Unix socket's path has 108 bytes
INSIDE = Path("/run/relay")  # where the night finds the relay's directory
CONFIG_HINT = "edit [engine] in ~/.config/git-pantheon/config.toml"

_PATH = r"(?P<root>(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*)/?"
_HTTP = re.compile(
    rf"http://(?P<host>\[[0-9A-Fa-f:.]{{2,45}}\]|[A-Za-z0-9.-]{{1,253}})(?::(?P<port>[0-9]{{1,5}}))?{_PATH}"
)
_UNIX = re.compile(rf"unix://(?P<socket>/[^:\x00-\x1f\x7f]{{1,{SOCKET_MOST}}})(?::{_PATH})?")
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]*|[0-9]+")
# Names of models that a local server (Ollama) only passes on to its maker's machines.
_ELSEWHERE = re.compile(r"(?:^|[:-])cloud$", re.IGNORECASE)

Lookup = Callable[..., Sequence[tuple[Any, ...]]]


# --- addresses -------------------------------------------------------------------------------------------------------


class Address(Record):
    """A server's address as the user wrote it. `socket` is a Unix socket's path; else `host` (a name or a number) and
    `port` count. `root` stands before `/chat/completions`."""

    url: str
    host: str = ""
    port: int = 0
    socket: str = ""
    root: str = "/v1"


class Target(Record):
    """What the relay connects to: a loopback number with its port, or a socket's path. Never a name."""

    address: Address
    host: str = ""

    def __str__(self) -> str:
        if self.address.socket:
            return self.address.socket
        return f"[{self.host}]:{self.address.port}" if ":" in self.host else f"{self.host}:{self.address.port}"


def parse(url: str) -> Address:
    """An address of the user's configuration, checked by its form alone. Raises EngineError."""
    if found := _UNIX.fullmatch(url):
        return Address(url=url, socket=found["socket"], root=found["root"] or "/v1")
    found = _HTTP.fullmatch(url)
    if found is None:
        raise _refused(url, _fault(url))
    host, port = found["host"], int(found["port"] or 80)
    if not 0 < port < 65_536:
        raise _refused(url, f"there is no port {port}")
    if host.startswith("[") or _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
        try:
            number = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            raise _refused(url, f"{host} is no address in its usual spelling") from None
        if not _is_loopback(str(number)):
            raise _refused(url, f"{number} is not this machine's loopback, and no byte leaves the machine at night")
        host = str(number)
    return Address(url=url, host=host, port=port, root=found["root"] or "/v1")


def _fault(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("http", "unix"):
        return "only http:// on a loopback address and unix:// are local; give http://127.0.0.1:PORT/v1"
    if "@" in rest.partition("/")[0]:
        return "it holds a user name or a password, and no key is ever sent"
    return "give http://127.0.0.1:PORT/v1 or unix:///path/of/the.sock:/v1, without a query"


def _refused(url: str, why: str) -> EngineError:
    return EngineError("cannot use the model server", url, why, CONFIG_HINT)


def _is_loopback(number: str) -> bool:
    """127.0.0.0/8 and ::1; not 0.0.0.0, and no IPv4 address in an IPv6 one, which readers understand differently."""
    found = ipaddress.ip_address(number)
    return found.is_loopback and not (found.version == 6 and found.ipv4_mapped)


def local_model(name: str) -> str:
    """The name of a model that the server itself runs. Raises EngineError."""
    if not name:
        raise EngineError("cannot use the model server", "model", "[engine] model is not set: which one?", CONFIG_HINT)
    if _ELSEWHERE.search(name):
        raise EngineError("cannot use the model", name, "the server sends its text to other machines", CONFIG_HINT)
    return name


def resolve(address: Address, lookup: Lookup = socket.getaddrinfo) -> tuple[Target, ...]:
    """What the address stands for. One name, or one of its addresses, that is not loopback refuses it altogether.

    Raises EngineError.
    """
    if address.socket:
        _must_be_a_socket(address)
        return (Target(address=address),)
    try:
        found = lookup(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _refused(address.url, f"{address.host} has no address here: {error}") from error
    numbers = list(dict.fromkeys(str(one[4][0]) for one in found))
    others = [number for number in numbers if not _loops(number)]
    if others or not numbers:
        why = f"{address.host} is {', '.join(others) or 'nothing'}, not this machine's loopback"
        raise _refused(address.url, why)
    return tuple(Target(address=address, host=number) for number in numbers)


def _loops(number: str) -> bool:
    try:
        return _is_loopback(number)
    except ValueError:  # with a zone: an interface's own
        return False


def _must_be_a_socket(address: Address) -> None:
    try:
        found = os.lstat(address.socket)
    except OSError as error:
        raise _refused(address.url, f"{error.strerror}: is the server running?") from error
    if not stat.S_ISSOCK(found.st_mode):
        raise _refused(address.url, "there is no socket at this path (a link to one is not followed)")
    if found.st_uid not in (os.geteuid(), 0):
        raise _refused(address.url, f"the socket belongs to user {found.st_uid}")


def reach(targets: Sequence[Target]) -> Target:
    """The first of the targets where something listens. Raises EngineError."""
    why = ""
    for target in targets:
        try:
            with _connected(target):
                return target
        except OSError as error:
            why = f"{target}: {errno.errorcode.get(error.errno or 0, '') or error}"
    hint = "start the server, or " + CONFIG_HINT
    raise EngineError("the model server does not answer", targets[0].address.url, why, hint)


def _connected(target: Target) -> socket.socket:
    if target.address.socket:
        made = socket.socket(socket.AF_UNIX)
    else:
        made = socket.socket(socket.AF_INET6 if ":" in target.host else socket.AF_INET)
    with contextlib.ExitStack() as held:
        held.enter_context(made)
        made.settimeout(CONNECT_S)
        made.connect(target.address.socket or (target.host, target.address.port))
        held.pop_all()
    return made


# --- what passes -----------------------------------------------------------------------------------------------------


class Message(Record):
    """Text only: a picture's address would be fetched by the server."""

    role: Literal["system", "user"]
    content: str


class Question(Record):
    """The whole of what a server is asked, in the order in which it is written. A schema keeps the order of its keys,
    which is the order of the answer's."""

    model: str
    messages: tuple[Message, ...] = Field(min_length=1, max_length=8)
    max_tokens: int = Field(ge=1, le=4096)
    temperature: Literal[0] = 0
    stream: Literal[False] = False
    response_format: dict[str, Any]
    logprobs: Literal[True, False] = False
    top_logprobs: Literal[5] = TOP  # beside each token; both are told only where `logprobs` is true

    @field_validator("response_format")
    @classmethod
    def _says_everything_itself(cls, value: dict[str, Any]) -> dict[str, Any]:
        """No key that refers to somewhere (`$ref`): there are servers that fetch it."""
        waiting: list[Any] = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, dict):
                if any(key.startswith("$") for key in one):
                    raise ValueError("a schema that refers to something")
                waiting += one.values()
            elif isinstance(one, list):
                waiting += one
        return value


def messages_json(messages: Sequence[Message]) -> str:
    """The messages as they stand in a question's bytes."""
    return _compact([one.model_dump() for one in messages])


def question_json(question: Question) -> str:
    """The one JSON form of a question. Raises ValueError for a number that JSON does not have."""
    return _compact(question.model_dump(exclude=None if question.logprobs else {"logprobs", "top_logprobs"}))


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class _Turned(Exception):
    """A request that does not pass, and the status that says so."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


_REQUEST = re.compile(rb"(GET|POST) (/[!-~]*) HTTP/1\.1")
_HEADER = re.compile(rb"([A-Za-z0-9-]+):[ \t]*([\t -~\x80-\xff]*)")


def _head(data: bytes, root: str) -> tuple[str, int]:
    """(method, length of the body) of a request that passes so far. Raises _Turned."""
    first, *lines = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
    request = _REQUEST.fullmatch(first)
    headers = [_HEADER.fullmatch(line) for line in lines]
    if request is None or not all(headers):
        raise _Turned(400, "this is no HTTP/1.1 request")
    named = [(found[1].lower(), found[2].strip()) for found in headers if found]
    lengths = [value for name, value in named if name == b"content-length"]
    method, path = request[1].decode(), request[2].decode()
    if (method, path) not in (("POST", f"{root}/chat/completions"), ("GET", f"{root}/models")):
        raise _Turned(403, "only questions and the list of models pass the relay")
    if any(name == b"transfer-encoding" for name, _ in named) or len(lengths) > 1:
        raise _Turned(400, "a body has one content-length")
    if not re.fullmatch(rb"[0-9]{1,9}", lengths[0] if lengths else b"0"):
        raise _Turned(400, "a content-length is a number")
    length = int(lengths[0]) if lengths else 0
    if length > BODY_MOST or (length > 0) is not (method == "POST"):
        raise _Turned(413, f"a question has between 1 and {BODY_MOST} bytes")
    return method, length


def _body(data: bytes, model: str) -> bytes:
    """A question's bytes, written anew. Raises _Turned."""
    try:
        question = Question.model_validate_json(data)
        written = question_json(question).encode()
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise _Turned(403, f"only questions of the night's own form pass the relay: {at}: {first['msg']}") from error
    except ValueError as error:
        raise _Turned(403, f"only questions of the night's own form pass the relay: {error}") from error
    if question.model != model:
        raise _Turned(403, f"the night's model is {model}")
    return written


# --- the relay itself ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(target: Target, model: str, runtime: Path) -> Iterator[Path]:
    """Listen for as long as the context lasts; yields the directory (mode 0700, in `runtime`) that holds the socket.

    Raises EngineError when it cannot listen.
    """
    try:
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="relay-", dir=runtime))
    except OSError as error:
        raise EngineError("cannot start the relay", str(error.filename), str(error.strerror)) from error
    relay = _Relay(target, model, directory / SOCKET)
    try:
        relay.start()
        yield directory
    finally:
        relay.stop()
        shutil.rmtree(directory, ignore_errors=True)


class _Relay:
    """A thread with an event loop of its own; the night's outer half waits for its child meanwhile."""

    def __init__(self, target: Target, model: str, path: Path) -> None:
        self._target, self._model, self._path = target, model, path
        self._listens = threading.Event()
        self._failure: OSError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._open: dict[asyncio.Task[None], socket.socket] = {}
        self._thread = threading.Thread(target=self._live, name="relay", daemon=True)

    def start(self) -> None:
        if len(str(self._path).encode()) > SOCKET_MOST:
            raise EngineError("cannot start the relay", str(self._path), f"a path has at most {SOCKET_MOST} bytes")
        self._thread.start()
        self._listens.wait()
        if self._failure is not None:
            raise EngineError("cannot start the relay", str(self._path), str(self._failure)) from self._failure

    def stop(self) -> None:
        if self._loop is not None and self._ended is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it closed meanwhile
                self._loop.call_soon_threadsafe(self._ended.set)
        if self._thread.ident is not None:
            self._thread.join()

    def _live(self) -> None:
        try:
            asyncio.run(self._listen())
        except OSError as error:
            self._failure = error
        finally:
            self._listens.set()

    async def _listen(self) -> None:
        """Until told to end. The accepting is our own: asyncio's servers lose a line that comes as they close."""
        self._loop, self._ended = loop, ended = asyncio.get_running_loop(), asyncio.Event()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.setblocking(False)
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            listener.listen(CONNECTIONS)
            loop.add_reader(listener, self._accept, listener)
            self._listens.set()
            await ended.wait()
            loop.remove_reader(listener)
        left = dict(self._open)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for line in left.values():
            line.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            line, _ = listener.accept()
        except OSError:  # who came has gone again
            return
        line.setblocking(False)
        task = asyncio.ensure_future(self._met(line))
        self._open[task] = line
        task.add_done_callback(self._open.pop)

    async def _met(self, line: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=line, limit=HEAD_MOST)
        try:
            await self._answer(reader, writer)
            writer.close()
        except (OSError, asyncio.CancelledError):  # one side went away, or we end
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._open) > CONNECTIONS:
                raise _Turned(503, f"there are {CONNECTIONS} connections already")
            request = await self._read(reader)
            there, back = await self._connect()
        except _Turned as turned:
            writer.write(_reply(turned.status, turned.why))
            await writer.drain()
            return
        try:
            back.write(request)
            await back.drain()
            flow = asyncio.ensure_future(_pump(there, writer))
            gone = asyncio.ensure_future(reader.read(1))  # the end, or more than a request: both end it
            try:
                await asyncio.wait((flow, gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                flow.cancel()
                gone.cancel()
                await asyncio.gather(flow, gone, return_exceptions=True)
        finally:
            back.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """One request, whole, as the server gets it. Raises _Turned."""
        root = self._target.address.root
        try:
            async with asyncio.timeout(SLOW_S):
                method, length = _head(await reader.readuntil(b"\r\n\r\n"), root)
                body = await reader.readexactly(length)
        except asyncio.LimitOverrunError as error:
            raise _Turned(431, f"a head has at most {HEAD_MOST} bytes") from error
        except asyncio.IncompleteReadError as error:
            raise _Turned(400, "the request ends in its middle") from error
        except TimeoutError as error:
            raise _Turned(408, f"no request within {SLOW_S:g} s") from error
        address = self._target.address
        host = f"[{address.host}]" if ":" in address.host else address.host
        lines = [f"Host: {host}:{address.port}" if host else "Host: localhost"]
        lines += ["Accept: application/json", "Accept-Encoding: identity", "Connection: close"]
        if method == "GET":
            return "\r\n".join([f"GET {root}/models HTTP/1.1", *lines, "", ""]).encode()
        written = _body(body, self._model)
        lines += ["Content-Type: application/json", f"Content-Length: {len(written)}"]
        return "\r\n".join([f"POST {root}/chat/completions HTTP/1.1", *lines, "", ""]).encode() + written

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = self._target
        try:
            async with asyncio.timeout(CONNECT_S):
                if target.address.socket:
                    return await asyncio.open_unix_connection(target.address.socket)
                return await asyncio.open_connection(target.host, target.address.port)
        except (OSError, TimeoutError) as error:
            raise _Turned(502, f"{target} does not answer: {error}") from error


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while part := await source.read(1 << 16):
        sink.write(part)
        await sink.drain()


def _reply(status: int, why: str) -> bytes:
    body = json.dumps({"error": {"message": why, "type": "relay"}}).encode()
    head = f"HTTP/1.1 {status} Relay\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body
