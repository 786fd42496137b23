"""wsss_lib.report.exhibits on papers, notebooks and results of its own, and on the repository's."""

from pathlib import Path

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


def of(folder: Path) -> dict[str, list[list[str]]]:
    table = coverage.coverage(folder / "notebooks", folder / "results")
    return {name: rows.iloc[:, 2:].to_numpy().tolist() for name, rows in table.groupby("name")}


def test_every_table_and_figure_is_listed_with_its_runs(folder):
    write_notebook(
        folder, "sc_cam/table-3.1", "sc_cam/figure-3.4", source=SAVES + '\na.results.figure(f, "02_k")'
    )
    write_provenance(folder, "scenes/quick", "02_rounds", "2026-01-02 03:04:05")
    write_provenance(folder, "scenes/quick", "02_k", "2026-01-03 00:00:00")
    write_provenance(folder, "voc2012/paper", "02_k", "2026-01-01 00:00:00")
    write_provenance(folder, "scenes/quick", "ignored", "2027-01-01 00:00:00")
    runs = [
        ["", "02_sc_cam", "scenes", "quick", "2026-01-03 00:00:00"],
        ["", "02_sc_cam", "voc2012", "paper", "2026-01-01 00:00:00"],
    ]
    assert of(folder) == {
        "sc_cam/table-3.1": runs,
        "sc_cam/table-3.2": [["only the benchmark's server scores test", "", "", "", ""]],
        "sc_cam/figure-3.2": [["no experiment", "", "", "", ""]],
        "sc_cam/figure-3.4": runs,
    }


def test_without_a_run_the_notebook_is_named(folder):
    write_notebook(folder, "sc_cam/table-3.1")
    assert of(folder)["sc_cam/table-3.1"] == [["", "02_sc_cam", "", "", ""]]
    assert of(folder)["sc_cam/figure-3.4"] == [["", "", "", "", ""]]


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
