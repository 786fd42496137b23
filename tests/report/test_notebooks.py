"""Every notebook runs from top to bottom on the smoke preset and leaves what it shows."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from wsss_lib.study.results import finished

pytestmark = pytest.mark.whole  # see pyproject.toml

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def registered_toy(folder: Path) -> dict[str, str]:
    """The environment of somebody with a package that holds a method of their own (tests/toy_method.py)."""
    info = folder / "toy_method-1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-method\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[wsss_lib.methods]\ntoy = toy_method:RECIPE\n")
    places = [str(folder), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)}


def reproduce(folder: Path) -> str:
    done = subprocess.run(
        [
            sys.executable, "-m", "wsss_lib.report.reproduce", "--preset", "smoke", "--jobs", "2",
            "--cache", str(folder / "cache"), "--results", str(folder / "results"),
        ],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, env=registered_toy(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Cache and results of a run of every notebook."""
    folder = tmp_path_factory.mktemp("notebooks")
    reproduce(folder)
    return folder


@pytest.fixture(scope="module")
def results(folder) -> Path:
    return folder / "results" / "scenes" / "smoke"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_notebook_leaves_a_page(results, notebook):
    assert (results / "notebooks" / f"{notebook.stem}.html").stat().st_size > 10_000


def test_tables_hold_rows_and_all_that_is_shown_has_its_origin(results):
    for table in results.glob("tables/*.csv"):
        assert len(pd.read_csv(table)) > 0
    assert len(list(results.glob("figures/*.png"))) >= 15
    made = {path.stem for kind in ("tables/*.csv", "figures/*.png") for path in results.glob(kind)}
    assert made == set(finished(results))


def test_a_method_that_one_line_registers_is_in_the_tables(results):
    assert "Toy" in set(pd.read_csv(results / "tables" / "07_scores.csv")["method"])


def test_all_is_up_to_date_the_second_time(folder):
    assert reproduce(folder).count("up to date") == len(NOTEBOOKS)
