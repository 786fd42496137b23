"""Progress of long work: a bar in a notebook or terminal, plain lines under papermill and in logs."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 15


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    # asked of IPython itself: other packages import ipykernel without running in a kernel
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


def watched() -> bool:
    """Whether somebody sits before a notebook: it is not run by `reproduce`, which asks for plain lines."""
    return in_notebook() and not _plain()


def _plain() -> bool:
    return os.environ.get("WSSS_PROGRESS") == "plain"


def report(items: Iterable[T], title: str, *, unit: str, total: int, initial: int = 0) -> Iterator[T]:
    """Pass `items` on while showing how many of `total` are done; `initial` of them were done before."""
    if watched() or (sys.stderr.isatty() and not _plain()):
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
