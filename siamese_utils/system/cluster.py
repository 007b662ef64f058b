"""Work spread over the workers of a Dask cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from joblib import Parallel, delayed, parallel_config

from siamese_utils.errors import ConfigError

WORKER_SECONDS = 120.0
T = TypeVar("T")


def spread(
    function: Callable[..., T], jobs: Sequence[tuple[Any, ...]], scheduler: str, seconds: float = WORKER_SECONDS
) -> Iterator[T]:
    """Call a function with each tuple of arguments on the workers, and give each result when it is there.

    Args:
        function: importable on the workers.
        jobs: arguments that can be pickled.
        scheduler: address of a Dask scheduler, ``tcp://…``.
        seconds: how long to wait for a first worker.

    Raises:
        ConfigError: no scheduler answers at the address, no worker joins it, or Dask is not installed.
    """
    with _client(scheduler) as client:
        _wait_for_a_worker(client, scheduler, seconds)
        with parallel_config(backend="dask"):
            calls = (delayed(function)(*arguments) for arguments in jobs)
            yield from Parallel(n_jobs=-1, batch_size=1, return_as="generator_unordered")(calls)


def _wait_for_a_worker(client: Any, address: str, seconds: float) -> None:
    """Joblib itself gives up after ten seconds, less than a busy machine takes to start a worker."""
    try:
        client.wait_for_workers(1, timeout=seconds)
    except (TimeoutError, asyncio.TimeoutError) as error:  # two types before Python 3.11
        raise ConfigError(
            f"No worker has joined the scheduler at {address} within {seconds:.0f} seconds; start some with `dask "
            f"worker {address} --nthreads 1`."
        ) from error


def _client(address: str) -> Any:
    try:
        from distributed import Client  # optional: only clusters need it
    except ImportError as error:
        raise ConfigError('A scheduler needs Dask; install it with: pip install "dask[distributed]"') from error
    try:
        return Client(address, timeout="10s", set_as_default=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"No Dask scheduler answers at {address}; start one with `dask scheduler` and workers with `dask worker "
            f"{address} --nthreads 1`."
        ) from error
