"""Scores against scikit-learn, and the threshold sweep against one argmax per threshold."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from wsss_lib.metrics import (
    absent_classes,
    best_threshold,
    centre_box,
    class_scores,
    confusion_matrix,
    summary,
    threshold_sweep,
)

K = 6


def masks(seed=0, shape=(23, 31), dtype=np.uint8):
    """Random prediction and target that agree on about half of the pixels, target with void."""
    rng = np.random.default_rng(seed)
    target = rng.choice([0, 0, 0, 1, 2, 3, 4, 5, 255], shape)
    prediction = np.where(rng.random(shape) < 0.5, target, rng.integers(0, K, shape))
    return np.where(prediction == 255, 1, prediction).astype(dtype), target.astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_confusion_matrix_equals_sklearn(dtype):
    prediction, target = masks(dtype=dtype)
    confusion = confusion_matrix(prediction, target, K)
    counted = target != 255
    expected = sklearn_metrics.confusion_matrix(target[counted], prediction[counted], labels=range(K))
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(confusion, expected)


def test_confusion_matrix_of_81_classes_in_uint8():
    rng = np.random.default_rng(1)
    target, prediction = rng.integers(0, 81, (2, 40, 50), dtype=np.uint8)
    expected = sklearn_metrics.confusion_matrix(target.ravel(), prediction.ravel(), labels=range(81))
    np.testing.assert_array_equal(confusion_matrix(prediction, target, 81), expected)


def test_predicted_void_is_background_and_never_dropped():
    target = np.array([[0, 1, 2, 255]], np.uint8)
    confusion = confusion_matrix(np.full((1, 4), 255, np.uint8), target, 3)
    np.testing.assert_array_equal(confusion, [[1, 0, 0], [1, 0, 0], [1, 0, 0]])


def test_predictions_on_void_pixels_do_not_matter():
    target = np.array([[255, 1]])
    np.testing.assert_array_equal(confusion_matrix(np.array([[99, 1]]), target, 2), [[0, 0], [0, 1]])


def test_confusion_matrix_ignores_another_id():
    prediction, target = np.array([[0, 1, 9]]), np.array([[9, 1, 0]])
    np.testing.assert_array_equal(confusion_matrix(prediction, target, 2, ignore=9), [[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (np.zeros((3, 4), int), np.zeros((4, 3), int), r"\(3, 4\).*\(4, 3\)"),
        (np.zeros((1, 12), int), np.zeros(12, int), r"\(1, 12\).*\(12,\)"),
        (np.array([[21]]), np.array([[0]]), "prediction .* 21"),
        (np.array([[-1]]), np.array([[0]]), "prediction .* -1"),
        (np.array([[0]]), np.array([[21]]), "target .* 21"),
        (np.array([[0.0]]), np.array([[0]]), "prediction .float64"),
    ],
)
def test_confusion_matrix_refuses(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(prediction, target, 21)


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_sklearn(seed):
    prediction, target = masks(seed)
    confusion = confusion_matrix(prediction, target, K)
    t, p = target[target != 255], prediction[target != 255]
    scores, means = class_scores(confusion), summary(confusion)
    precision, recall, f_score, _ = sklearn_metrics.precision_recall_fscore_support(t, p, labels=range(K))
    iou = sklearn_metrics.jaccard_score(t, p, labels=range(K), average=None)
    for name, expected in {"iou": iou, "precision": precision, "recall": recall, "f_score": f_score}.items():
        np.testing.assert_allclose(scores[name], expected, rtol=1e-12)
        assert means[f"mean_{name}"] == pytest.approx(expected.mean())
    assert scores.index.tolist() == list(range(K))
    assert means["pixel_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(t, p))
    assert means["mean_recall"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(t, p))
    assert means["frequency_weighted_iou"] == pytest.approx(
        sklearn_metrics.jaccard_score(t, p, average="weighted")
    )
    assert absent_classes(confusion) == []
    assert all(type(value) is float for value in means.values())


def test_errors_are_what_iou_lacks_to_one():
    prediction, target = masks(3)
    scores = class_scores(confusion_matrix(prediction, target, K))
    counted = target != 255
    for c in range(K):
        p, t = (prediction == c) & counted, target == c
        assert scores["false_positive"][c] == pytest.approx((p & ~t).sum() / (p | t).sum())
        assert scores["false_negative"][c] == pytest.approx((t & ~p).sum() / (p | t).sum())
    np.testing.assert_allclose(scores[["iou", "false_positive", "false_negative"]].sum(axis=1), 1)


def test_absent_classes_are_left_out_of_the_means():
    # 0: found, 1: true but never predicted, 2: predicted but never true, 3: neither
    confusion = np.array([[6, 0, 2, 0], [4, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores, means = class_scores(confusion), summary(confusion)
    assert absent_classes(confusion) == [3]
    assert scores.loc[3].isna().all()
    assert scores.loc[1].to_dict() == {
        "iou": 0, "precision": 0, "recall": 0, "f_score": 0, "false_positive": 0, "false_negative": 1,
    }  # fmt: skip
    assert np.isnan(scores["recall"][2])
    assert scores.loc[2].drop("recall").tolist() == [0, 0, 0, 1, 0]
    assert means["mean_iou"] == pytest.approx((6 / 12) / 3)
    assert means["mean_precision"] == pytest.approx((6 / 10) / 3)
    assert means["mean_recall"] == pytest.approx((6 / 8) / 2)
    assert means["frequency_weighted_iou"] == pytest.approx(6 / 12 * 8 / 12)


@pytest.mark.filterwarnings("error")
def test_nothing_but_void_scores_nan():
    confusion = confusion_matrix(np.zeros((3, 4), int), np.full((3, 4), 255), K)
    assert not confusion.any()
    assert np.isnan(list(summary(confusion).values())).all()
    assert absent_classes(confusion) == list(range(K))


def test_counts_pass_32_bits():
    prediction, target = masks(4)
    confusion = confusion_matrix(prediction, target, K)
    total = np.zeros((K, K), np.int64)
    for _ in range(5):
        total += confusion * 10**8  # 7e10 pixels in all, COCO has 2.5e10
    assert total.sum() > 2**33
    assert summary(total) == pytest.approx(summary(confusion), rel=1e-12)


@pytest.mark.parametrize("confusion", [np.zeros((2, 3), int), np.zeros((2, 2)), np.array([[1, -1], [0, 1]])])
def test_scores_refuse_what_is_no_confusion_matrix(confusion):
    with pytest.raises(ValueError, match="confusion is"):
        summary(confusion)


THRESHOLDS = np.arange(0, 60) / 100


def sweep_by_argmax(maps, classes, target, thresholds):
    confusions = []
    for t in thresholds:
        scores = np.concatenate([np.full((1, *target.shape), t, maps.dtype), maps])
        prediction = np.append(0, classes).astype(int)[scores.argmax(0)]
        confusions.append(confusion_matrix(prediction, target, K))
    return np.array(confusions)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_sweep_equals_one_argmax_per_threshold(n, dtype):
    """Maps on a grid of 0.05: ties between maps, and values exactly on a threshold, 0 and 1 included."""
    rng = np.random.default_rng(n)
    _, target = masks(n)
    classes = rng.permutation(np.arange(1, K))[:n]
    for maps in (rng.random((n, *target.shape)), rng.integers(0, 21, (n, *target.shape)) / 20):
        maps = maps.astype(dtype)
        confusions = threshold_sweep(maps, classes, target, THRESHOLDS, K)
        assert confusions.dtype == np.int64
        np.testing.assert_array_equal(confusions, sweep_by_argmax(maps, classes, target, THRESHOLDS))


def test_sweep_of_half_precision_maps_compares_in_float32():
    _, target = masks()
    maps = np.random.default_rng(0).random((2, *target.shape)).astype(np.float16)
    expected = sweep_by_argmax(maps.astype(np.float32), [1, 2], target, THRESHOLDS)
    np.testing.assert_array_equal(threshold_sweep(maps, [1, 2], target, THRESHOLDS, K), expected)


def test_sweep_of_an_image_without_class_is_background():
    prediction, target = masks()
    confusions = threshold_sweep(np.zeros((0, *target.shape)), [], target, THRESHOLDS, K)
    background = confusion_matrix(np.zeros_like(prediction), target, K)
    np.testing.assert_array_equal(confusions, np.broadcast_to(background, (60, K, K)))


def test_sweep_of_an_image_of_void_is_empty():
    confusions = threshold_sweep(np.ones((2, 3, 4)), [1, 2], np.full((3, 4), 255), [0.1, 0.2], K)
    assert confusions.shape == (2, K, K)
    assert not confusions.any()


def test_sweep_in_one_bin():
    maps, target = np.array([[[0.2, 0.5]]]), np.array([[0, 3]])
    confusions = threshold_sweep(maps, [3], target, [0.3], K)
    np.testing.assert_array_equal(confusions[0], confusion_matrix(target, target, K))


@pytest.mark.parametrize(
    ("maps", "classes", "target", "thresholds", "message"),
    [
        (np.zeros((1, 3, 4)), [1], np.zeros((4, 3), int), [0.5], "disagree"),
        (np.zeros((1, 3, 4)), [1, 2], np.zeros((3, 4), int), [0.5], "disagree"),
        (np.zeros((3, 4)), [1, 2, 3], np.zeros((3, 4), int), [0.5], "disagree"),
        (np.full((1, 3, 4), 255.0), [1], np.zeros((3, 4), int), [0.5], "outside"),
        (np.full((1, 3, 4), np.nan), [1], np.zeros((3, 4), int), [0.5], "NaN"),
        (np.zeros((1, 3, 4)), [0], np.zeros((3, 4), int), [0.5], "classes"),
        (np.zeros((1, 3, 4)), [K], np.zeros((3, 4), int), [0.5], "classes"),
        (np.zeros((1, 3, 4)), [1], np.full((3, 4), K), [0.5], "target"),
        (np.zeros((1, 3, 4)), [1], np.zeros((3, 4), int), [0.5, 0.4], "thresholds"),
        (np.zeros((1, 3, 4)), [1], np.zeros((3, 4), int), [], "thresholds"),
    ],
)
def test_sweep_refuses(maps, classes, target, thresholds, message):
    with pytest.raises(ValueError, match=message):
        threshold_sweep(maps, classes, target, thresholds, K)


def test_best_threshold_passes_a_local_maximum_and_takes_the_lower_of_a_tie():
    good, better, bad = np.array([[6, 2], [2, 6]]), np.array([[7, 1], [1, 7]]), np.array([[4, 4], [4, 4]])
    sweep = np.array([bad, good, bad, better, better, bad])
    threshold, mean_iou = best_threshold(sweep, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert threshold == 0.4
    assert mean_iou == pytest.approx(7 / 9)


def test_best_threshold_of_a_sweep_is_the_best_of_all():
    rng = np.random.default_rng(7)
    total, images = np.zeros((60, K, K), np.int64), []
    for seed in range(3):
        _, target = masks(seed)
        maps = 0.5 * rng.random((2, *target.shape)) + 0.3 * (target == np.array([2, 4])[:, None, None])
        images.append((maps, target))
        total += threshold_sweep(maps, [2, 4], target, THRESHOLDS, K)
    means = []
    for t in THRESHOLDS:
        pairs = [(target, np.where(m.max(0) > t, np.array([2, 4])[m.argmax(0)], 0)) for m, target in images]
        truth, prediction = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
        counted = truth != 255
        present = np.union1d(truth[counted], prediction[counted])
        means.append(
            sklearn_metrics.jaccard_score(
                truth[counted], prediction[counted], labels=present, average="macro", zero_division=0
            )
        )
    threshold, mean_iou = best_threshold(total, THRESHOLDS)
    assert threshold == THRESHOLDS[int(np.argmax(means))]
    assert mean_iou == pytest.approx(max(means))
    assert mean_iou == max(summary(confusion)["mean_iou"] for confusion in total)  # absent classes left out


@pytest.mark.parametrize(
    ("confusions", "thresholds", "message"),
    [
        (np.ones((2, 3, 3), int), [0.1], "2 confusions for 1"),
        (np.ones((2, 3, 3), int), [0.2, 0.1], "thresholds"),
        (np.zeros((2, 3, 3), int), [0.1, 0.2], "no pixel"),
    ],
)
def test_best_threshold_refuses(confusions, thresholds, message):
    with pytest.raises(ValueError, match=message):
        best_threshold(confusions, thresholds)


@pytest.mark.parametrize("classes", [[4], [2, 5], [5, 1, 3]])
@pytest.mark.parametrize(("size", "side"), [((20, 32), 0.5), ((13, 17), 0.65), ((7, 50), 1.0), ((3, 2), 0.2)])
def test_centre_box_equals_a_loop_over_pixels(size, side, classes):
    expected = np.zeros(size, np.uint8)
    for row, column in np.ndindex(*size):
        down, across = (row + 0.5) / size[0], (column + 0.5) / size[1]
        if abs(down - 0.5) <= side / 2 and abs(across - 0.5) <= side / 2:
            share = (across - 0.5 + side / 2) / side
            expected[row, column] = classes[min(int(share * len(classes)), len(classes) - 1)]
    found = centre_box(size, classes, side)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_centre_box_without_a_class_is_background():
    assert not centre_box((5, 6), []).any()


@pytest.mark.parametrize(
    ("classes", "side", "message"),
    [
        ([1], 0.0, "side"),
        ([1], 1.1, "side"),
        ([1], np.nan, "side"),
        ([0, 2], 0.5, "ids"),
        ([255], 0.5, "ids"),
    ],
)
def test_centre_box_rejects(classes, side, message):
    with pytest.raises(ValueError, match=message):
        centre_box((8, 8), classes, side)
