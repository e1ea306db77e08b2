"""The site is built of the pages without a warning, has all of them, and can be read offline."""

import html
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from clusters.browser import Browser
from reader import ROOT, blocks

from getiaction_launch.cli.main import VERBS

(COMMAND,) = (
    line
    for kind, code in blocks("CONTRIBUTING.md")
    if kind == "bash"
    for line in code.splitlines()
    if line.startswith("sphinx-build")
)
PHONE, DESKTOP = 390, 1400  # widths in pixels


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the built site; a warning fails every test of it."""
    program, *words, directory = shlex.split(COMMAND)
    assert "-W" in words  # a warning is an error, such as a link that leads nowhere
    built = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [str(Path(sys.executable).with_name(program)), "--keep-going", *words, str(built)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert directory == "build/docs"
    return built


def text_of(page: Path) -> str:
    """Return what a reader of a page sees."""
    return html.unescape(re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8")))


def test_every_page_can_be_reached_from_the_first(site):
    """The sidebar has each page of the clone."""
    first = (site / "index.html").read_text(encoding="utf-8")
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    names = {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in pages}
    assert names - set(re.findall(r'href="([^"#]+)', first)) == {"README.html"}
    assert (site / "README.html").read_text(encoding="utf-8") == first


def test_reference_has_every_command_with_its_flags(site):
    """They come from the parsers, whose help texts are shown, too."""
    text = text_of(site / "docs/commands.html")
    assert [verb for verb in VERBS if f"getiaction-launch {verb}" not in text] == []
    for shown in ("--max-node-failures N", "restart at most N times after a lost node", "--rank N"):
        assert shown.lower() in text.lower()
    shared = text.partition("getiaction-launch check")[2].partition("getiaction-launch drill")[0]
    assert "--deep" in shared
    assert "Restart at most" not in shared  # it is described once, in the first section


def test_reference_has_every_public_name(site):
    """They come from the docstrings."""
    page = (site / "docs/python.html").read_text(encoding="utf-8")
    names = {"getiaction_launch.prepare", "getiaction_launch.Run", "getiaction.train.Trainer"}
    names |= {"getiaction.policies.ACT", "getiaction.demo.DotDataModule"}
    assert [name for name in names if f'id="{name}"' not in page] == []


def test_diagram_is_a_table(site):
    """GitHub draws it; here nothing is loaded from elsewhere for it."""
    page = site / "docs/how-it-works.html"
    assert "stateDiagram" not in page.read_text(encoding="utf-8")
    assert re.search(r"RUNNING\s+CANCELLED\s+cancel", text_of(page))


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_pages_are_read_offline_on_a_desk_and_on_a_phone(
    site: Path, browser: Browser, *, is_dark: bool
) -> None:
    """A browser finds nothing to complain of, loads no other site, and scrolls no page sideways."""
    for name in ("index", "docs/commands", "docs/python", "docs/what-can-go-wrong"):
        for width in (PHONE, DESKTOP):
            page = browser.open(site / f"{name}.html", width, is_dark=is_dark)
            assert page.problems == []
            assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
            assert page.evaluate("document.documentElement.scrollWidth") == width, name
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 384) is is_dark
