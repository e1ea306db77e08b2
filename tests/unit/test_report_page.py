"""The page of a report: nothing of a run becomes code, it is small, and its colours can be read."""

import base64
import hashlib
import html
import itertools
import json
import re
import struct
from array import array
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_runs as runs
from tensorboard.compat.proto.event_pb2 import Event

from getiaction_launch.cli.main import main
from getiaction_launch.launch.status import read_status
from getiaction_launch.plan.plan import SweepPoint
from getiaction_launch.report.comparison import compare
from getiaction_launch.report.contents import curves as drawn
from getiaction_launch.report.contents.run_report import read_report
from getiaction_launch.report.contents.scalars import Curve
from getiaction_launch.report.drawing import palette
from getiaction_launch.report.drawing.chart import HEIGHT, WIDTH, draw
from getiaction_launch.report.drawing.page import render
from getiaction_launch.report.drawing.track import lay_out
from getiaction_launch.run.run import Run
from getiaction_launch.storage.strict_json import dumps

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'\u202e\x1b[2J"


class Outline(HTMLParser):
    """What of a page matters to those who do not see it, and to what may run in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        """Keep every element."""
        self.tags.append((tag, dict(attrs)))

    def named(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of this name."""
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture
def trained(tmp_path) -> Run:
    """A run of two attempts with curves, ranks and a checkpoint."""
    run = runs.make(tmp_path / "experiments")
    stopped = {"state": "INTERRUPTED", "cause": "preemption", "reason": "preempted"}
    runs.add_attempt(run, 0, 5, 90, goes_on=True, last_step=60, **stopped)
    runs.add_attempt(run, 1, 120, 200, first_step=60, last_step=100)
    runs.add_events(run.directory, runs.falling("train/loss", range(1, 101), 20))
    values = [("val/loss", step, 1 / step, 20 + step) for step in (20, 40, 60, 80, 100)]
    runs.add_events(run.directory, values, name="events.out.tfevents.2.host.1.0")
    phases = {"fetching": 5.0, "forward": 30.0, "waiting": 9.0}
    runs.add_beats(run, 1, 0, lambda _: phases)
    (run.directory / "checkpoints").mkdir()
    (run.directory / "checkpoints/epoch=0-step=100.ckpt").write_bytes(b"12345")
    runs.finish(run, metrics={"val/loss": 0.01, "train/loss": 0.2})
    return run


def page_of(*found: Run) -> str:
    """The page about these runs."""
    return render([read_report(read_status(run)) for run in found])


def hostile(root: Path) -> Run:
    """A run in which every text is an attack."""
    name = EVIL.replace("/", "\u2215")
    point = SweepPoint(EVIL, {EVIL: EVIL})
    run = runs.make(root, "evil", sweep=point)
    plan = run.read("plan")
    plan |= {"words": [EVIL], "working_directory": EVIL, "env_vars": {EVIL: "1"}}
    run.write("plan", plan)
    run.write("job", {"job_id": EVIL, "backend": {"class_path": f"a.{EVIL}"}, "submitted_at": 1.0})
    runs.add_attempt(run, 0, 5, 90, state="FAILED", cause="crash", reason=EVIL, head=f"{EVIL}:1")
    metrics = {EVIL: 0.5, "loss": 0.5}
    run.write("progress", {"step": 2, "metrics": metrics, "monitored": [EVIL], "best": {EVIL: 1}})
    scalars = [(tag, step, 0.5, 10 + step) for tag in metrics for step in (1, 2, 3)]
    runs.add_events(run.directory, scalars, name=f"events.out.tfevents.1.{name}")
    stall = {"noticed_at": runs.T0 + 80, "reason": EVIL}
    runs.add_beats(run, 0, 0, lambda _: {"fetching": 1.0, EVIL: 5.0}, stall=stall)
    (run.directory / "config.yaml").write_text(json.dumps({"model": {EVIL: EVIL}}))
    folder = run.directory / "checkpoints"
    folder.mkdir()
    (folder / f"{name}.ckpt").write_bytes(b"1")
    (run.launch_directory / "beats/attempt_0_node_1.json").write_text(json.dumps({"attempt": EVIL}))
    return run


@pytest.mark.parametrize("number", [1, 2])
def test_no_text_of_a_run_becomes_an_element(tmp_path, number):
    """The page of an attack has the same kinds of elements as any other, and no text unescaped."""
    page = page_of(*(hostile(tmp_path) for _ in range(number)))
    outline = Outline(page)
    assert outline.named("img") == []
    assert [each.get("type") for each in outline.named("script")] == ["application/json", None]
    assert {name for _, a in outline.tags for name in a if name.startswith("on")} == set()
    assert not [a for _, a in outline.tags if "style" in a]
    assert page.count("</script>") == 2
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert r"onerror=alert(2)&gt;&#34;&#39;\u202e\x1b[2J" in page  # it was not just left out


def test_the_policy_of_the_page_allows_its_own_script_and_style_only(trained):
    """By their hashes; nothing is loaded, and no form or base can be smuggled in."""
    page = page_of(trained)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page)[1])
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    texts = {
        "script-src": re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1],
        "style-src": re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1],
    }
    for name, text in texts.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(name) == f"'sha256-{digest}'"
    assert rules == {}
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)
    assert "url(" not in texts["style-src"]


def test_headings_and_labels_are_there_for_those_who_do_not_see(trained):
    """One first heading, no level left out, and a label for all that can be reached by a key."""
    outline = Outline(page_of(trained))
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in outline.tags:
        assert attributes.get("aria-labelledby", ids[0]) in ids
    for link in outline.named("a"):
        assert link["href"].removeprefix("#") in ids
    focusable = [(t, a) for t, a in outline.tags if a.get("tabindex") == "0" and t != "pre"]
    assert focusable
    assert all(attributes.get("aria-label") for _, attributes in focusable)
    for tag, attributes in outline.tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") or attributes.get("aria-label")
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
    (document,) = outline.named("html")
    assert document["lang"] == "en"


def test_each_chart_has_a_table(trained):
    """Its first, last, lowest and highest values are text."""
    page = page_of(trained)
    figures = page.count('<figure class="chart"')
    assert figures == page.count(" as a table</summary>") == 2
    assert "0.01 at step 100" in page


@pytest.mark.parametrize(
    ("colours", "lines"),
    [(palette.LIGHT, palette.LIGHT_LINES), (palette.DARK, palette.DARK_LINES)],
    ids=["light", "dark"],
)
def test_colours_can_be_read(colours, lines):
    """Text has a contrast of 4.5 to 1 on both backgrounds, curves and phases 3 to 1 on theirs."""
    for name, ground in itertools.product(palette.TEXT, ("page", "card")):
        assert palette.contrast(colours[name], colours[ground]) >= 4.5, name
    for name in palette.AREAS:
        assert palette.contrast(colours[name], colours["card"]) >= 3, name
    for colour in lines:
        assert palette.contrast(colour, colours["card"]) >= 3, colour
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21)


# Machado, Oliveira and Fernandes 2009, for severity 1; for colours as light, without gamma.
BLIND = {
    "protanopia": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deuteranopia": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "tritanopia": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize("lines", [palette.LIGHT_LINES, palette.DARK_LINES], ids=["light", "dark"])
def test_the_first_curves_differ_for_the_colour_blind(lines, kind):
    """The colours of the first four curves stay apart as others see them."""
    seen = []
    for colour in lines[:4]:
        channels = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
        mixed = [sum(a * c for a, c in zip(row, channels, strict=True)) for row in BLIND[kind]]
        seen.append([255 * min(max(m, 0), 1) ** (1 / 2.2) for m in mixed])
    for one, other in itertools.combinations(seen, 2):
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 40


def test_the_page_of_a_million_steps_is_small(tmp_path):
    """A logged value for each step: below 2 MB, and the one spike is there."""
    run = runs.make(tmp_path)
    event = Event(wall_time=runs.T0)
    event.summary.value.add(tag="loss")
    frames = []
    for step in range(1, 1_000_001):
        event.step, event.wall_time = step, runs.T0 + step
        event.summary.value[0].simple_value = 77.0 if step == 654_321 else 1 + step % 7
        data = event.SerializeToString()
        frames.append(struct.pack("<QI", len(data), 0) + data + b"____")
    (run.directory / "events.out.tfevents.1.x").write_bytes(b"".join(frames))
    page = page_of(run)
    assert len(page.encode()) < 2_000_000
    assert "77 at step 654" in page


def test_the_page_of_many_curves_is_small():
    """Curves share what a page may have, in groups of which only the first are drawn."""
    source = Curve(array("d", range(20_000)), array("d", (i * 37 % 1009 for i in range(20_000))))
    groups = drawn.groups({f"metric_{i % 40}/{i}": source for i in range(120)}, None)
    charts = [draw(str(i), group) for i, group in enumerate(groups)]
    assert len(charts) == drawn.MOST_GROUPS
    paths = sum(len(stroke.path) + len(stroke.smooth) for c in charts for stroke in c.strokes)
    assert paths + len(dumps([chart.data for chart in charts])) < 1_800_000


@pytest.mark.parametrize(
    "values",
    [[0.5], [0.0, 0.0], [-1e300, 1e300], [1e-320, 1e299], [5e-324, 1e-323], [1, 1 + 1e-15]],
)
def test_any_values_are_drawn_inside_of_their_chart(values):
    """No scale divides by zero or overflows, and each has a label."""
    source = Curve(array("d", range(len(values))), array("d", values))
    chart = draw("x", drawn.Group("x", "", [drawn.line("x", source)]))
    numbers = [float(text) for text in re.findall(r"-?[\d.]+", chart.strokes[0].path)]
    assert all(0 <= x <= WIDTH for x in numbers[::2])
    assert all(-1 <= y <= HEIGHT + 1 for y in numbers[1::2])
    assert chart.y_ticks


def test_a_long_stop_is_drawn_short(tmp_path):
    """Two days in a queue leave room for the minutes of training, and say that they are cut."""
    run = runs.make(tmp_path)
    runs.add_attempt(run, 0, 0, 60, state="INTERRUPTED", goes_on=True)
    runs.add_attempt(run, 1, 2 * 86_400, 2 * 86_400 + 60)
    runs.add_events(run.directory, [("loss", 1, 1.0, 10), ("loss", 2, 1.0, 2 * 86_400 + 10)])
    runs.finish(run)
    report = read_report(read_status(run))
    queued = next(p for p in lay_out(report.timeline).pieces if p.label.startswith("Queued before"))
    cut = [piece for piece in lay_out(report.timeline).pieces if piece.is_cut]
    assert queued.width < WIDTH
    assert any("1 d 23 h" in piece.label or "2 d 0 h" in piece.label for piece in cut)
    assert max(piece.width for piece in cut) < 200


def test_runs_of_a_sweep_are_compared_by_their_best_value(tmp_path):
    """The table names the swept values and the best run; charts name the curves by them."""
    for place, rate in enumerate(("0.1", "0.2")):
        point = SweepPoint("sweep-1", {"model.init_args.lr": rate})
        run = runs.make(tmp_path, "sweep", sweep=point)
        scalars = [("val/loss", step, place + 1 / step, step) for step in (1, 2, 3)]
        runs.add_events(run.directory, scalars)
        runs.finish(run, metrics={"val/loss": place + 1 / 3})
    found = [Run(tmp_path / f"sweep/version_{i}") for i in (0, 1)]
    table = compare([read_report(read_status(run)) for run in found])
    assert table.keys == ["model.init_args.lr"]
    assert [(row.sweep, row.is_best) for row in table.rows] == [(["0.1"], True), (["0.2"], False)]
    assert [line.name for line in table.groups[0].lines] == ["lr=0.1", "lr=0.2"]
    page = page_of(*found)
    assert "Comparison of 2 runs" in page
    assert "Best val/loss: 0.3333, of lr=0.1." in page


def test_the_verb_writes_next_to_the_run_and_prints_where(trained, monkeypatch, capsys):
    """Several runs have a file in the working directory; a link in its place is replaced."""
    monkeypatch.chdir(trained.directory.parents[2])
    other = trained.directory / "precious"
    other.write_text("mine")
    (trained.directory / "report.html").symlink_to("precious")
    assert main(["report", "act/version_0"]) == 0
    path = trained.directory / "report.html"
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_text().startswith("<!doctype html>")
    assert other.read_text() == "mine"
    second = runs.make(trained.directory.parents[1], "act")
    assert main(["report", "act/version_0", str(second.directory)]) == 0
    assert capsys.readouterr().out == "report.html\n"
    assert "Comparison of 2 runs" in Path("report.html").read_text()


def test_json_is_the_data_and_writes_nothing(trained, monkeypatch, capsys):
    """It has what the page shows; with --output the page is written, too."""
    monkeypatch.chdir(trained.directory.parents[2])
    assert main(["report", "--json", "act/version_0"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["runs"]
    assert report["state"] == "SUCCEEDED"
    assert [attempt["reason"] for attempt in report["timeline"]["attempts"]] == ["preempted", ""]
    assert report["groups"][0]["lines"][0]["name"] == "val/loss"
    assert report["stragglers"] == []
    assert not (trained.directory / "report.html").exists()
    assert main(["report", "--json", "--output", "x.html", "act/version_0"]) == 0
    assert Path("x.html").exists()


def test_the_page_is_opened_in_the_browser_of_the_user(getiaction_launch, tmp_path):
    """What BROWSER names gets the file's URL; no program is started without --open."""
    runs.make(tmp_path / "experiments")
    url = (tmp_path / "experiments/act/version_0/report.html").as_uri()
    opened = getiaction_launch("report", "--open", "act/version_0", BROWSER="echo to see %s")
    assert f"to see {url}\n" in opened.stdout
    assert "to see" not in getiaction_launch("report", "@last", BROWSER="echo to see %s").stdout


def test_mistakes_of_the_output_are_named(trained, monkeypatch, capsys):
    """A directory that is missing, and one that has the file's name."""
    monkeypatch.chdir(trained.directory.parents[2])
    assert main(["report", "--output", "no/x.html", "act/version_0"]) == 2
    said = capsys.readouterr().err
    assert said == "error: --output no/x.html: there is no directory no.\nmkdir -p no\n"
    assert main(["report", "--output", "experiments", "act/version_0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --output experiments: it is a directory.\n")


def test_a_page_that_cannot_be_written_is_an_error_with_a_way_out(trained, monkeypatch, capsys):
    """The disk's own words, and where to write instead; nothing is left behind."""
    monkeypatch.chdir(trained.directory.parents[2])

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "report.html")

    monkeypatch.setattr(Path, "replace", refuse)
    assert main(["report", "act/version_0"]) == 3
    assert capsys.readouterr().err == (
        "error: the report cannot be written: report.html: Permission denied.\n"
        "Write it elsewhere: --output report.html\n"
    )
    assert not list(trained.directory.glob(".report*"))


def test_what_cannot_be_read_is_on_the_page_and_said(trained, monkeypatch, capsys):
    """A damaged record has a sentence in both places."""
    monkeypatch.chdir(trained.directory.parents[2])
    (trained.launch_directory / "plan.json").write_text("{damaged")
    assert main(["report", "act/version_0"]) == 0
    assert "plan.json is not JSON" in capsys.readouterr().err
    page = (trained.directory / "report.html").read_text()
    assert "What could not be read" in page
    assert "plan.json is not JSON" in page
