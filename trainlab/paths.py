"""Where trainlab keeps what belongs to one person: fetched data and a learner's progress."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder of everything that trainlab writes on its own account (it need not exist yet).

    It is `$TRAINLAB_HOME` where that is set and not empty, else `~/.trainlab`. It is read anew at
    each call, so a change of the variable holds from the next call on.
    """
    chosen = os.environ.get("TRAINLAB_HOME")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".trainlab"
