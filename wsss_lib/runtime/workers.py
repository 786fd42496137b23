"""Pools of processes for per-image work that end when the process that opened them ends."""

import os
import threading
import time
from typing import Any

from joblib import Parallel


def pool(processes: int, **options: Any) -> Parallel:
    """joblib's pool, whose workers do not outlive this process even where it is killed.

    options: of `joblib.Parallel`.
    """
    return Parallel(n_jobs=processes, initializer=_end_with, initargs=(os.getpid(),), **options)


def _end_with(parent: int) -> None:
    """End this worker within about a second of its parent; joblib's would work and wait on for minutes."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
