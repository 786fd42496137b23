"""Per-image work over processes, in pools that end when the process that opened them ends."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from wsss_lib.runtime.progress import report


def pool(processes: int, **options: Any) -> Parallel:
    """joblib's pool, whose workers have one thread each and do not outlive this process, even a killed one.

    options: of `joblib.Parallel`.
    """
    return Parallel(n_jobs=processes, initializer=_begin, initargs=(os.getpid(),), **options)


def _begin(parent: int) -> None:
    """In a worker: one thread for numpy, and an end within about a second of its parent's.

    joblib's workers take OMP_NUM_THREADS where it is set, and two times two threads on two cores wait for
    each other: a CRF takes three times as long. And they would work and wait for minutes without a parent.
    """
    threadpool_limits(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def over_processes(work: Callable[..., None], jobs: Sequence[tuple], processes: int, title: str) -> None:
    """Call work(*job) for every job on a pool of processes; the last item of a job is the file it writes.

    Jobs whose file exists are skipped, so an interrupted run goes on where it was. Inside
    `joblib.parallel_config(backend="dask")` the pool is all the workers of a Dask cluster.
    """
    todo: Iterable[tuple] = [job for job in jobs if not job[-1].exists()]
    calls = (delayed(_unless_done)(work, job) for job in todo)
    results = pool(processes, return_as="generator_unordered")(calls)
    for _ in report(results, title, unit="photo", total=len(jobs), initial=len(jobs) - len(todo)):
        pass


def _unless_done(work: Callable[..., None], job: tuple) -> None:
    """Asked again by the worker: Dask gives all jobs of a lost worker's last batch to another one."""
    if not job[-1].exists():
        work(*job)
