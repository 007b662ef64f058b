"""A real browser for tests: the system's Chromium, driven by Playwright. Without it, modules that import this skip."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def find_chromium() -> str | None:
    """The system's Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    places = [f"/Applications/{name}.app/Contents/MacOS/{name}" for name in ("Google Chrome", "Chromium")]
    return next(filter(None, map(shutil.which, (*names, *places))), None)


if find_chromium() is None:
    if os.environ.get("CI"):
        raise RuntimeError("There is no Chromium, and CI must test in one; on Debian: apt-get install chromium")
    pytest.skip("there is no Chromium; on Debian: apt-get install chromium", allow_module_level=True)


def launch() -> tuple[Any, Browser]:
    """Start Playwright and a browser; both want to be stopped again."""
    playwright = playwright_api.sync_playwright().start()
    # Chromium refuses its sandbox to root, which is who runs a container.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return playwright, playwright.chromium.launch(executable_path=find_chromium(), args=arguments)


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser that is stopped in the end."""
    playwright, browser = launch()
    try:
        yield browser
    finally:
        browser.close()
        playwright.stop()
