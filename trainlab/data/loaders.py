"""Loaders whose order is a function of (seed, epoch), so that a run can go on from any batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from ..errors import TrainlabError
from ..randomness import derive_seed, preserve_rng, seed_host
from .dataset import Dataset

Batch = Any
Mix = Callable[..., Batch]
# last words of the keys: derive_seed takes (seed, epoch) and (seed, epoch, 0) for the same
_ROW, _MIX = 1, 2


class Loader:
    """Batches of a data set, in an order that depends on the seed and the epoch only.

    `loader.batches(epoch)` gives those of one epoch, `start` rows left out: the same whenever it is
    called. `for batch in loader` is `batches(0)`, the next time `batches(1)`, and so on.
    mix: what blends the rows of a batch (mixup), keyed by (seed, epoch, rows before it in the epoch).
    No global random state is read or changed.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool = False,
        mix: Mix | None = None,
    ) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.mix = mix
        self._passes = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.rows, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        self._passes += 1
        return self.batches(self._passes - 1)

    def order(self, epoch: int) -> Tensor:
        """Row numbers in the order of this epoch, (rows,), int64."""
        if not self.shuffle:
            return torch.arange(self.rows)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        return torch.randperm(self.rows, generator=generator)

    def index_batches(self, epoch: int, start: int) -> Iterator[Tensor]:
        """The row numbers of each batch, from the one that begins at row `start` of the epoch's order."""
        used = min(self.rows, len(self) * self.batch_size)
        return iter(self.order(epoch)[start:used].split(self.batch_size) if start < used else ())

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, the first `start` rows left out (a multiple of the batch size)."""
        cut = self._cut(epoch, start)
        return cut if self.mix is None else self._mixed(self.mix, cut, epoch, start)

    def _cut(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches before they are mixed."""
        raise NotImplementedError

    def _mixed(self, mix: Mix, cut: Iterator[Batch], epoch: int, start: int) -> Iterator[Batch]:
        # in this process, one batch at a time: what it draws does not depend on who fetched the rows
        for place, batch in enumerate(cut):
            with preserve_rng():
                seed_host(self.seed, epoch, start + place * self.batch_size, _MIX)
                mixed = mix(*batch) if isinstance(batch, tuple | list) else mix(batch)
            yield mixed


class TensorLoader(Loader):
    """Batches cut straight from tensors in memory: no worker, no collation, no copy but the batch."""

    def __init__(self, tensors: Sequence[Tensor], batch_size: int, **order: Any) -> None:
        super().__init__(len(tensors[0]), batch_size, **order)
        self.tensors = tuple(tensors)

    def _cut(self, epoch: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        if self.shuffle:
            for index in self.index_batches(epoch, start):
                yield tuple(tensor.index_select(0, index) for tensor in self.tensors)
        else:
            for begin in range(start, min(self.rows, len(self) * self.batch_size), self.batch_size):
                # cloned, or a model that works in place would change the data set
                yield tuple(tensor[begin : begin + self.batch_size].clone() for tensor in self.tensors)


class DatasetLoader(Loader):
    """Batches of any data set with a length, through torch's DataLoader and its worker processes.

    Whatever `dataset[index]` draws (augmentation) is a function of (seed, epoch, index): the same
    with any number of workers, and after a resume.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        workers: int,
        collate: Callable[[list[Any]], Batch] | None,
        **order: Any,
    ) -> None:
        super().__init__(len(dataset), batch_size, **order)
        self.dataset = dataset
        self._workers = workers
        self._collate = collate
        self._idle: list[tuple[_KeyedBatches, DataLoader[Any]]] = []

    def _cut(self, epoch: int, start: int) -> Iterator[Batch]:
        # torch's persistent workers serve one iterator at a time: a second pass gets workers of its own
        keys, loader = self._idle.pop() if self._idle else self._new_loader()
        keys.position = (epoch, start)
        try:
            yield from loader
        finally:
            self._idle.append((keys, loader))

    def _new_loader(self) -> tuple[_KeyedBatches, DataLoader[Any]]:
        # not of `self`: in a reference cycle the queues die before torch can tell the workers to end
        order = Loader(
            self.rows, self.batch_size, seed=self.seed, shuffle=self.shuffle, drop_last=self.drop_last
        )
        keys = _KeyedBatches(order)
        loader: DataLoader[Any] = DataLoader(
            _SeededRows(self.dataset, self.seed),
            batch_sampler=keys,
            num_workers=self._workers,
            collate_fn=self._collate,
            persistent_workers=self._workers > 0,
            # its own: an iterator would draw from the global generator
            generator=torch.Generator().manual_seed(derive_seed(self.seed)),
        )
        return keys, loader


class _KeyedBatches:
    """What torch's DataLoader takes as a batch sampler: it passes (epoch, index) on to the workers."""

    def __init__(self, order: Loader) -> None:
        self.position = (0, 0)
        self._order = order

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, start = self.position
        for index in self._order.index_batches(epoch, start):
            yield [(epoch, row) for row in index.tolist()]

    def __len__(self) -> int:
        return len(self._order)


class _SeededRows(torch.utils.data.Dataset[Any]):
    """Fetches rows with every generator seeded by (seed, epoch, index), and then put back."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Any]:
        rows = []
        with preserve_rng():
            for epoch, index in keys:
                seed_host(self.seed, epoch, index, _ROW)
                rows.append(self.dataset[index])
        return rows


def make_loader(
    dataset: Any,
    batch_size: int,
    *,
    seed: int,
    shuffle: bool,
    workers: int = 0,
    drop_last: bool = False,
    collate: Callable[[list[Any]], Batch] | None = None,
    augment: Callable[[Any], Any] | None = None,
    mix: Mix | None = None,
) -> Loader:
    """A loader whose order is a function of (seed, epoch) and which leaves global randomness alone.

    dataset: anything with a length and rows by number; data held in tensors (trainlab's, a
    TensorDataset, a Subset of one, a tuple of tensors) takes a fast path without workers.
    workers: processes that fetch rows; 0 fetches in this one.  drop_last: leave out a last batch that
    is not full.  collate: makes a batch of a list of rows; torch's default otherwise.
    augment: called with the first part of a row (an image, a text) each time it is fetched, such as a
    transform of torchvision's v2.  What it draws from Python's, NumPy's and torch's default generator
    is a function of (seed, epoch, index): the same with any number of workers, and after a resume.
    mix: called with the parts of a batch (inputs, targets) and returns them mixed, such as v2.MixUp or
    v2.CutMix; its draws are a function of (seed, epoch, rows before the batch).
    Raises TrainlabError if the data set is empty, holds NaN or infinite features, or an argument is
    out of range.
    """
    check_seed(seed)
    _check_way(batch_size, workers, shuffle, augment, mix)
    tensors = _held_tensors(dataset)
    rows = _checked_rows(dataset, tensors)
    if drop_last and rows < batch_size:
        raise TrainlabError(
            f"{rows} rows make no full batch of {batch_size}, and drop_last leaves the others out: "
            "use a smaller batch or drop_last=False"
        )
    order: dict[str, Any] = {"seed": seed, "shuffle": shuffle, "drop_last": drop_last, "mix": mix}
    if tensors is not None and workers == 0 and collate is None and augment is None:
        return TensorLoader(tensors, batch_size, **order)
    source = dataset if tensors is None else TensorDataset(*tensors)
    if augment is not None:
        from .augmentation import AugmentedRows  # what few runs need is no part of every run

        source = AugmentedRows(source, augment)
    return DatasetLoader(source, batch_size, workers=workers, collate=collate, **order)


def _check_way(batch_size: Any, workers: Any, shuffle: bool, augment: Any, mix: Any) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise TrainlabError(f"batch_size={batch_size!r} is not a whole number from 1 on: use 32 or 64, say")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise TrainlabError(f"workers={workers!r} is not a number of processes: use 0 to fetch in this one")
    if augment is not None or mix is not None:
        from .augmentation import check_changes

        check_changes(augment, mix, shuffle)


def check_seed(seed: int) -> None:
    """Raise TrainlabError unless `seed` is a whole number from 0 on."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise TrainlabError(f"seed={seed!r} is not a whole number from 0 on: choose one, such as 0")


def _held_tensors(dataset: Any) -> tuple[Tensor, ...] | None:
    if isinstance(dataset, Dataset | TensorDataset) and _plain_rows(dataset, Dataset, TensorDataset):
        return tuple(dataset.tensors)
    if isinstance(dataset, tuple) and dataset and all(isinstance(part, Tensor) for part in dataset):
        return dataset
    if not isinstance(dataset, Subset) or not _plain_rows(dataset, Subset):
        return None
    if (held := _held_tensors(dataset.dataset)) is not None:
        index = torch.as_tensor(dataset.indices)
        return tuple(tensor[index] for tensor in held)
    return None


def _plain_rows(dataset: Any, *kinds: type) -> bool:
    """Whether rows come as the class has them: a subclass may augment what it returns."""
    return any(type(dataset).__getitem__ is getattr(kind, "__getitem__") for kind in kinds)  # noqa: B009


def _checked_rows(dataset: Any, tensors: tuple[Tensor, ...] | None) -> int:
    if tensors is None and not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TrainlabError(
            f"a {type(dataset).__name__} has no length or no rows by number, so its order cannot be "
            "repeated: give `train` a torch DataLoader over it instead"
        )
    rows = len(tensors[0]) if tensors is not None else len(dataset)
    if rows == 0:
        raise TrainlabError("the data set is empty (0 rows): there is nothing to load")
    for tensor in tensors or ():
        if len(tensor) != rows:
            raise TrainlabError(f"tensors of {rows} and {len(tensor)} rows: give each row one entry in each")
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum()):
            _refuse_non_finite(tensor)
    return rows


def _refuse_non_finite(tensor: Tensor) -> None:
    # a sum can overflow where each value is fine: look at the rows before refusing
    wrong = (~torch.isfinite(tensor)).flatten(1).any(1) if tensor.dim() > 1 else ~torch.isfinite(tensor)
    if wrong.any():
        raise TrainlabError(
            f"{int(wrong.sum())} of {len(tensor)} rows hold NaN or infinite values, the first is row "
            f"{int(wrong.nonzero()[0])}: drop or fill them before training"
        )
