"""The files around the library agree with each other."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONDA_NAMES = {"torch": "pytorch", "pydensecrf2": "pydensecrf"}
OWN_VERSIONS = {"pydensecrf2"}  # conda-forge numbers it otherwise


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def bounds(requirements: list[str]) -> dict[str, str]:
    """{"torch": ">=2.6"} from ["torch>=2.6"]."""
    return {
        name: bound for name, bound in (re.match(r"([\w.-]+)(.*)", line).groups() for line in requirements)
    }


def requirements() -> dict[str, str]:
    tables = project()["project"]
    extras = [line for extra in tables["optional-dependencies"].values() for line in extra]
    return bounds(tables["dependencies"] + extras + project()["dependency-groups"]["dev"])


def test_environment_holds_the_same_packages_and_bounds():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    environment = bounds(conda) | bounds(pip["pip"])
    assert environment.pop("pip") == ""
    assert environment.pop("python") == project()["project"]["requires-python"]
    assert environment == {
        CONDA_NAMES.get(name, name): "" if name in OWN_VERSIONS else bound
        for name, bound in requirements().items()
    }


def test_lock_pins_every_requirement_with_hashes_and_names_no_host():
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--(?:extra-)?index-url|--find-links", lock)
    entries = lock.replace("\\\n", " ").splitlines()
    assert all(re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    assert requirements().keys() <= {entry.partition("==")[0] for entry in entries}


def test_bare_make_explains_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, flags=re.M)[1].split())
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  ([a-z]+) +[A-Z]\w", shown, flags=re.M)) == phony
    assert {"install", "reproduce", "quickstart", "test", "lint", "lab", "bench", "lock", "clean"} <= phony


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_prose_with_calls(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    prose, code = (
        ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]
        for kind in ("markdown", "code")
    )
    lines = [line for source in code for line in source.splitlines() if line.strip()]
    assert sum(len(source.split()) for source in prose) >= 6 * len(lines)
    assert not [line for line in lines if re.search(r"overlay_|load_mask|ScoreMaps|imshow", line)]
    assert "**Aim" in prose[0]
    assert any(source.startswith("## What to take away") for source in prose)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_clean(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells) == 1
    assert not [cell for cell in code if re.search(r"^\s*(def|class)\s", "".join(cell["source"]), flags=re.M)]


def test_no_tracked_file_names_a_path_of_one_machine():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    home = re.compile(r"(?<![\w.~-])/(?:root|home|Users|work|tmp|mnt)/\w")
    found = []
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            found += [f"{name}: {line}" for line in content.decode().splitlines() if home.search(line)]
    assert not found
