"""Draw report.png: the page of a real run of the example, which is cancelled once and resumed.

It needs Debian's package ``chromium``.

    python docs/images/make_report.py
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(__file__).with_name("report.png")
LAUNCH = [sys.executable, "-m", "getiaction_launch.cli"]
CANCELLED_AT_EPOCH, EPOCHS = 6, 16
LIMIT_SECONDS = 600
WIDTH = 1120
COLOURS = 128

sys.path.insert(0, str(ROOT / "tests"))
from clusters.browser import Browser  # noqa: E402 - the tests' browser


def launch(directory: Path, *words: str) -> str:
    """Type a command of the launcher, and return what it prints."""
    result = subprocess.run(
        [*LAUNCH, *words], cwd=directory, check=True, stdout=subprocess.PIPE, text=True
    )
    return result.stdout.strip()


def train(directory: Path) -> Path:
    """Train the example in two attempts, and return the run's directory."""
    spec = ["--config", str(ROOT / "examples/act_tiny.yaml")]
    spec += [f"--trainer.max_epochs={EPOCHS}", "--trainer.log_every_n_steps=1"]
    run = Path(launch(directory, "--nodes", "2", "--parsable", *spec))
    deadline = time.monotonic() + LIMIT_SECONDS
    while _epoch(run) < CANCELLED_AT_EPOCH:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the run has not come to epoch {CANCELLED_AT_EPOCH}: {run}")
        time.sleep(0.2)
    launch(directory, "cancel", str(run))
    launch(directory, "resume", str(run))
    launch(directory, "logs", "-f", str(run))
    return run


def _epoch(run: Path) -> int:
    try:
        return int(json.loads((run / "launch/progress.json").read_text()).get("epoch") or 0)
    except FileNotFoundError:
        return 0


def main() -> None:
    """Train, report, and take the upper part of the page, with the timeline and the first chart."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        page = launch(directory, "report", str(train(directory)))
        picture = directory / "page.png"
        with Browser(directory) as browser:
            opened = browser.open(Path(page), WIDTH)
            chart = "document.querySelector('.chart').getBoundingClientRect()"
            height = opened.evaluate(f"Math.ceil({chart}.bottom)")
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 2}
            opened.screenshot(picture, clip)
        with Image.open(picture) as image:
            image.convert("RGB").quantize(COLOURS).save(TARGET, optimize=True)
    print(f"{TARGET}: {TARGET.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
