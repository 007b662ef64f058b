"""Whatever a terminal or a pipe can encode, and whatever bytes a name holds, the answer comes out."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from siamese_utils import classify_folder, cli, save_encoder
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, printable
from siamese_utils.system.files import write_text_atomically
from siamese_utils.system.text import listed, never_refuse

ENCODINGS = ("ascii", "cp437", "cp1252", "utf-8")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command line with streams of an encoding that take nothing else: exit code, output, errors."""

    def run(encoding: str, *words: object) -> tuple[int, str, str]:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors="strict", newline="\r\n") for _ in range(2)]
        monkeypatch.setattr(sys, "argv", ["siamese_utils", *map(str, words)])
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        for stream in streams:
            stream.flush()
        out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A checkpoint, a support folder, and a folder of queries, with names of many kinds."""
    torch.manual_seed(0)
    checkpoint = tmp_path / "encoder.safetensors"
    save_encoder(Encoder("conv3", 4), checkpoint)
    classes = [b"caf\xe9", b"line\nbreak", "日本".encode(), b"plain"]
    queries = [b"\xff\x81.png", "é ± ….png".encode()]
    support, asked = tmp_path / "support", tmp_path / "queries"
    try:
        for number, name in enumerate(classes):
            file = support / os.fsdecode(name) / "0.png"
            file.parent.mkdir(parents=True)
            Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(file)
        asked.mkdir()
        for name in queries:
            Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(asked / os.fsdecode(name))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such names")
    return checkpoint, support, asked


# ------------------------------------------------------------------------------------------ names


@given(st.text(st.characters(codec=None)))
def test_a_printable_name_is_one_line_that_every_file_takes(name: str) -> None:
    shown = printable(name)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert len(shown.splitlines()) == (1 if name else 0)
    assert printable(shown) == shown


def test_only_what_cannot_be_shown_is_escaped() -> None:
    assert printable(os.fsdecode("naïve 日本\u202f😀.png".encode())) == "naïve 日本\u202f😀.png"
    assert printable("caf\udce9\n\x1b[31m\ud800") == r"caf\xe9\n\x1b[31m\ud800"
    assert printable(Path("a") / "\udcff") == os.path.join("a", r"\xff")


def test_names_that_are_not_utf8_are_answered_in_a_table(folders: tuple[Path, Path, Path]) -> None:
    table = classify_folder(*folders)
    names = [r"caf\xe9", r"line\nbreak", "plain", "日本"]
    assert table.columns[6:].tolist() == names and set(table["prediction"]) <= set(names)
    assert sorted(Path(query).name for query in table["query"]) == [r"\xff\x81.png", "é ± ….png"]
    as_bytes = [os.fsencode(path) for path in folders]
    pd.testing.assert_frame_equal(classify_folder(*as_bytes), table)
    again = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    assert again["query"].tolist() == table["query"].tolist()
    assert table.to_json() and table.to_string()


def test_checkpoints_of_such_names_are_written_and_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder, path = Encoder("conv3", 4), tmp_path / os.fsdecode(b"n\xe9t.safetensors")
    try:
        save_encoder(encoder, path, {"seed": 3})
    except CheckpointError:
        pytest.skip("this file system takes no such names")
    images = torch.arange(3 * 32 * 32 * 3).remainder(256).to(torch.uint8).reshape(3, 32, 32, 3)
    torch.testing.assert_close(load_encoder(path).embed(images), encoder.embed(images), atol=1e-3, rtol=0)
    assert checkpoint_info(path) == {"seed": 3}
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"n\\xe9t.safetensors is damaged"):
        load_encoder(path)


# ---------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_stream_refuses_a_sign(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
    never_refuse(stream, None, io.StringIO())  # type: ignore[arg-type]
    stream.write("45.5 ± 0.2, 3 × 4 … \udce9 日")
    stream.flush()
    written = stream.buffer.getvalue().decode(encoding)
    plain = {"ascii": "45.5 +- 0.2, 3 x 4 ... ", "cp437": "45.5 ± 0.2, 3 x 4 ... "}
    assert written.startswith(plain.get(encoding, "45.5 ± 0.2, 3 × 4 … "))
    assert written.endswith(r"\xe9 日" if encoding == "utf-8" else r"\xe9 \u65e5")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_command_answers_in_every_encoding(
    encoding: str, call: Call, folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    checkpoint, support, queries = folders
    code, out, _ = call(encoding, "classify", support, queries, "--checkpoint", checkpoint)
    assert code == 0 and len(out.splitlines()) == 2 and r"\xff\x81.png: " in out
    code, out, _ = call(encoding, "--help")
    assert code == 0 and "classify" in out and "sweep" in out
    code, out, _ = call(encoding, "sweep", "--help")
    assert code == 0 and "--scheduler" in out
    code, out, _ = call(encoding, "studies")
    assert code == 0 and "split_sweep" in out
    code, _, err = call(encoding, "classify", support, tmp_path / "± \udcff\n.png", "--checkpoint", checkpoint)
    assert code == 1 and len(err.splitlines()) == 1 and r"\xff\n.png" in err


def test_help_on_a_pipe_that_takes_ascii_alone() -> None:
    surroundings = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "siamese_utils", "sweep", "--help"]
    done = subprocess.run(command, env=surroundings, capture_output=True, timeout=120)
    assert done.returncode == 0 and b"Usage" in done.stdout and not done.stderr, done.stderr[-500:]


def test_csv_has_no_blank_lines_where_lines_end_in_two_signs(
    call: Call, folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "linesep", "\r\n")  # as on Windows, where the stream adds one of the two itself
    checkpoint, support, queries = folders
    code, out, _ = call("utf-8", "classify", support, queries, "--csv", "--checkpoint", checkpoint)
    assert code == 0 and "\r\r" not in out
    assert len(pd.read_csv(io.StringIO(out, newline=""))) == len(out.splitlines()) - 1 == 2


def test_things_are_listed_as_in_a_sentence() -> None:
    assert [listed(range(1, count + 1)) for count in (1, 2, 3)] == ["1", "1 and 2", "1, 2 and 3"]
    assert listed((".csv", ".json"), "or") == ".csv or .json"
    with pytest.raises(ValueError, match="nothing to list"):
        listed([])


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_written_file_has_the_rights_of_any_new_one(mask: int, tmp_path: Path) -> None:
    """Or, if it takes an older one's place, those of that; a link stays one."""
    old = os.umask(mask)
    try:
        write_text_atomically(tmp_path / "new.txt", "new")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == 0o666 & ~mask
    (tmp_path / "new.txt").chmod(0o640)
    (tmp_path / "link.txt").symlink_to(tmp_path / "new.txt")
    write_text_atomically(tmp_path / "link.txt", "newer")
    assert (tmp_path / "new.txt").read_text() == "newer" and (tmp_path / "link.txt").is_symlink()
    assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.txt", "new.txt"]
