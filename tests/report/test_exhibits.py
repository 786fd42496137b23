"""wsss_lib.report.exhibits on papers, notebooks and results of its own, and on the repository's."""

from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from wsss_lib.report import exhibits as coverage
from wsss_lib.study.results import record

SAVES = (
    'study.results.table(rounds, "02_rounds")\nother.table(rounds, "ignored")\nx.results.table(f(1), name)'
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    tables = tmp_path / "papers" / "sc_cam" / "tables"
    tables.mkdir(parents=True)
    columns = "method,stage,backbone,supervision,dataset,split,metric,class,value,note\n"
    for name, split in (("table-3.1", "val"), ("table-3.2", "test")):
        (tables / f"{name}.csv").write_text(columns + f"A,CAM,b,s,voc2012,{split},mIoU,all,1.0,n\n")
    (tables.parent / "figures.csv").write_text(
        "id,kind,shows,why_not\nfigure-3.2,diagram,a box,no experiment\nfigure-3.4,curve,a line,\n"
    )
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(coverage, "PAPERS", tmp_path / "papers")
    return tmp_path


def write_notebook(folder: Path, *tags: str, source: str = SAVES) -> None:
    cells = [nbformat.v4.new_code_cell("1", metadata={"tags": ["parameters"]})]
    cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)}))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "notebooks" / "02_sc_cam.ipynb")


def write_provenance(folder: Path, run: str, name: str, finished: str) -> None:
    (folder / "results" / run).mkdir(parents=True, exist_ok=True)
    record(folder / "results" / run / "provenance.json", name, {}, {"finished": finished})


def write_table(folder: Path, run: str, name: str, text: str) -> None:
    path = folder / "results" / run / "tables" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def of(folder: Path) -> dict[str, list[list[str]]]:
    table = coverage.coverage(folder / "notebooks", folder / "results")
    rows = table.drop(columns=["shows", "data"])
    return {name: group.iloc[:, 1:].to_numpy().tolist() for name, group in rows.groupby("name")}


BESIDE = "stage,reported (voc2012),reproduced (scenes)\n"


def test_every_table_and_figure_is_listed_with_its_runs(folder):
    write_notebook(
        folder, "sc_cam/table-3.1", "sc_cam/figure-3.4", source=SAVES + '\na.results.figure(f, "02_k")'
    )
    for run in ("scenes/quick", "voc2012/paper"):
        write_table(folder, run, "02_rounds", BESIDE + "CAM,48.0,40.0\n")
    write_provenance(folder, "scenes/quick", "02_rounds", "2026-01-02 03:04:05")
    write_provenance(folder, "scenes/quick", "02_k", "2026-01-03 00:00:00")
    write_provenance(folder, "voc2012/paper", "02_k", "2026-01-01 00:00:00")
    write_provenance(folder, "scenes/smoke", "02_k", "2026-02-01 00:00:00")  # does not count
    write_provenance(folder, "scenes/quick", "ignored", "2027-01-01 00:00:00")
    runs = [
        ["", "02_sc_cam", "scenes", "quick", "2026-01-03 00:00:00", ""],
        ["", "02_sc_cam", "voc2012", "paper", "2026-01-01 00:00:00", ""],
    ]
    assert of(folder) == {
        "sc_cam/table-3.1": runs,
        "sc_cam/table-3.2": [["only the benchmark's server scores test", "", "", "", "", ""]],
        "sc_cam/figure-3.2": [["no experiment", "", "", "", "", ""]],
        "sc_cam/figure-3.4": runs,
    }


def test_without_a_run_the_notebook_is_named(folder):
    write_notebook(folder, "sc_cam/table-3.1")
    write_provenance(folder, "scenes/smoke", "02_rounds", "2026-01-01 00:00:00")
    assert of(folder)["sc_cam/table-3.1"] == [["", "02_sc_cam", "", "", "", ""]]
    assert of(folder)["sc_cam/figure-3.4"] == [["", "", "", "", "", ""]]


def test_a_table_is_partial_where_a_row_of_ours_is_missing(folder):
    path = folder / "papers" / "sc_cam" / "tables" / "table-3.1.csv"
    rows = [
        ("SC-CAM", "CAM", "val"), ("SC-CAM", "CAM+RW", "val"), ("SC-CAM (L)", "CAM", "val"),
        ("SC-CAM", "CAM", "test"), ("another's", "CAM", "val"),
    ]  # fmt: skip
    head = "method,stage,backbone,supervision,dataset,split,metric,class,value,note\n"
    path.write_text(head + "".join(f"{m},{s},b,s,voc2012,{split},mIoU,all,1.0,n\n" for m, s, split in rows))
    write_notebook(folder, "sc_cam/table-3.1")
    write_provenance(folder, "scenes/quick", "02_rounds", "2026-01-01 00:00:00")
    columns = "method,stage,reported (voc2012),reproduced (scenes)\n"
    write_table(folder, "scenes/quick", "02_rounds", columns + "SC-CAM,CAM,1.0,2.0\nSC-CAM,CAM+RW,1.0,\n")
    (found,) = of(folder)["sc_cam/table-3.1"]
    assert found[-2:] == ["2026-01-01 00:00:00", "2 of 3 rows: SC-CAM CAM+RW, SC-CAM (L) CAM"]
    write_table(folder, "scenes/quick", "02_rounds", columns + "SC-CAM,CAM,1.0,\n")
    (found,) = of(folder)["sc_cam/table-3.1"]
    assert found[-2] == ""  # it covers nothing
    assert found[-1].startswith("3 of 3 rows")
    everything = "SC-CAM,CAM,1.0,2.0\nSC-CAM,CAM+RW,,3.0\nSC-CAM (L),CAM,,4.0\n"
    write_table(folder, "scenes/quick", "02_rounds", columns + everything)
    assert of(folder)["sc_cam/table-3.1"][0][-1] == ""


def test_of_rows_that_a_saved_table_does_not_tell_apart_one_counts(folder):
    path = folder / "papers" / "sc_cam" / "tables" / "table-3.1.csv"
    head = "method,stage,backbone,supervision,dataset,split,metric,class,value,note\n"
    rows = [("SC-CAM", "mIoU"), ("SC-CAM (released)", "mIoU"), ("SC-CAM", "mIoU gain")]
    path.write_text(head + "".join(f"{m},CAM,b,s,voc2012,val,{metric},all,1.0,n\n" for m, metric in rows))
    write_notebook(folder, "sc_cam/table-3.1")
    write_provenance(folder, "scenes/quick", "02_rounds", "2026-01-01 00:00:00")
    write_table(folder, "scenes/quick", "02_rounds", BESIDE + "CAM,1.0,2.0\n")
    (found,) = of(folder)["sc_cam/table-3.1"]
    assert found[-1] == "1 of 2 rows: SC-CAM (released)"


def test_rows_of_a_papers_own_parts_are_asked_for_and_an_unstated_crf_may_be_none(folder, monkeypatch):
    recipe = SimpleNamespace(paper_name="SC-CAM", parts=("no clusters",))
    monkeypatch.setattr(coverage, "RECIPES", {"sc_cam": recipe})
    path = folder / "papers" / "sc_cam" / "tables" / "table-3.1.csv"
    head = "method,stage,backbone,supervision,dataset,split,metric,class,value,note\n"
    rows = "SC-CAM|masks, CRF not stated", "no clusters|masks, CRF not stated", "another's|masks"
    texts = ['{},"{}",b,s,voc2012,val,mIoU,all,1.0,n\n'.format(*row.split("|")) for row in rows]
    path.write_text(head + "".join(texts))
    write_notebook(folder, "sc_cam/table-3.1")
    write_provenance(folder, "scenes/quick", "02_rounds", "2026-01-01 00:00:00")
    columns = "method,stage,reported (voc2012),reproduced (scenes)\n"
    write_table(folder, "scenes/quick", "02_rounds", columns + "SC-CAM,masks,,2.0\n")
    assert of(folder)["sc_cam/table-3.1"][0][-1] == "1 of 2 rows: no clusters"
    write_table(folder, "scenes/quick", "02_rounds", columns + "SC-CAM,masks,,2.0\nno clusters,masks,,3.0\n")
    assert of(folder)["sc_cam/table-3.1"][0][-1] == ""


def test_a_figure_of_certain_classes_wants_data_that_have_them(folder):
    figures = folder / "papers" / "sc_cam" / "figures.csv"
    figures.write_text(
        "id,kind,shows,why_not\nfigure-3.9,clusters,clusters of bird after round 1,\n"
        'figure-3.5,clusters,"clusters of cow, bird",\nfigure-3.3,maps,maps on VOC train,\n'
    )
    write_notebook(folder, "sc_cam/figure-3.9", "sc_cam/figure-3.5", "sc_cam/figure-3.3")
    for run in ("scenes/quick", "voc2012/paper", "voc2012-subset/standard"):
        write_provenance(folder, run, "02_rounds", "2026-01-01 00:00:00")
    path = folder / "results" / "voc2012-subset" / "standard" / "provenance.json"
    record(path, "02_rounds", {"classes": ["cow", "dog"]}, {"finished": "2026-01-01 00:00:00"})
    found = {
        (name, row[2]): (bool(row[4]), row[5]) for name, rows in of(folder).items() for row in rows if row[2]
    }
    assert found["sc_cam/figure-3.9", "scenes"] == (False, "scenes has no bird")
    assert found["sc_cam/figure-3.9", "voc2012"] == (True, "")
    assert found["sc_cam/figure-3.9", "voc2012-subset"] == (False, "voc2012-subset has no bird")
    assert found["sc_cam/figure-3.5", "voc2012-subset"] == (True, "voc2012-subset has no bird")
    assert found["sc_cam/figure-3.3", "scenes"] == (True, "")


@pytest.mark.parametrize(
    ("tag", "text", "expected"),
    [
        ("points:K", "K,value\n1,1\n2,1\n2,2\n3,1\n4,1\n", ""),
        ("points:K", "K,value\n1,1\n10,1\n10,2\n", "K has 2 of 4 points"),
        (
            "points:parameter:setting",
            "parameter,setting\n" + "".join(f"a,{x}\n" for x in range(4)) + "b,0\nb,1\n",
            "b has 2 of 4 points",
        ),
        ("points:K", "value\n1\n", "no table of the points K"),
    ],
)
def test_a_curve_has_at_least_four_points(folder, tag, text, expected):
    write_notebook(folder, "sc_cam/figure-3.4", tag)
    write_provenance(folder, "scenes/quick", "02_rounds", "2026-01-01 00:00:00")
    write_table(folder, "scenes/quick", "02_rounds", text)
    assert of(folder)["sc_cam/figure-3.4"] == [
        ["", "02_sc_cam", "scenes", "quick", "2026-01-01 00:00:00", expected]
    ]


def test_an_unknown_tag_is_an_error(folder):
    write_notebook(folder, "sc_cam/table-3.3")
    with pytest.raises(ValueError, match=r"02_sc_cam.ipynb.*'sc_cam/table-3.3'.*near it: sc_cam/table-3"):
        of(folder)


def test_a_tagged_cell_must_save_what_it_shows(folder):
    write_notebook(folder, "sc_cam/table-3.1", source="display(rounds)")
    with pytest.raises(ValueError, match=r"'sc_cam/table-3.1' in 02_sc_cam.ipynb saves nothing"):
        of(folder)


def test_the_repositorys_tags_name_tables_and_figures(capsys):
    assert coverage.main([]) == 0
    printed = capsys.readouterr().out
    assert "01_baseline" in printed
    for name in coverage.exhibits()["name"]:
        assert f"{name} " in printed
