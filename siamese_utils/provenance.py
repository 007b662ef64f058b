"""What code a result came from: versions of packages, and the commit."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path


def package_version(distribution: str) -> str:
    """Version of an installed package, or ``"(not installed)"``, as when it runs from a bare checkout."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def git_commit(root: Path, part: str = ".") -> str:
    """Short commit of a checkout, with ``+changes`` where ``part`` of it differs from that; empty outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ""

    commit = git("rev-parse", "--short=12", "HEAD")
    return commit + ("+changes" if commit and git("status", "--porcelain", "--", part) else "")
