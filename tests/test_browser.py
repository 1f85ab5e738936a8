"""The morning report in a real browser: it asks nothing of anybody, needs no script, and everybody can read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from sample_night import morning, poisoned

from pantheon import page as pages
from pantheon.morning import templates

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Scheme = Literal["light", "dark"]
UNFOLD = "document.querySelectorAll('details').forEach(one => one.open = true)"
CLIPPED = """() => [...document.querySelectorAll('body *')].filter(one => {
    const style = getComputedStyle(one)
    return style.overflowX !== 'visible' && style.position !== 'absolute' && !(one instanceof SVGElement)
        && (one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1) && one.clientWidth > 1
}).map(one => one.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    small = morning(nights=2, items=12, canaries=8)
    nights = {
        "night": morning(halted=True),
        "small": small,
        "hostile": poisoned(small),
        "bare": morning(nights=0, canaries=0),
    }
    for name, one in nights.items():
        (folder / f"{name}.html").write_text(pages.html(one, templates()), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in nights}


@contextmanager
def opened(
    browser: Browser,
    file: Path,
    *,
    width: int = 1180,
    scheme: Scheme = "light",
    scripts: bool = True,
    policy: bool = True,
) -> Iterator[Page]:
    """A page of its own, closed at the end, which holds that the page asked for nothing and complained of nothing."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        java_script_enabled=scripts,
        bypass_csp=not policy,
    )
    asked: list[str] = []
    said: list[str] = []
    try:
        tab = context.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.goto(file.as_uri())
        yield tab
        assert asked == [file.as_uri()]
        assert said == []
    finally:
        context.close()


def test_it_is_whole_without_scripts(browser: Browser, files: dict[str, Path]) -> None:
    with opened(browser, files["night"], scripts=False) as tab:
        assert tab.title() == "Morning report of night 2026-11-26-1"
        assert [one.inner_text() for one in tab.locator("h2").all()] == [
            *("What needs you", "What it was worth", "Pull requests", "What happened", "Trends")
        ]
        item = tab.locator("details.item").first
        assert not item.locator("pre").is_visible()
        item.locator("summary").click()
        assert item.locator("ins").first.is_visible()
        assert tab.locator("svg[role=img]").count() >= 14


@pytest.mark.parametrize(
    ("name", "scheme"), [("small", "light"), ("small", "dark"), ("hostile", "light"), ("bare", "dark")]
)
def test_axe_finds_nothing(browser: Browser, files: dict[str, Path], name: str, scheme: Scheme) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(browser, files[name], scheme=scheme, policy=False) as tab:
        tab.evaluate(UNFOLD)
        found = axe.run(tab, options={"resultTypes": ["violations"]})
        assert found.violations_count == 0, found.generate_report()


def test_light_and_dark_are_two_designs(browser: Browser, files: dict[str, Path]) -> None:
    def colours(scheme: Scheme) -> list[str]:
        with opened(browser, files["bare"], scheme=scheme) as tab:
            style = "getComputedStyle(document.body)"
            return [tab.evaluate(f"{style}.{what}") for what in ("backgroundColor", "color")]

    light, dark = colours("light"), colours("dark")
    assert light[0] != dark[0] and light[1] != dark[1]


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser: Browser, files: dict[str, Path]) -> None:
    with opened(browser, files["night"]) as tab:
        wanted = tab.evaluate(
            """() => [...document.querySelectorAll('a[href], summary, [tabindex="0"]')]
                .filter(one => one.checkVisibility()).map((one, n) => one.dataset.n = String(n))"""
        )
        assert len(wanted) > 40
        seen: list[str] = []
        for _ in wanted:
            tab.keyboard.press("Tab")
            name, outline = tab.evaluate(
                "[document.activeElement.dataset.n ?? '', getComputedStyle(document.activeElement).outlineStyle]"
            )
            assert outline != "none"
            seen.append(name)
        assert seen == wanted
        tab.keyboard.press("Shift+Tab")


def test_the_first_key_offers_to_skip_what_is_above_the_text(browser: Browser, files: dict[str, Path]) -> None:
    with opened(browser, files["night"]) as tab:
        tab.keyboard.press("Tab")
        skip = tab.locator(".skip")
        assert skip.evaluate("one => one === document.activeElement && one.getBoundingClientRect().top >= 0")
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.activeElement.id") == "main"


def test_a_screen_reader_finds_sections_charts_and_their_tables(browser: Browser, files: dict[str, Path]) -> None:
    with opened(browser, files["night"]) as tab:
        assert tab.get_by_role("banner").count() == tab.get_by_role("contentinfo").count() == 1
        assert tab.get_by_role("main").count() == tab.get_by_role("navigation", name="Sections").count() == 1
        for name in ("Items done over the night", "Learning curves", "What tools refused", "Forecast against actual"):
            assert tab.get_by_role("img", name=name, exact=True).count() == 1
        tab.evaluate(UNFOLD)
        assert tab.get_by_role("group", name="Numbers: Learning curves").get_by_role("table").count() == 1


@pytest.mark.parametrize("name", ["night", "hostile", "bare"])
def test_a_telephone_never_scrolls_sideways(browser: Browser, files: dict[str, Path], name: str) -> None:
    with opened(browser, files[name], width=360) as tab:
        for _ in range(2):
            assert tab.evaluate("document.documentElement.scrollWidth") == 360
            tab.evaluate(UNFOLD)
        small = tab.evaluate(
            "Math.min(...[...document.querySelectorAll('.chart text')].map(one => one.getBoundingClientRect().height))"
        )
        assert small >= 9  # px: letters in charts can be read


@pytest.mark.parametrize("name", ["night", "hostile"])
def test_paper_has_the_diffs_and_cuts_nothing(browser: Browser, files: dict[str, Path], name: str) -> None:
    with opened(browser, files[name], width=688, scheme="dark") as tab:  # an A4 page without its margins
        tab.emulate_media(media="print", color_scheme="dark")
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert tab.evaluate("document.documentElement.scrollWidth") <= 688
        assert tab.evaluate(CLIPPED) == []
        heights = tab.evaluate(
            "[...document.querySelectorAll('.item .diff')].map(one => one.getBoundingClientRect().height)"
        )
        assert heights and min(heights) > 20
        assert not tab.locator(".sections").is_visible()


def test_what_records_hold_is_read_and_never_run(browser: Browser, files: dict[str, Path]) -> None:
    with opened(browser, files["hostile"], policy=False) as tab:
        tab.evaluate(UNFOLD)
        tab.mouse.move(300, 300)
        assert tab.evaluate("window.pwned") is None
        assert tab.locator("script, img, iframe, form").count() == 0
        assert "<script>window.pwned=1</script>" in tab.inner_text("main")


def test_the_policy_forbids_what_could_ever_slip_in(browser: Browser, files: dict[str, Path]) -> None:
    """The escaping is the wall, this is the one behind it."""
    text = files["bare"].read_text(encoding="utf-8")
    bad = files["bare"].with_name("bad.html")
    bad.write_text(
        text.replace("</main>", "<script>window.pwned=1</script><img src='http://127.0.0.1:9/x'></main>"),
        encoding="utf-8",
    )
    context = browser.new_context()
    tab = context.new_page()
    refused: list[Any] = []
    tab.on("console", lambda message: refused.append(message.text))
    tab.goto(bad.as_uri())
    assert tab.evaluate("window.pwned") is None
    assert any("script" in line for line in refused) and any("127.0.0.1:9" in line for line in refused)
    context.close()
