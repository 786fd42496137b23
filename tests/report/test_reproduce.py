"""wsss_lib.report.reproduce on tiny notebooks in a repository of their own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from wsss_lib.data.folder import from_folder
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
    for name in reproduce.kernel_environment(tmp_path, 1):  # so that this run's are gone after the test
        monkeypatch.setenv(name, os.environ.get(name, ""))
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


def test_a_kernel_sees_its_own_settings_whatever_the_environment_says(root, run, monkeypatch, capfd):
    """A backend, resolution, figure format, locale and start-up file of the user change nothing."""
    (root / "mine").mkdir()
    (root / "mine" / "matplotlibrc").write_text("figure.dpi: 30\nsavefig.format: svg\n")
    startup = root / "ipython" / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("get_ipython().run_line_magic('config', 'InlineBackend.figure_formats = [\"svg\"]')")
    (root / "startup.py").write_text("print = None")
    for name, value in {
        "MPLBACKEND": "nonsense",
        "MATPLOTLIBRC": root / "mine" / "matplotlibrc",
        "IPYTHONDIR": root / "ipython",
        "PYTHONSTARTUP": root / "startup.py",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONWARNINGS": "error",
        "OMP_NUM_THREADS": "all",
    }.items():
        monkeypatch.setenv(name, str(value))
    write_notebook(
        root / "notebooks" / "01_look.ipynb",
        "import locale, os, matplotlib as mpl\nprint('sees', 'inline' in mpl.get_backend(), "
        "mpl.rcParams['figure.dpi'], mpl.rcParams['savefig.format'], locale.getpreferredencoding(), "
        "os.environ['OMP_NUM_THREADS'])",
        "from matplotlib import pyplot as plt\n_ = plt.plot([1, 2])",
    )
    assert run() == 0
    seen = f"sees True 100.0 png utf-8 {os.cpu_count()}"
    assert seen.casefold() in capfd.readouterr().out.casefold()
    path = root / "results" / "scenes" / "quick" / "notebooks" / "01_look.ipynb"
    [output] = nbformat.read(path, as_version=4).cells[-1].outputs
    assert "image/png" in output.data


def test_threads_are_the_users_else_a_share_of_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for said, threads in (("3", "3"), ("0", "4"), ("4,2", "4"), ("", "4")):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert reproduce.kernel_environment(tmp_path, 2)["OMP_NUM_THREADS"] == threads
    assert reproduce.kernel_environment(tmp_path, 16)["MKL_NUM_THREADS"] == "1"


def test_a_kernel_that_dies_at_the_start_is_a_sentence_and_the_others_run(root, run, monkeypatch, capfd):
    kernel = root / "broken" / "share" / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    # it dies on the first notebook alone
    code = "import os, sys; os.path.exists(sys.argv[1]) or sys.exit(open(sys.argv[1], 'w').close()); "
    code += (
        f"os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'ipykernel_launcher', '-f', sys.argv[2]])"
    )
    argv = [sys.executable, "-c", code, str(root / "died"), "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    monkeypatch.setattr(sys, "prefix", str(root / "broken"))
    write_notebook(root / "notebooks" / "01_dies.ipynb", "1 + 1")
    write_notebook(root / "notebooks" / "02_runs.ipynb", "print('second ran')")
    assert run() == 1
    out, err = capfd.readouterr()
    assert "second ran" in out
    [line] = [line for line in err.splitlines() if line.startswith("reproduce:")]
    assert line.startswith("reproduce: 01_dies failed: its kernel did not start, or died, as it does without")
    assert "Kernel died" in line


def test_own_data_is_checked_before_the_first_step(root, run, tmp_path, capfd):
    write_notebook(
        root / "notebooks" / "01_own.ipynb",
        "print('ran')",
        parameters="root = None\nlabels = 'masks'\noverrides = {}\ncache = 'cache'",
    )
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (64, 48)).save(tmp_path / "photos" / f"{name}.jpg")
    (tmp_path / "labels.csv").write_text("id,cat,dog\na,1,0\nb,1,0\n")
    own = from_folder(tmp_path / "photos", tmp_path / "labels.csv", tmp_path / "mine")
    options = ["--preset", "smoke", "--dataset", "mine", "--root", str(own)]
    with_labels = ["--parameters", f"labels={own / 'labels.csv'}"]

    assert run(*options) == 1  # by default labels are read from masks, and there are none
    out, err = capfd.readouterr()
    assert "running" not in out
    assert err.strip() == "reproduce: nothing was run; mend the 1 errors above first"
    assert run(*options, *with_labels) == 0
    out = capfd.readouterr().out
    assert out.count("No photo of train shows dog") == 1
    assert "\nran\n" in out
    assert run(*options, *with_labels) == 0  # nothing is looked at again where all is up to date
    assert "No photo of train" not in capfd.readouterr().out

    Image.new("RGB", (721, 2)).save(own / "JPEGImages" / "wide.png")  # 720 is what smoke's CRF takes
    assert run(*options, *with_labels) == 1
    assert "(the first: wide.png) have a side of more than 720 pixels" in " ".join(
        capfd.readouterr().out.split()
    )
    assert run(*options, "--parameters", "overrides={'crf_scal': 1}") == 2
    assert "Override 'crf_scal' is no key of preset smoke" in capfd.readouterr().err
    assert run("--preset", "smoke", "--dataset", "mine", "--root", str(tmp_path / "lost")) == 2
    assert "holds no JPEGImages" in capfd.readouterr().err


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


def test_side_by_side_the_second_does_not_wait_for_the_first():
    names = [path.stem for path in reproduce.side_by_side(reproduce.select([]))]
    assert names[:3] == ["00_quickstart", *reproduce.LONG]
    assert names[3:] == sorted(names[3:])
    assert sorted(names) == [path.stem for path in reproduce.select([])]
    alone = [Path("07_segmentation.ipynb")]
    assert reproduce.side_by_side(alone) == alone


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
