"""Per-image work on a real Dask cluster of two processes, one of which is killed half-way."""

import os
import signal
import time
import uuid
from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image

from wsss_lib.data.masks import load_mask
from wsss_lib.refinement.masks import Background, over_processes, write_mask
from wsss_lib.score_maps import ScoreMaps

pytestmark = pytest.mark.whole  # see pyproject.toml

distributed = pytest.importorskip(
    "distributed", reason="the extra is not installed: pip install 'wsss-lib[cluster]'"
)


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def note(index: int, log: Path, out: Path) -> None:
    """Leave a file in `log` at start and end; job 30 kills its worker the first time."""
    (log / f"start {index} {os.getpid()} {uuid.uuid4()}").touch()
    time.sleep(0.03)  # short jobs, which joblib sends in batches
    if index == 30 and len(list(log.glob("start 30 *"))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    out.write_text(str(index))
    (log / f"end {index} {os.getpid()} {uuid.uuid4()}").touch()


def test_a_killed_worker_loses_nothing_and_only_its_job_is_done_again(client, tmp_path, capsys):
    workers = set(client.run(os.getpid).values())
    log = tmp_path / "log"
    log.mkdir()
    jobs = [(index, log, tmp_path / f"{index}.txt") for index in range(60)]
    jobs[3][-1].write_text("from before")
    with joblib.parallel_config(backend="dask"):
        over_processes(note, jobs, 1, "notes")
    expected = sorted(set(range(60)) - {3})
    assert [job[-1].read_text() for job in jobs if job[0] != 3] == [str(index) for index in expected]
    assert jobs[3][-1].read_text() == "from before"

    starts, ends = (
        [tuple(map(int, path.name.split()[1:3])) for path in log.glob(f"{kind} *")]
        for kind in ("start", "end")
    )
    assert sorted(index for index, _ in ends) == expected
    assert sorted(index for index, _ in starts) == sorted([*expected, 30])
    ((_, killed),) = set(starts) - set(ends)
    assert killed in workers
    assert os.getpid() not in {pid for _, pid in starts}
    assert "notes: 60/60 photos" in capsys.readouterr().out


def test_masks_of_a_cluster_are_those_of_processes(client, tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f"{name}.jpg")
        maps = ScoreMaps(np.array([4, 7]), rng.random((2, 10, 15), np.float32), (20, 30), 2)
        maps.save(tmp_path / f"{name}.npz")

    def masks(folder: str) -> list[np.ndarray]:
        (tmp_path / folder).mkdir()
        jobs = [
            (tmp_path / f"{n}.jpg", tmp_path / f"{n}.npz", Background("power", 4), "psa", 1.0,
             tmp_path / folder / f"{n}.png")
            for n in "abc"
        ]  # fmt: skip
        over_processes(write_mask, jobs, 1, folder)
        return [load_mask(job[-1]) for job in jobs]

    with joblib.parallel_config(backend="dask"):
        on_cluster = masks("cluster")
    np.testing.assert_array_equal(on_cluster, masks("here"))
