"""Fetch VOC 2012 with SBD, or COCO 2014, into VOC layout: `python -m wsss_lib.data.download` or `make data`.

Below the root appear archives/ (what torchvision's downloader fetched and compared with its MD5; needed no
more afterwards) and VOCdevkit/VOC2012 or coco2014. Each step leaves its result whole or not at all and is
skipped where that is there, so an interrupted run goes on; only an archive that broke off is fetched from its
start again. An archive put into archives/ by hand is used if its MD5 fits.
"""

import argparse
import os
import shutil
import socket
import sys
import tarfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets import SBDataset
from torchvision.datasets.utils import download_url, extract_archive
from torchvision.datasets.voc import DATASET_YEAR_DICT

from wsss_lib.data.coco import convert_coco
from wsss_lib.data.layout import list_path, read_ids, write_lines
from wsss_lib.data.published import COCO2014, VOC2012, differences
from wsss_lib.data.sbd import add_train_aug
from wsss_lib.runtime.files import save_atomically

SECONDS_OF_SILENCE = 60  # after which a server is given up


@dataclass(frozen=True)
class Archive:
    """A file to fetch. folder: what of it is unpacked, "" if it is read as it is."""

    url: str
    filename: str
    md5: str
    folder: str = ""


VOC = Archive(*(DATASET_YEAR_DICT["2012"][key] for key in ("url", "filename", "md5")), "VOCdevkit/VOC2012")
VOC_TEST = "VOC2012test.tar"  # behind the server's login, so it cannot be fetched here
SBD = Archive(SBDataset.url, SBDataset.filename, SBDataset.md5)
# torchvision has no downloader for COCO; the MD5s are those of several public code bases
_COCO_URL = "http://images.cocodataset.org"
COCO = (
    Archive(
        f"{_COCO_URL}/annotations/annotations_trainval2014.zip",
        "annotations_trainval2014.zip",
        "0a379cfc70b0e71301e0f377548639bd",
        "annotations",
    ),
    Archive(f"{_COCO_URL}/zips/val2014.zip", "val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3", "val2014"),
    Archive(
        f"{_COCO_URL}/zips/train2014.zip", "train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88", "train2014"
    ),
)


def prepare_voc(root: Path) -> None:
    """VOC 2012 with the list train_aug and SBD's masks; with the list test if its archive was put there.

    Raises:
        RuntimeError: an archive could not be fetched; the message says how to put it there.
    """
    archives, voc = root / "archives", root / VOC.folder
    unpack(VOC, archives, root)
    if not list_path(voc, "train_aug").is_file():
        add_train_aug(voc, fetch(SBD, archives))
    if not list_path(voc, "test").is_file():
        if (archives / VOC_TEST).is_file():
            add_test(voc, archives / VOC_TEST)
        else:
            print(f"For the list test, put {VOC_TEST} (from VOC's evaluation server) into {archives}.")


def prepare_coco(root: Path) -> None:
    """COCO 2014 in its own folders and, beside them, in VOC layout; raises as `prepare_voc`."""
    coco = root / "coco2014"
    for archive in COCO:
        unpack(archive, root / "archives", coco)
    convert_coco(coco, coco)


def fetch(archive: Archive, folder: Path) -> Path:
    """The archive in `folder`, downloaded unless it is there with the right MD5."""
    path = folder / archive.filename
    try:
        download_url(archive.url, folder, archive.filename, archive.md5)
    except (OSError, HTTPException, RuntimeError) as error:
        raise RuntimeError(
            f"{archive.url} could not be fetched ({error}); fetch it yourself, there or from a mirror, "
            f"put it at {path} (MD5 {archive.md5}) and run this again; to go on with what is there already: "
            f"curl -L -C - -o '{path}' {archive.url}"
        ) from error
    return path


def unpack(archive: Archive, archives: Path, root: Path) -> None:
    """Make the folder root/<archive.folder> from the archive, unless it is there."""
    done = root / archive.folder
    if done.is_dir():
        return
    path = fetch(archive, archives)
    partial = root / f"{archive.filename}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    print(f"Unpacking {path}", flush=True)
    extract_archive(path, partial)
    done.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial / archive.folder, done)
    shutil.rmtree(partial)


def add_test(voc: Path, archive: Path) -> None:
    """Take the photos of the list test and, last, the list itself out of VOC2012test.tar.

    Raises:
        ValueError: the archive is damaged or another one.
    """
    try:
        with tarfile.open(archive) as tar:
            ids = read_ids(tar.extractfile(f"{VOC.folder}/ImageSets/Segmentation/test.txt").read().decode())
            for id in ids:
                photo = tar.extractfile(f"{VOC.folder}/JPEGImages/{id}.jpg").read()
                file = voc / "JPEGImages" / f"{id}.jpg"
                save_atomically(lambda path, photo=photo: path.write_bytes(photo), file)
    except (tarfile.TarError, KeyError) as error:
        raise ValueError(f"{archive} is damaged or not VOC's ({error}); put it there again.") from error
    write_lines(ids, list_path(voc, "test"))


DATASETS = {"voc2012": (VOC.folder, prepare_voc, VOC2012), "coco2014": ("coco2014", prepare_coco, COCO2014)}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 0, or 1 where something is missing or differs from the published data."""
    parser = argparse.ArgumentParser(
        "python -m wsss_lib.data.download", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--dataset", choices=DATASETS, default="voc2012", help="default: voc2012")
    parser.add_argument(
        "--root", type=Path, default=Path("data"), help="folder for all of it (default: data)"
    )
    parser.add_argument(
        "--check", action="store_true", help="only compare what is there with what is published"
    )
    options = parser.parse_args(argv)
    folder, prepare, published = DATASETS[options.dataset]
    socket.setdefaulttimeout(SECONDS_OF_SILENCE)
    try:
        if not options.check:
            prepare(options.root)
        found = differences(options.root / folder, published)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"data: {error}", file=sys.stderr)
        return 1
    if found:
        print(
            f"data: {options.root / folder} differs from what is published: {'; '.join(found)}.",
            file=sys.stderr,
        )
        return 1
    print(f"{options.root / folder} is complete: lists, masks and labels are as published.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
