"""From score maps to masks: each kind of background, the CRF, and resumption."""

import subprocess
import sys
from pathlib import Path

import handmade
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_study import tiny_study

from wsss_lib.artifacts import Setting
from wsss_lib.crf import dense_crf, unary_from_labels, unary_from_scores
from wsss_lib.data.masks import load_mask
from wsss_lib.models.affinity import GRID
from wsss_lib.refinement.affinitynet import affinity_labels, trusted_alphas
from wsss_lib.refinement.irn import confident_thresholds
from wsss_lib.refinement.masks import (
    Background,
    alpha_at,
    confident,
    label_crf,
    marginals,
    threshold_at,
    trusted,
    with_background,
    write_confident,
    write_marginals,
    write_mask,
)
from wsss_lib.score_maps import ScoreMaps

SIZE = (18, 26)
SHADE = (180 * (np.arange(SIZE[1]) >= 13)[:, None]).astype(np.uint8)  # of the bright right side


@pytest.fixture
def photo(tmp_path) -> Path:
    """Dark left, bright right; PNG, so that it is read as it was written."""
    pixels = np.random.default_rng(0).integers(0, 40, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels + SHADE).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def saved(tmp_path: Path, classes: tuple[int, ...], stride: int = 4, maps: np.ndarray | None = None) -> Path:
    shape = (len(classes), -(-SIZE[0] // stride), -(-SIZE[1] // stride))
    maps = np.random.default_rng(len(classes)).random(shape) if maps is None else maps
    ScoreMaps(np.array(classes, int), maps, SIZE, stride).save(tmp_path / "maps.npz")
    return tmp_path / "maps.npz"


def halves() -> np.ndarray:
    """One class: 0.9 in columns 15.., 0.1 before; a CRF should move the border to the photo's at 13."""
    maps = np.full((1, *SIZE), 0.1)
    maps[:, :, 15:] = 0.9
    return maps


# alphas and thresholds that follow the maps


@pytest.mark.parametrize("threshold", np.random.default_rng(3).uniform(0.01, 0.99, 8))
def test_the_two_backgrounds_of_a_threshold_and_its_alpha_meet_at_the_threshold(threshold):
    alpha = alpha_at(threshold)
    assert (1 - threshold) ** alpha == pytest.approx(threshold)
    assert threshold_at(alpha) == pytest.approx(threshold)


@pytest.mark.parametrize(("best", "factor"), [(0.3, 1), (0.5, 1 / alpha_at(0.3)), (None, 1)])
def test_alphas_follow_the_threshold_that_suits_the_maps(tmp_path, monkeypatch, best, factor):
    study = tiny_study(tmp_path, **{"affinity.calibrated": True, "irn.calibrated": True})
    assert study.config.scores.fixed_threshold == 0.3
    values = (0.3, 0.5)
    maps = handmade.maps(tmp_path / "maps", {}, setting=Setting("threshold", values, 0))
    monkeypatch.setattr(study, "calibrated", lambda maps: None if best is None else values.index(best))
    low, high = trusted_alphas(study, maps)
    config = study.config.affinity
    assert (low, high) == pytest.approx((factor * config.alpha_low, factor * config.alpha_high), rel=5e-3)
    strong, weak = confident_thresholds(study, maps)
    irn = study.config.irn
    for found, preset in ((strong, irn.foreground_threshold), (weak, irn.background_threshold)):
        assert alpha_at(found) == pytest.approx(factor * alpha_at(preset), rel=2e-2)
    plain = study.varied(
        {"affinity.calibrated": False, "irn.calibrated": False, "affinity.alpha_high": 6.7891}
    )
    assert trusted_alphas(plain, maps) == (config.alpha_low, 6.7891)
    assert confident_thresholds(plain, maps) == (irn.foreground_threshold, irn.background_threshold)


def test_maps_that_are_best_uncut_have_alphas_too(tmp_path, monkeypatch):
    study = tiny_study(tmp_path, **{"affinity.calibrated": True})
    maps = handmade.maps(tmp_path / "maps", {}, setting=Setting("threshold", (0.0, 1.0), 0))
    for index in (0, 1):
        monkeypatch.setattr(study, "calibrated", lambda maps, index=index: index)
        low, high = trusted_alphas(study, maps)
        assert 0 < low < high < np.inf


# background scores


def test_a_threshold_is_a_constant_background(tmp_path):
    maps = ScoreMaps.load(saved(tmp_path, (3, 7)))
    classes, scores = with_background(maps, Background("threshold", 0.25))
    assert classes.tolist() == [0, 3, 7]
    assert scores.shape == (3, *SIZE)
    assert (scores[0] == 0.25).all()
    np.testing.assert_array_equal(scores[1:], maps.full())


def test_power_is_one_minus_the_maximum_to_alpha(tmp_path):
    maps = ScoreMaps.load(saved(tmp_path, (3, 7)))
    classes, scores = with_background(maps, Background("power", 4))
    assert classes.tolist() == [0, 3, 7]
    full = maps.full()
    for y, x in np.ndindex(SIZE):
        expected = (1 - max(full[0, y, x], full[1, y, x])) ** 4
        assert scores[0, y, x] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(scores[1:], full)


def test_a_channel_is_one_of_the_walked_backgrounds(tmp_path):
    maps = ScoreMaps.load(saved(tmp_path, (0, 0, 0, 3, 7)))
    for channel in range(3):
        classes, scores = with_background(maps, Background("channel", channel))
        assert classes.tolist() == [0, 3, 7]
        np.testing.assert_array_equal(scores, maps.full()[[channel, 3, 4]])


def test_an_included_background_is_left_as_it_is(tmp_path):
    maps = ScoreMaps.load(saved(tmp_path, (0, 3, 7)))
    classes, scores = with_background(maps, Background("included"))
    assert classes.tolist() == [0, 3, 7]
    np.testing.assert_array_equal(scores, maps.full())


@pytest.mark.parametrize(
    ("background", "classes", "expected"),
    [
        (Background("threshold", 0.3), (), 0.3),
        (Background("power", 16), (), 1),
        (Background("channel", 1), (0, 0), None),
        (Background("included"), (0,), None),
    ],
)
def test_a_photo_without_a_class_is_all_background(tmp_path, photo, background, classes, expected):
    maps = saved(tmp_path, classes)
    found, scores = with_background(ScoreMaps.load(maps), background)
    assert found.tolist() == [0]
    assert scores.shape == (1, *SIZE)
    if expected is not None:
        assert (scores == np.float32(expected)).all()
    for crf in (None, "psa"):
        write_mask(photo, maps, background, crf, 1, tmp_path / f"{crf}.png")
        assert (load_mask(tmp_path / f"{crf}.png") == np.zeros(SIZE)).all()
    write_marginals(photo, maps, background, "psa", 1, tmp_path / "marginals.npz")
    loaded = ScoreMaps.load(tmp_path / "marginals.npz")
    assert loaded.classes.tolist() == [0]
    assert (loaded.full() == 1).all()


def test_unknown_kinds_are_named(tmp_path):
    with pytest.raises(
        ValueError, match="'percentile' is unknown; use threshold, power, channel or included"
    ):
        with_background(ScoreMaps.load(saved(tmp_path, (3,))), Background("percentile", 0.3))


# masks and marginals


def test_masks_hold_class_ids_of_the_best_score(tmp_path, photo):
    maps = saved(tmp_path, (3, 20))
    write_mask(photo, maps, Background("threshold", 0.4), None, 1, tmp_path / "out.png")
    full = ScoreMaps.load(maps).full()
    mask = load_mask(tmp_path / "out.png")
    for y, x in np.ndindex(SIZE):
        best = max((0.4, 0), *((float(score), id) for score, id in zip(full[:, y, x], (3, 20), strict=True)))
        assert mask[y, x] == best[1]
    assert set(np.unique(mask)) == {0, 3, 20}


def test_the_background_wins_ties(tmp_path, photo):
    maps = saved(tmp_path, (3, 20), 1, np.full((2, *SIZE), 0.5))
    write_mask(photo, maps, Background("threshold", 0.5), None, 1, tmp_path / "out.png")
    assert (load_mask(tmp_path / "out.png") == 0).all()
    write_mask(photo, maps, Background("threshold", 0.4), None, 1, tmp_path / "out.png")
    assert (load_mask(tmp_path / "out.png") == 3).all()


def test_marginals_are_the_crfs_of_the_scores(tmp_path, photo):
    maps = saved(tmp_path, (3, 20))
    image = np.array(Image.open(photo))
    classes, scores = with_background(ScoreMaps.load(maps), Background("power", 4))
    expected = dense_crf(image, unary_from_scores(scores), "psa", 2.0)
    np.testing.assert_array_equal(marginals(image, scores, "psa", 2.0), expected)
    np.testing.assert_allclose(expected.sum(0), 1, atol=1e-5)
    write_marginals(photo, maps, Background("power", 4), "psa", 2.0, tmp_path / "out.npz")
    loaded = ScoreMaps.load(tmp_path / "out.npz")
    assert loaded.classes.tolist() == classes.tolist() == [0, 3, 20]
    assert (loaded.size, loaded.stride) == (SIZE, 1)
    np.testing.assert_allclose(loaded.full(), expected, atol=1e-3)
    write_mask(photo, maps, Background("power", 4), "psa", 2.0, tmp_path / "out.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "out.png"), np.array([0, 3, 20])[expected.argmax(0)])


def test_the_crf_moves_the_border_to_the_photos(tmp_path, photo):
    maps = saved(tmp_path, (12,), 1, halves())
    for crf, border in ((None, 15), ("psa", 13)):
        write_mask(photo, maps, Background("threshold", 0.5), crf, 5, tmp_path / "out.png")
        expected = np.where(np.arange(SIZE[1]) < border, 0, 12) * np.ones((SIZE[0], 1))
        np.testing.assert_array_equal(load_mask(tmp_path / "out.png"), expected)


# IRN's labels


@pytest.fixture
def plain_photo(tmp_path) -> Path:
    """As `photo`, without noise."""
    Image.fromarray(np.full((*SIZE, 3), 20, np.uint8) + SHADE).save(tmp_path / "plain.png")
    return tmp_path / "plain.png"


def test_the_label_crf_starts_from_the_best_scores(plain_photo):
    """Parameters and confidence of IRN's code; how strong the scores are must not matter."""
    image, scores = np.array(Image.open(plain_photo)), np.concatenate([np.full((1, *SIZE), 0.5), halves()])
    labels = (np.arange(SIZE[1]) >= 15).astype(int) * np.ones((SIZE[0], 1), int)
    unary = np.where(labels == np.arange(2)[:, None, None], -np.log(0.7), -np.log(0.3)).astype(np.float32)
    np.testing.assert_allclose(unary, unary_from_labels(labels, 2), atol=1e-6)
    expected = dense_crf(image, unary, "irn_label", 5).argmax(0)
    np.testing.assert_array_equal(label_crf(image, scores, "irn_label", 5), expected)
    np.testing.assert_array_equal(label_crf(image, scores**8, "irn_label", 5), expected)
    assert (expected == (np.arange(SIZE[1]) >= 13)).all()  # the photo's border
    assert (label_crf(image, scores[:1], "irn_label", 5) == 0).all()


def test_confident_labels_pixel_by_pixel():
    strong, weak = np.array([[0, 0, 3, 3, 3]]), np.array([[0, 3, 3, 20, 0]])
    assert confident(strong, weak).tolist() == [[0, 255, 3, 3, 3]]


def test_confident_labels_of_a_file(tmp_path, plain_photo):
    maps = saved(tmp_path, (7, 12), 1, np.stack([0.2 * np.ones(SIZE), halves()[0]]))
    write_confident(plain_photo, maps, (0.5, 0.15), "irn_label", 5, tmp_path / "out.png")
    # 12 where it beats 0.5; elsewhere 7, with 0.2, beats the weak background alone
    expected = np.where(np.arange(SIZE[1]) < 13, 255, 12) * np.ones((SIZE[0], 1))
    np.testing.assert_array_equal(load_mask(tmp_path / "out.png"), expected)
    write_confident(plain_photo, maps, (0.5, 0.3), "irn_label", 5, tmp_path / "out.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "out.png"), np.where(expected == 12, 12, 0))
    write_confident(plain_photo, saved(tmp_path, ()), (0.5, 0.3), "irn_label", 5, tmp_path / "out.png")
    assert (load_mask(tmp_path / "out.png") == 0).all()


# left behind by a killed process


def test_no_half_written_file_is_left(tmp_path, photo, monkeypatch):
    def killed(self, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    maps = saved(tmp_path, (3,))
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(ScoreMaps, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        write_marginals(photo, maps, Background("power", 4), "psa", 1, tmp_path / "out.npz")
    assert set(tmp_path.iterdir()) == before


def test_processes_need_not_import_torch():
    code = "import sys, wsss_lib.refinement.masks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_trusted_pixels_are_the_labels_that_the_affinity_net_learns_from():
    """On a grid of one pixel a cell the picture in the notebook and the training labels must be one."""
    rng = np.random.default_rng(3)
    strong, weak = rng.random((2, 3, 5, 7), np.float32)
    upsampled = (
        torch.from_numpy(np.kron(maps, np.ones((1, GRID, GRID), np.float32))) for maps in (strong, weak)
    )
    np.testing.assert_array_equal(
        affinity_labels(*upsampled).numpy(), trusted(strong.argmax(0), weak.argmax(0))
    )
