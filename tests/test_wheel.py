"""Installed from a wheel, without a checkout: what it carries, and that it works from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from alone import bare_python
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
ENCODERS = {
    "siamese-photos.safetensors",
    "cifar100-90-10-draw0.safetensors",
    "faces.safetensors",
    "drawing.safetensors",
}

# Everything in one process, since each takes seconds to start.
COMMANDS = """
import sys
from pathlib import Path

import siamese_utils
from siamese_utils import cli
from siamese_utils.app.drawing import DrawingModel
from siamese_utils.app.server import default_checkpoint


def say(*words):
    sys.argv = ["siamese_utils", *words]
    try:
        cli.main()
    except SystemExit as ended:
        print("->", ended.code or 0, flush=True)


sys.stderr = sys.stdout
print(Path(siamese_utils.__file__).parents[1])
say("classify", "support", "support/red/0.png")
say("verify", "support/red/0.png", "support/red/0.png")
print("draws with", type(DrawingModel.load(default_checkpoint())).__name__)
say("report")
say("readme")
say("audit")
say("faces", "--plan")
say("train", "--publish")
say("train")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without an index from what a build needs."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "siamese_utils", source / "siamese_utils", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "results" / "checkpoints").mkdir(parents=True)
    for name in ENCODERS:
        shutil.copy(ROOT / "results" / "checkpoints" / name, source / "results" / "checkpoints")
    building = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", ".", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*building, "--no-build-isolation", "-w", str(out)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl"))


def test_the_wheel_carries_the_encoders_that_people_use_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {Path(name).name for name in names if name.startswith("siamese_utils/results/")} == ENCODERS
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"siamese_utils"}
    assert wheel.stat().st_size < 11e6
    for needed in ("app/static/drawing/page.html", "studies/imprinting/imprinting.yaml", "report/templates/style.css"):
        assert f"siamese_utils/{needed}" in names


def test_what_is_installed_works_from_an_empty_folder(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, here = tmp_path / "site", tmp_path / "here"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for colour, value in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (here / "support" / colour).mkdir(parents=True)
        Image.fromarray(np.full((250, 250, 3), value, np.uint8)).save(here / "support" / colour / "0.png")
    before = {path for path in site.rglob("*") if "__pycache__" not in path.parts}
    # Entries of PYTHONPATH, unlike site-packages, are not searched for the links of editable installations.
    libraries = dict.fromkeys([str(site), *(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(libraries))
    monkeypatch.delenv("SIAMESE_DATA", raising=False)
    done = subprocess.run(
        [str(bare_python(tmp_path)), "-c", COMMANDS], cwd=here, capture_output=True, text=True, check=False
    )
    said = done.stdout
    assert done.returncode == 0 and "Traceback" not in said, said + done.stderr
    assert said.startswith(f"{site}\n")
    assert "support/red/0.png: red (probability" in said.replace("\\", "/")
    assert "same (probability of the same person" in said and "draws with DrawingModel" in said
    assert said.count("needs a checkout of the project") == 4
    assert f"11 of them would be stored in {here / 'siamese_runs'}" in said
    assert said.count("-> 0") == 3 and said.count("-> 1") == 5
    assert "CIFAR-100 is not in ./data" in said  # the training itself lacks nothing but data
    assert {path for path in site.rglob("*") if "__pycache__" not in path.parts} == before
