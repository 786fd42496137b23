"""A method from outside the package, in one file (tests/toy_method.py) and registered by one line."""

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import toy_method
from ipywidgets import Image
from safetensors.torch import load_file
from tiny_backbone import tiny_backbone
from tiny_study import tiny_study

from wsss_lib import register
from wsss_lib.artifacts import Artifact
from wsss_lib.methods import RECIPES
from wsss_lib.models.trainable import Clock
from wsss_lib.report import explore
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.study.study import Study

pytestmark = pytest.mark.whole  # see pyproject.toml

HERE = {"workers": 0}


@pytest.fixture(scope="module", autouse=True)
def registered():
    register(toy_method.RECIPE)
    yield
    del RECIPES["toy"]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    return tiny_study(tmp_path_factory.mktemp("toy"), **HERE)


@pytest.fixture(scope="module")
def trained(study) -> Artifact:
    return study.classifier("toy", 0)


def test_it_is_one_of_the_studys_methods_and_trained_as_the_baseline(study, trained):
    assert study.methods["toy"] == "Toy"
    assert study.config.toy.epochs == study.config.classifier.epochs
    assert trained.provenance()["config"]["config"]["epochs"] == study.config.classifier.epochs
    with pytest.raises(ValueError, match="Toy has no rounds"):
        study.classifier("toy", 0, rounds=1)


def test_each_phase_has_its_losses_and_its_learning_rate(study, trained):
    history = pd.read_csv(trained.file("history.csv"))
    expected = {"epoch", "learn loss", "learn classes", "learn lr", "judge loss", "judge lr"}
    assert set(history) == expected
    assert len(history) == study.config.classifier.epochs
    assert history["judge loss"].nunique() == len(history)


def test_what_is_kept_is_the_teacher_alone(trained):
    names = set(load_file(trained.file("model.safetensors")))
    net = toy_method.Toy(tiny_backbone(), 3, 0.5)
    assert {name.split(".")[0] for name in names} == {"backbone", "classifier"}
    assert "classifier.weight" in names
    assert net.kept() is net.teacher


def test_a_changed_parameter_of_its_own_is_other_work(study, trained):
    for name, value in {"memory": 0.25, "critic_lr": 2e-2}.items():
        assert study.varied({f"toy.{name}": value}).classifier("toy", 0).key != trained.key
    assert study.varied({"toy.memory": 0.5}).classifier("toy", 0).key == trained.key  # as it was


def test_its_maps_follow_its_rule_and_take_every_further_step(study):
    maps = study.response_maps("toy", 0)
    for id in study.data.train.ids:
        one = ScoreMaps.load(maps.file(f"{id}.npz")).maps
        if one.size:
            assert (one.min((1, 2)) == 0).all()  # min-max; over the maximum alone, it would be above
    table = study.scores([maps, study.pseudo_labels(study.refine(maps))])
    assert table["method"].unique().tolist() == ["toy"]


def test_phases_train_their_part_and_freeze_the_rest(study, monkeypatch):
    seen = []
    step = toy_method.Toy.training_step

    def watched(self, batch, clock, phase):
        parts = {"learn": self.student, "judge": self.critic}
        for name, part in parts.items():
            assert part.training == (name == phase)
            head = part.classifier if name == "learn" else part
            assert all(p.requires_grad == (name == phase) for p in head.parameters())
        before = {name: [p.clone() for p in part.parameters()] for name, part in parts.items()}
        seen.append((clock, phase, before))
        return step(self, batch, clock, phase)

    monkeypatch.setattr(toy_method.Toy, "training_step", watched)
    study.varied({"toy.critic_lr": 5e-3}).classifier("toy", 0)
    assert [phase for _, phase, _ in seen] == ["learn", "judge"] * (len(seen) // 2)
    epochs, steps = study.config.classifier.epochs, len(study.data.train) // study.config.classifier.batch
    clocks = [clock for clock, phase, _ in seen if phase == "learn"]
    assert clocks == [Clock(i, i // steps, epochs, steps) for i in range(epochs * steps)]
    for (_, phase, before), (_, _, after) in itertools.pairwise(seen):
        changed = {
            name: any(not torch.equal(*pair) for pair in zip(before[name], after[name], strict=True))
            for name in before
        }
        assert changed == {"learn": phase == "learn", "judge": phase == "judge"}


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_killed_it_goes_on_and_ends_with_the_same_bytes(study, trained, tmp_path, monkeypatch, stop):
    """Killed in the second phase of its first step, after it, and in a later epoch."""
    killed, calls, step = tiny_study(tmp_path, **HERE), [], toy_method.Toy.training_step

    def dies(self, batch, clock, phase):
        calls.append(clock.step)
        if len(calls) == stop + 1:
            raise KeyboardInterrupt
        return step(self, batch, clock, phase)

    monkeypatch.setattr(toy_method.Toy, "training_step", dies)
    with pytest.raises(KeyboardInterrupt):
        killed.classifier("toy", 0)
    resumed = killed.classifier("toy", 0)
    assert resumed.key == trained.key
    whole, again = (found.file("model.safetensors").read_bytes() for found in (trained, resumed))
    assert whole == again
    pd.testing.assert_frame_equal(*(pd.read_csv(a.file("history.csv")) for a in (trained, resumed)))


def test_it_can_be_explored_by_hand(study):
    page = explore.page(study, ["toy"])
    (picture,) = (child for child in page.children if isinstance(child, Image))
    (choice,) = (c for c in page.children if getattr(c, "description", "") == "method")
    assert choice.options == ("toy",)
    assert picture.value[:8] == b"\x89PNG\r\n\x1a\n"


def test_names_of_methods_are_their_own():
    with pytest.raises(ValueError, match="There is a method 'cam' already"):
        register(toy_method.Recipe("cam", "Other", toy_method.ToyTraining, toy_method.RECIPE.build))
    with pytest.raises(ValueError, match="'walk' is a section of every preset"):
        register(toy_method.Recipe("walk", "Other", toy_method.ToyTraining, toy_method.RECIPE.build))


def test_a_copy_of_its_folder_needs_no_training(study, trained, tmp_path):
    shutil.copytree(study.cache.root, tmp_path / "cache")
    found = tiny_study(tmp_path, **HERE).response_maps("toy", 0, "val")
    assert np.isfinite(ScoreMaps.load(next(found.path.glob("*.npz"))).maps).all()
