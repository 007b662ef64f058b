"""Searching among embeddings: the answers of a slow comparison in float64 and of scikit-learn, whatever the way."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import SafetensorError
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F
from typer.testing import CliRunner

from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import ConfigError, DataError, ImageError, ShapeError, StorageError
from siamese_utils.recognition import commands
from siamese_utils.recognition import index as index_module
from siamese_utils.recognition.index import EmbeddingIndex, nearest, search_files
from siamese_utils.system import devices


def units(count: int, dim: int = 24, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def check(found: tuple[torch.Tensor, torch.Tensor], z: torch.Tensor, table: torch.Tensor, k: int) -> None:
    """Compare with float64: the k highest similarities, each that of its position, and no position twice."""
    similarities, positions = found
    exact = z.double() @ table.double().T
    k = min(k, len(table))
    assert similarities.dtype == torch.float32 and similarities.shape == positions.shape == (len(z), k)
    torch.testing.assert_close(similarities.double(), exact.topk(k).values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(similarities.double(), exact.gather(1, positions), atol=1e-5, rtol=1e-5)
    assert all(len(set(row)) == k for row in positions.tolist())


@pytest.fixture
def coded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search by codes among few rows too, on any processor: products of whole numbers are exact everywhere."""
    monkeypatch.setattr(index_module, "_CODED", 100)
    monkeypatch.setattr(index_module, "multiplies_bytes", lambda: True)

    def products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.long() @ b.long()).int()

    monkeypatch.setattr(torch, "_int_mm", products)


@given(
    st.integers(1, 40),
    st.integers(1, 7),
    st.integers(1, 30),
    st.integers(1, 300),
    st.integers(0, 10),
    st.integers(1, 9),
)
def test_blocks_answer_as_float64_does(rows: int, queries: int, dim: int, cells: int, seed: int, k: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "_CELLS", cells)
        z, table = units(queries, dim, seed), units(rows, dim, seed + 1) * (1 + seed)
        check(nearest(z, table, k), z, table, k)


def test_scikit_learn_answers_alike() -> None:
    table, z = units(500), units(20, seed=1)
    oracle = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(table.numpy())
    distances, positions = oracle.kneighbors(z.numpy())
    found = EmbeddingIndex(table).search(z, 7)
    assert found[1].tolist() == positions.tolist()
    np.testing.assert_allclose(1 - found[0].numpy(), distances, atol=1e-5)


@pytest.mark.parametrize("made", ["scattered", "alike", "spiky", "doubled", "zero", "long"])
def test_codes_decide_nothing_that_they_cannot(made: str, coded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    table = units(3_000, 32)
    if made == "alike":  # closer to each other than codes can tell apart
        table = F.normalize(table[:1] + 1e-3 * table, dim=1)
    elif made == "spiky":  # one number outweighs the others, whose codes are coarse then
        table[:, 0] = 3
        table = F.normalize(table, dim=1)
    elif made == "doubled":
        table[1_500:] = table[:1_500]
    elif made == "zero":
        table[::7] = 0
    elif made == "long":
        table = table * torch.linspace(0.1, 9, 3_000)[:, None]
    z = torch.cat([table[:5], units(14, 32, 1)])
    whole = []
    original = index_module._nearest
    monkeypatch.setattr(index_module, "_nearest", lambda z, t, k: whole.append(len(t) == 3_000) or original(z, t, k))
    check(EmbeddingIndex(table).search(z, 10), z, table, 10)
    assert len(whole) == 19
    assert not all(whole) or made in ("alike", "spiky")  # else codes would be of no use


@given(st.integers(100, 400), st.integers(1, 3), st.integers(1, 60), st.integers(0, 5), st.booleans())
def test_codes_answer_as_float64_does(rows: int, k: int, dim: int, seed: int, whole: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "_CODED", 50)
        patch.setattr(index_module, "multiplies_bytes", lambda: True)
        patch.setattr(torch, "_int_mm", lambda a, b: (a.long() @ b.long()).int())
        table = units(rows, dim, seed)
        table = (4 * table).round() / 4 if whole else table  # many that are equal
        z = units(3, dim, seed + 1)
        check(EmbeddingIndex(table).search(z, k), z, table, k)


@pytest.mark.skipif(not devices.multiplies_bytes(), reason="this processor has no such instructions")
def test_products_of_bytes_are_exact_here() -> None:
    generator = torch.Generator().manual_seed(0)
    for queries in (1, 3, 16):
        a = torch.randint(-127, 128, (queries, 1_280), generator=generator, dtype=torch.int8)
        b = torch.randint(-127, 128, (2_000, 1_280), generator=generator, dtype=torch.int8)
        b[0], a[0] = 127, -127  # the largest there is
        assert torch.equal(torch._int_mm(a, b.T).long(), a.long() @ b.long().T)


# --- an index of files ----------------------------------------------------------------------------


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder("conv3", 8).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{number} é.png")
    return folder


def test_an_image_finds_itself(encoder: Encoder, folder: Path) -> None:
    index = EmbeddingIndex.build(encoder, folder)
    similarities, positions = index.search(index.z, 2)
    assert positions[:, 0].tolist() == list(range(6)) and (similarities[:, 0] > 0.9999).all()
    assert index.names == [str(file) for file in sorted(folder.iterdir())] and len(index) == 6


def test_files_that_cannot_be_read(encoder: Encoder, folder: Path) -> None:
    (folder / "2 b.png").write_text("no image")
    with pytest.raises(ImageError, match=r"2 b\.png"):
        EmbeddingIndex.build(encoder, [folder])
    index = EmbeddingIndex.build(encoder, [folder], skip_unreadable=True)
    assert len(index) == 6 and not any("2 b" in name for name in index.names)
    empty = folder / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="There is no image;"):
        EmbeddingIndex.build(encoder, empty)


def test_added_rows_are_found(coded: None) -> None:
    table, z = units(300), units(4, seed=3)
    index = EmbeddingIndex(table[:200])
    index.search(z, 2)
    index.add(table[200:], [f"more {number}" for number in range(100)])
    check(index.search(z, 3), z, table, 3)
    assert index.names[199:201] == ["199", "more 0"]
    with pytest.raises(ShapeError):
        index.add(units(2, 5), ["a", "b"])
    with pytest.raises(DataError, match="as many names"):
        index.add(units(2), ["a"])


@pytest.mark.parametrize("count", [0, 1, 99, 250])
def test_saved_and_read(count: int, tmp_path: Path, coded: None) -> None:
    index = EmbeddingIndex(units(count), [f"{number} é\n.png" for number in range(count)], "abc")
    index.save(tmp_path / "index.safetensors")
    again = EmbeddingIndex.load(tmp_path / "index.safetensors")
    assert torch.equal(again.z, index.z) and again.encoder == "abc"
    assert again.names == [f"{number} é\\n.png" for number in range(count)]
    for ours, theirs in zip(again.search(units(3, seed=5), 2), index.search(units(3, seed=5), 2), strict=True):
        assert torch.equal(ours, theirs)
    again.add(units(1), ["new"]).save(tmp_path / "index.safetensors")  # over the file that is being read
    assert EmbeddingIndex.load(tmp_path / "index.safetensors").names[-1] == "new"


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9") / "index.safetensors"
    try:
        path.parent.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such names")
    index = EmbeddingIndex(units(5), encoder="abc")
    index.save(path)
    index.save(path)  # over an index
    again = EmbeddingIndex.load(path)
    assert torch.equal(again.z, index.z) and (again.names, again.encoder) == (index.names, "abc")
    check(again.search(units(2, seed=1), 3), units(2, seed=1), index.z, 3)


def test_what_was_given_is_copied_without_its_gradient() -> None:
    given = units(5).numpy()
    index = EmbeddingIndex(given)
    given[:] = 0
    assert torch.equal(index.z, units(5))
    index = EmbeddingIndex(units(5).requires_grad_())
    assert not index.z.requires_grad and not index.search(units(2).requires_grad_(), 1)[0].requires_grad
    assert not nearest(units(2).requires_grad_(), units(5).requires_grad_(), 1)[0].requires_grad


def test_files_that_are_no_index(tmp_path: Path, encoder: Encoder) -> None:
    path = tmp_path / "index.safetensors"
    with pytest.raises(DataError, match="There is no index"):
        EmbeddingIndex.load(path)
    EmbeddingIndex(units(30)).save(path)
    content = path.read_bytes()
    from siamese_utils.encoders.checkpoints import save_encoder

    for wrong in (b"", b"text", content[: len(content) // 2]):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match="no index, or a damaged one"):
            EmbeddingIndex.load(path)
    save_encoder(encoder, path)
    with pytest.raises(DataError, match="no index"):
        EmbeddingIndex.load(path)


def test_another_encoder_is_refused(encoder: Encoder) -> None:
    index = EmbeddingIndex(units(3), encoder="not this one")
    index.check(object())  # one that cannot tell
    encoder.__class__ = type("Named", (Encoder,), {"fingerprint": "abc"})
    with pytest.raises(ConfigError, match="another encoder"):
        index.check(encoder)


def test_numbers_that_are_not_finite_are_refused_in_whatever_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_AT_ONCE", 10)
    table = units(25)
    table[23, 1] = torch.nan
    for ask in (lambda: EmbeddingIndex(table), lambda: nearest(units(1), table, 1)):
        with pytest.raises(ShapeError, match="not finite"):
            ask()


def test_what_cannot_be_searched() -> None:
    index = EmbeddingIndex(units(5))
    assert index.search(units(2, seed=1), 9)[0].shape == (2, 5)
    assert index.search(units(0), 2)[1].shape == (0, 2)
    for wrong in (0, 1.5, "many"):
        with pytest.raises(ConfigError, match="number of answers"):
            index.search(units(1), wrong)
    with pytest.raises(ShapeError):
        index.search(units(1, 3))
    with pytest.raises(DataError, match="as many names"):
        EmbeddingIndex(units(5), ["a"])


# --- the command ----------------------------------------------------------------------------------


def test_the_nearest_images_are_told(encoder: Encoder, folder: Path, tmp_path: Path) -> None:
    from siamese_utils.encoders.checkpoints import save_encoder

    checkpoint, index, table = tmp_path / "e.safetensors", tmp_path / "i.safetensors", tmp_path / "t.csv"
    save_encoder(encoder, checkpoint)
    app, asked = typer.Typer(), sorted(folder.iterdir())[:2]
    app.command()(commands.search)

    def ask(*given: object) -> str:
        result = CliRunner().invoke(app, [*map(str, given), "--encoder", str(checkpoint)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    said = ask(folder, *asked, "--top", 2, "--index", index)
    assert [line.split(": ")[1].startswith(f"{file} (1.00), ") for line, file in zip(said.splitlines(), asked)] == [
        1,
        1,
    ]
    assert ask(index, *asked, "--top", 2) == said  # from the stored index
    ask(folder, asked[0], "--out", table)
    rows = pd.read_csv(table)
    assert list(rows.columns) == ["query", "rank", "image", "similarity"] and rows["rank"].tolist() == [1, 2, 3, 4, 5]
    assert rows["image"][0] == str(asked[0]) and rows["similarity"].is_monotonic_decreasing
    (folder / "2 b.png").write_text("no image")
    with pytest.raises(ImageError, match=r"2 b\.png"):
        ask(folder, asked[0])
    assert "2 b" not in ask(folder, asked[0], "--top", 9, "--skip-unreadable")


def test_an_index_is_found_from_elsewhere_and_names_its_encoder(
    encoder: Encoder, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamese_utils.encoders.checkpoints import save_encoder

    checkpoint, index = tmp_path / "e.safetensors", tmp_path / "i.safetensors"
    save_encoder(encoder, checkpoint)
    app, asked = typer.Typer(), sorted(folder.iterdir())[0]
    app.command()(commands.search)

    def ask(*given: object, by: Path = checkpoint) -> None:
        CliRunner().invoke(app, [*map(str, given), "--encoder", str(by)], catch_exceptions=False)

    monkeypatch.chdir(folder.parent)
    ask(folder.name, asked, "--index", index)
    assert EmbeddingIndex.load(index).names[0] == str(asked)
    other = tmp_path / "other.safetensors"
    save_encoder(Encoder("conv3", 8).eval(), other)
    with pytest.raises(ConfigError, match=r"made with .*e\.safetensors; name that encoder"):
        ask(index, asked, by=other)
    with pytest.raises(ConfigError, match="leave --scheduler out"):
        ask(index, asked, "--scheduler", "tcp://nowhere:1")
    kept = checkpoint.read_bytes()
    with pytest.raises(StorageError, match="is no index; choose another name"):
        ask(folder, asked, "--index", checkpoint)
    assert checkpoint.read_bytes() == kept


def test_a_name_of_an_encoder_is_enough(encoder: Encoder, folder: Path, tmp_path: Path) -> None:
    from siamese_utils.encoders.checkpoints import save_encoder

    path, asked = tmp_path / "e.safetensors", sorted(folder.iterdir())[0]
    save_encoder(encoder, path)
    (folder / "within").mkdir()
    Image.fromarray(np.full((32, 32, 3), 9, np.uint8)).save(folder / "within" / "deep.png")
    index = EmbeddingIndex.build(path, folder)
    assert str(folder / "within" / "deep.png") in index.names  # at any depth, as the command does
    assert search_files(index, path, asked, 1)["image"].tolist() == [str(asked)]
    # A query that is named twice is asked once.
    again = search_files(index, path, [asked, str(asked), folder, asked], 2)
    assert again["query"].tolist() == [str(file) for file in sorted(folder.glob("*.png")) for _ in range(2)]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(index_module, "save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        EmbeddingIndex(units(3)).save(tmp_path / "i.safetensors")
    assert not list(tmp_path.iterdir())
