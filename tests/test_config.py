"""Presets: all load, and every kind of mistake is rejected with its place."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from wsss_lib.config import PRESETS, CAMClassifier, dotted_keys, names, plain, read_preset, whole_numbers
from wsss_lib.crf import CRF_PARAMETERS
from wsss_lib.methods import RECIPES, load_config
from wsss_lib.study.study import Study

HERE = Path(__file__).parent
LIMIT_800 = HERE.parent / "results" / "voc2012-subset" / "limit-800.yaml"
LATER = {
    f"{section}.optimiser.{field}"
    for section in ("classifier", "affinity", "irn", "segmentation")
    for field in ("schedule", "warmup")
}
NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_loads_and_says_every_value_itself_or_by_what_it_extends(name):
    config = load_config(name)
    tree = read_preset(name)
    shared = {key: value for key, value in config.model_dump().items() if key not in RECIPES}
    stated = {key for key in dotted_keys(tree) if key.partition(".")[0] not in RECIPES}
    assert set(dotted_keys(shared)) - stated <= LATER  # no hidden defaults but of fields that came later
    for crf in (config.affinity.crf, config.irn.crf, config.refine_crf, config.segmentation.crf):
        assert crf in CRF_PARAMETERS
    assert config.affinity.alpha_low < config.affinity.alpha_high
    assert config.affinity.crop % 8 == 0
    assert config.walk.alpha in config.walk.alpha_sweep
    first, last, step = config.scores.sweep
    assert first < last
    assert step < last - first


def test_a_preset_states_what_differs_from_the_one_it_extends(tmp_path):
    (tmp_path / "base.yaml").write_text("extends: quick\nseeds: [5]\nwalk: {steps: 7}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nwalk: {beta: 3}\n")
    mine, quick = load_config(tmp_path / "mine.yaml"), load_config("quick")
    assert (mine.walk.beta, mine.walk.steps, mine.seeds) == (3, 7, (5,))
    assert mine.walk.model_copy(update={"beta": quick.walk.beta, "steps": quick.walk.steps}) == quick.walk
    assert mine.segmentation == quick.segmentation


def test_presets_that_extend_each_other_are_named(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ValueError, match=r"a\.yaml extends itself, by way of .*b\.yaml"):
        load_config(tmp_path / "a.yaml")


def test_a_method_without_section_is_the_only_thing_that_is_unknown(tmp_path):
    tree = read_preset("smoke")
    del tree["sc_cam"]
    (tmp_path / "older.yaml").write_text(yaml.safe_dump(tree))
    config = load_config(tmp_path / "older.yaml")
    assert config.sc_cam is None
    assert config.mixup_cam == load_config("smoke").mixup_cam
    assert config.cam == config.classifier  # the baseline needs no section of its own
    study = Study(str(tmp_path / "older.yaml"))
    assert "sc_cam" not in study.methods
    with pytest.raises(ValueError, match=r"older\.yaml has no section 'sc_cam', which says how to train it"):
        study.classifier("sc_cam", 0)


def test_a_method_is_trained_as_the_baseline_unless_it_says_otherwise():
    config = load_config("smoke", {"classifier.epochs": 7, "mixup_cam.batch": 3})
    assert (config.mixup_cam.epochs, config.sc_cam.epochs) == (7, 7)
    assert (config.mixup_cam.batch, config.sc_cam.batch) == (3, config.classifier.batch)


def test_a_variant_gets_all_values_of_its_method():
    changes = {"epochs": 9, "lambda_ent": 0.5}
    values = {"mixup_cam.variants": {"strong": changes}, "mixup_cam.variant": "strong"}
    plain, strong = load_config("smoke").mixup_cam, load_config("smoke", values).mixup_cam
    assert strong == plain.model_copy(update=changes | {"variant": "strong"})
    with pytest.raises(ValueError, match=r"mixup_cam\.variant 'weak' must be null or one of \['thesis'\]"):
        load_config("smoke", {"mixup_cam.variant": "weak"})
    with pytest.raises(ValueError, match=r"not valid: mixup_cam\.variants\.thesis\.lambda_con: "):
        load_config("smoke", {"mixup_cam.variants": {"thesis": {"lambda_con": -1}}})


def test_a_file_of_an_earlier_version_means_what_it_meant():
    """limit-800.yaml as it was before presets extended each other and methods owned their sections."""
    old, new = (load_config(HERE / "limit-800-of-2026-11.yaml"), load_config(LIMIT_800))
    assert (old.limit, old.seeds, old.classifier.epochs) == (new.limit, new.seeds, new.classifier.epochs)
    assert old.mixup_cam.mix_per == "batch"  # there it was called lambda_per
    for section in (old.mixup_cam, old.sc_cam):
        shared = {key: getattr(section, key) for key in CAMClassifier.model_fields}
        assert CAMClassifier(**shared) == old.classifier
    assert (old.sc_cam.clusters, old.sc_cam.clusters_sweep, old.sc_cam.start) == (5, (1, 5), "imagenet")


def test_the_three_presets_without_downloads_are_there():
    assert {"smoke", "quick", "standard"} <= set(NAMES)


def test_a_preset_is_also_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((PRESETS / "quick.yaml").read_text().replace("seeds: [0]", "seeds: [3, 4]"))
    assert load_config(path).seeds == (3, 4)
    assert load_config(str(path)) == load_config(path)


def test_overrides_reach_every_depth():
    config = load_config(
        "smoke",
        {
            "seeds": [7],
            "limit": None,
            "walk.steps": 64,
            "classifier.optimiser.momentum": "weight_decay_slip",
            "scenes": {"image_size": [64, 80], "train": 3, "val": 2, "seed": 1},
            "scenes.train": 5,  # in the order given
        },
    )
    assert config.seeds == (7,)
    assert config.walk.steps == 64
    assert config.classifier.optimiser.momentum == "weight_decay_slip"
    assert config.affinity.optimiser.momentum == 0.9
    assert config.scenes.model_dump() == {"image_size": (64, 80), "train": 5, "val": 2, "seed": 1, "tune": 12}
    assert load_config("smoke").seeds == (0,)  # the preset itself is untouched


@pytest.mark.parametrize(("tune", "drawn"), [(0, ["train", "val"]), (4, ["train", "val", "tune"])])
def test_scenes_to_tune_on_are_drawn_where_there_are_some(tune, drawn):
    assert list(load_config("smoke", {"scenes.tune": tune}).scenes.sizes) == drawn


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("classifier.epoch", "classifier.epochs"),
        ("clasifier.epochs", "classifier.epochs"),
        ("walk.step", "walk.steps"),
        ("worker", "workers"),
        ("walk.steps.more", "walk.steps"),
    ],
)
def test_an_override_of_no_key_names_its_neighbours(key, near):
    with pytest.raises(ValueError, match=rf"'{key}' is no key of preset smoke; near: .*'{near}'"):
        load_config("smoke", {key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classifier.epochs", 0),
        ("classifier.epochs", 1.5),
        ("classifier.batch", -1),
        ("classifier.jitter", "often"),
        ("classifier.optimiser.lr", 0),
        ("classifier.optimiser.lr", float("nan")),
        ("classifier.optimiser.lr", float("inf")),
        ("classifier.optimiser.name", "lion"),
        ("classifier.optimiser.momentum", 1.1),
        ("classifier.optimiser.momentum", "slip"),
        ("classifier.optimiser.weight_decay", -1e-4),
        ("backbone.output_stride", 4),
        ("maps.stride", 3),
        ("maps.scales", [1, -1]),
        ("maps.scales", []),
        ("affinity.output_stride", 32),
        ("affinity.channels", [64, 128]),
        ("segmentation.scale", [0.5]),
        ("segmentation.scale", [1.5, 0.5]),
        ("segmentation.scale", [0.5, 1, -1]),
        ("segmentation.network", "deeplab"),
        (
            "segmentation.backbone",
            {"name": "resnet18", "weights": "random", "output_stride": 8, "frozen_taps": 0},
        ),
        ("classifier.dropout", 1),
        ("mixup_cam.alpha", 0),
        ("mixup_cam.lambda_con", -1),
        ("mixup_cam.entropy_of", "pixels"),
        ("mixup_cam.sweeps.alpha", []),
        ("segmentation.test_scales", []),
        ("walk.alpha_sweep", []),
        ("irn.background_threshold", 0.9),
        ("irn.background_threshold", 0),  # smoke's follows the maps, and 0 has no alpha
        ("irn.crf", "soft"),
        ("irn.boundary_width", 30),
        ("irn.displacement_width", 240),
        ("irn.walk.normalise", "image"),
        ("scenes.image_size", [96]),
        ("scores.fixed_threshold", 1.2),
        ("seeds", ["a"]),
        ("seeds", []),
        ("limit", 0),
        ("workers", -1),
        ("precision", "fp8"),
    ],
)
def test_values_out_of_range_are_named(key, value):
    place = {"walk.alpha_sweep": "walk", "irn.background_threshold": "irn"}.get(key, key)
    with pytest.raises(ValueError, match=rf"Preset smoke is not valid: (.*; )?{place}"):
        load_config("smoke", {key: value})


def test_fields_that_came_later_leave_the_keys_of_earlier_runs():
    """A stage's key is the hash of what is dumped here: at their defaults, new fields must not be in it."""
    own = {"name": "resnet18", "weights": "a", "output_stride": 8, "frozen_taps": 0, "trained_on": "b"}
    later = {
        "classifier": {"dropout": 0.5, "xavier": True},
        "irn": {"backbone": own},
        "segmentation": {"network": "largefov", "backbone": own},
    }
    for section, fields in later.items():
        found = getattr(load_config("smoke"), section).model_dump(exclude_defaults=True)
        assert not set(fields) & set(found)
        for field, value in fields.items():
            changed = getattr(load_config("smoke", {f"{section}.{field}": value}), section)
            assert changed.model_dump(exclude_defaults=True)[field] == value
    earlier = {"scale", "channels", "crf", "test_scales", "test_flip", "epochs", "batch", "crop", "optimiser"}
    assert set(load_config("smoke").segmentation.model_dump(exclude_defaults=True)) == earlier


@pytest.mark.parametrize(
    "overrides", [{"segmentation.network": "deeplab_v2"}, {"segmentation.channels": None}]
)
def test_only_deeplab_v2_has_no_width_of_the_head(overrides):
    with pytest.raises(
        ValueError, match=r"smoke is not valid: segmentation: .*channels is .* null for deeplab_v2"
    ):
        load_config("smoke", overrides)
    both = {"segmentation.network": "deeplab_v2", "segmentation.channels": None}
    assert load_config("smoke", both).segmentation.channels is None


def test_the_alpha_used_must_be_swept():
    with pytest.raises(ValueError, match=r"walk: .*alpha 3\.0 must be one of alpha_sweep"):
        load_config("smoke", {"walk.alpha": 3})


def test_the_irn_threshold_used_must_be_swept():
    with pytest.raises(ValueError, match=r"irn\.walk\.threshold 0\.305 must lie on scores\.sweep"):
        load_config("smoke", {"irn.walk.threshold": 0.305})


def edited(tmp_path, old: str, new: str):
    text = (PRESETS / "quick.yaml").read_text()
    assert old in text
    path = tmp_path / "edited.yaml"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("limit: null", "limit: null\nlimits: 3", "limits: Extra inputs"),
        (
            "  crf: deeplab_v2",
            "  crff: deeplab_v2",
            "segmentation.crf: Field required; segmentation.crff: Extra",
        ),
        ("limit: null\n", "", "limit: Field required"),
        ('precision: "no"', "precision: no", "precision: "),  # YAML's no is False
    ],
)
def test_unknown_and_missing_keys_of_a_file_are_named(tmp_path, old, new, message):
    path = edited(tmp_path, old, new)
    with pytest.raises(ValueError, match=rf"Preset .*edited\.yaml is not valid: .*{message}"):
        load_config(path)


@pytest.mark.parametrize("text", ["", "- 1\n", "seeds: [0\n"])
def test_a_file_that_is_no_preset_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.yaml"):
        load_config(path)
    with pytest.raises(ValueError, match=r"broken\.yaml"):
        load_config(path, {"limit": 3})


def test_unknown_presets_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No preset 'fast'; choose one of \[.*'quick'.*'smoke'"):
        load_config("fast")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_numbers_as_yaml_writes_them(tmp_path):
    """PyYAML reads 1e-4, without a dot, as a string: it must count as the number it is."""
    path = edited(tmp_path, "lr: 2.0e-4", "lr: 1e-4")
    assert load_config(path).classifier.optimiser.lr == 1e-4


def test_configurations_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        load_config("smoke").walk.steps = 3


def test_dotted_keys():
    assert dotted_keys({"a": {"b": 1, "c": {"d": 2}}, "e": [1]}) == ["a", "a.b", "a.c", "a.c.d", "e"]


# --- parameters as people write them ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (0, (0,)),
        ([2, 0], (2, 0)),
        (range(3), (0, 1, 2)),
        (np.int64(7), (7,)),
        (np.arange(2), (0, 1)),
        (pd.Index([3, 1]), (3, 1)),
        (pd.Series([5], dtype="uint8"), (5,)),
    ],
)
def test_whole_numbers_in_any_of_their_spellings(given, found):
    numbers = whole_numbers(given, "seeds")
    assert numbers == found
    assert {type(number) for number in numbers} == {int}


@pytest.mark.parametrize(
    "given", [[], "0", [0.5], np.array([0.0]), [True], [0, 0], -1, None, [[0]], {"a": 0}]
)
def test_what_are_no_whole_numbers_is_said(given):
    with pytest.raises(ValueError, match=r"seeds is .*; give different whole numbers from 0 on"):
        whole_numbers(given, "seeds")


def test_one_name_or_several():
    assert names("cat") == ["cat"]
    assert names(np.array(["cat", "dog"])) == names(pd.Index(["cat", "dog"])) == ["cat", "dog"]
    assert {type(name) for name in names(np.array(["cat"]))} == {str}


def test_overrides_of_numpy_and_paths_are_those_of_plain_values():
    odd = {
        "classifier.epochs": np.int64(3),
        "maps.scales": np.array([1.0, 0.5]),
        "backbone.weights": Path("weights") / "own.pth",
        "seeds": 4,
        "walk": {"steps": np.int32(9)},
    }
    same = {
        "classifier.epochs": 3,
        "maps.scales": [1.0, 0.5],
        "backbone.weights": "weights/own.pth",
        "seeds": [4],
        "walk": {"steps": 9},
    }
    config = load_config("smoke", odd)
    assert config == load_config("smoke", same)
    assert json.loads(json.dumps(plain(odd))) == same | {"seeds": 4}
    json.dumps(config.model_dump())
    with pytest.raises(ValueError, match="overrides is 'crf_scale=1'; give keys and values"):
        load_config("smoke", "crf_scale=1")


def test_a_study_takes_parameters_as_people_write_them(tmp_path):
    options = {
        "cache": tmp_path / "cache",
        "results": tmp_path / "results",
        "overrides": {"limit": np.int64(3)},
    }
    study = Study("smoke", seeds=np.arange(2), classes="cat", **options)
    assert study.seeds == (0, 1)
    written = study.results.table(pd.DataFrame({"a": [1]}), "numbers")
    origin = json.loads((written.parents[1] / "provenance.json").read_text())["runs"]["1"]
    assert (origin["seeds"], origin["classes"], origin["overrides"]) == ([0, 1], ["cat"], {"limit": 3})
    assert Study(PRESETS / "smoke.yaml", seeds=0, **options).seeds == (0,)
    with pytest.raises(ValueError, match=r"seeds is 'all'; give different whole numbers"):
        Study("smoke", seeds="all", **options)
    with pytest.raises(ValueError, match=r"seed is 1\.5; give different whole numbers"):
        study.classifier("cam", seed=1.5)


def test_methods_are_chosen_by_one_name_or_several(tmp_path):
    study = Study("smoke", cache=tmp_path, results=tmp_path)
    assert study.chosen() == study.methods
    assert study.chosen("sc_cam") == {"sc_cam": "SC-CAM"}
    assert list(study.chosen(np.array(["mixup_cam", "cam"]))) == ["mixup_cam", "cam"]
    with pytest.raises(ValueError, match="Method 'sc-cam' is unknown"):
        study.chosen(["cam", "sc-cam"])
    shorter = study.varied({"left_out": ["acr_vit", "pss"]})
    assert list(shorter.chosen()) == [name for name in study.methods if name not in ("acr_vit", "pss")]
    assert list(shorter.chosen("pss")) == ["pss"]
