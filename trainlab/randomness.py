"""Seeds and random state: randomness is an argument, never ambience."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .errors import TrainlabError

RngState = dict[str, Any]


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators (those of every device included).

    seed: an integer from 0 to 2**32 - 1, the range that NumPy accepts.
    Raises TrainlabError if `seed` is outside it.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise TrainlabError(f"seed={seed!r} is not an integer from 0 to 2**32 - 1: choose one, such as 0")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def derive_seed(*keys: int) -> int:
    """One 64-bit seed from several non-negative integers, such as (seed, epoch, index).

    Neighbouring keys give unrelated seeds, so no two epochs or samples share a stream.
    Source: numpy.random.SeedSequence (after M. E. O'Neill's seed_seq alternative).
    """
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0])


def seed_host(*keys: int) -> None:
    """Seed Python's, NumPy's and PyTorch's CPU generator from these keys: what one sample may draw from.

    keys: as for `derive_seed`.  Inside `preserve_rng` it leaves no trace.
    """
    seed = derive_seed(*keys)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device as well


def get_rng_state() -> RngState:
    """The state of every generator that training may draw from, as tensors and plain values."""
    numpy_state: Any = np.random.get_state(legacy=False)
    # a tensor in place of the array: torch.load(weights_only=True) then takes the whole state
    numpy_state["state"]["key"] = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    state: RngState = {"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: RngState) -> None:
    """Put back what `get_rng_state` returned (devices that are absent here are left out)."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    inner = state["numpy"]["state"]
    key = inner["key"].numpy().astype(np.uint32)
    np.random.set_state(state["numpy"] | {"state": inner | {"key": key}})
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Leave every generator as it was found: `with preserve_rng(): plot_samples(model)`.

    Never hold it open across a `yield`: the consumer's draws would be undone with yours.
    """
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
