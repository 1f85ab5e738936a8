"""The review desk: who may read, who may decide, and what is shown of what nobody knows."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import MakeRepo
from morning_after import copy, served

from pantheon import prs, webdesk
from pantheon.errors import RepositoryError
from pantheon.git import Repo
from pantheon.records import PullState

HOST = "http://127.0.0.1:8123"
SHOTS = os.environ.get("PANTHEON_SHOTS")  # a directory: keep pictures of the pages there


# --- who may ----------------------------------------------------------------------------------------------------------


class Client:
    """A browser's requests without a browser: cookies are kept, and forms come from where they say."""

    def __init__(self, repo: Repo, **options: Any) -> None:
        self.repo, self.desk = repo, webdesk.Desk(repo, 8123, **options)
        self.app, self.cookies = webdesk.application(self.desk), httpx.Cookies()

    def ask(self, method: str, path: str, *, bare: bool = False, **more: Any) -> httpx.Response:
        """One request; `bare` without the cookie."""

        async def one() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            cookies = None if bare else self.cookies
            async with httpx.AsyncClient(transport=transport, base_url=HOST, cookies=cookies) as client:
                answer = await client.request(method, path, **more)
                self.cookies.update(client.cookies)
                return answer

        return asyncio.run(one())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)

    def enter(self) -> str:
        """Use the link; the session's secret, as its forms have it."""
        assert self.get("/", params={"token": self.desk.token}).status_code == 200
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/").text)
        return found[1] if found else ""

    def post(self, path: str, form: dict[str, str], headers: dict[str, str] | None = None) -> httpx.Response:
        ours = {"Origin": HOST, "Sec-Fetch-Site": "same-origin"}
        return self.ask("POST", path, data=form, headers=ours if headers is None else headers)

    @property
    def state(self) -> PullState:
        return prs.load(self.repo, 1).state


@pytest.fixture
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(copy(tmp_path_factory))


PRIVATE = ["/", "/pr/1/diff", "/run/abcdefab", "/static/desk.js", "/nowhere"]


@pytest.mark.parametrize("path", PRIVATE)
def test_nothing_is_shown_without_the_token(client: Client, path: str) -> None:
    refused = client.get(path)
    assert refused.status_code == 401
    assert "git pantheon desk" in refused.text
    assert "set-cookie" not in refused.headers
    assert "oven" not in refused.text


@pytest.mark.parametrize("token", ["", "x", "é", "A" * 43])
def test_a_wrong_token_opens_nothing(client: Client, token: str) -> None:
    assert client.get("/", params={"token": token}).status_code == 401
    assert client.get("/").status_code == 401
    assert client.enter()  # and the right one still does


def test_the_token_opens_one_session_and_is_spent(client: Client) -> None:
    token = client.desk.token
    assert client.ask("HEAD", "/", params={"token": token}).status_code == 401  # a look at the link spends nothing
    opened = client.get("/", params={"token": token})
    cookie = opened.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "path=/"))
    assert token not in opened.text
    assert client.get("/", params={"token": token}).status_code == 303  # who has the session is let in
    assert client.get("/", params={"token": token}, bare=True).status_code == 401
    assert client.get("/", params={"token": ""}, bare=True).status_code == 401
    assert "docs/oven.md" in client.get("/").text


def test_another_desk_s_session_and_forms_are_of_no_use(
    client: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Client(copy(tmp_path_factory))
    theirs, ours = other.enter(), client.enter()
    assert theirs != ours
    client.cookies, mine = other.cookies, client.cookies
    assert client.get("/").status_code == 401
    assert client.post("/pr/1", {"verb": "accept", "csrf": ours}).status_code == 401
    client.cookies = mine
    assert client.post("/pr/1", {"verb": "accept", "csrf": theirs}).status_code == 403
    assert client.state is PullState.OPEN


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:81", "localhost", "[::1]:8123", "127.0.0.1:8123.evil"]
)
def test_a_name_that_points_here_is_not_our_name(client: Client, host: str) -> None:
    form = {"verb": "accept", "csrf": client.enter()}
    assert client.get("/", headers={"Host": host}).status_code == 421
    assert client.get("/", params={"token": client.desk.token}, headers={"Host": host}).status_code == 421
    here = {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin", "Host": host}
    assert client.post("/pr/1", form, here).status_code == 421
    assert client.state is PullState.OPEN


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:8124"},
        {"Origin": "https://127.0.0.1:8123"},
        {"Origin": "http://localhost:8123"},
        {"Origin": HOST, "Sec-Fetch-Site": "cross-site"},
        {"Origin": HOST, "Sec-Fetch-Site": "same-site"},
        {"Origin": HOST, "Sec-Fetch-Site": "none"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_form_from_another_page_decides_nothing(client: Client, headers: dict[str, str]) -> None:
    form = {"verb": "accept", "csrf": client.enter()}
    assert client.post("/pr/1", form, headers).status_code == 403
    assert client.state is PullState.OPEN


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": HOST},
        {"Origin": HOST, "Sec-Fetch-Site": "same-origin"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_a_form_from_our_page_decides(client: Client, headers: dict[str, str]) -> None:
    form = {"verb": "reject", "csrf": client.enter(), "text": "no", "back": "pr-1"}
    done = client.post("/pr/1", form, headers)
    assert (done.status_code, done.headers["location"]) == (303, "/#pr-1")
    assert client.state is PullState.REJECTED


@pytest.mark.parametrize("csrf", [None, "", "x", "é"])
def test_a_form_without_the_session_s_secret_decides_nothing(client: Client, csrf: str | None) -> None:
    client.enter()
    assert client.post("/pr/1", {"verb": "accept"} | ({} if csrf is None else {"csrf": csrf})).status_code == 403
    assert client.state is PullState.OPEN


def test_a_form_is_a_form_and_not_too_long(client: Client) -> None:
    secret, ours = client.enter(), {"Origin": HOST, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/pr/1", {"verb": "reject", "csrf": secret, "text": "x" * 20_000}).status_code == 403
    plain = {**ours, "Content-Type": "text/plain"}
    said = f"verb=accept&csrf={secret}"
    assert client.ask("POST", "/pr/1", content=said, headers=plain).status_code == 403
    assert client.ask("POST", "/pr/1", json={"verb": "accept", "csrf": secret}, headers=ours).status_code == 403
    many = "&".join(f"f{number}=1" for number in range(50))
    typed = {**ours, "Content-Type": "application/x-www-form-urlencoded"}
    assert client.ask("POST", "/pr/1", content=f"{said}&{many}", headers=typed).status_code == 403
    assert client.post("/pr/1", {"verb": "purge", "csrf": secret}).status_code == 400
    assert client.post("/pr/1", {"verb": "never", "csrf": secret}).status_code == 400  # not of a whole PR
    assert client.state is PullState.OPEN


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH"])
def test_no_other_method_decides(client: Client, method: str) -> None:
    secret = client.enter()
    headers = {"Origin": HOST, "Sec-Fetch-Site": "same-origin"}
    answer = client.ask(method, "/pr/1", params={"verb": "accept", "csrf": secret}, headers=headers)
    assert answer.status_code == 405
    assert client.state is PullState.OPEN


def test_a_desk_to_read_has_no_form_and_takes_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    client = Client(copy(tmp_path_factory), read_only=True)
    assert client.get("/").status_code == 401
    client.enter()
    text = client.get("/").text
    assert "docs/oven.md" in text
    assert "<form" not in text
    assert client.post("/pr/1", {"verb": "accept", "csrf": client.desk.csrf}).status_code == 403
    assert client.state is PullState.OPEN


def test_every_answer_is_fenced_in(client: Client) -> None:
    run = prs.load(client.repo, 1).items[0].run
    client.enter()
    asked = ["/", "/static/htmx.min.js", "/pr/1/diff", f"/run/{run}", f"/run/{run}/checks/diff.patch", "/nowhere"]
    answers = [
        *(client.get(path) for path in asked),
        client.get("/", bare=True),
        client.get("/", headers={"Host": "x"}),
    ]
    for answer in answers:
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert "server" not in headers
    page = client.get("/").text
    assert not re.search(r"\son\w+=|<style|\sstyle=|javascript:|<script>", page)


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_what_a_run_left_is_text_and_nothing_else(client: Client) -> None:
    run = next(item.run for item in prs.load(client.repo, 1).items if item.target == "docs/oven.md")
    client.enter()
    page = client.get(f"/run/{run}").text
    links = re.findall(r'href="(/run/[^"]+)"', page)
    assert f"/run/{run}/checks/diff.patch" in links
    for link in links:
        shown = client.get(link)
        assert shown.status_code == 200
        assert shown.headers["content-type"] == "text/plain; charset=utf-8"
        assert shown.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert client.get("/pr/1/diff").text.count("diff --git") == 4


@pytest.mark.parametrize(
    "path",
    ["/run/zz", "/run/abcdefab", "/run/abcdefab/checks/x", "/run/{run}/../x", "/run/{run}/checks/none", "/pr/9/diff"],
)
def test_what_is_not_there_is_said_in_words(client: Client, path: str) -> None:
    run = prs.load(client.repo, 1).items[0].run
    client.enter()
    missing = client.get(path.replace("{run}", run))
    assert missing.status_code == 404
    assert "Traceback" not in missing.text


def test_text_is_bounded_and_drives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdesk, "TEXT_BYTES", 64)
    shown = bytes(webdesk._text("\x1b[2J\u202e<b>\tline\r\nnext \xff".encode() + b"\xfe" * 100).body).decode()
    assert shown.startswith("\\x1b[2J\\u202e<b>    line\nnext ÿ\\udcfe")
    assert "bytes are left out here" in shown


def test_an_error_of_the_user_s_is_shown_with_its_hint(client: Client) -> None:
    secret = client.enter()
    (client.repo.root / "docs/oven.md").write_text("mine\n")
    assert client.post("/pr/1", {"verb": "accept", "csrf": secret}).status_code == 303
    page = client.get("/").text
    assert 'role="alert"' in page
    assert "your changes to docs/oven.md would be overwritten" in page
    assert "git stash" in page
    assert "would be overwritten" not in client.get("/").text  # it was said
    assert (client.repo.root / "docs/oven.md").read_text() == "mine\n"
    assert client.post("/pr/7", {"verb": "accept", "csrf": secret}).status_code == 303
    assert "No such PR: 7" in client.get("/").text
    assert client.post("/pr/1", {"verb": "reject", "text": "  ", "csrf": secret}).status_code == 303
    assert "Nothing was done: say why." in client.get("/").text


def test_without_a_night_there_is_no_desk(make_repo: MakeRepo) -> None:
    repo = Repo.discover(make_repo())
    with pytest.raises(RepositoryError, match="no night has ended"):
        webdesk.serve(repo, {}, port=0, idle_s=1.0, read_only=False, open_browser=False)


# --- the process ------------------------------------------------------------------------------------------------------


def test_nobody_there_closes_the_desk(tmp_path_factory: pytest.TempPathFactory) -> None:
    argv = [sys.executable, "-m", "pantheon.cli", "desk", "--no-open", "--idle", "1s"]
    repo = copy(tmp_path_factory)
    done = subprocess.run(argv, cwd=repo.root, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("the desk is closed\n")


def test_the_browser_is_opened_through_a_file_that_only_the_user_can_read(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """What a program was started with can be read by everybody."""
    repo, seen = copy(tmp_path_factory), tmp_path / "seen"
    (tmp_path / "xdg-open").write_text(
        f'#!/bin/sh\nstat -c %a "$1" "${{1%/*}}" > {seen}.new\necho "$*" >> {seen}.new\n'
        f'cat "$1" >> {seen}.new\nmv {seen}.new {seen}\n'
    )
    (tmp_path / "xdg-open").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "DISPLAY": ":7"}
    with served(repo, opened=True, env=env) as url:
        for _ in range(600):
            if seen.exists():
                break
            time.sleep(0.1)
        modes, folder, argument, page = seen.read_text().splitlines()
        token = url.partition("token=")[2]
        assert (modes, folder) == ("600", "700")
        assert token not in argument
        assert f"url={url}" in page
    assert not Path(argument).exists()


def test_a_port_that_is_taken_is_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    repo = copy(tmp_path_factory)
    with served(repo) as url:
        port = url.partition("/?")[0].rpartition(":")[2]
        argv = [sys.executable, "-m", "pantheon.cli", "desk", "--no-open", "--port", port]
        done = subprocess.run(argv, cwd=repo.root, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr
