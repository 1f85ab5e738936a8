"""The engine that a command asked for: a model of ours, a server of the user's behind the relay, or the scripted one.

Ring 4: what a night, a bench and a dry run open, and end. A server of ours that dies at night is started again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from pantheon import cast as casting
from pantheon import config, process, relay, screen
from pantheon.cast import Cast
from pantheon.config import UserEngine
from pantheon.engine import Engine, ScriptedEngine, VllmEngine
from pantheon.errors import EngineError, PantheonError
from pantheon.places import Places
from pantheon.records import Record, Serving
from pantheon.revive import Lives, open_revived
from pantheon.server import OpenAIEngine


class Server(Record):
    """The user's own model server, as a night reaches it through the relay."""

    url: str
    to: str  # what the relay connects to: a number with a port, or a socket's path
    root: str
    model: str
    context: int


class EngineOrder(Record):
    """Which engine to open: a model's directory, or a server of the user's; with neither, the scripted one."""

    quiet: bool
    model: Path | None
    server: Server | None = None
    cast: Cast | None = None  # with a model: who else speaks


def reached(held: contextlib.ExitStack, user: UserEngine, where: Places) -> tuple[Server, Path]:
    """The user's model server, and the directory of the relay to it, which listens as long as `held`.

    Raises EngineError when there is none, or none that is local.
    """
    if not user.url:
        why = "a night asks only the server that you name yourself, and you named none"
        hint = f'put [engine] url = "http://127.0.0.1:PORT/v1" and model into {where.config}/config.toml'
        raise EngineError("no model server", "engine openai", why, hint)
    model, address = relay.local_model(user.model), relay.parse(user.url)
    target = relay.reach(relay.resolve(address))
    server = Server(url=address.url, to=str(target), root=address.root, model=model, context=user.context)
    return server, held.enter_context(relay.serving(target, model, where.runtime))


async def open_engine(
    order: EngineOrder,
    where: Places,
    name: str,
    way: Path,
    log: str = "engine.log",
    chosen: Serving = Serving(),  # noqa: B008 - frozen
    lives: Lives | None = None,
) -> Engine:
    """The engine that was ordered; `name` tells it from others of this user, `way` holds the relay to a server. With
    `lives`, a server of ours that dies is started again. Raises EngineError."""
    if order.server is not None:
        return await ask(order.server, way)
    if order.model is None:
        return ScriptedEngine(latency_s=0.01)

    async def start(model: Path, adapters: Mapping[str, Path], called: str) -> Engine:
        async def one() -> Engine:
            path = made(where.logs) / log
            if lives is not None and lives.lost:
                with contextlib.suppress(OSError):  # why it died stands there
                    path.replace(path.with_name(f"{log}.died"))
            with screen.waiting("starting the engine", order.quiet or chosen.mode == "phases") as say:
                return await VllmEngine.start(
                    model,
                    runtime_dir=_socket_directory(where, name),
                    cache_dir=made(where.cache / "engine"),
                    log_path=path,
                    on_progress=say,
                    adapters=adapters,
                    name=called,
                )

        return await one() if lives is None else await open_revived(one, lives)

    return await casting.open_engine(order.cast or Cast(model=order.model), chosen, start)


def _socket_directory(where: Places, name: str) -> Path:
    return where.runtime / f"pantheon-{hashlib.sha256(bytes(where.cache)).hexdigest()[:8]}-{name}"


@contextlib.asynccontextmanager
async def engine_by_day(
    kind: str,
    model: Path | None,
    where: Places,
    quiet: bool,
    cast: Cast | None = None,
    chosen: Serving = Serving(),  # noqa: B008 - frozen
) -> AsyncIterator[Engine]:
    """An engine for a command of the day: no enclosure around it, the same sandbox of its own as at night. Raises
    EngineError, SandboxError."""
    process.require_sandbox()
    name = f"day-{os.getpid()}"
    with contextlib.ExitStack() as held:
        user = config.load_user(where.config)
        server, way = reached(held, user.engine, where) if kind == "openai" else (None, relay.INSIDE)
        order = EngineOrder(quiet=quiet, model=model, server=server, cast=cast)
        try:  # a night may be writing the other log
            engine = await open_engine(order, where, name, way, "engine-day.log", chosen)
            try:
                yield engine
            finally:
                await engine.close()
        finally:
            with contextlib.suppress(OSError):
                _socket_directory(where, name).rmdir()


async def ask(server: Server, way: Path) -> OpenAIEngine:
    return await OpenAIEngine.connect(
        way / relay.SOCKET, url=server.url, root=server.root, model=server.model, context=server.context
    )


def made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = f"findmnt -T {directory.parent}"
        raise PantheonError("cannot make the cache directory", str(directory), str(error.strerror), hint) from error
    return directory
