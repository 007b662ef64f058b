"""Every page of the whole report in a real browser, wide and narrow, light and dark, with and without scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browsers import DESKTOP, PHONE, browsing
from sites import walk

from siamese_utils.report import site as report
from siamese_utils.report.execute import numbered_notebooks

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]


def test_every_page_of_the_report(tmp_path: Path, campaign: Callable) -> None:
    """As it is stored: what the notebooks show, with the README's headline."""
    report.build_report(ROOT / "notebooks", tmp_path / "site", execute=False)
    expected = {"index.html", *(f"{path.stem}.html" for path in numbered_notebooks(ROOT / "notebooks"))}
    with campaign("pages of the report in a browser", 4 * len(expected)) as counted, browsing() as browser:
        for viewport in (DESKTOP, PHONE):
            for scheme in ("light", "dark"):
                pages, problems = walk(browser, tmp_path / "site", viewport=viewport, color_scheme=scheme)
                counted.trials += len(pages)
                counted.failures += problems
                if set(pages) != expected:
                    counted.failures.append(f"missing: {sorted(expected - set(pages))}")
