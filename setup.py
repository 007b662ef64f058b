"""Puts the published encoders that ``classify``, ``verify`` and ``draw`` use into the wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ENCODERS = ("siamese-photos", "cifar100-90-10-draw0", "faces", "drawing")


class BuildWithEncoders(build_py):
    """Copies them into the package, where a checkout has them beside it."""

    def run(self) -> None:
        """Build, and copy; an editable installation finds them in the checkout."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "siamese_utils" / "results" / "checkpoints"
        target.mkdir(parents=True, exist_ok=True)
        for name in ENCODERS:
            file = f"{name}.safetensors"
            shutil.copyfile(Path("results") / "checkpoints" / file, target / file)


setup(cmdclass={"build_py": BuildWithEncoders})
