"""`make data` on small archives in the published layouts, served by a server of our own."""

import hashlib
import io
import tarfile
import threading
import urllib.request
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from conftest import TINY_VOC
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_array
from test_coco import annotation, box, write_coco
from torchvision.datasets import SBDataset

from wsss_lib.data import download, sbd
from wsss_lib.data.coco import convert_coco
from wsss_lib.data.download import Archive, main
from wsss_lib.data.layout import list_path
from wsss_lib.data.published import VOC2012, Published, differences
from wsss_lib.data.splits import Splits
from wsss_lib.data.voc import VOC_CLASSES, VOCDataset

SBD_CLASSES = {"a1": 12, "a3": 12, "b1": 1, "b2": 15}  # ids of the one object of each mask


class Handler(SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """(folder that is served, its URL)"""
    (tmp_path / "www").mkdir()
    Handler.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "www")) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield tmp_path / "www", f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def published(tiny_voc, server, monkeypatch):
    """VOC (lists train a1 a2, val b1) and SBD on our server, in place of the real ones."""
    folder, url = server
    list_path(tiny_voc, "train").write_text("a1\na2\n")
    list_path(tiny_voc, "val").write_text("b1\n")
    for id in ("a3", "b2"):
        (tiny_voc / "SegmentationClass" / f"{id}.png").unlink()
    with tarfile.open(folder / "voc.tar", "w") as tar:
        tar.add(tiny_voc, "VOCdevkit/VOC2012")
    with tarfile.open(folder / "benchmark.tgz", "w:gz") as tar:
        for id in SBD_CLASSES:
            add(tar, f"benchmark_RELEASE/dataset/cls/{id}.mat", sbd_file(id))
            add(tar, f"benchmark_RELEASE/dataset/inst/{id}.mat", b"no class mask")
            add(tar, f"benchmark_RELEASE/dataset/img/{id}.jpg", b"no photo")
    for name, file, unpacked in (("VOC", "voc.tar", "VOCdevkit/VOC2012"), ("SBD", "benchmark.tgz", "")):
        monkeypatch.setattr(download, name, Archive(f"{url}/{file}", file, md5(folder / file), unpacked))
    counts = {"train": 2, "val": 1, "train_aug": 4, "test": 2}
    expect(monkeypatch, Published(counts, "xml", "train_aug", per_class(), (2, 2)))
    return folder


def expect(monkeypatch, statistics: Published) -> None:
    _, prepare, _ = download.DATASETS["voc2012"]
    monkeypatch.setitem(download.DATASETS, "voc2012", ("VOCdevkit/VOC2012", prepare, statistics))


def per_class() -> tuple[int, ...]:
    """Photos with each class in train_aug = a1, a2, a3, b2, counted from the fixture's table."""
    listed = [TINY_VOC[id] for id in ("a1", "a2", "a3", "b2")]
    return tuple(sum(c in classes for classes in listed) for c in range(1, 21))


def sbd_mask(id: str) -> np.ndarray:
    mask = np.zeros((24, 32), np.uint8)
    mask[3 : 9 + int(id[1]), 5:20] = SBD_CLASSES[id]
    return mask


def sbd_file(id: str) -> bytes:
    """A .mat as SBD has it: a struct of boundaries (cells of sparse matrices), segmentation and classes."""
    boundaries = np.empty((20, 1), object)
    for row in range(20):
        boundaries[row, 0] = csc_array((24, 32), dtype=np.uint8)
    content = io.BytesIO()
    truth = {"Boundaries": boundaries, "Segmentation": sbd_mask(id), "CategoriesPresent": SBD_CLASSES[id]}
    savemat(content, {"GTcls": truth}, do_compression=True)
    return content.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def run(root: Path, *options: str) -> int:
    return main(["--root", str(root), *options])


# --- VOC and SBD -----------------------------------------------------------------------------------------


def test_voc_with_sbd(published, tmp_path, capsys):
    assert run(tmp_path / "data") == 0
    said = capsys.readouterr()
    assert "is complete" in said.out
    assert "VOC2012test.tar" in said.out
    voc = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    assert list_path(voc, "train_aug").read_text().split() == ["a1", "a2", "a3", "b2"]  # without val's b1
    assert sorted(path.name for path in (voc / "SegmentationClassAug").iterdir()) == ["a3.png", "b2.png"]
    data = Splits(voc, None, "xml", None)
    assert data.train.mask_path("a1").parent.name == "SegmentationClass"  # VOC's own mask wins
    for id in ("a3", "b2"):
        np.testing.assert_array_equal(data.train.mask(id), sbd_mask(id))
        with Image.open(data.train.mask_path(id)) as image:
            assert image.mode == "P"
            assert image.getpalette()[: 3 * 2] == [0, 0, 0, 128, 0, 0]
    assert data.scored("train") == ["a1", "a2"]


def test_a_second_run_fetches_nothing_and_changes_nothing(published, tmp_path):
    run(tmp_path / "data")
    asked = list(Handler.asked)
    assert asked == ["/voc.tar"] * 2 + ["/benchmark.tgz"] * 2  # torchvision asks for redirections first
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert run(tmp_path / "data") == 0
    assert Handler.asked == asked
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before


def test_a_stopped_run_goes_on(published, tmp_path, monkeypatch):
    """Stopped while unpacking, then within SBD's masks: what was whole is kept, nothing half is taken."""
    root, voc = tmp_path / "data", tmp_path / "data" / "VOCdevkit" / "VOC2012"
    half = root / "voc.tar.partial" / "VOCdevkit" / "VOC2012"
    half.mkdir(parents=True)
    (half / "left over.txt").touch()
    read, seen = sbd.read_annotation, []

    def stop_at_the_second(content):
        seen.append(content)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return read(content)

    monkeypatch.setattr(sbd, "read_annotation", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(root)
    assert not (voc / "left over.txt").exists()
    assert not list_path(voc, "train_aug").exists()
    assert [path.name for path in (voc / "SegmentationClassAug").iterdir()] == ["a3.png"]
    seen.append("the next is the fourth")
    assert run(root) == 0
    assert len(seen) == 4  # only b2 was read again
    assert Handler.asked.count("/voc.tar") == 2
    assert not list(root.glob("*.partial"))


def test_a_dead_server_says_what_to_do_by_hand(published, tmp_path, monkeypatch, capsys):
    archive = download.VOC
    monkeypatch.setattr(
        download, "VOC", Archive("http://127.0.0.1:9/voc.tar", "voc.tar", archive.md5, archive.folder)
    )
    assert run(tmp_path / "data") == 1
    error = capsys.readouterr().err
    by_hand = tmp_path / "data" / "archives" / "voc.tar"
    for part in ("http://127.0.0.1:9/voc.tar", "refused", f"put it at {by_hand}", archive.md5):
        assert part in error
    by_hand.write_bytes((published / "voc.tar").read_bytes())
    assert run(tmp_path / "data") == 0
    assert "/voc.tar" not in Handler.asked


@pytest.mark.parametrize("fault", ["missing", "another file", "cut off"])
def test_a_bad_mirror_is_named(published, tmp_path, capsys, fault):
    file = published / "benchmark.tgz"
    if fault == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9] if fault == "cut off" else b"<html>moved</html>")
    assert run(tmp_path / "data") == 1
    error = capsys.readouterr().err
    assert download.SBD.url in error
    assert ("404" if fault == "missing" else "corrupted") in error
    assert not list_path(tmp_path / "data" / "VOCdevkit" / "VOC2012", "train_aug").exists()


def test_the_list_test_is_taken_from_its_archive(published, tiny_voc, tmp_path, capsys):
    archives = tmp_path / "data" / "archives"
    archives.mkdir(parents=True)
    photo = (tiny_voc / "JPEGImages" / "a1.jpg").read_bytes()
    with tarfile.open(archives / "VOC2012test.tar", "w") as tar:
        for id in ("t1", "t2", "other"):
            add(tar, f"VOCdevkit/VOC2012/JPEGImages/{id}.jpg", photo)
        add(tar, "VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt", b"t1\nt2\n")
    assert run(tmp_path / "data") == 0
    voc = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    assert Splits(voc, None, "xml", None).test.ids == ["t1", "t2"]
    assert not (voc / "JPEGImages" / "other.jpg").exists()
    list_path(voc, "test").unlink()
    (archives / "VOC2012test.tar").write_bytes(b"no archive")
    assert run(tmp_path / "data") == 1
    assert "VOC2012test.tar is damaged" in capsys.readouterr().err


def test_annotations_are_read_as_torchvision_reads_them(tmp_path):
    (tmp_path / "b2.mat").write_bytes(sbd_file("b2"))
    (tmp_path / "train.txt").write_text("b2\n")
    theirs = SBDataset(tmp_path, "train", "segmentation")._get_target(tmp_path / "b2.mat")
    np.testing.assert_array_equal(sbd.read_annotation(sbd_file("b2")), np.asarray(theirs))
    np.testing.assert_array_equal(sbd_mask("b2"), np.asarray(theirs))


def test_an_archive_without_annotations_is_refused(tiny_voc, tmp_path):
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as tar:
        add(tar, "readme.txt", b"")
    with pytest.raises(ValueError, match=r"other\.tgz holds no cls/\*\.mat"):
        sbd.add_train_aug(tiny_voc, tmp_path / "other.tgz")


# --- the published statistics ----------------------------------------------------------------------------


def test_check_names_every_difference_in_one_sentence(published, tmp_path, monkeypatch, capsys):
    run(tmp_path / "data")
    voc = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    (voc / "SegmentationClassAug" / "a3.png").unlink()
    expected = list(per_class())
    expected[VOC_CLASSES.index("sofa")] += 7
    counts = {"train": 3, "val": 1, "train_aug": 4}
    expect(monkeypatch, Published(counts, "xml", "train_aug", tuple(expected), (3, 1)))
    capsys.readouterr()
    assert run(tmp_path / "data", "--check") == 1
    error = capsys.readouterr().err.strip()
    for part in (
        "the list train has 2 photos, not 3",
        "1 photos of train_aug have no mask, the first is a3",
        "train_aug has 0 photos with sofa, not 7",
        "train_aug has [2, 2] photos with 1, 2, ... classes, not (3, 1)",
    ):
        assert part in error
    assert error.count(";") == 3
    assert error.endswith(".")


def test_check_of_nothing_says_what_is_missing(tmp_path, capsys):
    assert run(tmp_path, "--check") == 1
    error = capsys.readouterr().err
    assert "the list train has 0 photos, not 1,464" in error
    assert "the list test" not in error


def test_the_published_counts_agree_with_each_other():
    """Two counts of one label file, copied separately: 16,458 pairs and 1.555 classes a photo (cam.md)."""
    by_number = sum(n * count for n, count in enumerate(VOC2012.per_number, start=1))
    assert sum(VOC2012.per_class) == by_number == 16458
    assert sum(VOC2012.per_number) == VOC2012.photos["train_aug"]
    assert round(by_number / 10582, 3) == 1.555
    assert len(VOC2012.per_class) == len(VOC_CLASSES)


# --- COCO ------------------------------------------------------------------------------------------------


def test_coco(server, tmp_path, monkeypatch, capsys):
    folder, url = server
    for split, image in (("train2014", 4), ("val2014", 5)):
        write_coco(tmp_path / "source", split, {image: [annotation(image, 13, box(2, 2, 6, 6), 16.0)]})
    archives = []
    for part in ("annotations", "val2014", "train2014"):
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as file:
            for path in sorted((tmp_path / "source" / part).iterdir()):
                file.write(path, f"{part}/{path.name}")
        archives.append(Archive(f"{url}/{part}.zip", f"{part}.zip", md5(folder / f"{part}.zip"), part))
    monkeypatch.setattr(download, "COCO", archives)
    monkeypatch.setattr(download, "convert_coco", partial(convert_coco, processes=1))
    _, prepare, _ = download.DATASETS["coco2014"]
    small = Published({"train": 1, "val": 1}, "labels.npz")
    monkeypatch.setitem(download.DATASETS, "coco2014", ("coco2014", prepare, small))
    assert run(tmp_path / "data", "--dataset", "coco2014") == 0
    coco = tmp_path / "data" / "coco2014"
    data = VOCDataset(coco, "val", labels=coco / "labels.npz")
    assert data.classes == ("person", "stop sign", "toothbrush")
    assert set(np.unique(data.mask(data.ids[0]))) == {0, 2}
    asked = list(Handler.asked)
    assert run(tmp_path / "data", "--dataset", "coco2014") == 0
    assert Handler.asked == asked
    assert differences(coco, Published({"train": 2, "val": 1}, "labels.npz")) == [
        "the list train has 1 photos, not 2"
    ]


def test_archives_are_those_of_torchvision():
    assert download.VOC.url.endswith("VOCtrainval_11-May-2012.tar")
    assert download.SBD.url.endswith("benchmark.tgz")
    for archive in (download.VOC, download.SBD, *download.COCO):
        assert urllib.request.Request(archive.url).host
        assert len(archive.md5) == 32
