"""The tools that look: at a file, through a window, for a text, at what a file declares, and at what a check says.

For agents of any flow. None changes a byte; all answers are bounded, and a text is searched for as it stands, never as
a pattern.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from pydantic import Field

from pantheon.errors import ConfigError, ToolError
from pantheon.records import Offer, Record
from pantheon.tools import links, syntax
from pantheon.tools.tool import Tool
from pantheon.tools.workspace import MAX_BYTES, Workspace

WINDOW = 100  # lines
WIDTH = 200  # characters of a line that are shown
MAX_SHOWN = 8_000  # characters of a whole file
MAX_HITS = 20
MAX_SYMBOLS = 200
MAX_OFFERED = 12  # files or windows among which a model chooses
MAX_SEARCHED = 2_000  # files
MAX_SEARCHED_BYTES = 16 * 1024 * 1024
_NO_TEXT = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".ico", ".pdf", ".woff", ".woff2", ".ttf"),
        *(".zip", ".gz", ".xz", ".zst", ".tar", ".whl", ".jar", ".class", ".so", ".dll", ".exe"),
    }
)


class PathArgs(Record):
    """`path`: "" is the target."""

    path: str = Field(default="", max_length=1000)


class SearchArgs(Record):
    text: str = Field(min_length=1, max_length=120)
    word: bool = False


class ViewArgs(Record):
    """A window by its number, or the one around a line; with neither the first, or where the focus is."""

    window: int = Field(default=0, ge=0, le=100_000)
    line: int = Field(default=0, ge=0, le=10_000_000)
    path: str = Field(default="", max_length=1000)


class CheckArgs(Record):
    name: str = Field(min_length=1, max_length=60)


class FileText(Record):
    path: str
    text: str
    lines: int
    whole: bool


class Hit(Record):
    path: str
    line: int
    text: str


class Hits(Record):
    hits: tuple[Hit, ...]
    files: int  # that were searched
    more: bool


class Window(Record):
    path: str
    text: str  # each line behind its number
    first: int
    last: int
    lines: int  # of the file
    window: int
    windows: int


class Declared(Record):
    name: str
    kind: str
    line: int
    end_line: int
    documented: bool


class Symbols(Record):
    path: str
    symbols: tuple[Declared, ...]
    more: bool


class Checked(Record):
    passed: bool
    detail: str


def text_of(ws: Workspace, path: str) -> str:
    """A file as text. ToolError: there is none, or it is no text that we show."""
    raw = ws.look(path)
    if raw is None:
        raise ToolError("cannot read", ascii(path), "no such file")
    text = _decoded(raw)
    if text is None:
        raise ToolError("cannot read", ascii(path), f"not UTF-8 text of at most {MAX_BYTES} bytes")
    return text


def _decoded(raw: bytes) -> str | None:
    if len(raw) > MAX_BYTES or b"\0" in raw:
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def lines_of(text: str) -> list[str]:
    """The lines without their ends; a last line feed ends a line and begins none."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."


def reachable(ws: Workspace) -> Iterator[str]:
    """The target and the files it has to do with, the nearest first: those that link to it and that it links to, those
    named after it, those beside it, and then all others."""
    tree, folder = ws.facts.tree, posixpath.dirname(ws.origin)
    stem = posixpath.basename(ws.origin).partition(".")[0].casefold()
    near = list(ws.facts.inbound.get(ws.origin, ()))
    if ws.target.lower().endswith((".md", ".markdown")):
        found = (links.resolve(ws.origin, link, tree) for link in links.find(ws.look(ws.target) or b""))
        near += sorted({path for path in found if path is not None})
    if len(stem) > 2:
        near += [path for path in ws.facts.paths if stem in posixpath.basename(path).casefold()]
    near += [path for path in ws.facts.paths if posixpath.dirname(path) == folder]
    yield ws.target
    for path in dict.fromkeys([*near, *ws.facts.paths]):
        if path not in (ws.origin, ws.target) and path.isprintable() and _ending(path) not in _NO_TEXT:
            yield path


def _ending(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _near(ws: Workspace) -> tuple[str, ...]:
    paths = (path for path in reachable(ws) if path != ws.target)
    return tuple(path for path, _ in zip(paths, range(MAX_OFFERED), strict=False))


def read_file(ws: Workspace, args: PathArgs) -> FileText:
    """A file from its beginning, cut at the end of a line."""
    path = args.path or ws.target
    text = text_of(ws, path)
    lines = len(lines_of(text))
    if len(text) <= MAX_SHOWN:
        return FileText(path=path, text=text, lines=lines, whole=True)
    cut = text[:MAX_SHOWN].rpartition("\n")[0] or text[:MAX_SHOWN]
    return FileText(path=path, text=cut, lines=lines, whole=False)


def offer_files(ws: Workspace) -> tuple[Offer, ...]:
    """Another file, among those nearest to the target."""
    near = _near(ws)
    return (Offer(tool="read_file", args={"path": near}, again=True),) if near else ()


def search(ws: Workspace, args: SearchArgs) -> Hits:
    """The lines that hold a text, those of the nearest files first."""
    wanted = args.text.encode("utf-8")
    hits: list[Hit] = []
    files = size = 0
    for path in reachable(ws):
        if files >= MAX_SEARCHED or size >= MAX_SEARCHED_BYTES:
            return Hits(hits=tuple(hits), files=files, more=True)
        raw = ws.look(path)
        if raw is None:
            continue
        files, size = files + 1, size + len(raw)
        text = _decoded(raw) if wanted in raw else None
        for number, line in enumerate(lines_of(text) if text else (), 1):
            if _holds(line, args.text, args.word):
                if len(hits) == MAX_HITS:
                    return Hits(hits=tuple(hits), files=files, more=True)
                hits.append(Hit(path=path, line=number, text=_cut(line.strip())))
    return Hits(hits=tuple(hits), files=files, more=False)


def _holds(line: str, text: str, word: bool) -> bool:
    at = line.find(text)
    while at >= 0:
        around = line[at - 1 : at] + line[at + len(text) : at + len(text) + 1]
        if not word or not any(char.isalnum() or char == "_" for char in around):
            return True
        at = line.find(text, at + 1)
    return False


def offer_search(ws: Workspace) -> tuple[Offer, ...]:
    return (Offer(tool="search", args={"text": None}, max_length=80, again=True),)


def view(ws: Workspace, args: ViewArgs) -> Window:
    """About a hundred lines of a file with their numbers."""
    path = args.path or ws.target
    text = text_of(ws, path)
    lines = lines_of(text)
    windows = max(1, -(-len(lines) // WINDOW))
    if args.window > windows or args.line > max(1, len(lines)):
        raise ToolError("cannot view", ascii(path), f"it has {len(lines)} lines, in {windows} windows")
    line = args.line or (_focused_line(ws, text) if path == ws.target and not args.window else 0)
    first = 1 + WINDOW * (max(1, args.window) - 1)
    if line and not args.window:
        first = max(1, min(line - WINDOW // 2, len(lines) - WINDOW + 1))
    shown = lines[first - 1 : first - 1 + WINDOW]
    return Window(
        path=path,
        text="\n".join(f"{number:>5}  {_cut(one)}" for number, one in enumerate(shown, first)),
        first=first,
        last=first + len(shown) - 1,
        lines=len(lines),
        window=args.window or (line or first) // WINDOW + 1,
        windows=windows,
    )


def _focused_line(ws: Workspace, text: str) -> int:
    found = syntax.symbols(ws.target, text.encode("utf-8")) if ws.focus else ()
    return next((one.line for one in found if one.name == ws.focus), 0)


def offer_view(ws: Workspace) -> tuple[Offer, ...]:
    """The windows of a target that has several."""
    count = -(-len(lines_of(text_of(ws, ws.target))) // WINDOW)
    numbers = tuple(str(number) for number in range(1, min(count, MAX_OFFERED) + 1))
    return (Offer(tool="view", args={"window": numbers}, again=True),) if count > 1 else ()


def list_symbols(ws: Workspace, args: PathArgs) -> Symbols:
    """The functions, classes and methods of a file."""
    path = args.path or ws.target
    if not syntax.has_symbols(path):
        raise ToolError("cannot list the symbols", ascii(path), "it is in no language that is known here")
    found = syntax.symbols(path, text_of(ws, path).encode("utf-8"))
    shown = (
        Declared(name=s.name, kind=s.kind, line=s.line, end_line=s.end_line, documented=s.documented)
        for s in found[:MAX_SYMBOLS]
    )
    return Symbols(path=path, symbols=tuple(shown), more=len(found) > MAX_SYMBOLS)


def offer_symbols(ws: Workspace) -> tuple[Offer, ...]:
    near = tuple(path for path in _near(ws) if syntax.has_symbols(path))
    return (Offer(tool="list_symbols", args={"path": near}, again=True),) if near else ()


async def run_check(ws: Workspace, args: CheckArgs) -> Checked:
    """What a named check says of the worktree as it is now."""
    if ws.checker is None:
        raise ToolError("cannot run the check", ascii(args.name), "no checks can be run here")
    if ws.checks and args.name not in ws.checks:
        raise ToolError("cannot run the check", ascii(args.name), f"known: {', '.join(ws.checks)}")
    try:
        (result,) = await ws.checker([args.name])
    except ConfigError as error:
        raise ToolError("cannot run the check", ascii(args.name), error.why) from error
    return Checked(passed=result.passed, detail=result.detail)


def offer_checks(ws: Workspace) -> tuple[Offer, ...]:
    return (Offer(tool="run_check", args={"name": ws.checks}, again=True),) if ws.checks and ws.checker else ()


TOOLS = (
    Tool("read_file", "read a file", PathArgs, FileText, {"path": "docs/backups.md"}, read_file, offer_files),
    Tool("search", "find the lines that hold a text", SearchArgs, Hits, {"text": "restic"}, search, offer_search),
    Tool("view", "look at one window of the file", ViewArgs, Window, {"window": "2"}, view, offer_view),
    Tool(
        "list_symbols",
        "list the functions, classes and methods of a file",
        PathArgs,
        Symbols,
        {"path": "src/backup.py"},
        list_symbols,
        offer_symbols,
    ),
    Tool(
        "run_check",
        "run a named check on the files as they are now",
        CheckArgs,
        Checked,
        {"name": "tests"},
        run_check,
        offer_checks,
        timeout_s=900.0,
    ),
)
