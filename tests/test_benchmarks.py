"""What the benchmarks' ratios and peaks rest on."""

import os
import time

import numpy as np
import pytest

from benchmarks import inference
from benchmarks.measuring import Row, compare, markdown, peaks, ratio, seconds_of


def prepare(megabytes: int, seconds: float):
    kept = np.ones(30_000_000 // 8)  # held before: does not count

    def work() -> tuple[int, float]:
        block = np.ones(megabytes * 1_000_000 // 8)
        time.sleep(seconds)
        return os.getpid(), time.perf_counter() + 0 * (block.sum() + kept.sum())

    return work


@pytest.mark.whole
def test_variants_run_in_turn_apart_and_with_their_own_peaks():
    runs = compare(prepare, [(100, 0.2), (20, 0.05)], rounds=2)
    (a, b), (c, d) = runs
    assert a.result[0] == c.result[0] != b.result[0] == d.result[0]
    assert a.result[1] < b.result[1] < c.result[1] < d.result[1]
    assert (seconds_of(runs, 0, 1, 10) > [2, 0.5]).all()
    large, small = peaks(runs, 0, 1)
    if not np.isnan(large):  # Linux
        assert 95 < large < 130
        assert 15 < small < 50


def test_a_ratio_is_the_median_of_paired_rounds():
    seconds = np.array([[8.0, 2.0], [9.0, 1.0], [1.0, 1.0]])
    assert ratio(seconds) == (4, 1, 9)
    row = Row("walk", "dense", "sparse", "photo", seconds, (500.4, float("nan")), "same")
    header, _, line = markdown([row]).splitlines()
    assert header.count("|") == line.count("|")
    assert "| 8 | 1 | **4** [1, 9] | 500 | – | same |" in line


def test_both_variants_of_inference_make_the_same_maps():
    one_by_one, together = (inference.prepare(variant, (48, 64))() for variant in ("one by one", "batch"))
    for expected, found in zip(one_by_one, together, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
