"""wsss_lib.report.tables."""

from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import keep_apart

from wsss_lib.artifacts import Setting
from wsss_lib.methods import RECIPES
from wsss_lib.report import tables
from wsss_lib.study.study import Study


def test_reported_reads_a_papers_table():
    table = tables.reported("affinitynet/segmentation_val")
    row = table[(table["class"] == "sofa") & (table["method"] == "AffinityNet")]
    assert row["value"].tolist() == [42.6]


def test_reported_lists_what_exists():
    with pytest.raises(
        FileNotFoundError, match=r"no table 'affinitynet/segmentation'.*affinitynet/response_maps"
    ):
        tables.reported("affinitynet/segmentation")


def row(dataset: str, stage: str, value: float, split: str = "train") -> dict:
    return {"dataset": dataset, "stage": stage, "split": split, "value": value}


def test_beside_keeps_our_numbers_out_of_the_papers_column():
    papers = pd.DataFrame([row("voc2012", "CAM+RW", 58.1), row("voc2012", "CAM", 48.0)])
    ours = pd.DataFrame(
        [row("scenes", "CAM", 51.0), row("voc2012", "CAM", 47.0), row("scenes", "extra", 1.0)]
    )
    table = tables.beside(ours, papers, on=["stage", "split"])
    assert list(table.columns) == ["reported (voc2012)", "reproduced (scenes)", "reproduced (voc2012)"]
    assert [stage for stage, _ in table.index] == ["CAM+RW", "CAM", "extra"]
    assert table.loc[("CAM", "train")].tolist() == [48.0, 51.0, 47.0]
    assert table.loc[("CAM+RW", "train")].isna().tolist() == [False, True, True]
    assert pd.isna(table.loc[("extra", "train"), "reported (voc2012)"])


def test_beside_does_not_average_silently():
    papers = pd.DataFrame([row("voc2012", "CAM", 48.0), row("voc2012", "CAM", 46.8, split="val")])
    with pytest.raises(ValueError, match=r"'stage'.*do not tell these rows apart.*'CAM'"):
        tables.beside(papers, papers, on=["stage"])


def test_beside_averages_over_seeds_and_tells_their_spread():
    papers = pd.DataFrame([row("voc2012", "CAM", 48.0), row("voc2012", "CAM+RW", 58.1)])
    ours = pd.DataFrame(
        [
            row("scenes", stage, value) | {"seed": seed}
            for stage, values in {"CAM": (40.0, 41.0, 45.0), "CAM+CRF": (50.0, 50.0, 50.0)}.items()
            for seed, value in enumerate(values)
        ]
    )
    table = tables.beside(ours, papers, on=["stage"])
    columns = ["reported (voc2012)", "reproduced (scenes)", "std (scenes)", "seeds (scenes)"]
    assert table.columns.tolist() == columns
    assert table.loc["CAM"].tolist() == pytest.approx([48, 42, 7**0.5, 3])
    read = tables.readable(table)
    assert read.columns.tolist() == ["reported (voc2012)", "reproduced (scenes), mean ± std of 3 seeds"]
    assert read.loc["CAM"].tolist() == ["48.0", "42.0 ± 2.6"]
    assert read.loc["CAM+RW"].tolist() == ["58.1", ""]
    assert read.loc["CAM+CRF"].tolist() == ["", "50.0 ± 0.0"]
    with pytest.raises(ValueError, match="do not tell these rows of a seed apart"):
        tables.beside(pd.concat([ours, ours]), papers, on=["stage"])


def test_what_others_got_stands_between_the_papers_number_and_ours():
    papers = pd.DataFrame([row("voc2012", "CAM", 48.0), row("voc2012", "CAM+RW", 58.1)])
    ours = pd.DataFrame([row("scenes", "CAM", 40.0) | {"seed": 0}])
    others = pd.DataFrame(
        [
            row("voc2012", "CAM", 45.0) | {"by": "a"}, row("voc2012", "CAM", 42.0) | {"by": "b"},
            row("voc2012", "CAM+RW", 55.6) | {"by": "a"},
        ]
    )  # fmt: skip
    read = tables.readable(tables.beside(ours, papers, ["stage"], others))
    names = ["reported (voc2012)", "others: a (voc2012)", "others: b (voc2012)"]
    assert read.columns.tolist() == [*names, "reproduced (scenes), 1 seed, no std"]
    assert read.loc["CAM"].tolist() == ["48.0", "45.0", "42.0", "40.0"]
    assert read.loc["CAM+RW"].tolist() == ["58.1", "55.6", "", ""]


def test_of_a_paper_that_nobody_ran_there_are_no_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "PAPERS", tmp_path)
    assert tables.by_others("pss").empty


def test_one_seed_has_no_standard_deviation():
    papers = pd.DataFrame([row("voc2012", "CAM", 48.0)])
    ours = pd.DataFrame([row("scenes", "CAM", 40.0) | {"seed": 0}])
    read = tables.readable(tables.beside(ours, papers, on=["stage"]))
    assert read.columns.tolist() == ["reported (voc2012)", "reproduced (scenes), 1 seed, no std"]
    assert read.loc["CAM"].tolist() == ["48.0", "40.0"]
    averaged = tables.readable(tables.beside(ours.drop(columns="seed"), papers, on=["stage"]))
    assert averaged.columns.tolist() == ["reported (voc2012)", "reproduced (scenes)"]


def test_every_method_has_its_name_in_the_papers():
    """In a table, or in what a figure shows: some appear in figures alone."""
    printed = {
        name for table in tables.PAPERS.glob("*/tables/*.csv") for name in pd.read_csv(table)["method"]
    }
    shown = " ".join(
        text for file in tables.PAPERS.glob("*/figures.csv") for text in pd.read_csv(file)["shows"]
    )
    for recipe in RECIPES.values():
        assert recipe.paper_name in printed or recipe.paper_name in shown, recipe.name


def scores() -> pd.DataFrame:
    """Two stages and two seeds; classes cat and all, rules fixed and oracle."""
    rows = [
        ("train", stage, rule, f"t {seed}", seed, name, metric, base + 10 * seed + extra)
        for stage, base in (("CAM", 20.0), ("CAM+RW", 40.0))
        for seed in (0, 1)
        for rule, extra in (("fixed", 0.0), ("oracle", 5.0))
        for name, metric in (("cat", "IoU"), ("all", "mIoU"), ("all", "recall"))
    ]
    columns = ["split", "stage", "rule", "setting", "seed", "class", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def test_a_headline_is_a_mean_over_classes_at_a_setting_nobody_chose_on_the_masks():
    table = tables.headline(scores())
    assert set(table["rule"]) == {"fixed"}
    assert set(table["class"]) == {"all"}
    assert table["value"].tolist() == [20, 30, 40, 50]
    assert set(tables.headline(scores(), "mIoU", "recall")["metric"]) == {"mIoU", "recall"}


def test_class_iou_has_the_classes_and_their_mean():
    table = tables.class_iou(scores())
    assert len(table) == 2 * 2 * 2
    assert set(table["metric"]) == {"IoU", "mIoU"}


def test_mean_and_std_are_over_the_seeds():
    mean, std = tables.mean_and_std(tables.headline(scores()), ["stage"], "rule")
    assert mean["fixed"].to_dict() == {"CAM": 25.0, "CAM+RW": 45.0}
    assert std["fixed"].to_numpy() == pytest.approx(50**0.5)
    mean, _ = tables.mean_and_std(tables.headline(scores()), ["stage"], ["split", "rule"])
    assert mean["train", "fixed"].tolist() == [25, 45]


def test_a_stage_summary_has_the_settings_of_all_seeds():
    saved, read = tables.stage_summary(scores())
    assert saved.columns.tolist() == [
        "split",
        "stage",
        "rule",
        "setting",
        "mIoU",
        "recall",
        "mIoU (std)",
        "recall (std)",
    ]
    first = saved.iloc[0]
    assert first[["stage", "rule", "setting", "mIoU"]].tolist() == ["CAM", "fixed", "t 0, t 1", 25.0]
    assert first["mIoU (std)"] == pytest.approx(50**0.5)
    assert read.loc[("train", "CAM+RW", "oracle"), "mIoU"] == "50.0 ± 7.1"


def test_classes_are_rows_and_stages_columns():
    assert tables.by_class(scores(), "stage").loc["cat"].to_dict() == {"CAM": 25.0, "CAM+RW": 45.0}
    assert tables.by_class(scores(), ["stage", "split"]).columns.tolist() == ["CAM (train)", "CAM+RW (train)"]


def test_a_comparison_by_class_is_one_table_a_column():
    index = pd.MultiIndex.from_tuples(
        [("seg", "A", "all"), ("seg", "A", "cat"), ("seg", "B", "all"), ("seg", "B", "cow")],
        names=["stage", "method", "class"],
    )
    values = {"reported (voc2012)": [1.0, 2.0, None, None], "reproduced (scenes)": [None, None, 3.0, 4.0]}
    found = tables.one_a_column(pd.DataFrame(values, index), ["stage", "method"])
    assert list(found) == ["reported (voc2012)", "reproduced (scenes)"]
    assert found["reported (voc2012)"]["seg", "A"].to_dict() == {"cat": "2.0", "all": "1.0"}
    assert found["reproduced (scenes)"]["seg", "B"].to_dict() == {"cow": "4.0", "all": "3.0"}


def test_a_study_is_described_by_its_photos_and_labels(tiny_voc, tmp_path):
    study = Study(
        "smoke", "tiny", keep_apart(tiny_voc), cache=tmp_path / "cache", results=tmp_path / "results"
    )
    assert tables.described(study).iloc[0].to_dict() == {
        "photos to learn from": 3, "scored (train)": 3, "scored (val)": 2, "classes": 20,
        "labels per photo": 1.33, "with several labels (%)": 33.3,
    }  # fmt: skip


def test_marked_settings_are_the_calibrated_the_presets_and_the_best():
    sweep = pd.DataFrame({"mIoU": [1.0, 5.0, 3.0]}, index=[0.1, 0.2, 0.3])
    artifact = SimpleNamespace(setting=Setting.at("threshold", (0.1, 0.2, 0.3), 0.3))
    study = SimpleNamespace(calibrated=lambda artifact: None)
    assert tables.marked_settings(study, sweep, artifact) == {"fixed": 0.3, "oracle": 0.2}
    study.calibrated = lambda artifact: 0
    marks = tables.marked_settings(study, sweep, artifact)
    assert list(marks.items()) == [("calibrated", 0.1), ("fixed", 0.3), ("oracle", 0.2)]


def test_the_headline_is_calibrated_where_that_is_known():
    rows = [("fixed", 1), ("oracle", 2), ("none", 3)]
    scores = pd.DataFrame(rows, columns=["rule", "value"])
    assert tables.headline_rule(scores) == "fixed"
    assert tables.at_headline(scores)["value"].tolist() == [1, 3]
    scores.loc[3] = "calibrated", 4
    assert tables.headline_rule(scores) == "calibrated"
    assert tables.at_headline(scores)["value"].tolist() == [3, 4]
