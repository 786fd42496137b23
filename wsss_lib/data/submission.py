"""Masks as VOC's evaluation server wants them: the only way to a score on the list test."""

import tarfile
from pathlib import Path

import numpy as np

from wsss_lib.data.layout import list_path, read_ids
from wsss_lib.data.photos import open_image
from wsss_lib.data.voc import VOC_CLASSES, VOCDataset
from wsss_lib.runtime.files import save_atomically


def write_submission(data: VOCDataset, masks: Path, archive: Path, competition: str = "comp6") -> Path:
    """Pack palette PNGs as results/VOC2012/Segmentation/<competition>_test_cls/<id>.png in a .tar.gz.

    Args:
        data: the list test with all 20 classes.
        masks: folder of <id>.png, such as the path of `Study.masks`.
        archive: file to write, ending in .tar.gz or .tgz.
        competition: "comp6" (trained on any data, ImageNet weights included) or "comp5" (on VOC alone).

    Raises:
        FileNotFoundError: a photo of the list has no mask.
        ValueError: other classes or split; a mask is no palette PNG, differs in size from its photo or holds
            an id beyond 0..20.
    """
    if competition not in ("comp5", "comp6"):
        raise ValueError(f"Competition {competition!r} is unknown; choose 'comp5' or 'comp6'.")
    if data.classes != VOC_CLASSES or data.split != "test":
        raise ValueError(
            f"The server scores VOC's list test with 20 classes, but this is the list {data.split} with "
            f"{len(data.classes)}; give the list test with all classes."
        )
    # the list itself: a study's `limit` may have cut data.ids
    ids = read_ids(list_path(data.root, "test").read_text())
    files = {id: masks / f"{id}.png" for id in ids}
    if missing := [id for id, file in files.items() if not file.is_file()]:
        raise FileNotFoundError(
            f"{masks} lacks {len(missing)} of the {len(ids)} masks, the first is {missing[0]}.png; segment "
            "every photo of the list first."
        )
    for id, file in files.items():
        _check_mask(file, data.image_size(id))

    def pack(path: Path) -> None:
        with tarfile.open(path, "w:gz") as tar:
            for id, file in files.items():
                tar.add(file, f"results/VOC2012/Segmentation/{competition}_test_cls/{id}.png")

    archive = Path(archive)
    archive.parent.mkdir(parents=True, exist_ok=True)
    save_atomically(pack, archive)
    return archive


def _check_mask(file: Path, size: tuple[int, int]) -> None:
    with open_image(file) as image:
        if image.mode != "P":
            raise ValueError(
                f"{file} is of mode {image.mode}, but the server reads palette PNGs; save it as one."
            )
        mask = np.asarray(image)
    if mask.shape != size:
        raise ValueError(f"{file} is {mask.shape} (H, W) while its photo is {size}; write it at full size.")
    if mask.max() > len(VOC_CLASSES):
        raise ValueError(f"{file} holds id {mask.max()}; the server knows the ids 0..20 only.")
