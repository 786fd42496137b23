"""Every benchmark in turn, as one table: `python -m benchmarks` writes results/benchmarks.md."""

import os
import platform
import time
from pathlib import Path

import torch

from benchmarks import crf, growth, inference, loading, notebooks, processes, pss, random_walk
from benchmarks.measuring import markdown
from wsss_lib.runtime.cache import environment
from wsss_lib.runtime.files import save_atomically

TABLE = Path(__file__).parents[1] / "results" / "benchmarks.md"
BENCHMARKS = (random_walk, inference, crf, processes, loading, pss, growth, notebooks)


def machine() -> str:
    """Processor, cores and threads."""
    info = Path("/proc/cpuinfo")
    name = info.read_text().partition("model name\t: ")[2].partition("\n")[0] if info.exists() else ""
    return f"{name or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"


def main() -> None:
    load, start = os.getloadavg()[0], time.monotonic()
    rows = []
    for benchmark in BENCHMARKS:
        print(f"{benchmark.__name__} ...", flush=True)
        rows += benchmark.rows()
    made, seconds = environment(), time.monotonic() - start
    text = f"""# Benchmarks
Made by `make bench` on {made["finished"]} at commit {made["commit"]}, in {seconds:.0f} s.
Machine: {machine()}; Python {made["python"]}, torch {made["libraries"]["torch"]}.
Load before the run: {load:.1f}{" (other work was running: do not trust the ratios)" * (load > 0.5)}.
A ratio is the median over the rounds, the brackets hold the least and the greatest.

{markdown(rows)}
"""
    save_atomically(lambda path: path.write_text(text), TABLE)
    print(f"\n{text}\nWritten to {TABLE}")


if __name__ == "__main__":
    main()
