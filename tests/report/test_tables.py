"""wsss_lib.report.tables."""

import pandas as pd
import pytest

from wsss_lib.methods import RECIPES
from wsss_lib.report import tables


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
