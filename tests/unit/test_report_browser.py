"""The page of a report in a real browser: no error, no request, and usable by keyboard."""

from pathlib import Path

import pytest
from clusters.browser import Browser, Page
from PIL import Image
from test_report_page import hostile, page_of, trained  # noqa: F401 - a fixture

from getiaction_launch.report.drawing.palette import LIGHT, LIGHT_LINES
from getiaction_launch.run.run import Run

FOCUSED = "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path):
    """Open the page about some runs."""

    def opened(*found: Run, **options: object) -> Page:
        path = tmp_path / "page.html"
        path.write_text(page_of(*found))
        return browser.open(path, **options)

    return opened


@pytest.mark.parametrize(("width", "is_dark"), [(1200, False), (1200, True), (360, False)])
def test_the_page_loads_itself_only_and_fits(open_page, trained, width, is_dark):  # noqa: F811
    """No error in the console, no second request, and nothing is wider than the screen."""
    page = open_page(trained, width=width, is_dark=is_dark)
    assert page.problems == []
    assert len(page.requests) == 1
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 27)" if is_dark else "rgb(247, 247, 245)"
    )
    for name in (".plot", ".phases", ".track .over"):
        box = f"document.querySelector('{name}').getBoundingClientRect()"
        assert page.evaluate(f"{box}.width > 200 && {box}.right <= {width}"), name


def test_curves_are_where_the_page_says(open_page, trained, tmp_path):  # noqa: F811
    """Colours of the curves and phases are in the picture: the policy has not stopped the style."""
    page = open_page(trained)
    for name, expected in ((".area", LIGHT_LINES[:2]), (".phases", [LIGHT["running"]])):
        box = f"document.querySelector('{name}').getBoundingClientRect()"
        keys = ("x", "y", "width", "height")
        clip = {key: page.evaluate(f"{box}.{key}") for key in keys}
        page.screenshot(tmp_path / "part.png", {**clip, "scale": 1})
        with Image.open(tmp_path / "part.png") as picture:
            pixels = picture.convert("RGB").getcolors(1 << 24)
        found = {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in pixels}
        assert found.issuperset(expected), name


def test_text_of_a_stranger_runs_nothing(open_page, tmp_path):
    """An attack in every text of a run changes neither the page's scripts nor its policy."""
    for found in ((hostile(tmp_path),), (hostile(tmp_path), hostile(tmp_path))):
        page = open_page(*found)
        assert page.problems == []
        assert len(page.requests) == 1
        assert page.evaluate("document.querySelectorAll('img, script:not([type])').length") == 1


def test_the_policy_stops_what_would_get_through(browser, tmp_path, trained):  # noqa: F811
    """A script and a picture that are not the page's own are refused, were they there."""
    text = page_of(trained)
    attack = "<script>document.title = 'owned'</script><img src='http://127.0.0.1:9/x'>"
    path = tmp_path / "attacked.html"
    path.write_text(text.replace("<footer>", f"{attack}<footer>"))
    page = browser.open(path)
    assert page.evaluate("document.title") == "act/version_0"
    assert len(page.problems) >= 2
    assert page.blocked == ["csp"]


def test_keys_reach_everything(open_page, trained):  # noqa: F811
    """Tab begins with a link to the content; arrows move along a curve; Enter hides one."""
    page = open_page(trained)
    page.press("Tab")
    assert page.evaluate(FOCUSED) == "Skip to the content"
    page.press("Tab")
    assert page.evaluate(FOCUSED) == "Use dark colours"
    page.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate(FOCUSED) == "Use light colours"
    page.evaluate("document.querySelector('nav a:last-child').focus()")
    page.press("Tab")
    assert page.evaluate(FOCUSED).startswith("Queued before attempt 0")
    page.press("Tab")
    assert page.evaluate("document.querySelector('.readout').textContent").startswith("Attempt 0")
    page.evaluate("document.querySelector('.plot').focus()")
    page.press("Home")
    said = "document.activeElement.getAttribute('aria-valuetext')"
    assert page.evaluate(said).startswith("step 1, val/loss 0.05, train/loss 2.1")
    page.press("ArrowRight", 19)
    assert page.evaluate(said).startswith("step 20, val/loss 0.05")
    page.press("Tab")
    page.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "false"
    hidden = "getComputedStyle(document.querySelector('.chart .stroke[data-line=\"0\"]')).display"
    assert page.evaluate(hidden) == "none"
    assert page.problems == []


def test_the_pointer_shows_values(open_page, trained):  # noqa: F811
    """What is below it stands in the legend, until it leaves."""
    page = open_page(trained)
    page.evaluate("document.querySelector('.plot').scrollIntoView()")
    x, y = page.evaluate(
        "(b => [b.right - 1, b.top + 20])(document.querySelector('.plot').getBoundingClientRect())"
    )
    page.move(x, y)
    value = "document.querySelector('.chart .legend output').textContent"
    assert page.evaluate(value) == "0.01"
    page.move(1, 1)
    assert page.evaluate(value) == ""


def test_without_a_script_the_page_is_whole(browser, tmp_path, trained):  # noqa: F811
    """Curves and tables are there; only what needs the script is not offered."""
    path = tmp_path / "page.html"
    path.write_text(page_of(trained))
    page = browser.open(path)
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.events.clear()
    page.call("Page.reload")
    browser.wait_for("Page.loadEventFired", page.session)
    assert page.evaluate("document.querySelector('#theme').hidden")
    assert page.evaluate("document.querySelectorAll('.stroke path').length") > 2
