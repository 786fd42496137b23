"""The augmented training list of VOC 2012: its own train list and the photos that SBD annotated.

train_aug is the union of VOC's train and all of SBD, without VOC's val: 10,582 photos. VOC's own mask, with
255 borders, is the mask of a photo that has one; SBD's masks, coarser and without borders, go to
SegmentationClassAug for the other photos alone. SBD's separate list train_noval.txt is not needed.
"""

import io
import tarfile
from pathlib import Path, PurePosixPath

import numpy as np
from scipy.io import loadmat

from wsss_lib.data.layout import list_path, read_ids, write_lines
from wsss_lib.data.masks import save_mask
from wsss_lib.runtime.files import save_atomically
from wsss_lib.runtime.progress import report

ANNOTATED = 11355
"""Photos in SBD's archive, for the progress bar."""


def add_train_aug(voc: Path, archive: Path) -> None:
    """Write SegmentationClassAug and, last, the list train_aug; masks that are there are kept.

    The archive is read once from front to back and not unpacked: its photos are VOC's own.

    Args:
        voc: the folder VOC2012.
        archive: SBD's benchmark.tgz.

    Raises:
        ValueError: the archive holds no annotations of SBD.
    """
    train, val = (set(read_ids(list_path(voc, split).read_text())) for split in ("train", "val"))
    masks = voc / "SegmentationClassAug"
    masks.mkdir(exist_ok=True)
    annotated = set()
    with tarfile.open(archive) as tar:
        members = (member for member in tar if _is_annotation(PurePosixPath(member.name)))
        for member in report(members, "SBD masks", unit="file", total=ANNOTATED):
            id = PurePosixPath(member.name).stem
            annotated.add(id)
            file, official = masks / f"{id}.png", voc / "SegmentationClass" / f"{id}.png"
            if id not in val and not official.exists() and not file.exists():
                mask = read_annotation(tar.extractfile(member).read())
                save_atomically(lambda path, mask=mask: save_mask(mask, path), file)
    if not annotated:
        raise ValueError(f"{archive} holds no cls/*.mat; put SBD's own benchmark.tgz there.")
    write_lines(sorted((train | annotated) - val), list_path(voc, "train_aug"))


def read_annotation(content: bytes) -> np.ndarray:
    """Class ids (H, W) uint8 in 0..20 of one of SBD's cls/*.mat files."""
    return loadmat(io.BytesIO(content), variable_names=["GTcls"])["GTcls"][0, 0]["Segmentation"]


def _is_annotation(name: PurePosixPath) -> bool:
    return name.parent.name == "cls" and name.suffix == ".mat"
