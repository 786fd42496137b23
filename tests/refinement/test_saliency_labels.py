"""AuxSegNet's fusion rule by its truth table, and its update of saliency against mean field in loops."""

import math

import numpy as np
import pytest
from PIL import Image

from wsss_lib.crf import CRF_PARAMETERS
from wsss_lib.data.masks import load_mask
from wsss_lib.data.saliency import read_saliency, save_saliency
from wsss_lib.refinement.saliency import (
    fused_labels,
    saliency_unary,
    updated_saliency,
    write_labels,
    write_saliency,
)
from wsss_lib.score_maps import ScoreMaps

NAME = "auxsegnet_saliency"


def test_the_truth_table():
    objects, salient = np.array([[7, 7, 0, 0]]), np.array([[True, False, True, False]])
    assert fused_labels(objects, salient).tolist() == [[7, 255, 255, 0]]
    assert fused_labels(objects, salient).dtype == np.uint8


def labels_of(tmp_path, classes, maps, saliency, cam_threshold=0.25, saliency_threshold=0.5) -> np.ndarray:
    maps = np.array(maps, float)
    ScoreMaps(np.array(classes, int), maps, maps.shape[1:], 1).save(tmp_path / "a.npz")
    save_saliency(np.array(saliency, float), tmp_path / "saliency.png")
    out = tmp_path / "out.png"
    out.unlink(missing_ok=True)
    write_labels(tmp_path / "a.npz", tmp_path / "saliency.png", cam_threshold, saliency_threshold, out)
    return load_mask(out)


def test_labels_of_a_photo(tmp_path):
    """Classes 3 and 8: the best above the threshold, where salient; both thresholds are strict."""
    maps = [[[0.3, 0.9, 0.25, 0.2, 0.3]], [[0.6, 0.1, 0.1, 0.2, 0.3]]]
    assert labels_of(tmp_path, [3, 8], maps, [[1, 1, 1, 1, 1]]).tolist() == [[8, 3, 255, 255, 3]]
    assert labels_of(tmp_path, [3, 8], maps, [[0, 0, 0, 0, 0]]).tolist() == [[255, 255, 0, 0, 255]]
    # a map of exactly the threshold is no object, a saliency of exactly the threshold does not stand out
    at = 102 / 255  # a grey level
    assert labels_of(tmp_path, [3], [[[0.5, 0.25]]], [[at, at]], 0.25, at).tolist() == [[255, 0]]
    assert labels_of(tmp_path, [3], [[[0.5, 0.25]]], [[at + 1 / 255] * 2], 0.25, at).tolist() == [[3, 255]]
    assert labels_of(tmp_path, [], np.zeros((0, 1, 2)), [[0, 1]]).tolist() == [[0, 255]]  # no class at all


def test_maps_and_saliency_are_brought_to_the_photos_size(tmp_path):
    ScoreMaps(np.array([2]), np.array([[[1.0, 0.0]]]), (8, 16), 8).save(tmp_path / "a.npz")
    save_saliency(np.array([[1.0], [0.0]]), tmp_path / "s.png")
    write_labels(tmp_path / "a.npz", tmp_path / "s.png", 0.5, 0.5, tmp_path / "out.png")
    mask = load_mask(tmp_path / "out.png")
    assert mask.shape == (8, 16)
    assert [set(np.unique(part)) for part in (mask[:4, :7], mask[4:, :7], mask[:4, 9:], mask[4:, 9:])] == [
        {2}, {255}, {255}, {0},
    ]  # fmt: skip


def test_the_unary_is_the_formula():
    saliency = np.random.default_rng(0).random((3, 4))
    found = saliency_unary(saliency)
    for y in range(3):
        for x in range(4):
            for label, p in enumerate((1 - saliency[y, x], saliency[y, x])):
                expected = -math.log(p) / (1.05 / (1 + math.exp(-p)))
                assert found[label, y, x] == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(saliency_unary(np.array([[0.0, 1.0]]))).all()


def mean_field(image: np.ndarray, average: np.ndarray) -> np.ndarray:
    """Foreground after one iteration of mean field, all sums as loops over pairs of pixels."""
    height, width = average.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    sxy, weight, wide, srgb, strong, _ = vars(CRF_PARAMETERS[NAME]).values()

    def kernel(i, j, place, colour):
        near = ((i[0] - j[0]) ** 2 + (i[1] - j[1]) ** 2) / place**2
        alike = 0 if colour is None else ((image[i].astype(float) - image[j]) ** 2).sum() / colour**2
        return math.exp(-(near + alike) / 2)

    energy, message = np.zeros((2, len(pixels))), np.zeros((2, len(pixels)))
    for n, pixel in enumerate(pixels):
        for label, p in enumerate((1 - average[pixel], average[pixel])):
            energy[label, n] = -math.log(p) / (1.05 / (1 + math.exp(-p)))
    first = np.exp(-energy) / np.exp(-energy).sum(0)
    for place, colour, share in ((sxy, None, weight), (wide, srgb, strong)):
        k = np.array([[kernel(i, j, place, colour) for j in pixels] for i in pixels])
        k /= np.sqrt(k.sum(1)[:, None] * k.sum(1))
        message += share * first @ k
    second = np.exp(message - energy)
    return (second / second.sum(0))[1].reshape(height, width)


def test_the_update_is_one_iteration_on_the_average():
    rng = np.random.default_rng(1)
    predicted, original = rng.uniform(0.05, 0.95, (2, 6, 7))
    image = np.repeat(rng.integers(0, 256, (1, 7, 3)), 6, 0).astype(np.uint8)  # a colour a column
    found = updated_saliency(image, predicted, original, NAME, 1)
    expected = mean_field(image, (predicted + original) / 2)
    assert np.abs(found - expected).mean() < 0.02  # of the lattice, see test_crf.py
    assert np.abs(found - expected).max() < 0.1
    one_sided = updated_saliency(image, predicted, predicted, NAME, 1)
    assert np.abs(one_sided - found).max() > 0.2  # the original counts


def test_the_posterior_is_kept_and_not_its_argmax(tmp_path):
    rng = np.random.default_rng(2)
    Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)).save(tmp_path / "photo.png")
    predicted = rng.random((1, 2, 3))
    ScoreMaps(np.array([1]), predicted, (16, 24), 8).save(tmp_path / "a.npz")
    save_saliency(rng.random((16, 24)), tmp_path / "original.png")
    paths = [tmp_path / name for name in ("photo.png", "a.npz", "original.png")]
    write_saliency(*paths, NAME, 5, tmp_path / "out.png")
    found = read_saliency(tmp_path / "out.png", (16, 24))
    expected = updated_saliency(
        np.array(Image.open(paths[0])), ScoreMaps.load(paths[1]).full()[0],
        read_saliency(paths[2], (16, 24)), NAME, 5,
    )  # fmt: skip
    assert np.abs(found - expected).max() <= 0.5 / 255 + 1e-6
    assert ((found > 0.1) & (found < 0.9)).any()
