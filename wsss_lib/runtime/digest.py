"""The identity of data is their content: SHA-256 of files, computed once and remembered.

A digest is remembered together with the file's size, dates and inode, in this process and in small files of
the user's cache folder (`store`), one for each folder of data; nothing is written beside the data. A file
that changed within the last two seconds is read again next time, since two changes may have one date. A tool
that sets dates and inode back after an edit would deceive it: WSSS_FULL_CHECK=1 in the environment has every
process read every file again.
"""

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from wsss_lib.runtime.files import save_atomically

SETTLED = 2 * 10**9
"""Nanoseconds after which a further change has another date, even on FAT."""
Signature = tuple[int, int, int, int]

_known: dict[tuple[str, str], tuple[Signature, str]] = {}  # (path, algorithm) -> when it was read
_loaded: set[Path] = set()  # files of the store that are in _known


def store() -> Path:
    """Folder of the remembered digests: WSSS_DIGESTS, or wsss_lib/digests in the user's cache folder."""
    if chosen := os.environ.get("WSSS_DIGESTS"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsss_lib" / "digests"


def file_digests(paths: Iterable[str | Path], algorithm: str = "sha256") -> dict[Path, str]:
    """Digest of each file, in the order of `paths`; links are followed.

    Several files are read side by side. Several processes may do the same: what one has stored while another
    stores is at worst computed again.

    algorithm: of hashlib.

    Raises:
        FileNotFoundError: there is no such file.
    """
    paths = [Path(path) for path in paths]
    names = {path: os.path.abspath(path) for path in paths}
    if os.environ.get("WSSS_FULL_CHECK") != "1":
        for folder in {os.path.dirname(name) for name in names.values()}:
            _load(folder)
    found: dict[Path, str] = {}
    unread = []
    for path, name in names.items():
        signature, digest = _known.get((name, algorithm), (None, ""))
        if signature and signature == _signature(name):  # a file that is not there has none
            found[path] = digest
        else:
            unread.append(path)
    with ThreadPoolExecutor() as pool:  # hashlib lets other threads run
        read = list(pool.map(lambda path: _read(names[path], algorithm), unread))
    stored = defaultdict(dict)
    for path, (signature, digest, settled) in zip(unread, read, strict=True):
        found[path] = digest
        _known.pop((names[path], algorithm), None)
        if settled:
            _known[names[path], algorithm] = signature, digest
            folder, file = os.path.split(names[path])
            stored[folder][f"{algorithm}/{file}"] = signature, digest
    for folder, entries in stored.items():
        _save(folder, entries)
    return {path: found[path] for path in paths}


def content_fingerprint(paths: Iterable[str | Path]) -> str:
    """SHA-256 of the content of files and folders, wherever they lie, whatever their dates.

    A folder stands for all files below it, with their names in it; files and folders whose name begins with a
    dot are left out. What is not there counts as such, so that its appearing is a change. The order of
    `paths` counts.

    paths: such as lists, annotations, a label table, weights, a folder of saliency maps, a preset.
    """
    parts = [_files_below(Path(path)) for path in paths]
    digests = file_digests([path for part in parts for path in part.values()])
    content = [[[name, digests[path]] for name, path in part.items()] for part in parts]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _files_below(path: Path) -> dict[str, Path]:
    """Files by their names in the folder `path`, or {"": path} if it is a file itself."""
    if path.is_file():
        return {"": path}
    found, walked = {}, set()
    for folder, inner, files in os.walk(path, followlinks=True):
        walked.add(os.path.realpath(folder))  # a link may lead back up
        inner[:] = sorted(
            name
            for name in inner
            if not name.startswith(".") and os.path.realpath(os.path.join(folder, name)) not in walked
        )
        for name in sorted(name for name in files if not name.startswith(".")):
            file = Path(folder, name)
            if file.is_file():  # a link may lead nowhere
                found[file.relative_to(path).as_posix()] = file
    return found


def _signature(name: str) -> Signature | None:
    try:
        status = os.stat(name)
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _read(name: str, algorithm: str) -> tuple[Signature | None, str, bool]:
    """Signature, digest, and whether the file has lain still, so that the one may stand for the other."""
    before, now = _signature(name), time.time_ns()
    with open(name, "rb") as file:
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    still = before == _signature(name) and now - before[2] > SETTLED  # every change sets the ctime
    return before, digest, still


def _store_file(folder: str) -> Path:
    return store() / f"{hashlib.sha256(folder.encode()).hexdigest()[:24]}.json"


def _stored(file: Path) -> dict[str, tuple[Signature, str]]:
    """Signatures and digests by "algorithm/name"."""
    try:
        files = json.loads(file.read_text())["files"].items()
        return {key: ((size, mtime, ctime, inode), sha) for key, (size, mtime, ctime, inode, sha) in files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or damaged: all is read
        return {}


def _load(folder: str) -> None:
    file = _store_file(folder)
    if file in _loaded:
        return
    _loaded.add(file)
    for key, value in _stored(file).items():
        algorithm, _, name = key.partition("/")
        _known.setdefault((os.path.join(folder, name), algorithm), value)


def _save(folder: str, read: dict[str, tuple[Signature, str]]) -> None:
    """Add to what is stored of a folder, without the files that are gone."""
    file = _store_file(folder)
    with suppress(OSError):  # without a store every process reads once
        present = set(os.listdir(folder))
        files = {
            key: (*signature, digest)
            for key, (signature, digest) in (_stored(file) | read).items()
            if key.partition("/")[2] in present
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"folder": folder, "files": files})
        save_atomically(lambda path: path.write_text(text), file)
