"""wsss_lib.statistics against loops, scipy and a population whose truth is known."""

import statistics

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import bootstrap
from sklearn.metrics import jaccard_score

from wsss_lib.metrics import confusion_matrix, summary
from wsss_lib.statistics import mean_iou_of_counts, over_seeds, paired_bootstrap, photo_counts, verdict

CLASSES = 4


def confusions(rng: np.random.Generator, photos: int, skill: float) -> np.ndarray:
    """(N, K, K) of photos of unlike size and difficulty, each with background and one or two more classes."""
    found = np.zeros((photos, CLASSES, CLASSES), int)
    for photo in found:
        present = np.append(0, rng.choice(np.arange(1, CLASSES), rng.integers(1, 3), replace=False))
        right = np.clip(skill + rng.normal(0, 0.15), 0.05, 1)
        for true in present:
            chances = np.where(present == true, right, (1 - right) / (len(present) - 1))
            photo[true, present] = rng.multinomial(rng.integers(50, 500), chances)
    return found


def sheets(found: np.ndarray) -> sparse.csr_array:
    return sparse.csr_array(photo_counts(found).reshape(len(found), -1))


def test_mean_iou_of_counts_is_that_of_sklearn_and_of_the_confusion():
    rng = np.random.default_rng(0)
    target, prediction = rng.choice([0, 1, 3], (2, 5, 200))  # class 2 is absent
    found = np.stack([confusion_matrix(*pair, CLASSES) for pair in zip(prediction, target, strict=True)])
    counts = photo_counts(found)
    assert counts.shape == (5, 3, CLASSES)
    assert counts.dtype == np.int32
    expected = [jaccard_score(*pair, average="macro") for pair in zip(target, prediction, strict=True)]
    np.testing.assert_allclose(mean_iou_of_counts(counts), expected)
    assert mean_iou_of_counts(counts.sum(0)) == pytest.approx(summary(found.sum(0))["mean_iou"])


def test_bootstrap_equals_a_loop_over_resamples_seeds_and_photos():
    rng = np.random.default_rng(1)
    photos, resamples = 12, 150  # more than one chunk
    ours, baseline = ([confusions(rng, photos, skill) for _ in range(3)] for skill in (0.8, 0.7))
    found = paired_bootstrap(
        [sheets(c) for c in ours], [sheets(c) for c in baseline], resamples, level=0.8, seed=5
    )
    drawn = []
    weights = np.random.default_rng(5).multinomial(photos, [1 / photos] * photos, size=resamples)
    for row in weights:
        chosen = [photo for photo, times in enumerate(row) for _ in range(times)]
        means = [
            statistics.mean(summary(sum(seed[photo] for photo in chosen))["mean_iou"] for seed in side)
            for side in (ours, baseline)
        ]
        drawn.append(means[0] - means[1])
    np.testing.assert_allclose([found.low, found.high], np.quantile(drawn, [0.1, 0.9]))
    per_seed = [
        summary(a.sum(0))["mean_iou"] - summary(b.sum(0))["mean_iou"]
        for a, b in zip(ours, baseline, strict=True)
    ]
    np.testing.assert_allclose(found.per_seed, per_seed)
    assert found.value == pytest.approx(np.mean(per_seed))


def test_interval_agrees_with_scipys_bootstrap():
    rng = np.random.default_rng(2)
    ours, baseline = photo_counts(confusions(rng, 40, 0.8)), photo_counts(confusions(rng, 40, 0.75))
    matrices = ([sparse.csr_array(counts.reshape(40, -1))] for counts in (ours, baseline))
    found = paired_bootstrap(*matrices, resamples=4000)

    def difference(photos, axis=-1):
        """Of ids (N,), or (resamples, N)."""
        return mean_iou_of_counts(ours[photos].sum(photos.ndim - 1)) - mean_iou_of_counts(
            baseline[photos].sum(photos.ndim - 1)
        )

    expected = bootstrap(
        (np.arange(40),), difference, n_resamples=4000, method="percentile", vectorized=True, batch=100,
        random_state=0,
    ).confidence_interval  # fmt: skip
    width = expected.high - expected.low
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], abs=0.08 * width)


@pytest.mark.parametrize(
    ("difference", "interval", "std", "seeds", "photos", "expected"),
    [
        (2.0, (0.5, 3.5), 0.9, 3, 50, "improves"),
        (-2.0, (-3.5, -0.5), 0.9, 3, 50, "worsens"),
        (2.0, (0.5, 3.5), 1.0, 3, 50, "no difference shown"),  # not larger than two standard deviations
        (-2.0, (-3.5, -0.5), 1.0, 3, 50, "no difference shown"),
        (2.0, (0.0, 4.0), 0.1, 3, 50, "no difference shown"),  # 0 lies in the interval
        (-2.0, (-4.0, 0.0), 0.1, 3, 50, "no difference shown"),
        (0.0, (0.0, 0.0), 0.0, 3, 50, "no difference shown"),
        (2.0, (0.5, 3.5), np.nan, 1, 400, "one seed, not a verdict"),
        (0.1, (-0.5, 0.7), np.nan, 1, 400, "one seed, not a verdict"),
        (9.0, (8.0, 10.0), 0.1, 3, 49, "fewer than 50 photos, not a verdict"),
        (9.0, (8.0, 10.0), np.nan, 1, 49, "fewer than 50 photos, not a verdict"),
    ],
)  # fmt: skip
def test_a_verdict_needs_photos_seeds_an_interval_and_a_difference_beyond_the_seeds(
    difference, interval, std, seeds, photos, expected
):
    assert verdict(difference, *interval, std, seeds, photos) == expected


def test_intervals_of_equal_better_and_worse_systems():
    found = confusions(np.random.default_rng(3), 30, 0.6)
    better = found.copy()
    for photo in better:  # of each class a tenth of the misses are hits
        moved = photo // 10 * (1 - np.eye(CLASSES, dtype=int))
        photo += np.diag(moved.sum(1)) - moved
    plain, gain = [sheets(found)] * 3, [sheets(better)] * 3
    same = paired_bootstrap(plain, plain)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    up, down = paired_bootstrap(gain, plain), paired_bootstrap(plain, gain)
    assert 0 < up.low < up.value < up.high
    np.testing.assert_allclose([down.low, down.high], [-up.high, -up.low])
    # pairing shows what two intervals of their own could not: the photos differ more than the systems
    spread = np.std([mean_iou_of_counts(photo_counts(photo)) for photo in found]) / np.sqrt(len(found))
    assert up.high - up.low < spread


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds):
    rng = np.random.default_rng(4)
    sides = [[sheets(confusions(rng, 1500, skill)) for _ in range(seeds)] for skill in (0.75, 0.7)]
    truth = paired_bootstrap(*sides, resamples=1).value
    covered = []
    for trial in range(150):
        chosen = rng.integers(1500, size=60)
        found = paired_bootstrap(*([c[chosen] for c in side] for side in sides), 200, level=0.9, seed=trial)
        covered.append(found.low <= truth <= found.high)
    assert 0.83 < np.mean(covered) < 0.97  # 0.9, within three standard errors


def test_what_cannot_be_paired_is_refused():
    few, many = (sheets(confusions(np.random.default_rng(0), photos, 0.7)) for photos in (3, 4))
    with pytest.raises(ValueError, match=r"1 and 1 matrices.*cannot be paired"):
        paired_bootstrap([few], [many])
    with pytest.raises(ValueError, match=r"2 and 1 matrices.*cannot be paired"):
        paired_bootstrap([few, few], [few])


def test_over_seeds():
    values = {"CAM": [40.0, 41.0, 45.0], "RW": [50.0, 50.0, 53.0]}
    rows = pd.DataFrame(
        [(stage, seed, value) for stage, seeds in values.items() for seed, value in enumerate(seeds)],
        columns=["stage", "seed", "value"],
    )
    rows["round"] = np.where(rows["stage"] == "RW", 2, np.nan)  # as the CAM has no round
    table = over_seeds(rows, ["stage", "round"]).set_index("stage")
    assert table.index.tolist() == ["CAM", "RW"]
    for stage, seeds in values.items():
        assert table.loc[stage, "value"] == pytest.approx(statistics.mean(seeds))
        assert table.loc[stage, "std"] == pytest.approx(statistics.stdev(seeds))
        assert table.loc[stage, "seeds"] == 3
    assert over_seeds(rows[rows["seed"] == 0], ["stage"])["std"].isna().all()
    with pytest.raises(ValueError, match=r"\['round'\] do not tell these rows of a seed apart"):
        over_seeds(rows.assign(round=1), ["round"])
