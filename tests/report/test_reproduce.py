"""wsss_lib.report.reproduce on tiny notebooks in a repository of their own."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from wsss_lib.report import reproduce

pytestmark = pytest.mark.whole  # see pyproject.toml


def write_notebook(path: Path, *cells: str, parameters: str = "preset = 'none'\ncount = 1") -> None:
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[tagged, *map(nbformat.v4.new_code_cell, cells)])
    nbformat.write(notebook, path)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    for folder in ("notebooks", "wsss_lib/presets", "papers/paper/tables"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    monkeypatch.setenv("JUPYTER_PATH", "")
    monkeypatch.setenv("WSSS_PROGRESS", "")
    return tmp_path


@pytest.fixture
def run(root):
    def main(*arguments: str) -> int:
        return reproduce.main(["--results", str(root / "results"), "--jobs", "1", *arguments])

    return main


def test_runs_skips_and_runs_again_after_a_change(root, run, capfd):
    write_notebook(
        root / "notebooks" / "01_first.ipynb",
        "import os, sys\nprint(preset, count, os.getcwd(), sys.executable, os.environ['WSSS_PROGRESS'])",
    )
    folder = root / "results" / "scenes" / "quick" / "notebooks"

    assert run("--preset", "quick") == 0
    first = capfd.readouterr().out
    assert f"quick 1 {root} {sys.executable} plain" in first  # the cell's own line reaches the terminal
    executed = nbformat.read(folder / "01_first.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.startswith("quick 1")
    assert "quick 1" in (folder / "01_first.html").read_text()
    assert {path.name for path in folder.glob("[!.]*")} == {
        "01_first.ipynb",
        "01_first.html",
        "01_first.stamp.json",
    }

    assert run("--preset", "quick") == 0
    assert "up to date" in capfd.readouterr().out

    assert run("--parameters", "count=1e-3") == 0
    assert "quick 0.001" in capfd.readouterr().out


def test_fingerprint_sees_cells_parameters_and_sources_but_not_outputs(root):
    notebook = root / "notebooks" / "a.ipynb"
    write_notebook(notebook, "1 + 1")
    seen = [reproduce.fingerprint(notebook, {})]
    seen.append(reproduce.fingerprint(notebook, {"count": 2}))
    for source in ("wsss_lib/crf.py", "wsss_lib/presets/quick.yaml", "papers/paper/tables/t.csv"):
        (root / source).write_text("1")
        seen.append(reproduce.fingerprint(notebook, {}))
    (root / "own.yaml").write_text("extends: quick")
    seen.append(reproduce.fingerprint(notebook, {"preset": "own.yaml"}))
    (root / "own.yaml").write_text("extends: quick\nseeds: [1]\n")
    seen.append(reproduce.fingerprint(notebook, {"preset": "own.yaml"}))
    weights = {"overrides": {"backbone.weights": "weights.pth"}}
    seen.append(reproduce.fingerprint(notebook, weights))
    (root / "weights.pth").write_text("1")
    seen.append(reproduce.fingerprint(notebook, weights))
    write_notebook(notebook, "1 + 2")
    elsewhere = {"cache": str(root / "elsewhere/cache"), "results": str(root / "elsewhere/results")}
    before = reproduce.fingerprint(notebook, elsewhere)
    (root / "elsewhere" / "cache").mkdir(parents=True)
    (root / "elsewhere" / "cache" / "stage.txt").write_text("made by the run")
    assert reproduce.fingerprint(notebook, elsewhere) == before
    seen.append(reproduce.fingerprint(notebook, {}))
    assert len(set(seen)) == len(seen)

    content = json.loads(notebook.read_text())
    content["cells"][1]["execution_count"] = 7
    notebook.write_text(json.dumps(content))
    assert reproduce.fingerprint(notebook, {}) == seen[-1]


def test_a_failure_is_set_aside_and_the_others_still_run(root, run, capfd):
    write_notebook(root / "notebooks" / "01_bad.ipynb", "if count == 2: raise ValueError('no\\nluck')")
    write_notebook(root / "notebooks" / "02_good.ipynb", "print('second ran')", parameters="seeds = []")
    folder = root / "results" / "scenes" / "quick" / "notebooks"
    folder.mkdir(parents=True)
    for end in ("ipynb", "html", "stamp.json"):  # an earlier success
        (folder / f"01_bad.{end}").write_text('{"sha256": "of then"}')

    assert run("--parameters", "count=2") == 1
    out, err = capfd.readouterr()
    assert "second ran" in out
    # In the executed notebook: [1] parameters, [2] injected parameters, [3] the cell that raises.
    assert (
        "01_bad failed in cell [3]: ValueError: no (see results/scenes/quick/notebooks/01_bad.failed" in err
    )
    assert [path.name for path in folder.glob("01_bad*")] == ["01_bad.failed.ipynb"]

    assert run("--parameters", "count=3") == 0
    assert not (folder / "01_bad.failed.ipynb").exists()


def test_interrupt_ends_with_130_and_leaves_no_running_notebook(root):
    write_notebook(root / "notebooks" / "01_long.ipynb", "import time\nprint('asleep')\ntime.sleep(60)")
    code = (
        "import pathlib, sys; from wsss_lib.report import reproduce;"
        "reproduce.ROOT = pathlib.Path(sys.argv[1]);"
        "sys.exit(reproduce.main(['--results', sys.argv[1] + '/results']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, root],
        stdout=subprocess.PIPE,
        text=True,
        # a job started in the background of a script inherits an ignored SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert "running" in process.stdout.readline()
    assert "asleep" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "interrupted" in process.communicate(timeout=30)[0]
    assert process.returncode == 130
    assert list((root / "results/scenes/quick/notebooks").glob("[!.]*")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--parameters", "cuont=2"],
            "no selected notebook declares the parameter 'cuont'; did you mean 'count'?",
        ),
        (["--parameters", "zzz=2"], "they declare: count, preset"),
        (["--seeds", "0", "1"], "no selected notebook declares the parameter 'seeds'"),
        (["--parameters", "preset=quick"], "give the parameter 'preset' as the option --preset"),
        (["--parameters", "count"], "wants key=value, but got 'count'"),
        (["--parameters", "count=[1"], "not YAML"),
        (["--preset", "qick"], "No preset 'qick'"),
        (["--notebooks", "07"], "no notebook starts with '07'; notebooks/ has: 01_first"),
    ],
)
def test_wrong_arguments_stop_before_anything_runs(root, run, capfd, arguments, message):
    write_notebook(root / "notebooks" / "01_first.ipynb", "1 + 1")
    assert run(*arguments) == 2
    assert message in capfd.readouterr().err
    assert not (root / "results").exists()


def test_no_notebooks_is_an_error(run, capfd):
    assert run() == 2
    assert "holds no notebooks" in capfd.readouterr().err


def test_a_notebook_needs_exactly_one_parameters_cell(root, run, capfd):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    nbformat.write(notebook, root / "notebooks" / "01_bare.ipynb")
    assert run() == 2
    assert "01_bare.ipynb has 0 cells tagged 'parameters'" in capfd.readouterr().err


def test_each_notebook_gets_only_what_it_declares(root):
    both, one = root / "notebooks" / "a.ipynb", root / "notebooks" / "b.ipynb"
    write_notebook(both, parameters="preset = 'quick'\nroot: str | None = None\nalphas = (4, 24)")
    write_notebook(one, parameters="preset = 'quick'")
    plan = reproduce.assign([both, one], {"preset": "smoke", "dataset": "scenes"}, {"alphas": [4]})
    assert plan == {both: {"preset": "smoke", "alphas": [4]}, one: {"preset": "smoke"}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=1e-3", 0.001),
        ("x=[cat, cow]", ["cat", "cow"]),
        ("x=null", None),
        ("x=cat", "cat"),
        ("x=a=b", "a=b"),
        ("x=true", True),
    ],
)
def test_values_are_yaml(text, value):
    assert reproduce.parse_assignment(text) == ("x", value)


def test_torch_is_not_imported():
    code = (
        "import sys, wsss_lib.report.reproduce;sys.exit('torch' in sys.modules or 'papermill' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_make_passes_several_parameters_as_one_argument(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(reproduce, "assign", lambda notebooks, always, further: asked.update(further) or {})
    values = """refine_all=true  sensitivity=false overrides={"sc_cam.clusters": 3, "seeds": [1, 2]}"""
    assert reproduce.main(["--parameters", values, "--results", str(tmp_path)]) == 0
    assert asked == {
        "refine_all": True, "sensitivity": False, "overrides": {"sc_cam.clusters": 3, "seeds": [1, 2]},
    }  # fmt: skip
