"""MS COCO 2014 as a folder in VOC layout, written once: then all that reads VOC reads COCO.

The 80 object classes get ids 1..80 in the order of COCO's sparse category ids; 0 is background. A photo
without any annotated object is left out, which leaves the 82,081 + 40,137 photos of the papers. The image
label names the class of every annotation, crowd regions included.

Masks are rasterised by pycocotools from the instances and kept as palette PNGs without void pixels. Where
instances overlap, the one with the smaller `area` lies on top; a crowd region is painted as its class, like
any instance. This is the rule of the tool coco2voc; the papers do not state theirs, and masks made by another
one differ slightly where instances overlap.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from joblib import delayed
from pycocotools.coco import COCO

from wsss_lib.data.layout import link_photo, list_path, write_lines
from wsss_lib.data.masks import save_mask
from wsss_lib.runtime.files import save_atomically
from wsss_lib.runtime.progress import report
from wsss_lib.runtime.workers import pool

FOLDERS = {"train": "train2014", "val": "val2014"}
LABELS = "labels.npz"


def convert_coco(source: Path, root: Path, processes: int = -1) -> None:
    """Write links to the photos, masks, lists train and val, classes.txt and labels.npz to `root`.

    Masks that are already there are kept, so a stopped run goes on; a finished one is not repeated.

    Args:
        source: folder with train2014/, val2014/ and annotations/instances_{train,val}2014.json.
        root: folder to write into; may be `source` itself.
        processes: that rasterise; -1 for one per CPU.

    Raises:
        FileNotFoundError: an annotation file or photo is missing.
        ValueError: an annotation file is damaged, or both name different categories.
    """
    if (root / LABELS).is_file() and all(list_path(root, split).is_file() for split in FOLDERS):
        return
    lists: dict[str, list[str]] = {}
    names: list[str] = []
    rows = []
    for split, folder in FOLDERS.items():
        instances = _read_instances(source / "annotations" / f"instances_{folder}.json")
        categories = sorted(instances["categories"], key=lambda category: category["id"])
        found = [category["name"] for category in categories]
        if names and found != names:
            raise ValueError(f"The annotation files of {source} name different categories; copy both again.")
        names = found
        class_ids = {category["id"]: number for number, category in enumerate(categories, start=1)}
        objects = defaultdict(list)
        for annotation in instances["annotations"]:
            objects[annotation["image_id"]].append(annotation)
        images = sorted(
            (image for image in instances["images"] if image["id"] in objects),
            key=lambda image: image["file_name"],
        )
        for image in images:
            link_photo(source / folder / image["file_name"], root)
            row = np.zeros(len(names), np.uint8)
            row[[class_ids[annotation["category_id"]] - 1 for annotation in objects[image["id"]]]] = 1
            rows.append(row)
        _write_masks(
            images, objects, class_ids, root / "SegmentationClass", processes, f"COCO masks, {split}"
        )
        lists[split] = [Path(image["file_name"]).stem for image in images]

    write_lines(names, root / "classes.txt")
    ids = [id for split in lists.values() for id in split]
    save_atomically(
        lambda path: np.savez_compressed(path, ids=ids, classes=names, labels=np.array(rows)), root / LABELS
    )
    for split, listed in lists.items():
        write_lines(listed, list_path(root, split))


def instance_mask(
    image: Mapping[str, Any], objects: Sequence[Mapping[str, Any]], class_ids: Mapping[int, int]
) -> np.ndarray:
    """Class ids (H, W) uint8 of one photo; see the module for overlaps and crowds.

    Args:
        image: its COCO record (id, height, width).
        objects: its COCO annotations.
        class_ids: COCO category id -> class id 1..C.
    """
    rasteriser = COCO()
    rasteriser.imgs = {image["id"]: image}
    mask = np.zeros((image["height"], image["width"]), np.uint8)
    # from the largest to the smallest; of two equal ones the earlier lies on top
    for annotation in reversed(sorted(objects, key=lambda annotation: annotation["area"])):
        mask[rasteriser.annToMask(annotation) == 1] = class_ids[annotation["category_id"]]
    return mask


def _write_masks(images, objects, class_ids, folder: Path, processes: int, title: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{Path(image['file_name']).stem}.png" for image in images]
    todo = [(image, file) for image, file in zip(images, files, strict=True) if not file.exists()]
    written = pool(processes, return_as="generator_unordered")(
        delayed(_write_mask)(image, objects[image["id"]], class_ids, file) for image, file in todo
    )
    for _ in report(written, title, unit="photo", total=len(images), initial=len(images) - len(todo)):
        pass


def _write_mask(image, objects, class_ids, file: Path) -> None:
    mask = instance_mask(image, objects, class_ids)
    save_atomically(lambda path: save_mask(mask, path), file)


def _read_instances(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no {path}; unpack COCO's annotations_trainval2014.zip there."
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); unpack it again.") from error
