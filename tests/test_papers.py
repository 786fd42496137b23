"""papers/: the transcribed tables agree with themselves, with each other and with the list of all."""

import re
from pathlib import Path

import pandas as pd
import pytest

from wsss_lib.data.voc import VOC_CLASSES
from wsss_lib.tables import PAPERS

COLUMNS = ["method", "stage", "backbone", "supervision", "dataset", "split", "metric", "class"]  # + own keys
TABLES = sorted(PAPERS.glob("*/tables/*.csv"))
FIGURES = sorted(PAPERS.glob("*/figures.csv"))
PERCENT = {"IoU", "mIoU", "precision", "recall", "F-score", "std of mIoU"}
GAIN = " gain"  # difference to the method `baseline` of the same table, in points
LENGTHS = {"channels", "size"}
CLASSES = {"voc2012": 21, "coco2014": 81}
KINDS = {"diagram", "maps", "masks", "clusters", "curve", "scatter", "reconstructions"}
MEAN_IS_OFF = {}  # rows whose classes do not average to the printed mIoU: mean less printed
QUOTED_DIFFERENTLY = set()


def name_of(path: Path) -> str:
    return f"{path.parents[1].name}/{path.stem}"


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False)


@pytest.fixture(params=TABLES, ids=name_of)
def table(request) -> pd.DataFrame:
    return read(request.param).assign(name=name_of(request.param))


def test_tables_are_tidy(table):
    *keys, value, note, _ = table.columns
    assert keys[: len(COLUMNS)] == COLUMNS
    assert [value, note] == ["value", "note"]
    assert not (table == "").any(axis=None)
    assert not table.duplicated(keys).any()


def test_values_are_in_range(table):
    assert pd.api.types.is_numeric_dtype(table["value"])
    gains, lengths = table["metric"].str.endswith(GAIN), table["metric"].isin(LENGTHS)
    assert set(table["metric"][~gains & ~lengths]) <= PERCENT
    assert table["value"][gains].between(-100, 100).all()
    assert (table["value"][lengths] >= 1).all()
    assert table["value"][~gains & ~lengths].between(0, 100).all()


def test_classes_are_known(table):
    named = table[table["class"] != "all"]
    assert set(table["metric"][table["class"] == "all"]).isdisjoint({"IoU"})
    for (dataset, *_), rows in named.groupby(["dataset", "method", "stage", "metric"]):
        missing = ("auxsegnet/table-S4", "DSRG") == (rows["name"].iloc[0], rows["method"].iloc[0])
        assert len(rows) == CLASSES[dataset] - missing
        if dataset == "voc2012":
            assert list(rows["class"]) == ["background", *VOC_CLASSES]


def test_mean_of_the_classes_is_the_printed_miou(table):
    keys = ["method", "stage", "backbone", "dataset", "split"]
    for key, rows in table[table["metric"] == "IoU"].groupby(keys):
        same = (table[keys] == list(key)).all(axis=1) & (table["metric"] == "mIoU")
        off = rows["value"].mean() - table.loc[same, "value"].item()
        expected = MEAN_IS_OFF.get((table["name"].iloc[0], key[0]))
        assert abs(off) <= 0.06 if expected is None else off == pytest.approx(expected, abs=0.005)


def test_gains_are_differences_to_the_baseline(table):
    for _, gain in table[table["metric"].str.endswith(GAIN)].iterrows():
        same = (table["metric"] == gain["metric"].removesuffix(GAIN)) & (table["class"] == gain["class"])
        values = table[same].set_index("method")["value"]
        assert values[gain["method"]] - values["baseline"] == pytest.approx(gain["value"], abs=0.051)


def test_papers_quote_the_same_numbers():
    keys = ["method", "stage", "dataset", "split", "metric", "class"]
    tables = [read(path) for path in TABLES]
    rows = pd.concat([t for t in tables if len(t.columns) == len(COLUMNS) + 2])  # without keys of their own
    values = rows[rows["method"] != "baseline"].groupby(keys)["value"].nunique()
    differ = {(method, split) for method, _, _, split, _, _ in values[values > 1].index}
    assert differ == QUOTED_DIFFERENTLY


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.parent.name)
def test_figures_are_listed_once_and_described(path):
    figures = read(path)
    assert list(figures.columns) == ["id", "kind", "shows", "why_not"]
    assert figures["id"].str.fullmatch(r"figure-[A-Z]?[\d.]+").all()
    assert figures["id"].is_unique
    assert (figures["shows"] != "").all()
    assert set(figures["kind"]) <= KINDS
    assert ((figures["kind"] == "diagram") <= (figures["why_not"] != "")).all()


def test_every_paper_has_a_card_and_an_entry():
    entries = re.findall(r"^@\w+\{(\w+),", (PAPERS / "references.bib").read_text(), flags=re.M)
    assert len(entries) == len(set(entries))
    for paper in {path.parents[1] for path in TABLES}:
        cited = re.findall(r"\[@(\w+)\]", (paper / "card.md").read_text())
        assert cited, f"{paper.name}/card.md cites nothing"
        assert set(cited) <= set(entries)
