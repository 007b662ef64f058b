"""What code a result came from: versions of packages, and the commit."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from siamese_utils.system.devices import autocast_dtype, pick_device, processor_name
from siamese_utils.system.project import is_checkout, published_root


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


def code_commit() -> str:
    """Short commit of the project's code; empty where it was installed without a checkout."""
    return git_commit(published_root(), "siamese_utils") if is_checkout() else ""


_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn")


def provenance(device: str = "auto", precision: str = "auto") -> dict[str, Any]:
    """What a number was computed with: commit, versions, processor, precision, time of day (UTC).

    Args:
        device: see ``devices.pick_device``.
        precision: what the configuration asks for, see ``devices.autocast_dtype``.
    """
    where = pick_device(device)
    versions = {"python": sys.version.split()[0], **{package: package_version(package) for package in _PACKAGES}}
    computed_in = autocast_dtype(where, precision)
    return {
        "commit": code_commit(),
        "versions": versions,
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device": where.type,
        "precision": str(computed_in or torch.float32).removeprefix("torch."),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
