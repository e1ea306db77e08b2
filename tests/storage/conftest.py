"""What tests of storage share."""

import time
from collections.abc import Callable

import pytest

LIMIT_SECONDS = 30


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for a condition; fail after the limit."""

    def wait(condition: Callable[[], object], limit_seconds: float = LIMIT_SECONDS) -> None:
        deadline = time.monotonic() + limit_seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"nothing came of it in {limit_seconds} s")
            time.sleep(0.02)

    return wait
