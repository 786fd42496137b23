"""Progress of long work: a bar in a notebook or terminal, plain lines under papermill and in logs."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 15


def report(items: Iterable[T], title: str, *, unit: str, total: int, initial: int = 0) -> Iterator[T]:
    """Pass `items` on while showing how many of `total` are done; `initial` of them were done before."""
    # asked of IPython itself: other packages import ipykernel without running in a kernel
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    interactive = hasattr(shell, "kernel") or sys.stderr.isatty()
    if interactive and os.environ.get("WSSS_PROGRESS") != "plain":
        yield from tqdm(items, desc=title, unit=unit, total=total, initial=initial)
        return
    start = spoken = time.monotonic()
    done = initial
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if done == total or now - spoken > SECONDS_BETWEEN_LINES:
            spoken = now
            print(f"{title}: {done}/{total} {unit}s, {now - start:.0f} s", flush=True)
