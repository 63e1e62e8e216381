"""A home for the tests: nobody's progress is touched, and the fetched data is shared."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

# Before torch is imported: two test processes share two cores, and one thread gives the same numbers.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def home_of_the_tests() -> Iterator[None]:
    """TRAINLAB_HOME is a temporary folder whose cache of data is the real one."""
    from pathlib import Path

    from chapters.environment import learner

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINLAB_HOME", learner(Path(folder))["TRAINLAB_HOME"])
        yield
