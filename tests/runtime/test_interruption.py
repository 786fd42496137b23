"""Runs killed at random moments of every stage end with the same bytes as a run that was left alone.

WSSS_KILLS sets how many kills the study gets (default 6), WSSS_KILL_SEED their moments.
"""

import inspect
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock

pytestmark = pytest.mark.whole  # see pyproject.toml

KILLS = int(os.environ.get("WSSS_KILLS", "6"))
SEED = int(os.environ.get("WSSS_KILL_SEED", "0"))
REPOSITORY = Path(__file__).parents[2]
PATIENCE = 120  # seconds until a test gives up


# --- processes -------------------------------------------------------------------------------------------


def alive(group: int) -> list[str]:
    """Command lines of the processes of a group that still run."""
    table = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in table.stdout.splitlines()]
    return [row[2] for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


def wait_until(done: Callable[[], bool], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.01)


def kill(group: int, way: str) -> None:
    """ "all": the whole group at once; "Ctrl-C": what a terminal sends; "parent": its first process alone."""
    if way == "all":
        os.killpg(group, signal.SIGKILL)
    elif way == "Ctrl-C":
        os.killpg(group, signal.SIGINT)
    else:
        os.kill(group, signal.SIGKILL)


# --- a study ---------------------------------------------------------------------------------------------


def study_process(folder: Path) -> None:
    os.setsid()  # a group of its own, pools and loaders included
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server ignores it
    multiprocessing.set_start_method("fork", force=True)  # of loader processes, as in any other process
    with open(folder / "log.txt", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    import tiny_study  # in the fork server's memory already

    tiny_study.run_all(tiny_study.tiny_study(folder, **{"scenes.tune": 0, "processes": 2}))
    os._exit(0)  # multiprocessing would wait for joblib's idle processes


@pytest.fixture(scope="module")
def start():
    """Start a study in a process that needs not import torch anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wsss_lib.study.study", "tiny_study"])

    def start(folder: Path) -> multiprocessing.Process:
        folder.mkdir(exist_ok=True)
        process = context.Process(target=study_process, args=(folder,))
        process.start()
        wait_until(lambda: os.getpgid(process.pid) == process.pid)
        return process

    return start


def files(folder: Path, *kinds: str) -> dict[str, Path]:
    """Files below `folder` by the name they have, or will have, in the finished run."""
    found = (path for kind in kinds for path in folder.glob(kind) if path.is_file())
    return {str(path.relative_to(folder)).replace(".partial/", "/"): path for path in found}


def content(folder: Path) -> dict[str, bytes]:
    """All that must not differ: every file but locks, and provenance, which holds times."""
    found = files(folder, "cache/**/*", "results/*/*/[!p]*/*")
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if path.suffix != ".lock" and path.name != "provenance.json"
    }


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory) -> Path:
    """The folder of a study that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder)
    process.join(PATIENCE)
    assert process.exitcode == 0, (folder / "log.txt").read_text()
    return folder


def moments(folder: Path) -> list[tuple[str, int, float]]:
    """Random moments, spread over the stages of a finished run and in their order.

    Each is a stage, the number of files that must be there, and the seconds to wait from then on.
    """
    stages: dict[str, list[Path]] = {}
    for record in sorted(folder.glob("cache/*/*/provenance.json"), key=lambda path: path.stat().st_mtime):
        stages.setdefault(record.parts[-3], []).append(record)
    draw, plan = random.Random(SEED), []
    for kill in range(KILLS):
        place = kill * len(stages) // KILLS
        records = list(stages.values())[place]
        count = sum(path.is_file() for record in records for path in record.parent.rglob("*"))
        seconds = sum(json.loads(record.read_text())["seconds"] for record in records)
        # not the last two files: where the first run was slower, the next file ends the wait, not the seconds
        plan.append((place, draw.randrange(max(count - 2, 1)), draw.uniform(0, seconds / count)))
    return [(list(stages)[place], count, seconds) for place, count, seconds in sorted(plan)]


def test_a_study_killed_again_and_again_ends_with_the_same_bytes(start, whole, tmp_path):
    kept: dict[str, int] = {}
    kills = []
    for number, (stage, count, seconds) in enumerate(moments(whole)):
        process = start(tmp_path)

        def reached(count: int, process=process, stage=stage) -> bool:
            there = sum(path.is_file() for path in tmp_path.glob(f"cache/{stage}/*/**/*"))
            begun = (tmp_path / "cache" / stage).is_dir()
            return (begun and there >= count) or not process.is_alive()

        wait_until(lambda reached=reached, count=count: reached(count))
        end = time.monotonic() + seconds  # of the first run; a faster one must not leave the stage
        wait_until(lambda r=reached, n=count + 1, end=end: time.monotonic() >= end or r(n))
        if process.is_alive():
            way = ("all", "Ctrl-C", "parent")[number % 3]
            kill(process.pid, way)
            wait_until(lambda process=process: not alive(process.pid), 15)
            kills.append((way, *(path.parent.name for path in tmp_path.glob("cache/*/*.partial"))))
        process.join()
        now = files(tmp_path, *(f"cache/*/*/[!.]*.{kind}" for kind in ("npz", "png", "safetensors")))
        now = {name: path.stat().st_mtime_ns for name, path in now.items()}
        assert kept.items() <= now.items(), "finished files were made anew"
        kept = now
    assert len(kills) >= 0.8 * KILLS, (kills, (tmp_path / "log.txt").read_text())
    assert len({stage for _, *stages in kills for stage in stages}) >= 5, kills  # others fell between stages

    process = start(tmp_path)
    process.join(PATIENCE)
    assert process.exitcode == 0, (tmp_path / "log.txt").read_text()
    expected, found = content(whole), content(tmp_path)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    provenance = [json.loads(path.read_text()) for path in tmp_path.glob("cache/*/*/provenance.json")]
    assert any(record["resumed"] for record in provenance)
    assert all(record["seconds"] is not None for record in provenance)


def test_two_runs_at_once_share_one_cache(start, whole, tmp_path):
    [classifier] = whole.glob("cache/classifier/*.lock")
    lock, log = tmp_path / classifier.relative_to(whole), tmp_path / "log.txt"
    lock.parent.mkdir(parents=True)
    log.touch()
    with FileLock(lock):  # so that both get there before either trains
        both = [start(tmp_path) for _ in range(2)]
        waits = "classifier, seed 0: another run is at it, waiting for its result"
        wait_until(lambda: log.read_text().count(waits) == 2)
    for process in both:
        process.join(PATIENCE)
    assert [process.exitcode for process in both] == [0, 0], log.read_text()
    assert content(tmp_path) == content(whole)
    assert len(re.findall("classifier, seed 0: 3/3 epochs", log.read_text())) == 1


# --- a notebook ------------------------------------------------------------------------------------------

CELLS = (
    """
    import os
    from pathlib import Path

    import numpy as np

    from wsss_lib.runtime.files import save_atomically
    from wsss_lib.refinement.masks import over_processes

    out = Path(cache)
    out.mkdir(exist_ok=True)
    (out / "kernel").write_text(str(os.getpid()))

    def draw(seed: int, file: Path) -> None:
        numbers = np.random.default_rng(seed).random((300, 300))
        for _ in range(20):
            numbers = np.linalg.qr(numbers + np.eye(300))[0]
        save_atomically(lambda path: np.savez_compressed(path, numbers=numbers), file)

    over_processes(draw, [(seed, out / f"{seed}.npz") for seed in range(12)], 2, "draws")
    """,
    """
    total = sum(np.load(out / f"{seed}.npz")["numbers"].sum() for seed in range(12))
    save_atomically(lambda path: path.write_text(f"total\\n{total}\\n"), out / "table.csv")
    print(total)
    """,
)


@pytest.fixture
def reproduce(tmp_path):
    """Start `wsss_lib.report.reproduce` on the notebook above, with its outputs in a folder of tmp_path."""
    cells = [nbformat.v4.new_code_cell(inspect.cleandoc(cell)) for cell in CELLS]
    tagged = nbformat.v4.new_code_cell("cache = ''", metadata={"tags": ["parameters"]})
    (tmp_path / "notebooks").mkdir()
    nbformat.write(
        nbformat.v4.new_notebook(cells=[tagged, *cells]), tmp_path / "notebooks" / "00_draws.ipynb"
    )
    code = (
        "import pathlib, sys; from wsss_lib.report import reproduce;"
        "reproduce.ROOT = pathlib.Path(sys.argv[1]);"
        "sys.exit(reproduce.main(['--results', sys.argv[2] + '/results', '--cache', sys.argv[2] + '/cache']))"
    )

    def start(name: str) -> subprocess.Popen:
        (tmp_path / name).mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-c", code, tmp_path, tmp_path / name],
            stdout=(tmp_path / name / "log.txt").open("a"), stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            preexec_fn=lambda: (os.setsid(), signal.signal(signal.SIGINT, signal.default_int_handler)),
        )  # fmt: skip

    return start


def outcome(folder: Path) -> list[str | bytes]:
    [notebook] = folder.glob("results/*/*/notebooks/[!.]*.ipynb")
    printed = nbformat.read(notebook, as_version=4).cells[-1].outputs[0].text
    assert {path.suffix for path in notebook.parent.glob("[!.]*")} == {".ipynb", ".html", ".json"}
    made = sorted(path for kind in ("npz", "csv") for path in (folder / "cache").glob(f"[!.]*.{kind}"))
    return [printed, *(path.name for path in made), *(path.read_bytes() for path in made)]


def test_a_notebook_killed_while_it_runs_goes_on(reproduce, tmp_path):
    assert reproduce("whole").wait(PATIENCE) == 0
    draw = random.Random(SEED)
    cache = tmp_path / "killed" / "cache"
    for number in range(max(2, KILLS // 5)):
        moment = draw.randrange(13)
        (cache / "kernel").unlink(missing_ok=True)
        process = reproduce("killed")
        wait_until(lambda: (cache / "kernel").is_file() and (cache / "kernel").read_text() != "")
        wait_until(lambda n=moment: len(list(cache.glob("[!.]*.npz"))) >= n)
        time.sleep(draw.uniform(0, 0.1))
        kernel = int((cache / "kernel").read_text())
        kill(process.pid, ("parent", "Ctrl-C")[number % 2])
        assert process.wait(30) in (-signal.SIGKILL, 130, 0)
        wait_until(lambda kernel=kernel: not alive(kernel), 15)  # nothing outlives it
    assert reproduce("killed").wait(PATIENCE) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert "interrupted; run the same command again" in (tmp_path / "killed" / "log.txt").read_text()
