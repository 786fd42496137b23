"""Files that appear whole or not at all, and one process at a time."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

CHECKOUT = Path(__file__).resolve().parents[2]
HOME = CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else Path()
"""Where relative paths start: the repository, or the working folder of an installed package without one."""
UNFINISHED = ".unfinished-"  # in the name of what is being written


def shipped() -> Path:
    """The folder of notebooks/ and papers/: the repository, or the package where it was installed alone."""
    return CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else Path(__file__).resolve().parents[1]


def under_root(path: str | Path) -> Path:
    """Relative paths start at `HOME`, wherever a notebook runs."""
    return HOME / path


def save_atomically(write: Callable[[Path], Any], path: Path) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers never see half a file.

    Raises:
        OSError: no room, no permission; says which file, and that a next run goes on.
    """
    temporary = path.with_name(f".{path.name}{UNFINISHED}{uuid4().hex}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> OSError:
    """One sentence for a full or protected disk."""
    return OSError(
        f"{path} cannot be written ({error.strerror or error}); make room or choose another folder, then run "
        "again: what is finished is kept."
    )


def remove_leftovers(folder: Path, untouched: float = 0) -> None:
    """Delete temporary files, in and below `folder`, of processes that were killed while writing.

    untouched: seconds for which a file must have lain still, where somebody may be writing.
    """
    for path in folder.rglob(f".*{UNFINISHED}*"):
        with suppress(FileNotFoundError):  # its writer was quicker
            if time.time() - path.stat().st_mtime >= untouched:
                path.unlink()


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, in a folder that is made if need be; waits, and says so, while another does.

    A lock ends with its process, however that ends; the empty file stays.

    Raises:
        OSError: the folder cannot be written.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{what}: another run is at it, waiting for its result", flush=True)
        lock.acquire()
    except OSError as error:
        raise unwritable(path.parent, error) from error
    try:
        yield
    finally:
        lock.release()
