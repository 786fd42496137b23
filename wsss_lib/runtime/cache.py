"""Finished work is never redone: a folder per stage, addressed by what it was made from.

A stage's key is the hash of its name, version, configuration and the keys of its inputs. Work goes on in
`<key>.partial/`, where checkpoints and finished images let a killed run resume, and is renamed to
`<key>/` when done, under a lock that a second run waits for. Every finished folder holds `provenance.json`,
written last.

Of several processes started by a launcher the main one does the work, and the others wait for its folder;
they join it only where the work is training.
"""

import functools
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from wsss_lib.runtime.errors import AGAIN
from wsss_lib.runtime.files import locked, remove_leftovers, save_atomically
from wsss_lib.runtime.launch import is_main, launched, main_says, wait_for

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[2]
PROVENANCE = "provenance.json"
CLOCK = "seconds.txt"  # of the sessions before this one; its date is the start of this one
LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "accelerate",
    "numpy",
    "scipy",
    "scikit-learn",
    "pydensecrf2",
    "pydensecrf",  # conda's name of the same library
    "pillow",
)


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz file."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@dataclass(frozen=True)
class Folder:
    """A finished stage on disk: its folder, and the key that is its address."""

    path: Path
    key: str

    @property
    def stage(self) -> str:
        """Name of the stage that made it."""
        return self.path.parent.name

    def file(self, name: str) -> Path:
        """Path of a file of the folder, whether it is there or not."""
        return self.path / name

    def read(self, name: str, load: Callable[[Path], T]) -> T:
        """`load` of a file of the folder.

        Raises:
            ValueError: it is missing or damaged.
        """
        try:
            return load(self.file(name))
        except Exception as error:
            raise ValueError(f"{self.file(name)} is missing or damaged ({error}); {AGAIN}") from error

    def provenance(self) -> dict[str, Any]:
        """Stage, configuration, inputs, libraries, commit, device, seconds.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            return json.loads(self.file(PROVENANCE).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.file(PROVENANCE)} is missing or damaged ({error}); delete it, and the next run "
                "writes it anew and keeps the other files."
            ) from error


class Cache:
    """Folders `<root>/<stage>/<key>/`."""

    def __init__(self, root: Path):
        self.root = root

    def run(
        self,
        stage: str,
        version: int,
        config: Mapping[str, Any],
        inputs: Sequence[str],
        work: Callable[[Path], None],
        *,
        title: str,
        labels: Mapping[str, Any],
        trains: bool = False,
    ) -> Folder:
        """Return the folder of a stage; call `work(folder)` only if it is not there yet.

        Args:
            stage: name, also of the folder.
            version: raise it when the stage's code changes its result.
            config: all that the result depends on, JSON-serialisable.
            inputs: keys of the folders and data that `work` reads.
            work: fills the folder it is given; may find there what a killed run left.
            title, labels: for the record, no part of the key.
            trains: `work` calls `training.train`, which all launched processes enter together.

        Raises:
            OSError: the folder cannot be written.
        """
        description = {"stage": stage, "version": version, "config": config, "inputs": list(inputs)}
        key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
        done = self.root / stage / key
        folder = Folder(done, key)
        missing = not (done / PROVENANCE).is_file()
        if not (main_says(missing) if trains else missing):
            return folder
        partial = done.with_name(f"{key}.partial")
        if not is_main():
            if trains:
                work(partial)
            wait_for(done / PROVENANCE)
            return folder
        with locked(done.with_name(f"{key}.lock"), title):
            if (done / PROVENANCE).is_file():  # another process made it while this one waited
                if trains and launched() > 1:
                    raise RuntimeError(f"Another study finished {title} meanwhile; start this one again.")
                return folder
            if done.is_dir() and not partial.is_dir():  # somebody took its provenance away
                os.replace(done, partial)
            record = description | {"key": key, "title": title, "labels": dict(labels)}
            record |= timed(work, partial) | environment()
            save_atomically(lambda path: path.write_text(json.dumps(record, indent=1)), partial / PROVENANCE)
            (partial / CLOCK).unlink()
            remove_leftovers(partial)
            try:
                os.replace(partial, done)
            except OSError as error:
                raise OSError(
                    f"{partial} is finished but cannot be renamed to {key} ({error.strerror}); remove what "
                    "is in the way and run again."
                ) from error
        return folder


def timed(work: Callable[[Path], None], folder: Path) -> dict[str, Any]:
    """Do `work(folder)`; returns whether killed sessions had begun it, and the seconds of all sessions.

    A killed session counts up to the last file it wrote. The seconds are None where one was not measured.
    """
    resumed, clock = any(folder.glob("[!.]*")), folder / CLOCK
    before = math.nan if resumed else 0.0
    if clock.is_file():
        dates = [path.stat().st_mtime for path in folder.rglob("[!.]*")]
        before = float(clock.read_text()) + max(dates) - clock.stat().st_mtime
    folder.mkdir(exist_ok=True)
    save_atomically(lambda path: path.write_text(str(before)), clock)
    start = time.monotonic()
    work(folder)
    seconds = before + time.monotonic() - start
    return {"resumed": resumed, "seconds": None if math.isnan(seconds) else round(seconds, 1)}


def environment() -> dict[str, Any]:
    """Libraries, git commit and device of this process."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "libraries": {name: version for name in LIBRARIES if (version := installed_version(name))},
        "device": gpu or f"CPU {platform.machine()}, {torch.get_num_threads()} threads",
        "platform": sys.platform,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


@functools.cache
def commit() -> str:
    """The commit that this process runs, "-dirty" where a tracked file beside results/ differs from it."""
    git = functools.partial(subprocess.run, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    try:
        name = git(["git", "describe", "--always", "--abbrev=12", "--exclude=*"]).stdout.strip()
        changed = git(["git", "diff", "--name-only", "HEAD", "--", ".", ":!results"]).stdout
    except (OSError, subprocess.CalledProcessError):  # no git here, or no repository
        return "unknown"
    return name + ("-dirty" if changed else "")


def installed_version(package: str) -> str | None:
    """None where the package is not installed."""
    try:
        return package_version(package)
    except PackageNotFoundError:
        return None
