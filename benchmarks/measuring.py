"""How every benchmark measures: variants in turn, each in a process of its own, and the error of their ratio.

Seconds are wall time. Memory is the peak of a process above what it held before the work, from /proc (Linux
only; NaN elsewhere). A ratio is the median over the rounds, its interval the least and the greatest of them:
of R rounds it holds the true median with probability 1 - 2^(1 - R), 94 % for five.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context, get_start_method, set_start_method
from pathlib import Path
from typing import Any

import numpy as np
from joblib.externals.loky import get_reusable_executor

ROUNDS = 5
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Run:
    """Wall time, peak memory in MB above the start, and what the work returned."""

    seconds: float
    megabytes: float
    result: Any


@dataclass(frozen=True)
class Row:
    """One line of the table.

    reference, ours: what was compared; seconds: (R, 2) of both in turn, for one `unit`; megabytes: of both.
    """

    what: str
    reference: str
    ours: str
    unit: str
    seconds: np.ndarray
    megabytes: tuple[float, float]
    remark: str = ""

    def cells(self) -> dict[str, str]:
        median, low, high = ratio(self.seconds)
        reference, ours = np.median(self.seconds, axis=0)
        return {
            "benchmark": self.what,
            "reference": self.reference,
            "ours": self.ours,
            "per": self.unit,
            "reference s": f"{reference:.3g}",
            "ours s": f"{ours:.3g}",
            "times faster [least, greatest]": f"**{number(median)}** [{number(low)}, {number(high)}]",
            "MB reference": number(self.megabytes[0]),
            "MB ours": number(self.megabytes[1]),
            "remark": self.remark,
        }


def number(value: float) -> str:
    """Three digits, whole from 100 on; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(seconds: np.ndarray) -> tuple[float, float, float]:
    """Median, least and greatest of reference / ours over the rounds: (R, 2) -> three numbers."""
    ratios = seconds[:, 0] / seconds[:, 1]
    return float(np.median(ratios)), float(ratios.min()), float(ratios.max())


def compare(
    prepare: Callable[..., Callable[[], Any]], variants: Sequence[tuple], rounds: int = ROUNDS
) -> list[list[Run]]:
    """Measure prepare(*variant)() for every variant in turn, `rounds` times: `rounds` lists of runs.

    Each variant has a process of its own, where `prepare` (a module's function) is called once, unmeasured.
    """
    apart = {
        "max_workers": 1,
        "mp_context": get_context("spawn"),
        "initializer": set_start_method,  # or the processes' own loaders would be spawned, too
        "initargs": (get_start_method(), True),
    }
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(**apart)) for _ in variants]
        for pool in pools:
            stack.callback(lambda pool=pool: pool.submit(_end_joblib).result())
        return [
            [
                pool.submit(measure, prepare, variant).result()
                for pool, variant in zip(pools, variants, strict=True)
            ]
            for _ in range(rounds)
        ]


def measure(prepare: Callable[..., Callable[[], Any]], variant: tuple) -> Run:
    """One run in this process."""
    work = _prepared(prepare, variant)
    before, start = _reset_peak(), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return Run(seconds, _megabytes("VmHWM") - before, result)


@cache
def _prepared(prepare: Callable[..., Callable[[], Any]], variant: tuple) -> Callable[[], Any]:
    return prepare(*variant)


def _end_joblib() -> None:
    """End joblib's pool, for whose idle processes a process would otherwise wait at its end."""
    get_reusable_executor(reuse=True).shutdown(kill_workers=True)


def _reset_peak() -> float:
    """Let the peak start again from what is held now, in MB."""
    if CLEAR.exists():
        CLEAR.write_text("5")
    return _megabytes("VmRSS")


def _megabytes(field: str) -> float:
    if not STATUS.exists():
        return math.nan
    return int(STATUS.read_text().split(f"{field}:")[1].split()[0]) * 1024 / 1e6


def seconds_of(runs: list[list[Run]], reference: int, ours: int, share: float = 1) -> np.ndarray:
    """(R, 2) seconds of two variants, times `share`."""
    return share * np.array([[row[reference].seconds, row[ours].seconds] for row in runs])


def peaks(runs: list[list[Run]], reference: int, ours: int) -> tuple[float, float]:
    """The greatest peak of both variants: a later round may reuse what an earlier one left allocated."""
    return tuple(max(row[variant].megabytes for row in runs) for variant in (reference, ours))


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    cells = [row.cells() for row in rows]
    lines = [list(cells[0]), ["---"] * len(cells[0]), *(list(row.values()) for row in cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
