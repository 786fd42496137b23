"""Affinities as pictures show the rows of the cells that are pointed at; the page holds every row."""

import base64
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from wsss_lib.methods import auxsegnet
from wsss_lib.report import affinities
from wsss_lib.report.affinities import (
    affinity_grid,
    affinity_page,
    by_stage,
    cell_row,
    encoded_rows,
    masks_of_val,
    row_masks,
)
from wsss_lib.study.study import Study

TINY = {
    "scenes.image_size": [48, 56], "scenes.train": 4, "scenes.val": 2, "workers": 0,
    "backbone.name": "test_resnet", "backbone.weights": "random", "backbone.frozen_taps": 0,
    "classifier.crop": 48, "classifier.long_side": [48, 64], "classifier.batch": 4, "classifier.epochs": 1,
    "auxsegnet.epochs": 1, "auxsegnet.channels": 8, "auxsegnet.dilations": [1, 2, 3], "auxsegnet.rounds": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    return Study("smoke", overrides=TINY, cache=folder / "cache", results=folder / "results")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_a_cells_row_lies_at_its_place():
    affinity = np.zeros((3, 4, 3, 4))
    affinity[1, 2, 2, 0] = 0.5  # what cell (1, 2) listens to
    affinity[1, 2, 0, 3] = 0.25
    found = cell_row(affinity, (24, 32), (15.9, 16.0))
    assert found.shape == (24, 32)
    assert found.max() == pytest.approx(1, abs=0.01)
    assert np.unravel_index(found.argmax(), found.shape)[0] >= 16
    assert found[0, -1] == pytest.approx(0.5)
    assert found[8:16].max() < 1


def test_the_page_holds_every_row_to_a_level():
    affinity = np.random.default_rng(0).random((3, 4, 3, 4))
    levels = np.frombuffer(base64.b64decode(encoded_rows(affinity)), np.uint8).reshape(3, 4, 3, 4)
    expected = affinity / affinity.max((2, 3), keepdims=True)
    assert np.abs(levels / 255 - expected).max() <= 0.5 / 255 + 1e-9


def test_page_and_grid_show_a_networks_affinities(study):
    network, id = study.classifier("auxsegnet", 0, 0), study.data.train.ids[0]
    read = auxsegnet.photo_affinities(study, network, id)
    page = affinity_page(study, network, id).data
    rows = json.loads(re.search(r"rows = (\{.*?\}), photo", page)[1])
    assert rows == {affinities.NAMES[name]: encoded_rows(found) for name, found in read.items()}
    assert "$" not in page
    figure = affinity_grid(study, network, id, [(0.5, 0.5), (0.1, 0.9)])
    *pictures, bar = figure.axes
    assert len(pictures) == 8
    assert bar.get_ylabel() == "affinity / its maximum in the row"
    titles = [axis.get_title() for axis in pictures]
    assert titles == ["photo", *affinities.NAMES.values(), "", "", "", ""]
    crosses = [(line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[4].lines]
    assert crosses == [(pytest.approx(0.9 * 56), pytest.approx(0.1 * 48))]


def test_stages_and_rows_are_told_in_numbers(study):
    table = by_stage(study)
    assert table.index.tolist() == [(0, 0), (0, 1)]
    shares = table[["class (%)", "background (%)", "ignored (%)"]].sum(axis=1)
    np.testing.assert_allclose(shares, 100)
    assert table["entropy ratio"].between(0, 1).all()
    masks = row_masks(study, auxsegnet.ABLATION["AuxSegNet"])
    assert study.scores(masks).query("metric == 'mIoU'")["value"].item() == table.loc[(0, 1), "val mIoU"]
    assert masks[0].origin.rounds == 1
    assert row_masks(study, auxsegnet.ABLATION["baseline"], crf=True)[0].origin.stage == "segmentation+CRF"


def test_the_comparison_with_others_has_the_presets_test_scales_and_the_ablations_one(study):
    two = study.varied({"auxsegnet.test_scales": [1.0, 1.5]})
    assert "1 1.5" in masks_of_val(two)[0].origin.inference
    assert row_masks(two, {}, crf=True)[0].key == row_masks(study, {}, crf=True)[0].key
    assert masks_of_val(study)[0].key == row_masks(study, {}, crf=True)[0].key  # this preset has one scale
