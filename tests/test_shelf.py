"""The shelf of models: what is listed, taken, refused; a kill leaves a whole model or none; the hub by day only."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import MakeRepo

from pantheon import enclosure, process, shelf
from pantheon.cli import main
from pantheon.errors import EngineError
from pantheon.git import Repo
from pantheon.models import DEFAULT_MODEL
from pantheon.places import Places, places

Shell = Callable[..., str]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def weights(count: int = 6, dtype: str = "BF16", size: int | None = None) -> bytes:
    """A safetensors file of one tensor with two bytes a number."""
    end = 2 * count if size is None else size
    tensor = {"dtype": dtype, "shape": [count], "data_offsets": [0, end]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": tensor})
    return struct.pack("<Q", len(header)) + header.encode() + bytes(2 * count)


FILES: dict[str, bytes] = {
    "config.json": b'{"max_position_embeddings": 2048, "dtype": "bfloat16"}',
    "tokenizer.json": b'{"added_tokens": []}',
    "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
    "model.safetensors": weights(),
}


def a_model(at: Path, **changes: bytes | None) -> Path:
    """A model's directory; `changes` by file name with `_` for its dot."""
    at.mkdir(parents=True)
    for name, data in {**FILES, **{key.replace("__", "."): value for key, value in changes.items()}}.items():
        if data is not None:
            (at / name).write_bytes(data)
    return at


@pytest.fixture
def where() -> Places:
    return places(os.environ)


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """`shell(directory, *words, code=0)`: what `git pantheon model` prints."""

    def type_(cwd: Path, *words: str, code: int = 0) -> str:
        monkeypatch.chdir(cwd)
        got = main(["model", *words])
        said = capfd.readouterr()
        assert got == code, said
        assert "Traceback" not in said.err
        return said.out + said.err

    return type_


def nothing_left(where: Places) -> bool:
    return not where.models.exists() or not list(where.models.iterdir())


# --- adding a directory ----------------------------------------------------------------------------------------------


def test_a_directory_is_added_used_and_listed(shell: Shell, make_repo: MakeRepo, tmp_path: Path, where: Places) -> None:
    root = make_repo()
    source = a_model(tmp_path / "tiny", README__md=b"no", modeling__py=b"no", LICENSE=b"yes")
    assert "next: git pantheon model use tiny" in shell(root, "add", str(source))
    added = where.models / "tiny"
    assert {path.name for path in added.iterdir()} == {*FILES, "LICENSE", shelf.MANIFEST}
    assert all((added / name).read_bytes() == data for name, data in FILES.items())
    assert "git pantheon trust" in shell(root, "use", "tiny")
    assert (root / ".pantheon/pantheon.toml").read_text() == 'schema_version = 1\n\n[engine]\nmodel = "tiny"\n'
    (one,) = json.loads(shell(root, "list", "--json"))["models"]
    assert (one["name"], one["parameters"], one["dtype"], one["context"]) == ("tiny", 6, "BF16", 2048)
    assert (one["template"], one["used"], one["fault"]) == (True, False, "")  # not committed yet
    assert one["source"] == str(source)
    for argv in (["git", "add", "-A"], ["git", "commit", "-qm", "model"]):
        assert process.foreground(argv, env=dict(os.environ), cwd=root) == 0
    assert "*  tiny" in shell(root)


def test_the_copy_does_not_change_with_what_others_could_write(tmp_path: Path, where: Places, shell: Shell) -> None:
    source = a_model(tmp_path / "tiny")
    (source / "model.safetensors").chmod(0o666)
    shell(tmp_path, "add", "./tiny")
    with (source / "model.safetensors").open("r+b") as file:
        file.write(b"\xff" * 8)
    assert (where.models / "tiny/model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_links_inside_are_followed_and_links_out_are_refused(tmp_path: Path, where: Places, shell: Shell) -> None:
    source = a_model(tmp_path / "tiny")
    (source / "blobs").mkdir()
    (source / "model.safetensors").rename(source / "blobs" / "x")
    (source / "model.safetensors").symlink_to("blobs/x")
    shell(tmp_path, "add", "tiny")
    assert not (where.models / "tiny/model.safetensors").is_symlink()
    other = a_model(tmp_path / "out")
    (other / "tokenizer.json").unlink()
    (other / "tokenizer.json").symlink_to("/etc/passwd")
    assert "is a link to outside of it" in shell(tmp_path, "add", "out", code=1)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"config__json": None}, "no config.json"),
        ({"config__json": b'{"auto_map": {"AutoModel": "modeling.X"}}'}, "a program of its own"),
        ({"config__json": b"[1]"}, "not a JSON object"),
        ({"tokenizer_config__json": b"{}"}, "no chat template"),
        ({"tokenizer_config__json": b'{"chat_template": "{% for %}"}'}, "no chat template"),
        ({"model__safetensors": None, "pytorch_model__bin": b"x"}, "no *.safetensors"),
        ({"model__safetensors": b"\x80\x02}q\x00."}, "no safetensors file"),
        ({"model__safetensors": struct.pack("<Q", 1 << 62) + b"{}"}, "does not fit"),
        ({"model__safetensors": struct.pack("<Q", 2) + b"[]"}, "no safetensors file"),
        ({"model__safetensors": weights(size=999)}, "lies outside"),
        ({"model__safetensors": weights(size=-1)}, "lies outside"),
        (
            {"model__safetensors__index__json": b'{"weight_map": {"w": "b.safetensors"}}'},
            "b.safetensors is",
        ),
        ({"model__safetensors__index__json": b'{"weight_map": 3}'}, "is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_no_model_is_refused_and_nothing_of_it_stays(
    tmp_path: Path, where: Places, shell: Shell, changes: dict[str, bytes | None], why: str
) -> None:
    a_model(tmp_path / "tiny", **changes)
    assert why in shell(tmp_path, "add", "tiny", code=1)
    assert nothing_left(where)


@pytest.mark.parametrize("name", [".hidden", "default", "a:b", "git~1", "x."])
def test_a_name_with_another_meaning_is_refused(tmp_path: Path, where: Places, shell: Shell, name: str) -> None:
    a_model(tmp_path / name)
    assert "cannot be its name" in shell(tmp_path, "add", f"./{name}", code=1)
    assert nothing_left(where)


def test_a_model_that_is_there_is_never_overwritten(tmp_path: Path, where: Places, shell: Shell) -> None:
    a_model(tmp_path / "tiny")
    a_model(where.models / "tiny", config__json=b'{"mine": 1}')
    assert "never overwritten" in shell(tmp_path, "add", "tiny", code=1)
    assert (where.models / "tiny/config.json").read_bytes() == b'{"mine": 1}'


def test_an_interrupt_leaves_nothing(
    tmp_path: Path, where: Places, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    a_model(tmp_path / "tiny")
    monkeypatch.setattr(shelf, "_take", interrupted)
    shell(tmp_path, "add", "tiny", code=130)
    assert nothing_left(where)


def test_a_model_for_which_there_is_no_room_is_refused(
    tmp_path: Path, where: Places, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_model(tmp_path / "tiny")
    full = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert "are free" in shell(tmp_path, "add", "tiny", code=1)
    assert nothing_left(where)


# --- using -----------------------------------------------------------------------------------------------------------


def test_use_keeps_comments_and_everything_else(
    shell: Shell, make_repo: MakeRepo, where: Places, tmp_path: Path
) -> None:
    text = '# mine\nschema_version = 1\n\n[engine]\nkind = "vllm"   # ours\nmodel = "default"   # small\n'
    text += "\n[night]\nwindow = 3\n"
    root = make_repo({".pantheon/pantheon.toml": text})
    a_model(where.models / "tiny")
    shell(root, "use", "tiny")
    assert (root / ".pantheon/pantheon.toml").read_text() == text.replace('"default"', '"tiny"')
    assert "already" in shell(root, "use", "tiny")
    far = a_model(tmp_path / "far")
    shell(root / ".pantheon", "use", str(far))
    assert (root / ".pantheon/pantheon.toml").read_text() == text.replace('"default"', f'"{far}"')
    a_model(where.models / DEFAULT_MODEL)
    shell(root, "use", DEFAULT_MODEL)
    assert (root / ".pantheon/pantheon.toml").read_text() == text


def test_use_refuses_what_no_night_could_start(shell: Shell, make_repo: MakeRepo, where: Places) -> None:
    root = make_repo()
    assert "cannot find the model" in shell(root, "use", "missing", code=1)
    assert "nothing is ever downloaded" in shell(root, "use", "hf:owner/name", code=1)
    a_model(where.models / "mute", tokenizer_config__json=b"{}")
    assert "no chat template" in shell(root, "use", "mute", code=1)
    assert not (root / ".pantheon").exists()


@pytest.mark.parametrize("text", ["engine = 3\n", "[engine\n", "\xff"])
def test_use_refuses_a_file_that_it_cannot_read(shell: Shell, make_repo: MakeRepo, where: Places, text: str) -> None:
    root = make_repo({".pantheon/pantheon.toml": text.encode("latin-1")})
    a_model(where.models / "tiny")
    assert "cannot change: .pantheon/pantheon.toml" in shell(root, "use", "tiny", code=1)
    assert (root / ".pantheon/pantheon.toml").read_bytes() == text.encode("latin-1")


def test_use_does_not_write_through_a_link(shell: Shell, make_repo: MakeRepo, where: Places, tmp_path: Path) -> None:
    root = make_repo()
    a_model(where.models / "tiny")
    (tmp_path / "theirs").write_text("")
    (root / ".pantheon").mkdir()
    (root / ".pantheon/pantheon.toml").symlink_to(tmp_path / "theirs")
    assert "it is a link" in shell(root, "use", "tiny", code=1)
    assert (tmp_path / "theirs").read_text() == ""


def test_list_says_what_is_wrong_with_a_model_and_names_the_users_server(
    shell: Shell, tmp_path: Path, where: Places
) -> None:
    assert "next: ./install.sh" in shell(tmp_path, "list")
    a_model(where.models / "odd\x1b[2Jname", model__safetensors=b"x")
    where.config.mkdir(parents=True)
    (where.config / "config.toml").write_text('[engine]\nurl = "http://127.0.0.1:9/v1"\nmodel = "m"\n')
    said = shell(tmp_path, "list")
    assert "\x1b" not in said
    assert "no safetensors file" in said
    assert "m at http://127.0.0.1:9/v1, your own server" in said


# --- the hub ---------------------------------------------------------------------------------------------------------


class Hub:
    """A hub on loopback with one repository, as far as a download asks it."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked, self.headers = files, list[str](), list[str]()

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                hub.asked.append(self.path)
                hub.headers.append(str(self.headers))
                path = unquote(self.path.partition("?")[0])
                names = [{"rfilename": name, "size": len(data)} for name, data in hub.files.items()]
                about = {"id": "owner/tiny", "sha": COMMIT, "siblings": names}
                if path in ("/api/models/owner/tiny/revision/main", f"/api/models/owner/tiny/revision/{COMMIT}"):
                    return self._send(json.dumps(about).encode(), {})
                name = path.removeprefix(f"/owner/tiny/resolve/{COMMIT}/")
                if name in hub.files:
                    return self._send(hub.files[name], {"ETag": f'"{name}-1"', "X-Repo-Commit": COMMIT})
                return self._send(b"{}", {}, 404)

            def _send(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
                self.send_response(status)
                for key, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


networked = pytest.mark.skipif(
    {name for _, name in socket.if_nameindex()} <= {"lo"}, reason="this machine has no network interface"
)


@networked
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_model_comes_from_the_hub_at_one_commit_without_programs_and_without_a_token(
    where: Places, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_TOKEN", "marker-4711")
    hub = Hub({**FILES, "modeling_tiny.py": b"print()", "pytorch_model.bin": b"x", "sub/config.json": b"{}"})
    with hub.running() as endpoint:
        environ = {**os.environ, "HF_ENDPOINT": endpoint}
        assert shelf.add(tmp_path, where, "hf:owner/tiny", environ) == 0
        with pytest.raises(EngineError, match="never overwritten"):
            shelf.add(tmp_path, where, "hf:owner/tiny", environ)
        with pytest.raises(EngineError, match="did not give it"):
            shelf.add(tmp_path, where, "hf:owner/missing", environ)
    assert {path.name for path in (where.models / "tiny").iterdir()} == {*FILES, shelf.MANIFEST}
    assert json.loads((where.models / "tiny" / shelf.MANIFEST).read_bytes())["source"] == {
        "repository": "owner/tiny",
        "revision": COMMIT,
    }
    assert all(f"/resolve/{COMMIT}/" in path for path in hub.asked if "/resolve/" in path)
    assert "marker-4711" not in "".join(hub.headers)
    assert not [path for path in hub.asked if path.endswith((".py", ".bin"))]
    assert [path.name for path in where.models.iterdir()] == ["tiny"]


@networked
def test_a_hub_that_cannot_be_reached_is_an_error_with_its_reason(where: Places, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        environ = {"HF_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}"}
        with pytest.raises(EngineError, match="did not give it"):
            shelf.add(tmp_path, where, "hf:owner/tiny", environ)
    assert nothing_left(where)


@networked
def test_without_the_hubs_library_the_error_says_where_it_comes_from(
    where: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(EngineError, match="not installed") as caught:
        shelf.add(tmp_path, where, "hf:owner/tiny", {})
    assert caught.value.hint == "./install.sh"


@pytest.mark.parametrize(
    "name", ["hf:", "hf:name", "hf:a/b/c", "hf:../x", "hf:a/..", "hf:a/b@", "hf:a/b c", "hf:https://x/y"]
)
def test_a_name_that_is_none_of_the_hubs_is_refused(where: Places, tmp_path: Path, shell: Shell, name: str) -> None:
    assert "hf:OWNER/NAME" in shell(tmp_path, "add", name, code=1)
    assert nothing_left(where)


def test_at_night_nothing_is_downloaded(make_repo: MakeRepo, where: Places, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import os, socket; line = socket.socket(fileno=os.dup(0)); line.sendall(b'h'); line.close()\n"
    code += "import sys; from pantheon.cli import main; sys.exit(main(['model', 'add', 'hf:owner/tiny']))"
    sandbox = enclosure.night_sandbox(Repo.discover(make_repo()), where, None, {})
    argv = [sys.executable, "-P", "-c", code]
    assert process.enclosed(argv, sandbox=sandbox, order=b"", keep=(), on_ready=lambda: None) == 1
    assert "at night nothing is downloaded" in capfd.readouterr().err
