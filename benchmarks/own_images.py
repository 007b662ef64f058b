"""A folder of images, embedded: images a second and memory as the folder grows, and a search among a million.

The images are made here, JPEGs of 300 x 200 pixels. Sides: files read and embedded one by one, `embed_files`, and
`embed_files` once more, which finds them in its cache. Memory is the peak of the process while it embeds; it holds the
embeddings, 1 MB a thousand images at 256 numbers each, and a batch of images.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from PIL import Image
from torch.nn import functional as F

from benchmarks.common import ROOT, Out, Quick, Threads, output_path, report, summarise, use_threads
from siamese_utils.data.image_files import load_image
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.recognition.embedding import embed_files
from siamese_utils.recognition.index import EmbeddingIndex, nearest

ONE_BY_ONE, TOGETHER, AGAIN = "one by one", "embed_files", "embed_files, from the cache"
CHECKPOINT = ROOT / "results" / "checkpoints" / "cifar100-90-10-draw0.safetensors"
NAIVE = 1_000  # images at most that are embedded one by one, whose rate does not depend on their number
SIZES = {"90-10": (1_000, 10_000, 100_000), "efficientnet-lite0": (1_000, 10_000)}
ANSWERS = 10


def make_images(folder: Path, count: int) -> list[Path]:
    """Write JPEGs of 300 x 200 pixels, no two of the same content: soft patches of colour, with a number as comment."""
    rng, kinds = np.random.default_rng(0), []
    for _ in range(min(count, 200)):
        buffer, patches = io.BytesIO(), rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(patches).resize((300, 200), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        kinds.append(buffer.getvalue())
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        kind, comment = kinds[number % len(kinds)], f"{number:08d}".encode()
        file.write_bytes(kind[:2] + b"\xff\xfe\x00\x0a" + comment + kind[2:])
    return files


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Give a list of one number, the peak of the process's memory in MB so far, looked at fifty times a second."""
    pages, ended = os.sysconf("SC_PAGE_SIZE"), threading.Event()

    def used() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * pages / 1e6

    peak = [used()]

    def look() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], used())

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield peak
    finally:
        ended.set()
        watch.join()


@contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """Keep embeddings in another folder for a while."""
    before = os.environ.get("SIAMESE_CACHE")
    os.environ["SIAMESE_CACHE"] = folder
    try:
        yield
    finally:
        os.environ.pop("SIAMESE_CACHE")
        os.environ |= {} if before is None else {"SIAMESE_CACHE": before}


def rate(count: int, work: Callable[[], Any]) -> float:
    """Things a second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def one_by_one(encoder: Any, files: list[Path]) -> torch.Tensor:
    """Embed files as one would without a batch."""
    return torch.cat([encoder.embed(load_image(file, encoder.input_side())[None]) for file in files])


def embedding_tables(name: str, encoder: Any, files: list[Path], sizes: tuple[int, ...]) -> list[pd.DataFrame]:
    """Rates and peaks for growing parts of the files; stops if the sides embed them differently."""
    tables, peaks = [], {}
    some = files[: min(NAIVE, sizes[0])]
    z = one_by_one(encoder, some)
    torch.testing.assert_close(embed_files(encoder, some, cache=False).z, z, atol=1e-4, rtol=0)
    naive = rate(len(some), lambda: one_by_one(encoder, some))
    for size in sizes:
        with tempfile.TemporaryDirectory() as cache, cache_in(cache), peak_memory() as peak:
            first = rate(size, lambda size=size: embed_files(encoder, files[:size]))
            again = rate(size, lambda size=size: embed_files(encoder, files[:size]))
        rates = {ONE_BY_ONE: [naive], TOGETHER: [first], AGAIN: [again]}
        tables.append(summarise(f"own_images_{name}_{size}", "images/s", rates))
        peaks[f"{size:,} images"] = [peak[0]]
    return [*tables, summarise(f"own_images_{name}_memory", "MB", peaks)]


def make_embeddings(count: int, dim: int) -> torch.Tensor:
    """Unit vectors around a thousand class centres, float32 (count, dim)."""
    generator, z = torch.Generator().manual_seed(0), torch.empty(count, dim)
    centres = F.normalize(torch.randn(1_000, dim, generator=generator), dim=1)
    for rows in z.split(50_000):
        which = torch.randint(1_000, (len(rows),), generator=generator)
        noise = F.normalize(torch.randn(len(rows), dim, generator=generator), dim=1)
        rows.copy_(F.normalize(centres[which] + noise, dim=1))
    return z


def search_table(count: int, dim: int, repeats: int) -> pd.DataFrame:
    """Queries a second; stops if a side answers differently."""
    z = make_embeddings(count, dim)
    index, queries = EmbeddingIndex(z), make_embeddings(64, dim).flip(1)
    queries = F.normalize(queries + z[: len(queries)], dim=1)
    sides: dict[str, tuple[int, Callable[[torch.Tensor], Any]]] = {
        "float32 product, one query": (1, lambda some: (z @ some[0]).topk(ANSWERS)),
        "EmbeddingIndex, one query": (1, lambda some: index.search(some, ANSWERS)),
        "EmbeddingIndex, 16 queries": (16, lambda some: index.search(some, ANSWERS)),
    }
    expected, found = nearest(queries, z, ANSWERS), index.search(queries, ANSWERS)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=0)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, (several, ask) in sides.items():
            start = (turn * several) % (len(queries) - several + 1)
            rates[name].append(rate(several, lambda: ask(queries[start : start + several])))  # noqa: B023
    for name, values in rates.items():
        print(f"{count:,} x {dim}, {name}: {1e3 / float(np.median(values)):.1f} ms a query")
    return summarise(f"own_images_search_{count}x{dim}", "queries/s", rates)


def main(
    quick: Quick = False,
    threads: Threads = 0,
    out: Out = None,
    only: Annotated[str, typer.Option(help="90-10, efficientnet-lite0 or search alone.")] = "",
) -> None:
    """Embed growing folders and search among a million embeddings."""
    use_threads(threads)
    tables = []
    if only in ("", "search"):
        spaces = ((60_000, 16),) if quick else ((1_000_000, 512), (1_000_000, 1_280))
        tables += [search_table(*space, repeats=2 if quick else 9) for space in spaces]
    with tempfile.TemporaryDirectory() as folder:
        for name, sizes in SIZES.items():
            if only in ("", name) and not (quick and name != "90-10"):
                encoder = Encoder("conv3", 8).eval() if quick else load_encoder(CHECKPOINT if name == "90-10" else name)
                sizes = (20, 40) if quick else sizes
                tables += embedding_tables(name, encoder, make_images(Path(folder) / name, max(sizes)), sizes)
    report(tables, output_path(out, quick))


if __name__ == "__main__":
    typer.run(main)
