"""Files become embeddings: the same whatever the batches, threads, cache or cluster; faults are named by file."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from crashes import needs_sigkill
from PIL import Image

from siamese_utils.data.image_files import load_image
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import ConfigError, DataError, ImageError
from siamese_utils.recognition import cache, embedding
from siamese_utils.recognition.cache import EmbeddingCache
from siamese_utils.recognition.embedding import embed_files

HERE = Path(__file__).resolve().parent


class Counting(Encoder):
    """Notes how many images it has embedded."""

    fingerprint = "counting"

    def embed(self, images: np.ndarray, *options: object, **more: object) -> torch.Tensor:
        self.images = getattr(self, "images", 0) + len(images)
        return super().embed(images, *options, **more)


class Nameless:
    """An encoder of someone else's, which has no fingerprint."""

    embedding_dim, image_size = 4, 32

    def embed(self, images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images[:, :2, :2, 0].reshape(len(images), 4)).float()


@pytest.fixture
def encoder() -> Counting:
    torch.manual_seed(0)
    return Counting("conv3", 8).eval()


@pytest.fixture(scope="module")
def some_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    files = [folder / f"{number:03d}.png" for number in range(230)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (33, 35, 3), dtype=np.uint8)).save(file)
    return files


@pytest.fixture
def files(some_files: list[Path], tmp_path: Path) -> list[Path]:
    """A few of them, to be changed."""
    copies = [tmp_path / "images" / file.name for file in some_files[:12]]
    copies[0].parent.mkdir()
    for file, copy in zip(some_files, copies):
        copy.write_bytes(file.read_bytes())
    return copies


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not rest before they are known by their times of change."""
    monkeypatch.setattr(cache, "_SETTLED", -60.0)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content is read to be digested."""
    names: list[str] = []
    of = cache.Content.of
    monkeypatch.setattr(cache.Content, "of", lambda path: names.append(path.name) or of(path))
    return names


def database() -> Path:
    return Path(os.environ["SIAMESE_CACHE"]) / "embeddings" / cache.DATABASE


# --- embedding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [None, 1, 5])
def test_embeddings_are_those_of_the_images_in_batches(
    encoder: Counting, some_files: list[Path], workers: int | None
) -> None:
    images = np.stack([load_image(file) for file in some_files])
    expected = torch.cat([encoder.embed(images[start : start + 100]) for start in (0, 100, 200)])
    embedded = embed_files(encoder, some_files, workers=workers, cache=False)
    assert torch.equal(embedded.z, expected) and embedded.z.dtype == torch.float32
    assert embedded.kept == tuple(range(230)) and embedded.faults == {}


def test_no_file_and_one_file(encoder: Counting, some_files: list[Path]) -> None:
    assert embed_files(encoder, []).z.shape == (0, 8)
    assert embed_files(encoder, str(some_files[0])).z.shape == (1, 8)


def test_an_encoder_without_a_fingerprint_is_not_cached(files: list[Path]) -> None:
    assert embed_files(Nameless(), files).z.shape == (12, 4) and not database().exists()
    with pytest.raises(ConfigError, match="has no fingerprint"):
        embed_files(Nameless(), files, cache=True)


def test_no_more_images_are_held_than_two_batches(some_files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read, embedded, most = [], [], []
    original = embedding.load_image
    monkeypatch.setattr(embedding, "load_image", lambda *given: read.append(1) or original(*given))

    class Slow(Nameless):
        def embed(self, images: np.ndarray) -> torch.Tensor:
            embedded.append(len(images))
            most.append(len(read) - sum(embedded))
            return super().embed(images)

    embed_files(Slow(), some_files * 3, workers=3)
    assert embedded == [100] * 6 + [90] and max(most) <= 2 * 100 + 3


@pytest.mark.parametrize("workers", [0, -1, 1.5, "two"])
def test_a_number_of_threads_that_is_none(encoder: Counting, files: list[Path], workers: object) -> None:
    with pytest.raises(ConfigError, match="threads that decode"):
        embed_files(encoder, files, workers=workers)


# --- files that cannot be read --------------------------------------------------------------------


@pytest.fixture
def odd(files: list[Path]) -> dict[str, Path]:
    """Files that cannot be read, and some that are odd and can."""
    folder, image = files[0].parent, Image.open(files[0])
    made = {name: folder / name for name in ("empty.png", "text.jpg", "cut.png", "missing.png", "enormous.png")}
    made["empty.png"].touch()
    made["text.jpg"].write_text("no image")
    made["cut.png"].write_bytes(files[0].read_bytes()[:-400])
    Image.new("1", (40_000, 15_000)).save(made["enormous.png"])
    fine = {name: folder / name for name in ("animated.gif", "cmyk.jpg", "deep.png", "renamed.png", "turned.jpg")}
    image.save(fine["animated.gif"], save_all=True, append_images=[image.rotate(90)])
    image.convert("CMYK").save(fine["cmyk.jpg"])
    Image.fromarray(np.arange(64**2, dtype=np.uint16).reshape(64, 64) * 16).save(fine["deep.png"])
    image.save(fine["renamed.png"], format="JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(fine["turned.jpg"], exif=exif)
    return {**made, **fine}


def test_faults_are_named_by_file_and_skipped_if_asked(
    encoder: Counting, files: list[Path], odd: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    asked = [*files[:2], *odd.values(), files[2]]
    bad = [odd[name] for name in ("empty.png", "text.jpg", "cut.png", "missing.png", "enormous.png")]
    with pytest.raises(ImageError, match="5 of 13 images cannot be read") as caught:
        embed_files(encoder, asked)
    assert all(str(file) in str(caught.value) for file in bad) and "--skip-unreadable" in str(caught.value)
    assert getattr(encoder, "images", 0) == 0  # nothing is embedded for an answer that will not come
    with caplog.at_level(logging.WARNING):
        embedded = embed_files(encoder, asked, skip_unreadable=True)
    assert all(str(file) in caplog.text for file in bad)
    assert embedded.kept == (0, 1, 7, 8, 9, 10, 11, 12) and sorted(embedded.faults) == [2, 3, 4, 5, 6]
    assert all(str(asked[position]) in error.fault for position, error in embedded.faults.items())
    kept = [asked[position] for position in embedded.kept]
    assert torch.equal(embedded.z, encoder.embed(np.stack([load_image(file) for file in kept])))


def test_faults_do_not_shift_the_rows_of_later_batches(encoder: Counting, some_files: list[Path]) -> None:
    missing = some_files[0].with_name("missing.png")
    asked = list(some_files)
    for position in (0, 99, 100, 150, 229):
        asked[position] = missing
    embedded = embed_files(encoder, asked, skip_unreadable=True)
    whole = embed_files(encoder, some_files)
    torch.testing.assert_close(embedded.z, whole.z[list(embedded.kept)], atol=1e-6, rtol=0)
    again = embed_files(encoder, asked, skip_unreadable=True)  # from the cache
    assert torch.equal(again.z, whole.z[list(embedded.kept)]) or torch.equal(again.z, embedded.z)


def test_nothing_left_to_skip_to(encoder: Counting, odd: dict[str, Path]) -> None:
    with pytest.raises(ImageError, match="2 of 2 queries"):
        embed_files(encoder, [odd["empty.png"], odd["cut.png"]], skip_unreadable=True, progress="queries")
    with pytest.raises(DataError, match="A path"):
        embed_files(encoder, [None])


# --- the cache ------------------------------------------------------------------------------------


def test_what_is_cached_is_what_was_embedded_to_the_bit(
    encoder: Counting, some_files: list[Path], settled: None, read: list[str]
) -> None:
    first = embed_files(encoder, some_files)
    assert encoder.images == len(read) == 230
    assert torch.equal(first.z, embed_files(encoder, some_files, cache=False).z)
    second = embed_files(encoder, some_files[::-1], workers=3)
    assert encoder.images == 460 and len(read) == 230  # neither embedded nor read again
    assert torch.equal(second.z, first.z.flip(0)) and second.kept == first.kept


def test_moved_and_doubled_files_are_known_by_their_content(encoder: Counting, files: list[Path]) -> None:
    first = embed_files(encoder, files)
    moved = [file.rename(file.with_name(f"moved {file.name}")) for file in files]
    assert torch.equal(embed_files(encoder, moved).z, first.z) and encoder.images == 12


@pytest.mark.skipif(sys.platform == "win32", reason="times of change are others there")
def test_other_content_of_the_same_size_and_time(encoder: Counting, files: list[Path], settled: None) -> None:
    status = os.stat(files[3])
    embed_files(encoder, files)
    Image.new("RGB", (33, 35), "red").save(files[4])
    other = files[4].read_bytes().ljust(status.st_size, b"\0")  # what follows the end of a PNG is passed over
    assert len(other) == status.st_size
    files[3].write_bytes(other)
    os.utime(files[3], ns=(status.st_atime_ns, status.st_mtime_ns))
    after = os.stat(files[3])
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (status.st_size, status.st_mtime_ns, status.st_ino)
    z = embed_files(encoder, files).z
    torch.testing.assert_close(z[3], embed_files(encoder, [files[3]], cache=False).z[0], atol=1e-6, rtol=0)


def test_files_that_changed_a_moment_ago_are_read_again(encoder: Counting, files: list[Path], read: list[str]) -> None:
    embed_files(encoder, files)
    embed_files(encoder, files)
    assert len(read) == 24 and encoder.images == 12


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    encoder: Counting, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def disturbed(path: Path, side: int) -> np.ndarray:
        Image.new("RGB", (40, 40), "blue").save(path)
        return load_image(path, side)

    before = files[0].read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "load_image", disturbed)
        embed_files(encoder, files[:1])
    files[0].write_bytes(before)
    expected = embed_files(encoder, files[:1], cache=False).z
    assert torch.equal(embed_files(encoder, files[:1]).z, expected)


def test_another_encoder_or_other_views_have_other_embeddings(files: list[Path]) -> None:
    torch.manual_seed(1)
    one, two = Encoder("conv3", 8).eval(), Encoder("conv3", 8).eval()
    given = [(one, None), (two, None), (one, "none")]
    answers = []
    for encoder, views in given:
        cached = [embed_files(encoder, files, views=views).z for _ in range(2)]
        answers.append(embed_files(encoder, files, views=views, cache=False).z)
        assert torch.equal(cached[0], answers[-1]) and torch.equal(cached[1], answers[-1])
    assert not torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])
    with torch.no_grad():  # the same encoder, trained on
        next(one.parameters()).mul_(-1)
    assert torch.equal(embed_files(one, files).z, embed_files(one, files, cache=False).z)


@pytest.mark.parametrize("damage", ["text", "cut", "zeros", "folder"])
def test_a_damaged_database_is_made_anew(
    encoder: Counting, files: list[Path], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = embed_files(encoder, files)
    content = database().read_bytes()
    if damage == "folder":
        database().unlink()
        database().mkdir()
    else:
        half = len(content) // 2
        broken = {"text": b"no database" * 500, "cut": content[:half], "zeros": content[:100] + bytes(len(content))}
        database().write_bytes(broken[damage])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(embed_files(encoder, files).z, first.z)
    assert "mbeddings" in caplog.text and len(caplog.records) == 1
    caplog.clear()
    if damage != "folder":
        count = encoder.images
        assert torch.equal(embed_files(encoder, files).z, first.z)
        assert encoder.images == count and not caplog.records


def test_a_wrong_bit_is_noticed(encoder: Counting, files: list[Path]) -> None:
    first = embed_files(encoder, files)
    connection = sqlite3.connect(database())
    (blob,) = connection.execute("SELECT z FROM embeddings WHERE number = 3").fetchone()
    wrong = bytes([blob[0] ^ 1]) + blob[1:]
    with connection:
        connection.execute("UPDATE embeddings SET z = ? WHERE number = 3", (wrong,))
    connection.close()
    again = embed_files(encoder, files)
    torch.testing.assert_close(again.z, first.z, atol=1e-6, rtol=0)
    assert encoder.images == 13
    assert torch.equal(embed_files(encoder, files).z, again.z) and encoder.images == 13


def test_a_cache_that_cannot_be_written_costs_time_alone(
    encoder: Counting,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("SIAMESE_CACHE", str(tmp_path / "a file" / "below"))
    with caplog.at_level(logging.WARNING):
        assert embed_files(encoder, files).z.shape == (12, 8)
    assert len(caplog.records) == 1 and "are not kept" in caplog.text


def test_a_large_cache_loses_its_oldest_rows(
    encoder: Counting, some_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SETTLED", -1.0)  # files are remembered however new they are
    embed_files(encoder, some_files)
    monkeypatch.setattr(cache, "MOST_BYTES", database().stat().st_size)
    embed_files(encoder, some_files[:1])  # not too large yet
    assert encoder.images == 230
    monkeypatch.setattr(cache, "MOST_BYTES", database().stat().st_size - 1)
    size = database().stat().st_size
    embed_files(encoder, some_files[:1])
    assert database().stat().st_size < size
    embed_files(encoder, some_files)
    assert encoder.images == 230 + 58  # a quarter, and no more


def test_threads_and_processes_share_a_cache(encoder: Counting, some_files: list[Path]) -> None:
    """Two processes embed overlapping lists at the same time; both are right, and so is what they leave."""
    code = """
        import sys
        from pathlib import Path
        from test_embedding_files import Counting
        import torch
        from siamese_utils.recognition.embedding import embed_files
        torch.manual_seed(0)
        encoder, files = Counting("conv3", 8).eval(), sorted(Path(sys.argv[1]).glob("*.png"))
        start = int(sys.argv[2])
        torch.save(embed_files(encoder, files[start:] + files[:start]).z.roll(start, 0), sys.argv[3])
    """
    out = [database().parent.parent.with_name(f"z{number}.pt") for number in range(2)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), some_files[0].parent, str(60 * number), out[number]],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1"},
        )
        for number in range(2)
    ]
    assert [process.wait() for process in started] == [0, 0]
    expected = embed_files(encoder, some_files, cache=False).z
    for path in out:
        torch.testing.assert_close(torch.load(path), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(embed_files(encoder, some_files).z, expected, atol=1e-6, rtol=0)
    assert encoder.images == 230  # those that were not to be cached
    with ThreadPoolExecutor(3) as pool:
        for z in pool.map(lambda _: embed_files(encoder, some_files).z, range(3)):
            torch.testing.assert_close(z, expected, atol=1e-6, rtol=0)


@needs_sigkill
def test_a_kill_leaves_what_was_finished(some_files: list[Path], encoder: Counting) -> None:
    code = """
        import os, signal, sys
        from pathlib import Path
        import torch
        from test_embedding_files import Counting
        from siamese_utils.recognition.embedding import embed_files
        class Killed(Counting):
            def embed(self, images):
                if getattr(self, "images", 0) == 200:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().embed(images)
        Killed.__module__, Killed.__qualname__ = Counting.__module__, Counting.__qualname__
        torch.manual_seed(0)
        embed_files(Killed("conv3", 8).eval(), sorted(Path(sys.argv[1]).glob("*.png")))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), some_files[0].parent], env=environment, check=False
    )
    assert killed.returncode == -9
    z = embed_files(encoder, some_files).z
    assert encoder.images == 30
    torch.testing.assert_close(z, embed_files(encoder, some_files, cache=False).z, atol=1e-6, rtol=0)


def test_a_cache_without_a_place(monkeypatch: pytest.MonkeyPatch, files: list[Path]) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda: None)
    store = EmbeddingCache("x", 4)
    content = store.content(files[0])
    store.keep([content], np.ones((1, 4), np.float32))
    assert store.find(content.digest) is None
    store.close()


# --- a cluster ------------------------------------------------------------------------------------


@pytest.fixture
def scheduler() -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address


def test_a_cluster_gives_the_same(
    encoder: Counting, some_files: list[Path], scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "_PART", 100)
    asked = list(some_files)
    asked[3], asked[120] = some_files[0].with_name("missing.png"), some_files[0].with_name("gone.png")
    with pytest.raises(ImageError, match="2 of 230 images") as caught:
        embed_files(encoder, asked, scheduler=scheduler)
    assert "missing.png" in str(caught.value) and "gone.png" in str(caught.value)
    there = embed_files(encoder, asked, scheduler=scheduler, skip_unreadable=True)
    here = embed_files(encoder, asked, skip_unreadable=True, cache=False)
    assert there.kept == here.kept and list(there.faults) == [3, 120]
    torch.testing.assert_close(there.z, here.z, atol=1e-6, rtol=0)


def test_a_cluster_that_is_not_there(encoder: Counting, files: list[Path]) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(ConfigError, match="No Dask scheduler answers at nonsense://x"):
        embed_files(encoder, files, scheduler="nonsense://x")
