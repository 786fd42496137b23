"""SC-CAM's rounds as cached stages: what each is made from, and that a killed study goes on."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wsss_lib.config import CAMClassifier
from wsss_lib.data.transforms import normalise
from wsss_lib.inference import response_maps
from wsss_lib.methods import load_config, sc_cam
from wsss_lib.methods.base import trained_classifier
from wsss_lib.methods.sc_cam import SCCAM
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.study.study import Study

pytestmark = [pytest.mark.whole, pytest.mark.filterwarnings("ignore:Class .* photos for .* sub-categories")]
SMALL = {
    "scenes.train": 12, "scenes.val": 2, "classifier.epochs": 1, "maps.scales": [1.0],
    "sc_cam.variant": "thesis", "sc_cam.variants.thesis.head_channels": None,
    "sc_cam.variants.thesis.epochs": 2, "sc_cam.variants.thesis.batch": 4,
}  # fmt: skip


def open_study(cache, **further) -> Study:
    return Study("smoke", cache=cache, results=cache / "results", overrides=SMALL | further)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rounds")


@pytest.fixture(scope="module")
def study(folder):
    return open_study(folder)


@pytest.fixture(scope="module")
def first(study):
    """The classifier of round 1."""
    return study.classifier("sc_cam", 0, rounds=1)


def test_round_0_is_a_cam_that_is_trained_as_the_rounds(study, folder):
    plain = open_study(folder, **{"sc_cam.variant": None})
    assert plain.classifier("sc_cam", 0, rounds=0) == plain.classifier("cam", 0)  # the baseline itself
    assert plain.response_maps("sc_cam", 0, "val", rounds=0) == plain.response_maps("cam", 0, "val")
    thesis = study.classifier("sc_cam", 0, rounds=0)
    assert thesis.origin.method == "cam"
    assert thesis.provenance()["config"]["config"]["epochs"] == study.config.sc_cam.epochs
    assert thesis.key != study.classifier("cam", 0).key


def test_a_round_learns_the_clusters_of_the_round_before(study, first):
    clusters = sc_cam.cluster_photos(study, 0, 1)
    features = sc_cam.image_features(study, study.classifier("sc_cam", 0, rounds=0))
    assert first.provenance()["inputs"][0] == clusters.key
    assert clusters.provenance()["inputs"][0] == features.key
    assigned = sc_cam.assigned(study, 0, 1)
    np.testing.assert_array_equal(assigned >= 0, study.data.train.labels > 0)
    for row in sc_cam.clusters(study, 0, 1).itertuples():
        photo = study.data.train.ids.index(row.id)
        assert assigned[photo, study.data.train.classes.index(row[2])] == row.cluster
    with pytest.raises(ValueError, match="Round 0"):
        sc_cam.cluster_photos(study, 0, 0)


def test_features_are_those_of_each_whole_photo(study, first):
    model = trained_classifier(study, first)
    found = sc_cam.features(study, first)
    for row in (0, 7):
        image = torch.from_numpy(study.data.train.image(study.data.train.ids[row])).permute(2, 0, 1)[None]
        with torch.no_grad():
            features = model.features(normalise(image, model.mean, model.std))
        np.testing.assert_allclose(found[row], features[0].mean((1, 2)), rtol=1e-3, atol=1e-4)
    assert not np.allclose(found, sc_cam.features(study, None))  # the ImageNet backbone's


def test_other_clusters_are_other_work_on_the_same_features(study, first):
    other = study.varied({"sc_cam.clusters": 1, "sc_cam.weight": 1.0})
    assert other.config.scenes == study.config.scenes  # its overrides stay
    assert sc_cam.cluster_photos(other, 0, 1) != sc_cam.cluster_photos(study, 0, 1)
    before, after = (s.classifier("sc_cam", 0, rounds=0) for s in (study, other))
    assert sc_cam.image_features(other, after) == sc_cam.image_features(study, before)
    heavier = study.varied({"sc_cam.weight": 1.0})
    assert sc_cam.cluster_photos(heavier, 0, 1) == sc_cam.cluster_photos(study, 0, 1)


def test_maps_are_those_of_the_parent_head_and_of_the_photos_sub_categories(study, first):
    data, scale = study.data.train, study.config.maps
    maps = study.response_maps("sc_cam", 0, rounds=1)
    assert maps.origin.rounds == 1
    val = study.response_maps("sc_cam", 0, "val", rounds=1)
    assert val.on("train") == maps  # for refining
    model = trained_classifier(study, first)
    id = max(data.ids, key=lambda i: data.label(i).sum())
    image = torch.from_numpy(data.image(id)).permute(2, 0, 1)[None]
    label = torch.from_numpy(data.label(id))[None]
    (expected,) = response_maps(model, image, label, scale.scales, scale.flip, scale.stride)
    stored = ScoreMaps.load(maps.file(f"{id}.npz"))
    np.testing.assert_array_equal(stored.classes, expected.classes)
    np.testing.assert_allclose(stored.maps, expected.maps, atol=2e-2)  # float16, and another batch

    finer = sc_cam.sub_category_maps(study, 0, 1, [id])[id]
    np.testing.assert_array_equal(finer.classes, expected.classes)
    parents, subs = sc_cam.head_weights(study, 0, 1)
    assert parents.shape == (6, 320)
    assert subs.shape == (6, study.config.sc_cam.clusters, 320)
    with torch.no_grad():  # the same maps from a parent head that holds the weights of the sub-categories
        for c in expected.classes - 1:
            k = sc_cam.assigned(study, 0, 1)[data.ids.index(id), c]
            model.classifier.weight[c, :, 0, 0] = torch.from_numpy(subs[c, k])
    (expected,) = response_maps(model, image, label, scale.scales, scale.flip, scale.stride)
    np.testing.assert_allclose(finer.maps, expected.maps, atol=1e-5)


@pytest.mark.parametrize("start", ["previous", "imagenet"])
def test_a_round_starts_where_its_variant_says(study, first, folder, start, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "wsss_lib.study.study.train", lambda model, *_, **__: seen.update(model.state_dict()) or exit_now()
    )
    other = open_study(folder, **{"sc_cam.variants.thesis.start": start})
    with pytest.raises(KeyboardInterrupt):
        other.classifier("sc_cam", 0, rounds=2 if start == "previous" else 1)
    cam = load_file(study.classifier("sc_cam", 0, rounds=0).file("model.safetensors"))
    name = "classifier.weight"
    carried = load_file(first.file("model.safetensors"))[name]
    assert torch.equal(seen[name], carried) == (start == "previous")
    assert not torch.equal(seen[name], cam[name])


def exit_now():
    raise KeyboardInterrupt


def test_a_killed_study_goes_on_within_the_round(study, first, folder, tmp_path, monkeypatch):
    whole = study.classifier("sc_cam", 0, rounds=2)
    shutil.copytree(folder, tmp_path / "again")
    killed = open_study(tmp_path / "again")
    shutil.rmtree(killed.classifier("sc_cam", 0, rounds=2).path)
    steps, step = [], SCCAM.training_step

    def dies(self, batch, clock, phase):
        steps.append(clock.step)
        if len(steps) == 5:  # in the second of two epochs of three steps
            exit_now()
        return step(self, batch, clock, phase)

    monkeypatch.setattr(SCCAM, "training_step", dies)
    with pytest.raises(KeyboardInterrupt):
        killed.response_maps("sc_cam", 0, "val", rounds=2)
    resumed = open_study(tmp_path / "again").classifier("sc_cam", 0, rounds=2)
    assert steps == [0, 1, 2, 3, 4, 3, 4, 5]  # round 1 and the first epoch are not trained again
    assert resumed.provenance()["resumed"]
    expected, found = (load_file(a.file("model.safetensors")) for a in (whole, resumed))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_without_a_variant_a_round_trains_as_the_baseline():
    config = load_config("smoke")
    shared = {key: getattr(config.sc_cam, key) for key in CAMClassifier.model_fields}
    assert CAMClassifier(**shared) == config.classifier
    assert config.sc_cam.start == "imagenet"
    thesis = load_config("smoke", {"sc_cam.variant": "thesis"}).sc_cam
    assert (thesis.start, thesis.head_channels, thesis.optimiser.name) == ("previous", 16, "adam")
    with pytest.raises(ValueError, match=r"variant 'paper' must be null or one of \['release', 'thesis'\]"):
        load_config("smoke", {"sc_cam.variant": "paper"})
