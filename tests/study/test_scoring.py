"""Sweeps over files against masks made and scored one setting at a time."""

import numpy as np
import pytest

from wsss_lib.artifacts import Artifact, Origin, Setting
from wsss_lib.data.masks import save_mask
from wsss_lib.metrics import confusion_matrix
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.study.scoring import PARTS, part_recall, predictor, score_photos, score_table

NAMES = ("background", "cat", "dog", "sheep")
IDS = ("a", "b", "c")


@pytest.fixture
def photos(tmp_path):
    """Truth, parts and maps of three photos of different size; the last has no class."""
    rng = np.random.default_rng(0)
    truth, parts, maps = {}, {}, {}
    for id, size, classes in zip(IDS, ((9, 14), (16, 8), (5, 6)), ([1, 3], [2], []), strict=True):
        truth[id] = rng.choice([0, *classes, 255], size).astype(np.uint8)
        parts[id] = np.where(truth[id] == 255, 255, rng.integers(1, 3, size) * (truth[id] > 0)).astype(
            np.uint8
        )
        cells = -(-size[0] // 4), -(-size[1] // 4)
        maps[id] = ScoreMaps(np.array(classes, int), rng.random((len(classes), *cells), np.float32), size, 4)
        maps[id].save(tmp_path / f"{id}.npz")
        maps[id] = ScoreMaps.load(tmp_path / f"{id}.npz")  # as float16 left it
    return tmp_path, truth, parts, maps


def artifact(folder, kind="score maps", setting=None) -> Artifact:
    return Artifact(folder, "key", "tiny maps", kind, Origin("cam", 0), setting)


def mask_at(maps, threshold):
    full = np.concatenate([np.full((1, *maps.size), threshold, np.float32), maps.full()])
    return np.append(0, maps.classes)[full.argmax(0)]


def test_threshold_sweep_and_part_recall_equal_single_masks(photos):
    folder, truth, parts, maps = photos
    thresholds = np.array([0.1, 0.4, 0.7])
    swept = artifact(folder, setting=Setting("threshold", tuple(thresholds), 0))
    totals, counts = score_photos(predictor(swept, len(NAMES)), IDS, truth.__getitem__, parts.__getitem__)
    recall = part_recall(totals)
    assert counts.shape == (len(IDS), len(thresholds) * 3 * len(NAMES))
    by_photo = counts.toarray().reshape(len(IDS), len(thresholds), 3, len(NAMES))
    for t, threshold in enumerate(thresholds):
        expected, hits, pixels = 0, dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
        for photo, id in enumerate(IDS):
            mask = mask_at(maps[id], threshold)
            confusion = confusion_matrix(mask, truth[id], len(NAMES))
            expected = expected + confusion
            sheet = [confusion.diagonal(), confusion.sum(0), confusion.sum(1)]
            np.testing.assert_array_equal(by_photo[photo, t], sheet)
            for part in PARTS:
                here = parts[id] == part
                hits[part] += (mask[here] == truth[id][here]).sum()
                pixels[part] += here.sum()
        np.testing.assert_array_equal(totals["all"][t], expected)
        for part, name in PARTS.items():
            assert recall[name][t] == pytest.approx(100 * hits[part] / pixels[part])


def test_background_sweep_takes_one_walked_background_at_a_time(tmp_path):
    rng = np.random.default_rng(1)
    scores = rng.random((4, 8, 8)).astype(np.float16)
    ScoreMaps(np.array([0, 0, 1, 3]), scores, (8, 8), 1).save(tmp_path / "a.npz")
    truth = rng.integers(0, 4, (8, 8)).astype(np.uint8)
    found = predictor(artifact(tmp_path, setting=Setting("alpha", (1, 2), 0)), 4)("a", truth)
    for index in range(2):
        mask = np.array([0, 1, 3])[scores[[index, 2, 3]].argmax(0)]
        np.testing.assert_array_equal(found[index], confusion_matrix(mask, truth, 4))


def test_score_table_names_fixed_and_oracle_setting_and_absent_classes(tmp_path):
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    good, bad = truth, np.array([[1, 1, 0, 0]], np.uint8)
    confusions = np.stack([confusion_matrix(mask, truth, 4) for mask in (bad, good)])
    table = score_table(confusions, Setting("threshold", (0.2, 0.6), 0), NAMES)
    means = table[(table["class"] == "all") & (table["metric"] == "mIoU")].set_index("rule")
    assert means.loc["fixed", ["setting", "value"]].tolist() == ["threshold 0.2", 0]
    assert means.loc["oracle", ["setting", "value"]].tolist() == ["threshold 0.6", 100]
    assert means.loc["fixed", "absent"] == "dog sheep"


def test_masks_have_one_setting(tmp_path):
    truth = np.array([[0, 1], [2, 255]], np.uint8)
    save_mask(np.array([[0, 1], [3, 1]], np.uint8), tmp_path / "a.png")
    confusions = predictor(artifact(tmp_path, "masks"), 4)("a", truth)
    assert confusions.shape == (1, 4, 4)
    table = score_table(confusions, None, NAMES)
    assert set(table["rule"]) == {"none"}
    iou = table[table["metric"] == "IoU"].set_index("class")["value"]
    assert iou.to_dict() == {"background": 100, "cat": 100, "dog": 0, "sheep": 0}


def test_probabilities_are_scored_by_their_largest_class(tmp_path):
    rng = np.random.default_rng(2)
    scores, truth = rng.random((4, 6, 5)).astype(np.float16), rng.integers(0, 4, (6, 5)).astype(np.uint8)
    ScoreMaps(np.arange(4), scores, (6, 5), 1).save(tmp_path / "a.npz")
    found = predictor(artifact(tmp_path, "probabilities"), 4)("a", truth)
    np.testing.assert_array_equal(found, confusion_matrix(scores.argmax(0), truth, 4)[None])


@pytest.mark.parametrize("kind", ["network", "boundaries", "marginals"])
def test_what_makes_no_masks_is_refused_by_name(tmp_path, kind):
    with pytest.raises(ValueError, match=f"The tiny maps are {kind}; give score maps or masks"):
        predictor(artifact(tmp_path, kind), 4)
