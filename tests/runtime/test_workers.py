"""Work over a pool of processes; few imports here, because the pool's processes import this file."""

from pathlib import Path

import numpy  # noqa: F401  the pool's processes import it too, and with it its threads
import pytest
from joblib import delayed
from joblib.externals.loky import get_reusable_executor
from threadpoolctl import threadpool_info

from wsss_lib.runtime.workers import over_processes, pool


def copy(source: Path, out: Path) -> None:
    if source.read_text() == "bad":
        raise ValueError(f"{source} is bad")
    out.write_text(source.read_text())


def jobs(tmp_path: Path, contents: dict[str, str]) -> list[tuple[Path, Path]]:
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    return [(tmp_path / name, tmp_path / f"{name}.out") for name in contents]


@pytest.mark.parametrize("processes", [1, 2])
def test_finished_files_are_not_made_again(tmp_path, processes, capsys):
    todo = jobs(tmp_path, {"a": "1", "b": "2", "c": "3"})
    (tmp_path / "b.out").write_text("from before")
    over_processes(copy, todo, processes, "copies")
    assert [out.read_text() for _, out in todo] == ["1", "from before", "3"]
    assert "copies: 3/3 photos" in capsys.readouterr().out
    over_processes(copy, todo, processes, "copies")  # nothing is left to do
    assert capsys.readouterr().out == ""


def test_an_error_names_its_photo_and_keeps_what_is_done(tmp_path):
    todo = jobs(tmp_path, {"a": "1", "b": "bad", "c": "3"})
    with pytest.raises(ValueError, match="b is bad"):
        over_processes(copy, todo, 1, "copies")
    assert todo[0][1].read_text() == "1"
    (tmp_path / "b").write_text("2")
    over_processes(copy, todo, 1, "copies")
    assert [out.read_text() for _, out in todo] == ["1", "2", "3"]


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info()}


def test_a_worker_has_one_thread_whatever_the_environment_allows(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    get_reusable_executor().shutdown()  # workers of earlier tests began in another environment
    assert pool(2)(delayed(threads)() for _ in range(4)) == [{1}] * 4
    get_reusable_executor().shutdown()
