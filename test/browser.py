"""Headless Chromium for tests of pages; tests that ask for it are skipped, with the reason, where it is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DESKTOP, PHONE = (1280, 900), (360, 780)
_TIMEOUT_MS = 120_000  # for computers that do much else meanwhile


@contextmanager
def chromium(*options: str) -> Iterator[Any]:
    """A browser of playwright's sync interface: playwright's own Chromium, or the one in PATH.

    Args:
        options: more words for its command line.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with playwright.sync_playwright() as runner:
        own = Path(runner.chromium.executable_path)
        found = str(own) if own.is_file() else next(filter(None, map(shutil.which, NAMES)), None)
        if found is None:
            pytest.skip("no Chromium here: playwright install chromium, or apt install chromium")
        browser = runner.chromium.launch(executable_path=found, args=["--no-sandbox", *options])
        try:
            yield browser
        finally:
            browser.close()


class OpenPage:
    """A page in a window of its own, and what went wrong in it.

    Attributes:
        page: of playwright.
        problems: errors of scripts, messages on the console above information, and requests for other files.
    """

    def __init__(self, browser: Any, address: str, *, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.page = context.new_page()
        self.page.set_default_timeout(_TIMEOUT_MS)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._on_console)
        self.page.on("request", self._on_request)
        self._address = address
        self.page.goto(address)

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _on_request(self, request: Any) -> None:
        if request.url != self._address and not request.url.startswith(("data:", "blob:")):
            self.problems.append(f"asked for {request.url}")

    def overflow_px(self) -> int:
        """How many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))
