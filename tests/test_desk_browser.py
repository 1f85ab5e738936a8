"""A morning at the review desk in a real browser: with the mouse, with keys, with scripts and without."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from conftest import git
from morning_after import TARGETS, copy, served

from pantheon import desk, prs
from pantheon.git import Repo
from pantheon.records import PullState
from pantheon.survey import survey
from pantheon.verify import load_trust, verify

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

SHOTS = os.environ.get("PANTHEON_SHOTS")  # a directory: keep pictures of the pages there


@pytest.fixture(scope="module", autouse=True)
def night(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The night is run before the browser's event loop takes this thread."""
    copy(tmp_path_factory)


@dataclass
class Seat:
    """A browser at a desk that `git pantheon desk` serves."""

    repo: Repo
    page: Page
    url: str
    expect: Any
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def item(self, target: str) -> Any:
        return self.page.locator("details.item", has=self.page.get_by_role("heading", name=target))

    def said(self, text: str) -> None:
        self.expect(self.page.locator(".said:not([hidden])")).to_contain_text(text)

    def shot(self, name: str) -> None:
        if SHOTS:
            self.page.screenshot(path=Path(SHOTS) / f"desk-{name}.png", full_page="full" in name)

    @property
    def live(self) -> list[str]:
        return sorted(item.target for item in prs.load(self.repo, 1).live)


@contextmanager
def seated(repo: Repo, browser: Browser, *options: str, **more: Any) -> Iterator[Seat]:
    """A browser that opened the link. Whatever it asked for was ours, and no policy was broken."""
    with served(repo, *options) as url:
        context: BrowserContext = browser.new_context(viewport={"width": 1100, "height": 900}, **more)
        context.set_default_timeout(30_000)
        page = context.new_page()
        seat = Seat(repo, page, url.partition("?")[0], pytest.importorskip("playwright.sync_api").expect)
        context.on("request", lambda request: seat.asked.append(request.url))
        page.on(
            "console", lambda said: seat.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: seat.complaints.append(str(error)))
        page.goto(url)
        page.wait_for_url(seat.url)
        yield seat
        context.close()
    assert seat.complaints == []
    assert seat.asked
    assert [address for address in seat.asked if not address.startswith((seat.url, "data:"))] == []


def faults(repo: Repo) -> list[str]:
    return [fault.why for fault in verify(repo.common_dir, load_trust(repo.common_dir), "all").faults]


@pytest.mark.parametrize("scripts", [True, False], ids=["htmx", "plain"])
def test_a_morning_with_the_mouse(tmp_path_factory: pytest.TempPathFactory, browser: Browser, scripts: bool) -> None:
    repo = copy(tmp_path_factory)
    head = repo.head().commit
    with seated(repo, browser, java_script_enabled=scripts) as seat:
        page = seat.page
        seat.shot("first")
        oven = seat.item("docs/oven.md")
        oven.get_by_role("button", name="Reject").click()  # without a reason the form does not leave the page
        assert len(seat.live) == 4
        oven.get_by_label("Why not").fill("the title is <b>wrong</b>")
        oven.get_by_role("button", name="Reject").click()
        seat.said("PR 1: 1 item is rejected")
        seat.expect(seat.item("docs/oven.md")).to_contain_text("You said no: the title is <b>wrong</b>")
        seat.shot("rejected")
        assert seat.live == [target for target in TARGETS if "oven" not in target]
        ropes = seat.item("docs/ropes.md")
        ropes.get_by_label("Why not").fill("keep the tags")
        ropes.get_by_role("button", name="Try again").click()
        seat.said("tried again next night")
        (again,) = desk.make_plan(repo, survey(repo, repo.head().commit)).items
        assert (again.target, again.hint) == ("docs/ropes.md", "keep the tags")
        page.locator(".said").get_by_role("button", name="Undo").click()
        seat.said("PR 1 is open again with 3 items")
        seat.item("docs/boats.md").get_by_role("button", name="Never").click()
        seat.said("not offered again")
        page.get_by_role("button", name="Accept PR 1").click()
        seat.said("PR 1 accepted: 2 items are on main")
        seat.expect(page.get_by_role("button", name="Accept PR 1")).to_have_count(0)
        seat.shot("accepted")
        assert repo.head().commit != head
        assert prs.load(repo, 1).state is PullState.ACCEPTED
        page.locator(".said").get_by_role("button", name="Undo").click()
        seat.said("main is back at")
        assert repo.head().commit == head
        assert git("status", "--porcelain", cwd=repo.root) == ""
        (repo.root / "docs/tides.md").write_text("mine\n")
        page.get_by_role("button", name="Accept PR 1").click()
        seat.said("your changes to docs/tides.md would be overwritten")
        seat.said("git stash")
        seat.shot("refused")
        if scripts:
            assert page.url == seat.url  # nothing but the middle of the page was exchanged
    assert faults(repo) == []


def test_a_morning_with_keys(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> None:
    repo = copy(tmp_path_factory)
    with seated(repo, browser) as seat:
        page = seat.page
        press: Callable[[str], None] = page.keyboard.press
        press("?")
        seat.expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
        seat.shot("keys")
        press("j")  # nothing behind the list
        press("Escape")
        order = page.locator("details.item h4").all_inner_texts()
        press("j")
        press("j")
        press("j")
        press("k")
        seat.expect(page.locator("details.item.at h4")).to_have_text(order[1])
        press("r")
        page.keyboard.type("just no")
        field = page.locator("details.item.at").get_by_label("Why not")
        seat.expect(field).to_have_value("just no")
        seat.expect(field).to_be_in_viewport()
        seat.shot("reason")
        press("Enter")
        seat.said("1 item is rejected")
        seat.expect(page.locator("details.item.at h4")).to_have_text(order[1])  # where we were
        assert sorted(seat.live) == sorted({*order} - {order[1]})
        press("j")
        press("t")
        page.keyboard.type("jkau once more")  # letters in a field are letters
        press("Enter")
        seat.said("tried again next night")
        assert prs.load(repo, 1).items[2].reason == "jkau once more"
        press("u")
        seat.said("open again with 3 items")
        press("u")
        seat.said("open again with 4 items")
        press("a")
        seat.said("4 items are on main")
        assert prs.load(repo, 1).state is PullState.ACCEPTED
        press("u")
        seat.said("main is back at")
    assert faults(repo) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_desk_can_be_read_by_everybody(
    tmp_path_factory: pytest.TempPathFactory, browser: Browser, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    repo = copy(tmp_path_factory)
    with seated(repo, browser, color_scheme=scheme) as seat:
        seat.item("docs/oven.md").get_by_role("button", name="Leave out").click()
        seat.said("left out")
        if scheme == "light":
            seat.page.set_viewport_size({"width": 390, "height": 844})
            assert seat.page.evaluate("document.documentElement.scrollWidth") <= 390
            seat.item("docs/ropes.md").get_by_role("button", name="Never").scroll_into_view_if_needed()
            seat.shot("telephone")
            seat.page.set_viewport_size({"width": 1100, "height": 900})
        seat.shot(f"{scheme}-full")
        for place in ("", f"run/{prs.load(repo, 1).items[0].run}"):
            if place:
                seat.page.goto(seat.url + place)
                seat.shot(f"{scheme}-run")
            found = axe.run(seat.page).response["violations"]
            assert found == [], [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]


def test_a_desk_to_read_and_a_second_visitor(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> None:
    repo = copy(tmp_path_factory)
    with seated(repo, browser, "--read-only") as seat:
        seat.expect(seat.page.get_by_role("button")).to_have_count(0)
        seat.expect(seat.item("docs/oven.md")).to_be_visible()
        for key in "jaru":
            seat.page.keyboard.press(key)
        other = httpx.get(seat.url)
        assert (other.status_code, "private" in other.text) == (401, True)
        seat.shot("read-only")
    assert prs.load(repo, 1).state is PullState.OPEN
