"""The interactive page shows what the stages make."""

from dataclasses import replace

import numpy as np
import pytest
from ipywidgets import HTML, Image
from PIL import Image as Picture
from tiny_study import tiny_study

from wsss_lib.data.masks import load_mask
from wsss_lib.refinement.masks import Background
from wsss_lib.report import explore

pytestmark = pytest.mark.whole  # see pyproject.toml

# after so short a training random weights leave many maps empty, and at the preset's beta nothing walks
LIVELY = {"backbone.weights": "imagenet", "walk.beta": 1}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tiny_study(tmp_path_factory.mktemp("study"), **LIVELY, seeds=[3])


@pytest.fixture(scope="module")
def subjects(study):
    return {id: explore.subject(study, "cam", id) for id in study.data.train.ids}


@pytest.fixture(scope="module")
def preset(study):
    return explore.Controls.of_preset(study.config)


def agreement(study, subjects, artifact, settings) -> float:
    """Share of pixels on which the page's masks are those of a stage."""
    same = [
        explore.look(photo, settings, study.config, len(study.data.classes)).mask
        == load_mask(artifact.file(f"{id}.png"))
        for id, photo in subjects.items()
    ]
    return np.mean(same)


@pytest.mark.parametrize("crf", [False, True])
def test_without_steps_the_mask_is_that_of_the_threshold(study, subjects, preset, crf):
    background = Background("threshold", preset.threshold)
    cams = study.response_maps("cam", 3)
    masks = study.masks(cams, background, study.config.refine_crf if crf else None)
    settings = replace(preset, steps=0, crf=crf)
    assert agreement(study, subjects, masks, settings) == 1
    assert agreement(study, subjects, masks, replace(settings, alpha=9)) == 1  # which belongs to the walk
    assert agreement(study, subjects, masks, replace(settings, threshold=0.9)) < 1


@pytest.mark.parametrize("crf", [False, True])
def test_with_steps_the_mask_is_the_pseudo_label(study, subjects, preset, crf):
    walked = study.refine(study.response_maps("cam", 3))
    labels = study.pseudo_labels(walked, crf=crf)
    settings = replace(preset, crf=crf)
    # the network sees one photo here and a batch there: the last digits of an affinity may differ
    assert agreement(study, subjects, labels, settings) > 0.999
    assert agreement(study, subjects, labels, replace(settings, threshold=0.9)) > 0.999
    assert agreement(study, subjects, labels, replace(settings, alpha=32)) < 0.999


def test_other_steps_and_alphas_are_those_of_another_preset(study, subjects, preset):
    other = study.varied({"walk.steps": 3, "walk.alpha": 2, "walk.alpha_sweep": [2]})
    labels = other.pseudo_labels(other.refine(other.response_maps("cam", 3)))
    assert agreement(study, subjects, labels, replace(preset, steps=3, alpha=2)) > 0.999


def test_the_iou_is_that_of_the_classes_of_mask_and_truth(study, subjects, preset):
    for photo in subjects.values():
        view = explore.look(photo, preset, study.config, len(study.data.classes))
        counted = photo.truth != 255
        expected = {}
        for c in np.union1d(view.mask[counted], photo.truth[counted]):
            found, true = (view.mask == c) & counted, photo.truth == c
            expected[c] = 100 * (found & true).sum() / (found | true).sum()
        assert view.iou == pytest.approx(expected)
        assert view.mean_iou == pytest.approx(np.mean(list(expected.values())))
        assert view.response.shape == photo.truth.shape
        assert view.response.min() >= 0
        assert view.response.max() == (photo.maps.maps.max() > 0)


def test_each_control_changes_the_picture(study, preset):
    page = explore.page(study, ["cam", "mixup_cam"])
    controls = {child.description: child for child in page.children if hasattr(child, "description")}
    (picture,) = (child for child in page.children if isinstance(child, Image))
    (scores,) = (child for child in page.children if type(child) is HTML)
    assert "IoU on this photo" in scores.value
    assert (controls["threshold"].disabled, controls["alpha"].disabled) == (True, False)
    masks = {}  # of one step, with and without the CRF and at another alpha
    one_step = replace(preset, steps=1, crf=False)
    for id in study.data.train.ids[1:]:
        photo = explore.subject(study, "mixup_cam", id)
        for settings in (one_step, replace(one_step, crf=True), replace(one_step, alpha=0.5)):
            view = explore.look(photo, settings, study.config, len(study.data.classes))
            masks.setdefault(id, set()).add(view.mask.tobytes())
    lively = max(masks, key=lambda id: len(masks[id]))  # a photo that every control changes
    changes = {
        "photo": lively, "method": "mixup_cam", "walk steps": 1,
        "dense CRF": not preset.crf, "alpha": 0.5,
    }  # fmt: skip
    seen = [picture.value]
    for name, value in changes.items():
        controls[name].value = value
        assert picture.value != seen[-1], name
        seen.append(picture.value)
    controls["walk steps"].value = 0
    assert (controls["threshold"].disabled, controls["alpha"].disabled) == (False, True)
    before = picture.value
    controls["threshold"].value = 0.8
    assert picture.value != before


def test_sample_settings_lead_from_the_bare_map_to_the_presets(preset):
    rows = explore.sample_settings(preset)
    assert len(rows) == 7
    *walks, last = rows.values()
    assert last == preset
    assert [one.threshold / preset.threshold for one in walks[:3]] == [0.5, 1, 1.5]
    assert [one.steps for one in walks] == [0, 0, 0, 4, preset.steps, preset.steps]
    assert [one.alpha / preset.alpha for one in walks[3:]] == [1, 1, 0.5]
    assert not any(one.crf for one in walks)
    assert f"threshold {preset.threshold:g}" in rows


def test_the_iou_of_settings_is_that_of_the_page(study, subjects, preset):
    id, photo = next(iter(subjects.items()))
    rows = {"as it\nis": preset, "bare": replace(preset, crf=False)}
    found = explore.iou_of_settings(study, "cam", id, rows)
    views = [explore.look(photo, one, study.config, len(study.data.classes)) for one in rows.values()]
    assert found.to_dict() == pytest.approx({"as it is": views[0].mean_iou, "bare": views[1].mean_iou})


def test_the_grid_has_a_row_for_each_setting(study, preset, tmp_path):
    figure = explore.grid(
        study, "cam", study.data.train.ids[0], {"as it is": preset, "bare": replace(preset, crf=False)}
    )
    shown = [len(axis.images) for axis in figure.axes[:8]]
    assert shown == [1, 1, 1, 1, 0, 1, 1, 0]  # photo and truth once
    assert "as it is\nIoU " in figure.axes[0].get_ylabel()
    assert "bare\nIoU " in figure.axes[4].get_ylabel()
    names = study.data.classes
    assert all(
        word in (*names, "or") for axis in figure.axes[1:6:4] for word in axis.texts[0].get_text().split()
    )
    figure.savefig(tmp_path / "grid.png")
    with Picture.open(tmp_path / "grid.png") as drawn:
        assert drawn.width > drawn.height
