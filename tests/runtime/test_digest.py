"""Content decides what is the same, and no file is read twice without need."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsss_lib.runtime import digest
from wsss_lib.runtime.digest import content_fingerprint, file_digests


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """Names of the files that are read; a store of its own; files count as settled at once."""
    monkeypatch.setenv("WSSS_DIGESTS", str(tmp_path / "store"))
    monkeypatch.delenv("WSSS_FULL_CHECK", raising=False)
    monkeypatch.setattr(digest, "SETTLED", -1)
    forget(monkeypatch)
    seen: list[str] = []
    read = digest._read
    monkeypatch.setattr(
        digest, "_read", lambda name, algorithm: seen.append(Path(name).name) or read(name, algorithm)
    )
    return seen


def forget(monkeypatch):
    """As a new process starts."""
    monkeypatch.setattr(digest, "_known", {})
    monkeypatch.setattr(digest, "_loaded", set())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("a.png", "b.png", "c.txt"):
        (tmp_path / "data" / name).write_bytes(name.encode() * 30)
    return tmp_path / "data"


def sha(path: Path, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, path.read_bytes()).hexdigest()


def test_the_digests_are_those_of_hashlib_in_order(folder, reads):
    paths = sorted(folder.iterdir(), reverse=True)
    assert list(file_digests(paths).items()) == [(path, sha(path)) for path in paths]
    assert file_digests(paths[:1], "md5") == {paths[0]: sha(paths[0], "md5")}
    assert file_digests([str(paths[0])]) == {paths[0]: sha(paths[0])}
    assert file_digests([]) == {}


def test_a_file_is_read_once_in_this_process_and_in_the_next(folder, reads, monkeypatch):
    paths = sorted(folder.iterdir())
    first = file_digests(paths)
    assert file_digests(paths) == first
    forget(monkeypatch)
    assert file_digests(paths) == first
    assert sorted(reads) == ["a.png", "b.png", "c.txt"]
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.png", "c.txt"]  # nothing beside


def test_an_edit_of_the_same_size_is_seen_at_once(folder, reads):
    file = folder / "a.png"
    before = file_digests([file])[file]
    file.write_bytes(b"A" + file.read_bytes()[1:])
    assert file_digests([file])[file] == sha(file) != before


def test_an_edit_that_sets_the_date_back_is_seen(folder, reads):
    file = folder / "a.png"
    status = file.stat()
    file_digests([file])
    file.write_bytes(b"A" + file.read_bytes()[1:])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert file_digests([file])[file] == sha(file)


def test_two_files_of_one_size_and_date_that_change_places_are_told_apart(folder, reads):
    a, b = folder / "a.png", folder / "b.png"
    for file in (a, b):
        os.utime(file, ns=(0, 10**18))
    before = file_digests([a, b])
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)
    assert file_digests([a, b]) == {a: before[b], b: before[a]}


def test_a_file_that_changed_just_now_is_not_remembered(folder, reads, monkeypatch):
    monkeypatch.setattr(digest, "SETTLED", 3600 * 10**9)
    for _ in range(2):
        file_digests([folder / "a.png"])
    assert reads == ["a.png", "a.png"]
    monkeypatch.setattr(digest, "SETTLED", -1)
    for _ in range(2):
        file_digests([folder / "a.png"])
    assert reads == ["a.png"] * 3


def test_a_file_that_changes_while_it_is_read_is_not_remembered(folder, reads, monkeypatch):
    real = digest.hashlib.file_digest

    def slow(file, algorithm):
        result = real(file, algorithm)
        (folder / "a.png").write_bytes(b"changed meanwhile")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(digest.hashlib, "file_digest", slow)
        file_digests([folder / "a.png"])
    assert file_digests([folder / "a.png"])[folder / "a.png"] == sha(folder / "a.png")


def test_a_full_check_believes_nothing(folder, reads, monkeypatch):
    file = folder / "a.png"
    file_digests([file])
    name, key = str(file), (str(file), "sha256")
    digest._known[key] = (digest._known[key][0], "a lie")
    store = next(digest.store().iterdir())
    store.write_text(store.read_text().replace(sha(file), "a lie"))
    assert file_digests([file]) == {file: "a lie"}
    forget(monkeypatch)
    monkeypatch.setenv("WSSS_FULL_CHECK", "1")
    assert file_digests([file]) == {file: sha(file)}
    assert digest._known[name, "sha256"][1] == sha(file)  # and is read once a process
    count = len(reads)
    file_digests([file])
    assert len(reads) == count


def test_a_damaged_or_missing_store_costs_time_only(folder, reads, monkeypatch, tmp_path):
    file = folder / "a.png"
    for damage in ("", "{", "[]", '{"files": []}', '{"files": {"sha256/a.png": [1]}}'):
        file_digests([file])
        next(digest.store().iterdir()).write_text(damage)
        forget(monkeypatch)
        assert file_digests([file]) == {file: sha(file)}
    (tmp_path / "blocked").write_text("a file where the store would be")
    monkeypatch.setenv("WSSS_DIGESTS", str(tmp_path / "blocked" / "store"))
    forget(monkeypatch)
    assert file_digests([file]) == {file: sha(file)}


def test_files_that_are_gone_leave_the_store(folder, reads):
    file_digests(folder.iterdir())
    (folder / "b.png").unlink()
    (folder / "a.png").write_bytes(b"new")
    file_digests([folder / "a.png"])
    [store] = digest.store().iterdir()
    assert json.loads(store.read_text())["files"].keys() == {"sha256/a.png", "sha256/c.txt"}


def test_a_missing_file_is_named(folder, reads):
    file_digests([folder / "a.png"])
    (folder / "a.png").unlink()
    for name in ("a.png", "never_seen.png"):
        with pytest.raises(FileNotFoundError, match=name):
            file_digests([folder / name])


def test_processes_side_by_side_agree(folder, tmp_path):
    for i in range(50):
        (folder / f"{i}.bin").write_bytes(bytes([i]) * 1000)
    code = (
        "import sys, json; from pathlib import Path; from wsss_lib.runtime import digest\n"
        "digest.SETTLED, paths = -1, sorted(Path(sys.argv[1]).glob('*.bin'))\n"
        "found = [digest.file_digests(paths[i:]) for i in range(0, 50, 5)]\n"
        "print(json.dumps([*found[0].values()]))"
    )
    environment = os.environ | {"WSSS_DIGESTS": str(tmp_path / "store"), "PYTHONPATH": os.getcwd()}
    runs = [
        subprocess.Popen([sys.executable, "-c", code, folder], env=environment, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    expected = [sha(path) for path in sorted(folder.glob("*.bin"))]
    assert [json.loads(run.communicate()[0]) for run in runs] == [expected] * 4
    [store] = (tmp_path / "store").glob("[!.]*")
    assert set(json.loads(store.read_text())["files"]) <= {f"sha256/{i}.bin" for i in range(50)}


# --- fingerprints of files and folders -------------------------------------------------------------------


def test_a_fingerprint_sees_every_content_and_name_and_no_date_or_place(folder, reads, tmp_path):
    (folder / "deep").mkdir()
    (folder / "deep" / "d.xml").write_text("<a/>")
    paths = [folder, folder / "c.txt", tmp_path / "weights.pth"]
    seen = [content_fingerprint(paths)]
    os.utime(folder / "a.png", (0, 0))
    (folder / ".DS_Store").touch()
    assert content_fingerprint(paths) == seen[0]
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert content_fingerprint([moved, moved / "c.txt", moved / "none.pth"]) == seen[0]
    moved.rename(folder)
    for change in (
        lambda: (folder / "a.png").write_bytes(b"A"),
        lambda: (folder / "deep" / "d.xml").write_text("<b/>"),
        lambda: (folder / "a.png").rename(folder / "z.png"),
        lambda: (folder / "deep" / "e.xml").touch(),
        lambda: (folder / "b.png").unlink(),
        lambda: (tmp_path / "weights.pth").touch(),
    ):
        change()
        seen.append(content_fingerprint(paths))
    seen.append(content_fingerprint(reversed(paths)))
    assert len(set(seen)) == len(seen)


def test_links_count_by_what_they_lead_to(folder, reads, tmp_path):
    (tmp_path / "farm").mkdir()
    for path in folder.iterdir():
        (tmp_path / "farm" / path.name).symlink_to(path)
    assert content_fingerprint([tmp_path / "farm"]) == content_fingerprint([folder])
    (folder / "a.png").write_bytes(b"changed")
    assert content_fingerprint([tmp_path / "farm"]) == content_fingerprint([folder])
    (folder / "deep").mkdir()
    (folder / "deep" / "up").symlink_to(folder)  # walked once
    (tmp_path / "farm" / "deep").symlink_to(folder / "deep")
    assert content_fingerprint([tmp_path / "farm"]) != content_fingerprint([])
    (folder / "deep" / "up").unlink()
    (folder / "a.png").unlink()  # a link that leads nowhere is as no file
    assert content_fingerprint([tmp_path / "farm"]) == content_fingerprint([folder])


def test_thousands_of_files_take_a_moment(tmp_path, reads):
    (tmp_path / "many").mkdir()
    for i in range(3000):
        (tmp_path / "many" / f"{i}.jpg").write_bytes(i.to_bytes(4, "big") * 1000)
    start = time.monotonic()
    first = content_fingerprint([tmp_path / "many"])
    assert content_fingerprint([tmp_path / "many"]) == first
    assert len(reads) == 3000
    assert time.monotonic() - start < 30  # about a second where nobody else computes
