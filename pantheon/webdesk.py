"""`git pantheon desk`: the morning report on loopback, with buttons. Every decision is made by `prdesk.decide`, as
typed.

Diffs are private and every user of this machine can reach a loopback port: reading needs the token as much as deciding
does, and `--read-only` is a page without buttons behind its own token. The token opens one session and is spent. What
decides is a POST with the session's cookie, the secret of its forms, the browser's word that it came from our page, and
our own name as the host. One action at a time. A cookie knows no port: other servers on 127.0.0.1 can see it.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, quote

import uvicorn
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pantheon import artifacts, config, desk, morning, page, prdesk, process, prs
from pantheon.errors import PantheonError
from pantheon.git import Repo
from pantheon.places import Places, places
from pantheon.plan import printable
from pantheon.records import PullState
from pantheon.report import ItemView, PullView

T = TypeVar("T")

IDLE_S = 1800.0
BODY_BYTES = 16_384  # of a form
TEXT_BYTES = 4 << 20  # of what is shown as text
FILES = 500  # artifacts of a run that are listed
WORDS = {"dropped": "leave it out", "rejected": "no", "retry": "try again", "never": "never again", "later": "later"}
OF_ITEM = ("reject", "retry", "drop", "never")
OF_PR = ("accept", "reject", "undo", "later", "refresh")
STATIC = {
    "report.css": "text/css",
    "desk.css": "text/css",
    "desk.js": "text/javascript",
    "htmx.min.js": "text/javascript",
}
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HEAD = Markup(
    '<meta name="htmx-config" content=\'{"allowEval":false,"allowScriptTags":false,"includeIndicatorStyles":false,'
    '"selfRequestsOnly":true,"historyEnabled":false}\'>\n'
    '<link rel="icon" href="data:,">\n<link rel="stylesheet" href="/static/desk.css">\n'
    '<script src="/static/htmx.min.js" defer></script>\n<script src="/static/desk.js" defer></script>'
)


@dataclass(frozen=True)
class Said:
    """What the last action came to, and the next command. `undo`: the PR in which it can be taken back, 0 for none."""

    text: str
    good: bool
    hint: str = ""
    undo: int = 0


@dataclass
class Desk:
    """What one desk knows: its repository, who may use it, when it was last asked."""

    repo: Repo
    port: int
    read_only: bool = False
    where: Places | None = None  # the user's own: without them no checks can be run here
    clock: Callable[[], float] = time.monotonic
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))  # "" once it is spent
    session: str = ""  # the cookie's value; "" before the token was used
    csrf: str = ""
    said: Said | None = None
    used: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.used = self.clock()
        folder = config.packaged().parent / "desk"
        try:
            self.files = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()}
        except OSError as error:
            raise PantheonError("cannot open the desk", str(folder), "its files are missing", "./install.sh") from error
        self.report = morning.templates()
        self.files["report.css"] = page.style(self.report)
        self.parts = Environment(
            loader=DictLoader({name: text for name, text in self.files.items() if name.endswith(".j2")}),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=lambda value: (
                printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
            ),
            trim_blocks=True,
        )

    @property
    def cookie(self) -> str:
        """Its name has the port in it: two desks are two sessions of one host."""
        return f"pantheon_desk_{self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    async def alone(self, job: Callable[[], T]) -> T:
        """Work on the repository, off the event loop; one at a time."""
        async with self.turn:
            return await run_in_threadpool(job)

    def may(self, request: Request) -> bool:
        given = request.cookies.get(self.cookie, "")
        return bool(self.session) and secrets.compare_digest(given.encode(), self.session.encode())


# --- who may ---------------------------------------------------------------------------------------------------------


def refusal(desk_: Desk, request: Request) -> Response | None:
    """Why a request is not answered; None when it may go on."""
    hosts = (f"127.0.0.1:{desk_.port}", f"localhost:{desk_.port}")
    host = request.headers.get("host", "")
    if host not in hosts:
        return _no(421, "This is not the host that you asked for.")
    opening = request.method == "GET" and request.url.path == "/" and "token" in request.query_params
    if not opening and not desk_.may(request):
        return _no(401, "This page is private. Open it with the link that `git pantheon desk` printed; it works once.")
    if request.method in ("GET", "HEAD"):
        return None
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    ours = f"http://{host}"
    # A page without a referrer sends the origin "null" with its forms; then only Sec-Fetch-Site tells.
    if site not in (None, "same-origin") or origin not in ((ours,) if site is None else (ours, "null", None)):
        return _no(403, "This came from another page.")
    if desk_.read_only:
        return _no(403, "This desk was started with --read-only.")
    return None


def _no(status: int, why: str) -> Response:
    return PlainTextResponse(f"{why}\n", status)


class Guard:
    """Stands before the routes: asks `refusal`, and gives every answer its headers."""

    def __init__(self, app: ASGIApp, desk_: Desk) -> None:
        self.app, self.desk = app, desk_

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((k.lower().encode(), v.encode()) for k, v in HEADERS.items() if k.lower().encode() not in named),
                ]
            await send(message)

        if scope["type"] != "http":
            return
        refused = refusal(self.desk, Request(scope, receive))
        if refused is None:
            self.desk.used = self.desk.clock()
        await (refused or self.app)(scope, receive, headed)


def application(desk_: Desk) -> ASGIApp:
    """The whole desk as an ASGI application."""

    def bound(handler: Callable[[Desk, Request], object]) -> Callable[[Request], object]:
        async def answer(request: Request) -> Response:
            try:
                return await handler(desk_, request)  # type: ignore[misc,no-any-return]
            except PantheonError as error:
                return _no(404, error.render())

        return answer

    routes = [
        Route("/", bound(_home)),
        Route("/static/{name}", bound(_static)),
        Route("/run/{run}", bound(_run)),
        Route("/run/{run}/{name:path}", bound(_artifact)),
        Route("/pr/{number:int}/diff", bound(_diff)),
        Route("/pr/{number:int}", bound(_decide), methods=["POST"]),
        Route("/pr/{number:int}/item/{item}", bound(_decide), methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes), desk_)


# --- looking ---------------------------------------------------------------------------------------------------------


async def _home(desk_: Desk, request: Request) -> Response:
    if "token" in request.query_params:
        return _open(desk_, request)
    found, desk_.said = desk_.said, None
    return HTMLResponse(await desk_.alone(lambda: render(desk_, found)))


def _open(desk_: Desk, request: Request) -> Response:
    """The token for a session. The answer sends the browser on by itself: a cookie that is strict about its site does
    not follow a redirect from the terminal or the file that opened the browser."""
    given = request.query_params["token"].encode()
    if desk_.may(request):
        return RedirectResponse("/", 303)
    if not desk_.token or not secrets.compare_digest(given, desk_.token.encode()):
        return _no(401, "This link is not the one that was printed, or it was used already: start the desk again.")
    desk_.token, desk_.session, desk_.csrf = "", secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    shown = _plain(desk_, "The desk is open", home="To the report", onward=True)
    shown.set_cookie(desk_.cookie, desk_.session, httponly=True, samesite="strict", path="/")
    return shown


def render(desk_: Desk, said: Said | None = None) -> str:
    """The report as it is now, with what can be decided."""
    desk.mended(desk_.repo)
    found = morning.gather(desk_.repo, now=desk.now())
    shared = {"csrf": desk_.csrf, "read_only": desk_.read_only, "words": WORDS}
    parts = desk_.parts.get_template("parts.html.j2").make_module(shared)
    undoable = {v.pull.id: len(prs.standing(prs.history(desk_.repo, v.pull.id))) > 1 for v in found.pulls}

    def controls(view: PullView, item: ItemView | None) -> Markup:
        back, live = page.anchor(view, item), view.pull.state is PullState.OPEN
        if item is None:
            look = view.look.word
            return Markup(parts.pull(view.pull, back, live, undoable[view.pull.id], look))  # type: ignore[attr-defined]
        live = live and not item.item.dropped
        return Markup(parts.item(view.pull, item.item, item.run.id, back, live))  # type: ignore[attr-defined]

    top = Markup(parts.top(said, desk_.read_only))  # type: ignore[attr-defined]
    return page.html(found, desk_.report, controls=controls, head=HEAD, top=top, stylesheet="/static/report.css")


async def _static(desk_: Desk, request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return _no(404, "There is no such file.")
    return Response(desk_.files[name], media_type=STATIC[name])


async def _run(desk_: Desk, request: Request) -> Response:
    """A run: its nodes, and links to what they left."""
    return await desk_.alone(lambda: _run_page(desk_, request.path_params["run"]))


def _run_page(desk_: Desk, name: str) -> Response:
    run, repo = artifacts.load_run(desk_.repo, name), desk_.repo
    files: dict[str, list[tuple[str, str, str]]] = {node: [] for node in run.nodes}
    entries = [entry for entry in repo.entries(run.run_commit or "").values() if "/" in entry.path]
    for entry in entries[:FILES]:
        node, _, file = entry.path.partition("/")
        link = f"/run/{run.id}/{quote(entry.path, errors='surrogateescape')}"
        files.setdefault(node, []).append((file, link, f"{repo.blob_size(entry.oid)} bytes"))
    rows = [(node, run.nodes.get(node, ""), found) for node, found in files.items()]
    lines = [f"{run.item.target}: {run.outcome} in night {run.night}", *([run.reason] if run.reason else [])]
    lines += [f"{len(entries) - FILES} more files: git pantheon run {run.id[:12]}"] if len(entries) > FILES else []
    return _plain(desk_, f"Run {run.id[:12]}", lines, rows, home="Back to the report")


async def _artifact(desk_: Desk, request: Request) -> Response:
    node, _, file = request.path_params["name"].partition("/")
    run = request.path_params["run"]
    return _text(await desk_.alone(lambda: artifacts.read_artifact(desk_.repo, run, node, file)))


async def _diff(desk_: Desk, request: Request) -> Response:
    def patch() -> bytes:
        found = prs.load(desk_.repo, request.path_params["number"])
        return desk_.repo.diff(desk_.repo.tree_of(found.base), desk_.repo.tree_of(found.tip)).patch

    return _text(await desk_.alone(patch))


def _text(data: bytes) -> Response:
    """Bytes of nobody we know, as text that can do nothing."""
    lines = data[:TEXT_BYTES].decode("utf-8", "surrogateescape").split("\n")
    text = "\n".join(printable(line.rstrip("\r").replace("\t", "    ")) for line in lines)
    if len(data) > TEXT_BYTES:
        text += f"\n[{len(data) - TEXT_BYTES} of {len(data)} bytes are left out here]\n"
    return PlainTextResponse(text, headers={"Content-Security-Policy": "default-src 'none'; sandbox"})


def _plain(
    desk_: Desk, title: str, lines: object = (), rows: object = (), *, home: str, onward: bool = False
) -> HTMLResponse:
    template = desk_.parts.get_template("run.html.j2")
    return HTMLResponse(template.render(title=title, lines=lines, rows=rows, home=home, onward=onward))


# --- deciding --------------------------------------------------------------------------------------------------------


async def _decide(desk_: Desk, request: Request) -> Response:
    """One decision from a form, then back to the page, which says what came of it."""
    form = await _form(request)
    if form is None or not secrets.compare_digest(form.get("csrf", "").encode(), desk_.csrf.encode()):
        return _no(403, "This form is not from this desk, or it is too long: reload the page.")
    number, item = request.path_params["number"], request.path_params.get("item")
    verb, text = form.get("verb", ""), form.get("text", "").strip()
    if verb not in (OF_ITEM if item else OF_PR):
        return _no(400, "There is no such decision.")
    if verb in ("reject", "retry") and not text:
        desk_.said = Said("nothing was done: say why", good=False)
    else:
        wish = prdesk.Wish(verb, (item,) if item else (), text)
        try:
            done = await desk_.alone(lambda: prdesk.decide(desk_.repo, number, wish, desk_.where))
            desk_.said = Said(done, good=True, undo=number if verb not in ("undo", "refresh") else 0)
        except PantheonError as error:
            desk_.said = Said(str(error), good=False, hint=error.hint)
    back = quote(form.get("back", "")[:100], safe="")
    return RedirectResponse(f"/#{back}" if back else "/", 303)


async def _form(request: Request) -> Mapping[str, str] | None:
    """A form's fields; None when it is too long or no form."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return None
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_BYTES:
            return None
    try:
        fields = parse_qs(data.decode("ascii"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        return None
    return {name: values[-1] for name, values in fields.items()}


# --- serving ---------------------------------------------------------------------------------------------------------


def serve(
    repo: Repo, environ: Mapping[str, str], *, port: int, idle_s: float, read_only: bool, open_browser: bool
) -> int:
    """Serve the desk until Ctrl-C or until nobody asked for `idle_s` seconds. Raises PantheonError before it starts."""
    morning.gather(repo)  # without a night there is nothing to show: say so now
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening, tempfile.TemporaryDirectory() as scratch:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
            listening.listen()  # before the link is printed: who follows it at once is kept waiting, not refused
        except (OSError, OverflowError) as error:
            raise PantheonError("cannot open the desk", f"port {port}", str(error), "git pantheon desk") from error
        desk_ = Desk(repo, listening.getsockname()[1], read_only, places(environ))
        print(f"the desk{' (read only)' if read_only else ''}: {desk_.url}")
        print(
            f"the link works once; Ctrl-C closes the desk, and so do {idle_s / 60:.0f} minutes of silence", flush=True
        )
        if open_browser and (environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")):
            _show(desk_.url, Path(scratch), environ)
        try:
            asyncio.run(_run_server(desk_, listening, idle_s))
        except KeyboardInterrupt:
            print()
    print("the desk is closed")
    return 0


def _show(url: str, scratch: Path, environ: Mapping[str, str]) -> None:
    """Open the user's browser. Through a file of theirs: everybody on the machine can read what a program was started
    with."""
    if not shutil.which("xdg-open") or not shutil.which("setsid"):
        return
    door = scratch / "desk.html"
    door.touch(mode=0o600)
    door.write_text(f'<!doctype html><meta http-equiv="refresh" content="0;url={url}"><title>The desk</title>\n')
    process.foreground(["setsid", "-f", "xdg-open", str(door)], env=environ, cwd=scratch)


async def _run_server(desk_: Desk, listening: socket.socket, idle_s: float) -> None:
    settings = uvicorn.Config(
        application(desk_),
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=64,
        timeout_keep_alive=5,
    )
    server = uvicorn.Server(settings)
    job = asyncio.create_task(server.serve(sockets=[listening]))
    while not job.done():
        left = desk_.used + idle_s - desk_.clock()
        if left <= 0:
            server.should_exit = True
        await asyncio.wait([job], timeout=min(max(left, 0.1), 5.0))
    await job
