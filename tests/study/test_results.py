"""wsss_lib.study.results."""

import json
import multiprocessing

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure

from wsss_lib.study import results as module
from wsss_lib.study.results import Results, finished


def test_tables_and_figures_say_where_they_come_from(tmp_path):
    results = Results(tmp_path / "scenes" / "quick", {"preset": "quick", "seeds": [3]})
    table = pd.DataFrame({"class": ["cat"], "value": [1 / 3]})
    assert pd.read_csv(results.table(table, "02_rounds"))["value"].tolist() == [0.333333]
    assert results.figure(Figure(), "02_clusters").read_bytes().startswith(b"\x89PNG")
    known = json.loads((results.folder / "provenance.json").read_text())
    assert set(known["results"]) == {"02_rounds", "02_clusters"} == set(finished(results.folder))
    assert len(known["runs"]) == 1  # both were made alike
    (run,) = known["runs"].values()
    assert (run["preset"], run["seeds"]) == ("quick", [3])
    assert {"commit", "libraries", "device"} <= run.keys()


def test_a_result_that_is_made_otherwise_is_of_another_run(tmp_path):
    table = pd.DataFrame({"value": [1]})
    first, second = (Results(tmp_path, {"seeds": [seed]}) for seed in (1, 2))
    first.table(table, "01_a")
    first.table(table, "01_b")
    second.table(table, "01_b")
    known = json.loads((tmp_path / "provenance.json").read_text())
    seeds = {name: known["runs"][of["run"]]["seeds"] for name, of in known["results"].items()}
    assert seeds == {"01_a": [1], "01_b": [2]}
    second.table(table, "01_a")
    known = json.loads((tmp_path / "provenance.json").read_text())
    assert [run["seeds"] for run in known["runs"].values()] == [[2]]  # of no use any more


def test_a_notebook_shows_the_picture_that_was_saved_and_draws_it_no_more(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(module, "display", shown.append)
    figure, axes = plt.subplots(figsize=(4, 3), dpi=50)
    axes.set(title="IoU by class", xlabel="class")
    with plt.rc_context({"savefig.dpi": 160, "savefig.bbox": None}):
        Results(tmp_path, {}).figure(figure, "01_a")
        assert not shown  # outside a notebook nobody looks
        assert plt.fignum_exists(figure.number)
        monkeypatch.setattr(module, "in_notebook", lambda: True)
        path = Results(tmp_path, {}).figure(figure, "01_a")
    assert [image.data for image in shown] == [path.read_bytes()]
    assert (shown[0].alt, shown[0].width) == ("IoU by class; class", pytest.approx(4 * 50, abs=1))
    assert not plt.fignum_exists(figure.number)


def test_two_processes_that_save_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        pool.starmap(save, [(tmp_path, f"01_{i}") for i in range(8)])
    assert set(finished(tmp_path)) == {f"01_{i}" for i in range(8)}


def save(folder, name):
    Results(folder, {"seeds": [1]}).table(pd.DataFrame({"value": [1]}), name)
