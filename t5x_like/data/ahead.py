# SPDX-License-Identifier: Apache-2.0
"""Training rows made ahead of the step that reads them, by processes of their own.

Which rows come when does not change: a worker makes a block of rows by its number, as the training process would.
"""

from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from t5x_like.config import DataConfig
from t5x_like.data.dataset import Dataset
from t5x_like.data.packing import Batch
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.worker_processes import worker_processes

_AHEAD = 2  # blocks for each worker


@contextmanager
def made_ahead(dataset: Dataset, config: DataConfig, seed: int, workers: int) -> Iterator[None]:
    """While this lasts, `workers` processes make the dataset's blocks of training rows; with 0 it makes them itself.

    Args:
      dataset: the one that `config` and `seed` describe: the workers open it again, from its cache.

    Raises:
      UserError: a worker ends by itself, or what it opens is another dataset.
    """
    if not workers:
        yield
        return
    with worker_processes(workers, _open, config, seed) as pool:
        coming: dict[int, Future[Batch]] = {}

        def block(index: int, size: int) -> Batch:
            for late in [number for number in coming if not index <= number <= index + _AHEAD * workers]:
                coming.pop(late).cancel()
            for number in range(index, index + _AHEAD * workers + 1):
                if number not in coming:
                    coming[number] = pool.submit(_block, number, size, dataset.fingerprint)
            return coming[index].result()

        dataset.ahead = block
        try:
            yield
        except BrokenProcessPool:
            raise UserError(
                f"execution.data_workers={workers}: one of them ended, perhaps for want of memory; accepted: 0 or more"
            ) from None
        finally:
            dataset.ahead = None
            pool.shutdown(wait=False, cancel_futures=True)


_dataset: Dataset | None = None


def _open(config: DataConfig, seed: int) -> None:
    global _dataset
    _dataset = build_dataset(config, seed)


def _block(index: int, size: int, fingerprint: str) -> Batch:
    assert _dataset is not None
    if _dataset.fingerprint != fingerprint:
        raise UserError("execution.data_workers: the data changed before a worker opened it")
    return _dataset.make_block(index, size)
