"""Nights with a model server of the user's own, from the command line through the enclosure to the report."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai_server
import pytest
from conftest import TASK, MakeRepo, git

from pantheon import engine as engines
from pantheon import nights, process
from pantheon.git import Repo
from pantheon.prompt import read_record

NOTES = {
    "docs/tides.md": "# Tide tables\n\nTide tables are loaded every night from the harbour office. It tries twice.\n",
    "docs/boats.md": "# Boats in the harbour\n\nEvery boat in the harbour has a berth with a number.\n",
    "docs/tasks/tidy.md": TASK,
}
Typed = Callable[..., str]


def typed(root: Path, *args: str, code: int = 0) -> str:
    """What one command, in a process of its own, prints."""
    argv = [sys.executable, "-m", "pantheon.cli", *args]
    done = subprocess.run(argv, cwd=root, capture_output=True, timeout=300, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == code, said
    assert "Traceback" not in said
    return said


def name_server(url: str, model: str = openai_server.MODEL) -> None:
    """What the user writes into their own config.toml."""
    path = Path(os.environ["XDG_CONFIG_HOME"], "git-pantheon", "config.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'[engine]\nurl = "{url}"\nmodel = "{model}"\n')


@pytest.fixture(params=["tcp", "unix"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[openai_server.Server]:
    with openai_server.running(tmp_path / "theirs.sock" if request.param == "unix" else None) as server:
        name_server(server.url)
        yield server


def test_a_whole_night_through_the_relay(theirs: openai_server.Server, make_repo: MakeRepo) -> None:
    root = make_repo(NOTES)
    typed(root, "night", "--now", "--engine", "openai", "--quiet")
    repo = Repo.discover(root)
    report = nights.load_report(repo)
    assert (report.night.engine, report.night.model, report.ended) == ("openai", openai_server.MODEL, "finished")
    assert [run.outcome for run in report.runs] == ["accepted"] * 2, report.runs
    assert report.tokens_per_s > 0
    proof = json.loads(git("show", f"refs/pantheon/nights/{report.night.id}:egress.json", cwd=root))
    assert proof["closed"]
    assert proof["relay"].startswith(f"{theirs.url} at ")
    assert proof["relay"].endswith(f", model {openai_server.MODEL}")
    assert any("relay-" in one["target"] and one["error"] == "ENOENT" for one in proof["attempts"])
    sent = [one.body for one in theirs.asked if one.method == "POST"]
    names = git("ls-tree", "-r", "--name-only", report.runs[0].run_commit or "", cwd=root).splitlines()
    prompts = [name for name in names if name.endswith("llm_prompt.txt")]
    assert prompts
    for name in prompts:
        for prompt in read_record(git("show", f"{report.runs[0].run_commit}:{name}", cwd=root).encode()):
            assert any(prompt.encode() in body for body in sent)
    typed(root, "verify", "--all")
    assert not list(Path(os.environ["XDG_RUNTIME_DIR"], "git-pantheon").iterdir())


def chosen(root: Path, more: str = "") -> None:
    """The repository's own choice of the engine, trusted."""
    (root / ".pantheon").mkdir(exist_ok=True)
    (root / ".pantheon/pantheon.toml").write_text(f'schema_version = 1\n[engine]\nkind = "openai"\n{more}')
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "engine", cwd=root)
    typed(root, "trust", "--yes")


def test_the_doctor_says_whether_the_server_answers(make_repo: MakeRepo) -> None:
    root = make_repo(NOTES)
    chosen(root)
    with openai_server.running() as server:
        name_server(server.url)
        said = json.loads(typed(root, "doctor", "--json"))["model"]
        assert said["ok"], said
        assert said["detail"].startswith(f"{openai_server.MODEL} at {server.url} (127.0.0.1:")
        assert said["detail"].endswith("answers, 8192 tokens of context")
    said = json.loads(typed(root, "doctor", "--json", code=1))["model"]
    assert not said["ok"]
    assert "does not answer" in said["detail"]


def test_a_repository_chooses_the_engine_but_never_its_address(make_repo: MakeRepo) -> None:
    root = make_repo(NOTES)
    with openai_server.running() as server:
        chosen(root, f'url = "{server.url}"\n')
        said = typed(root, "night", "--now", code=1)
        assert server.connections == 0
    assert "you named none" in said
    assert 'next: put [engine] url = "http://127.0.0.1:PORT/v1"' in said


@pytest.mark.parametrize("url", ["http://203.0.113.7:80/v1", "https://localhost/v1", "http://example.invalid/v1"])
def test_a_server_that_is_not_local_is_refused_before_the_night(make_repo: MakeRepo, url: str) -> None:
    root = make_repo(NOTES)
    name_server(url)
    said = typed(root, "night", "--now", "--engine", "openai", code=1)
    assert "cannot use the model server" in said
    assert "next: edit [engine]" in said
    assert git("for-each-ref", "refs/pantheon/nights", cwd=root) == ""


def test_a_server_that_ignores_the_schema_ends_in_failed_items(
    theirs: openai_server.Server, make_repo: MakeRepo
) -> None:
    root = make_repo(NOTES)

    def chats(question: dict[str, Any]) -> openai_server.Reply:
        text = "Sure! Here is the JSON you asked for: {}"
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        return 200, {}, json.dumps({"choices": [choice]}).encode()

    theirs.misbehave = chats
    typed(root, "night", "--now", "--engine", "openai", "--quiet")
    report = nights.load_report(Repo.discover(root))
    assert report.ended == "finished"
    assert {run.outcome for run in report.runs} == {"failed"}
    assert all("calls failed" in run.reason for run in report.runs)


def test_a_server_that_dies_ends_the_night_which_resumes_with_the_same_model(make_repo: MakeRepo) -> None:
    root = make_repo(NOTES)
    chosen(root, "[night]\nwindow = 1\n")
    with openai_server.running() as server:
        name_server(server.url)

        def dies(question: dict[str, Any]) -> openai_server.Reply:
            server.models = {}
            return 503, {}, b"{}"

        server.misbehave = dies
        assert "the server is gone" in typed(root, "night", "--now", "--quiet", code=1)
        server.misbehave, server.models = lambda question: None, {"data": [{"id": openai_server.MODEL}]}
        name_server(server.url, "another")
        assert "was frozen with it, and your config.toml names another" in typed(root, "night", "--now", code=1)
        name_server(server.url)
        assert "resuming night" in typed(root, "night", "--now")
    report = nights.load_report(Repo.discover(root))
    assert report.ended == "finished"
    assert [run.outcome for run in report.runs] == ["accepted"] * 2


# --- a real one ------------------------------------------------------------------------------------------------------


@pytest.fixture
def somebodys_vllm(model_dir: Path, tmp_path: Path) -> Iterator[str]:
    """A vLLM that we do not start, on a loopback port, as somebody would start it by hand; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cpu = engines.on_cpu()
    argv = engines._server_argv(cpu, eager=True, most=32)
    argv[argv.index("--model") + 1] = str(model_dir)
    argv[argv.index("--served-model-name") + 1] = "somebodys"
    at = argv.index("--uds")
    argv[at : at + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    cache = str(engines.CACHE_INSIDE)
    own = {name: value.replace(cache, str(tmp_path / "cache")) for name, value in engines._server_env(cpu).items()}
    child = process.start(argv, stdout_path=tmp_path / "vllm.log", env={**process.base_env(), **own})
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + 600
        while True:
            assert child.alive(), (tmp_path / "vllm.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            try:
                httpx.get(f"{url}/models", timeout=5, trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(1)
        yield url
    finally:
        child.stop()


@pytest.mark.live
def test_a_whole_night_with_a_real_server_that_is_not_ours(somebodys_vllm: str, make_repo: MakeRepo) -> None:
    root = make_repo(NOTES)
    chosen(root)
    name_server(somebodys_vllm, "somebodys")
    doctor = json.loads(typed(root, "doctor", "--json"))["model"]
    assert doctor["detail"].endswith("answers, 8192 tokens of context")
    typed(root, "night", "--now", "--budget", "10m", "--quiet")
    report = nights.load_report(Repo.discover(root))
    assert (report.night.engine, report.night.model, report.ended) == ("openai", "somebodys", "finished")
    assert len(report.runs) == 2
    assert sum(run.completion_tokens for run in report.runs) > 0
    failed = [f"{run.node}: {run.reason}" for run in report.runs if run.outcome == "failed"]
    assert not [why for why in failed if "review" not in why], failed  # a small model is a weak judge, and nothing else
    typed(root, "verify", "--all")
