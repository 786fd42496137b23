"""papers/: the transcribed tables agree with themselves and are all cited."""

import re

import pandas as pd
import pytest

from wsss_lib.tables import PAPERS

COLUMNS = [
    "method",
    "stage",
    "backbone",
    "supervision",
    "dataset",
    "split",
    "metric",
    "class",
    "value",
    "note",
]
TABLES = sorted(PAPERS.glob("*/tables/*.csv"))


@pytest.fixture(params=TABLES, ids=lambda path: f"{path.parents[1].name}/{path.stem}")
def table(request) -> pd.DataFrame:
    return pd.read_csv(request.param)


def test_tables_are_tidy(table):
    assert list(table.columns) == COLUMNS
    assert not table.isna().any(axis=None)
    assert not table.duplicated([name for name in COLUMNS if name not in ("value", "note")]).any()
    assert table["value"].between(0, 100).all()


def test_mean_of_the_classes_is_the_printed_miou(table):
    classes = table[table["metric"] == "IoU"]
    keys = ["method", "stage", "backbone", "dataset", "split"]
    for key, rows in classes.groupby(keys):
        same = (table[keys] == list(key)).all(axis=1) & (table["metric"] == "mIoU")
        assert len(rows) == {"voc2012": 21, "coco2014": 81}[key[3]]
        assert rows["value"].mean() == pytest.approx(table.loc[same, "value"].item(), abs=0.06)


def test_every_paper_has_a_card_and_an_entry():
    entries = re.findall(r"^@\w+\{(\w+),", (PAPERS / "references.bib").read_text(), flags=re.M)
    assert len(entries) == len(set(entries))
    for paper in {path.parents[1] for path in TABLES}:
        cited = re.findall(r"\[@(\w+)\]", (paper / "card.md").read_text())
        assert cited, f"{paper.name}/card.md cites nothing"
        assert set(cited) <= set(entries)
