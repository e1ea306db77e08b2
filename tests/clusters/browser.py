"""A real browser without a window, for tests of pages: Debian's Chromium, driven by its pipe.

It is asked in the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/) over two
pipes, so that neither a port nor a library is needed.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

INSTALL = "apt-get install -y --no-install-recommends chromium"
LIMIT_SECONDS = 120
_ROOT = ("--no-sandbox",)  # as root it has no sandbox, and only pages of the tests are opened
_KEYS = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}


def missing() -> str | None:
    """Why this machine has no browser, with the remedy; None if it has one."""
    return None if shutil.which("chromium") else f"chromium: {INSTALL}"


class Browser:
    """A browser without a window; it ends with the ``with`` block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> "Browser":  # noqa: PYI034 - nothing derives from it
        asks, self._asks = os.pipe()
        self._answers, answers = os.pipe()
        flags = [
            *("--headless", "--remote-debugging-pipe", "--disable-gpu", "--hide-scrollbars"),
            *("--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"),
            *(_ROOT if os.geteuid() == 0 else ()),
            f"--user-data-dir={self._directory / 'profile'}",
        ]
        # The protocol is spoken on the descriptors 3 and 4.
        script = f'exec chromium "$@" 3<&{asks} 4>&{answers}'
        with (self._directory / "chromium.log").open("w") as log:
            self._process = subprocess.Popen(
                ["/bin/bash", "-c", script, "chromium", *flags],
                pass_fds=(asks, answers),
                stdout=log,
                stderr=log,
            )
        os.close(asks)
        os.close(answers)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.call("Browser.close")  # its other processes end with it
            self._process.wait(timeout=LIMIT_SECONDS)
        finally:
            self._process.kill()
        os.close(self._asks)
        os.close(self._answers)

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        """Ask, and wait for the answer; events that come meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._asks, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def wait_for(self, method: str, session: str) -> None:
        """Wait for an event, which may have come before."""
        while not any(
            event.get("method") == method and event.get("sessionId") == session
            for event in self.events
        ):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT_SECONDS
        while b"\0" not in self._buffer:
            left = max(0, deadline - time.monotonic())
            assert select.select([self._answers], [], [], left)[0], "the browser does not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, (self._directory / "chromium.log").read_text()
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, width: int = 1200, *, is_dark: bool = False) -> "Page":
        """Open a local page in a new tab, and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("Page.loadEventFired", page.session)
        return page


class Page:
    """One page in a tab of its own."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Ask about this page."""
        return self.browser.call(method, self.session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript; DevTools obey no policy of the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """Press a key."""
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                self.call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code=key,
                    windowsVirtualKeyCode=_KEYS[key],
                )
                if kind == "rawKeyDown" and key == "Enter":
                    self.call("Input.dispatchKeyEvent", type="char", key=key, text="\r")

    def move(self, x: float, y: float) -> None:
        """Move the pointer."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, clip: dict[str, float] | None = None) -> None:
        """Save a picture of what is seen, or of a part of the page."""
        part = {"clip": clip} if clip else {}
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, **part)
        path.write_bytes(base64.b64decode(answer["data"]))

    @property
    def problems(self) -> list[dict[str, Any]]:
        """Errors and warnings of the console, of scripts, and of the page's security policy."""
        self.evaluate("0")  # what was reported before this answer has arrived
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self._events() if event["method"] in kinds]

    @property
    def requests(self) -> list[str]:
        """URLs of what the page has loaded, the page too."""
        self.evaluate("0")
        asked = (e for e in self._events() if e["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in asked]

    @property
    def blocked(self) -> list[str]:
        """Why requests of the page were not sent."""
        self.evaluate("0")
        failed = (e["params"] for e in self._events() if e["method"] == "Network.loadingFailed")
        return [event["blockedReason"] for event in failed if "blockedReason" in event]

    def _events(self) -> list[dict[str, Any]]:
        return [e for e in self.browser.events if e.get("sessionId") == self.session]
