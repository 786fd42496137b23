"""Rows and curves of an ablation ask for the right trainings and pair the right artifacts."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from wsss_lib.artifacts import Artifact, Origin, Setting
from wsss_lib.report import ablation


class Stages:
    """A study whose maps remember the overrides they were made with."""

    def __init__(self, overrides=()):
        self.overrides, self.seeds = dict(overrides), (0, 1)
        self.config = SimpleNamespace()

    def varied(self, overrides):
        return Stages({**self.overrides, **overrides})

    def response_maps(self, method, seed, split="train"):
        title = f"{method} {sorted(self.overrides.items())} {split} {seed}"
        return Artifact(Path("maps"), title, title, "score maps", Origin(method, seed, split=split),
                        Setting.at("threshold", (0.1, 0.3, 0.5), 0.3))  # fmt: skip

    def classifier(self, method, seed):
        return f"{method} {self.overrides} {seed}"

    def scores(self, artifacts):
        rows = [
            (one.title, name, metric, value)
            for one in artifacts
            for name, metric, value in (("all", "mIoU", 1.0), ("all", "recall", 2.0), ("cat", "IoU", 3.0))
        ]
        return pd.DataFrame(rows, columns=["title", "class", "metric", "value"])

    def compare(self, ours, baseline):
        return pd.DataFrame({"ours": [ours[0].title], "against": [baseline[0].title]})

    def headline(self, artifact):
        return artifact.setting.fixed

    def sweep(self, artifact):
        columns = {"mIoU": [1.0, 2.0, 3.0], "pixel accuracy": [9.0] * 3, "body": [4.0, 5.0, 6.0]}
        return pd.DataFrame(columns, index=[0.1, 0.3, 0.5]) + artifact.origin.seed


def test_a_row_is_the_study_but_for_its_overrides():
    study = Stages()
    assert ablation.Row(study, "cam").varied is study
    row = ablation.Row(study, "mix", {"mix.alpha": 0.5})
    assert [one.title for one in row.maps("val")] == [
        "mix [('mix.alpha', 0.5)] val 0", "mix [('mix.alpha', 0.5)] val 1",
    ]  # fmt: skip
    assert row.classifier(1) == "mix {'mix.alpha': 0.5} 1"


def test_scores_go_stage_by_stage_under_the_rows_titles():
    study = Stages()
    made = {"A": ablation.Row(study, "cam").maps(), "B": ablation.Row(study, "mix").maps()}
    table = ablation.row_scores(study, [made, {"B": made["B"][:1]}])
    assert table["method"].tolist() == ["A"] * 6 + ["B"] * 6 + ["B"] * 3
    assert table["title"].unique().tolist() == [one.title for of in made.values() for one in of]


def test_gains_have_the_papers_beside_them_and_skip_what_was_not_made():
    study = Stages()
    made = {title: ablation.Row(study, title).maps() for title in "ABC"}
    values = {
        ("CAM", "A"): 48.0,
        ("CAM", "B"): 49.3,
        ("CAM", "C"): 50.1,
        ("RW", "A"): 58.0,
        ("RW", "C"): 61.9,
    }
    printed = pd.DataFrame(
        [(stage, title, value, "voc2012") for (stage, title), value in values.items()],
        columns=["stage", "method", "value", "dataset"],
    )
    stages = {"CAM": made, "RW": {title: made[title] for title in "AC"}, "CRF": {t: made[t] for t in "BC"}}
    table = ablation.row_gains(study, stages, {"A": ["B", "C"], "B": ["C"]}, printed)
    assert table[["base", "stage", "method"]].to_numpy().tolist() == [
        ["A", "CAM", "B"], ["A", "CAM", "C"], ["A", "RW", "C"], ["B", "CAM", "C"],
        ["B", "CRF", "C"],
    ]  # fmt: skip
    gains = [1.3, 2.1, 3.9, 0.8, np.nan]  # the paper has no CRF
    assert table["paper's gain (voc2012)"].tolist() == pytest.approx(gains, nan_ok=True)
    assert table["ours"].str[0].tolist() == ["B", "C", "C", "C", "C"]
    assert table["against"].str[0].tolist() == ["A", "A", "A", "B", "B"]


def test_gains_of_each_metric_stand_below_the_scores():
    values = {("A", 0): 4.0, ("B", 1): 9.5, ("B", 0): 7.0, ("A", 1): 5.0}
    rows = [
        {"stage": at, "rule": "fixed", "seed": s, "metric": m, "method": name, "value": v + (m == "recall")}
        for (name, s), v in values.items() for m in ("mIoU", "recall") for at in ("CAM", "RW")
    ]  # fmt: skip
    found = ablation.with_gains(pd.DataFrame(rows), "A")
    assert found.iloc[: len(rows)]["value"].tolist() == [row["value"] for row in rows]
    gains = found.iloc[len(rows) :]
    assert set(gains["method"]) == {"B"}
    assert set(gains["metric"]) == {"mIoU gain", "recall gain"}
    assert gains.groupby("seed")["value"].unique().map(list).to_dict() == {0: [3.0], 1: [4.5]}
    assert len(gains) == 8


def test_parts_are_those_at_the_headline_setting():
    study = Stages()
    maps = ablation.Row(study, "cam").maps()
    table = ablation.parts_at_headline(study, {("A", 0): maps[0], ("A", 1): maps[1]}, ["method", "seed"])
    assert table.index.names == ["method", "seed"]
    assert table.loc[("A", 0)].to_dict() == {"mIoU": 2.0, "body": 5.0}
    assert table.loc[("A", 1)].to_dict() == {"mIoU": 3.0, "body": 6.0}


def test_a_curve_has_the_points_at_hand_and_those_still_to_be_trained():
    study = Stages()
    plain, full = ablation.Row(study, "cam").maps(), ablation.Row(study, "mix").maps()
    known = {"alpha": {0: plain, 0.2: full}, "weight": {0: full}}
    further = {"alpha": ((0.5, 1.0), {"mix.weight": 0}), "weight": ((3.0,), {})}
    points = ablation.curve_points(study, "mix", known, further)
    assert list(points) == [
        ("alpha", 0),
        ("alpha", 0.2),
        ("weight", 0),
        ("alpha", 0.5),
        ("alpha", 1.0),
        ("weight", 3.0),
    ]
    assert points["alpha", 0] is plain
    assert points["alpha", 0.5][1].title == "mix [('mix.alpha', 0.5), ('mix.weight', 0)] train 1"
    assert points["weight", 3.0][0].title == "mix [('mix.weight', 3.0)] train 0"
    table = ablation.curve_scores(study, points)
    assert (table["metric"] == "mIoU").all()
    assert table.groupby(["parameter", "setting"]).size().to_dict() == dict.fromkeys(points, 2)
    assert table["setting"].tolist() == [0, 0, 0.2, 0.2, 0.5, 0.5, 1, 1, 0, 0, 3, 3]
    gains = ablation.curve_gains(study, points)
    assert gains[["parameter", "setting"]].to_numpy().tolist() == [
        ["alpha", 0.2], ["alpha", 0.5], ["alpha", 1.0], ["weight", 3.0],
    ]  # fmt: skip
    assert gains["against"].str.split().str[0].tolist() == ["cam", "cam", "cam", "mix"]


@pytest.mark.parametrize("classes", [2, 3, 6, 20])
def test_no_softmax_of_values_in_0_and_1_passes_the_bounds_of_its_entropy(classes):
    rng = np.random.default_rng(classes)
    values = np.concatenate([rng.uniform(size=(3000, classes)), rng.integers(0, 2, (3000, classes))])
    p = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    entropy = -(p * np.log(p)).sum(1)
    high, low = ablation.entropy_bounds(classes)
    assert low - 1e-9 <= entropy.min()
    assert entropy.max() <= high + 1e-9
    corners = [(np.arange(classes) < k).astype(float) for k in range(1, classes)]
    p = np.exp(corners) / np.exp(corners).sum(1, keepdims=True)
    assert low == pytest.approx((-(p * np.log(p)).sum(1)).min())
