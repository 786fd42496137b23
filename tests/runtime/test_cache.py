"""The stage cache: what makes a new key, that work is done once, and that a killed stage goes on."""

import functools
import json
import multiprocessing
import os
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from wsss_lib.runtime import cache as cache_module
from wsss_lib.runtime.cache import Cache, Folder, environment
from wsss_lib.runtime.files import UNFINISHED, remove_leftovers

DESCRIPTION = {
    "stage": "maps", "version": 1, "config": {"lr": 0.1, "scales": [1, 2]}, "inputs": ["abc"],
    "title": "CAM", "labels": {"seed": 0},
}  # fmt: skip


def run(root: Path, work=lambda folder: None, **changes) -> Folder:
    return Cache(root).run(**(DESCRIPTION | changes), work=work)


def test_work_is_called_once_and_its_files_are_found_again(tmp_path):
    calls = []

    def work(folder: Path) -> None:
        calls.append(folder)
        (folder / "a.txt").write_text("made")

    first = run(tmp_path, work)
    again = run(tmp_path, work)
    assert first == again
    assert len(calls) == 1
    assert calls[0] != first.path
    assert first.path == tmp_path / "maps" / first.key
    assert first.stage == "maps"
    assert first.file("a.txt").read_text() == "made"
    assert not calls[0].exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "cams"},
        {"version": 2},
        {"config": {"lr": 0.2, "scales": [1, 2]}},
        {"config": {"lr": 0.1, "scales": [2, 1]}},
        {"config": {"lr": 0.1, "scales": [1, 2], "flip": True}},
        {"inputs": ["abd"]},
        {"inputs": ["abc", "abc"]},
        {"inputs": []},
    ],
)
def test_all_that_the_result_depends_on_changes_the_key(tmp_path, changes):
    assert run(tmp_path, **changes).key != run(tmp_path).key


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "CAM, again"},
        {"labels": {"seed": 0, "method": "cam"}},
        {"config": {"scales": (1, 2), "lr": 0.1}},  # order of keys, kind of sequence
    ],
)
def test_names_and_order_do_not(tmp_path, changes):
    first, again = run(tmp_path), run(tmp_path, **changes)
    assert again.key == first.key
    assert first.provenance()["title"] == "CAM"
    assert first.provenance()["labels"] == {"seed": 0}


def test_the_key_is_the_same_in_every_process_and_place(tmp_path):
    assert run(tmp_path / "a").key == run(tmp_path / "b").key
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        assert pool.apply(run, (tmp_path / "c",)).key == run(tmp_path / "a").key


def test_killed_work_goes_on_in_its_folder(tmp_path):
    def killed(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, killed)
    assert not [p for p in (tmp_path / "maps").iterdir() if p.is_dir() and p.suffix != ".partial"]

    def resumed(folder: Path) -> None:
        assert (folder / "half.txt").read_text() == "half"
        (folder / "rest.txt").write_text("rest")

    done = run(tmp_path, resumed)
    assert {p.name for p in done.path.iterdir()} == {"half.txt", "rest.txt", "provenance.json"}
    assert done.provenance()["resumed"] is True
    assert run(tmp_path, version=2).provenance()["resumed"] is False


def test_seconds_are_those_of_all_sessions(tmp_path, monkeypatch):
    """The first session works 10 s until its last file and is killed later; the second works 5 s."""
    clock = [1000.0]
    monkeypatch.setattr(cache_module.time, "monotonic", lambda: clock[0])

    def killed(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        began = (folder / cache_module.CLOCK).stat().st_mtime
        os.utime(folder / "half.txt", (began + 10, began + 10))
        raise KeyboardInterrupt

    def resumed(folder: Path) -> None:
        clock[0] += 5

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, killed)
    assert run(tmp_path, resumed).provenance()["seconds"] == 15
    assert run(tmp_path, resumed, version=2).provenance()["seconds"] == 5


def test_what_a_kill_leaves_while_writing_is_removed(tmp_path):
    def killed(folder: Path) -> None:
        (folder / f".a.txt{UNFINISHED}0.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, killed)
    done = run(tmp_path, lambda folder: (folder / "b.txt").write_text("b"))
    assert {path.name for path in done.path.iterdir()} == {"b.txt", "provenance.json"}


def test_leftovers_that_somebody_may_be_writing_stay(tmp_path):
    old, new = (tmp_path / f".{name}.png{UNFINISHED}0.png" for name in ("old", "new"))
    for path in (old, new, tmp_path / "old.png", tmp_path / ".hidden"):
        path.write_text("")
    os.utime(old, (time.time() - 100,) * 2)
    remove_leftovers(tmp_path, untouched=60)
    assert {path.name for path in tmp_path.iterdir()} == {new.name, "old.png", ".hidden"}


def slow(folder: Path) -> None:
    with (folder.parents[1] / "calls").open("a") as calls:
        calls.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    (folder / "a.txt").write_text(str(os.getpid()))


def test_two_processes_at_once_compute_once(tmp_path):
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        waiting = [pool.apply_async(run, (tmp_path, slow)) for _ in range(2)]
        first, second = (result.get(60) for result in waiting)
    assert first == second
    assert (tmp_path / "calls").read_text().strip() == first.file("a.txt").read_text()


def test_provenance_tells_what_was_computed_and_on_what(tmp_path):
    artifact = run(tmp_path)
    record = artifact.provenance()
    assert record == json.loads((artifact.path / "provenance.json").read_text())
    assert {key: record[key] for key in DESCRIPTION} == DESCRIPTION
    assert record["key"] == artifact.key
    assert record["seconds"] >= 0
    assert {"torch", "numpy", "timm", "scikit-learn"} <= record["libraries"].keys()
    for name in ("commit", "python", "device", "platform", "finished"):
        assert record[name]


def test_a_folder_without_provenance_is_not_taken_for_finished(tmp_path):
    artifact = run(tmp_path, lambda folder: (folder / "a.txt").write_text("made"))
    artifact.file("provenance.json").unlink()
    calls = []
    assert run(tmp_path, calls.append) == artifact
    assert len(calls) == 1
    assert artifact.file("a.txt").read_text() == "made"
    assert artifact.provenance()["seconds"] is None  # nobody knows


def test_environment_does_without_git_and_without_a_package(monkeypatch):
    """conda names the CRF package differently, and a container may hold no git: stages must still finish."""
    monkeypatch.setenv("PATH", "")
    cache_module.commit.cache_clear()
    monkeypatch.setattr(cache_module, "LIBRARIES", ("torch", "no-such-package"))
    record = environment()
    assert record["commit"] == "unknown"
    assert record["libraries"]["torch"]
    assert not record["libraries"].get("no-such-package")
    cache_module.commit.cache_clear()


def test_a_root_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OSError, match=r"file/cache/maps cannot be written \(Not a directory\); .* choose another folder"
    ):
        run(tmp_path / "file" / "cache")


def test_folders_are_values(tmp_path):
    folder = run(tmp_path)
    assert replace(folder, key="other") != folder
    with pytest.raises(AttributeError):
        folder.key = "other"


def test_results_of_a_run_do_not_make_its_commit_dirty(tmp_path, monkeypatch):
    git = functools.partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True)
    for file in ("code.py", "results/table.csv"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("1")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "first"]):
        git(["git", *command])
    monkeypatch.setattr(cache_module, "REPOSITORY", tmp_path)
    (tmp_path / "results" / "table.csv").write_text("2")
    cache_module.commit.cache_clear()
    clean = cache_module.commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "code.py").write_text("2")
    assert cache_module.commit() == clean  # asked once a process
    cache_module.commit.cache_clear()
    assert cache_module.commit() == clean + "-dirty"
    cache_module.commit.cache_clear()
