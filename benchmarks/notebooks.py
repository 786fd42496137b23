"""All notebooks of preset smoke from an empty cache, one after the other and side by side.

The same for `quick` takes hours. Its stages are longer, so smoke says what two kernels at once are worth, and
quick may gain more.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.measuring import Row, compare, seconds_of

ROUNDS = 1  # of minutes, where others take seconds
JOBS = (1, 2)


def prepare(jobs: int, folder: Path) -> Callable[[], None]:
    runs = (folder / f"{jobs} at once, run {run}" for run in count())

    def study() -> None:
        out = next(runs)
        folders = ("--cache", str(out / "cache"), "--results", str(out / "results"))
        command = ("-m", "wsss_lib.report.reproduce", "--preset", "smoke", "--jobs", str(jobs), *folders)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)

    return study


def rows(rounds: int = ROUNDS) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        runs = compare(prepare, [(jobs, Path(folder)) for jobs in JOBS], rounds)
    return [
        Row(
            "all notebooks of preset smoke",
            "one after the other",
            "two side by side",
            "study",
            seconds_of(runs, 0, 1),
            (np.nan, np.nan),
            "2 is the most there is",
        )
    ]
