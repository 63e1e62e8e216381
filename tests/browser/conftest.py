"""What all tests in a browser need: a browser, and where there is none, a word about it."""

from __future__ import annotations

import pytest
from chapters.environment import IN_CI


@pytest.fixture(scope="session", autouse=True)
def browser_available() -> None:
    """Fails in CI where no browser is there, and skips elsewhere."""
    missing = _missing()
    if missing and IN_CI:
        pytest.fail(f"CI=true, and {missing}")
    if missing:
        pytest.skip(f"BROWSER TESTS SKIPPED: {missing}")


def _missing() -> str | None:
    """What a browser test lacks on this machine."""
    try:
        from browser.notebook_page import chromium
    except ImportError:
        return "playwright is not installed: pip install -e '.[dev]'"
    return None if chromium() else "there is no Chromium: install Debian's package chromium"
