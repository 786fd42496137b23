"""Masks as labelling tools and detection libraries read them: COCO JSON, CVAT and Label Studio.

A region is a connected piece of one class, its pixels joined at their sides. In COCO each is an annotation
and in CVAT an object, so that a reviewer may delete or rename one cat of two; what touches stays one region,
because image labels do not tell objects of a class apart. Label Studio's brush paints a class at once.

Every file is written photo by photo, whatever their number. Pixels of 255 (void) become background: none of
the formats has a word for them. Sources of the formats: cocodataset.org (format-data); CVAT's manual,
"Segmentation mask 1.1"; Label Studio's guide (tag BrushLabels, pre-annotations), whose brush strokes are
packed as thi.ng's rle-pack describes.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TextIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from joblib import delayed
from PIL import Image
from pycocotools import mask as rle_codec
from scipy import ndimage

from wsss_lib.data.masks import IGNORE, load_mask, voc_palette
from wsss_lib.data.photos import open_image
from wsss_lib.runtime.files import save_atomically
from wsss_lib.runtime.progress import report
from wsss_lib.runtime.workers import pool

MOST_OBJECTS = 255
"""Objects of a photo that VOC's palette tells apart; further ones, the smallest, are the last of them."""


@dataclass(frozen=True)
class Region:
    """A connected piece of one class: its pixels (h, w) bool in the box whose corner is (top, left)."""

    class_id: int
    top: int
    left: int
    pixels: np.ndarray


def regions(mask: np.ndarray) -> list[Region]:
    """The regions of a mask (H, W), class by class."""
    found = []
    for class_id in np.unique(mask).tolist():
        if class_id in (0, IGNORE):
            continue
        numbers, _ = ndimage.label(mask == class_id)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
            found.append(Region(class_id, rows.start, columns.start, numbers[rows, columns] == number))
    return found


def polygon(pixels: np.ndarray) -> list[float]:
    """One polygon [x0, y0, x1, y1, ...] along the sides of a connected region's pixels (h, w).

    Pixel (row 0, column 0) has the corners (0, 0) and (1, 1). A hole is joined to the outline by a seam that
    is walked twice and so encloses nothing: pycocotools draws the region back pixel by pixel.
    """
    first, *holes = _outlines(pixels)
    points = list(first)
    for hole in holes:
        points += [first[0], *hole, hole[0]]
    return [float(value) for point in points for value in point]


def _outlines(pixels: np.ndarray) -> list[list[tuple[int, int]]]:
    """Corners (x, y) of the closed outlines, the outer one first, walked with the region on the right."""
    inside = np.pad(pixels, 1)
    here = inside[1:-1, 1:-1]
    # of each side between a pixel of the region and one beyond it: where it starts, seen from the pixel
    sides = {
        (1, 0): (inside[:-2, 1:-1], (0, 0)),
        (0, 1): (inside[1:-1, 2:], (1, 0)),
        (-1, 0): (inside[2:, 1:-1], (1, 1)),
        (0, -1): (inside[1:-1, :-2], (0, 1)),
    }
    leaving: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for step, (beyond, (dx, dy)) in sides.items():
        for y, x in np.argwhere(here & ~beyond).tolist():
            leaving.setdefault((x + dx, y + dy), []).append(step)
    found = []
    for start in sorted(leaving):  # the leftmost corner is one of the outer outline
        if start not in leaving:
            continue
        place, step, corners = start, leaving[start][0], []
        while place in leaving:
            ways = leaving[place]
            right = (-step[1], step[0])
            turn = right if right in ways else ways[0]  # keeps pixels apart that touch at a corner
            ways.remove(turn)
            if not ways:
                del leaving[place]
            if turn != step or place == start:
                corners.append(place)
            step, place = turn, (place[0] + turn[0], place[1] + turn[1])
        found.append(corners)
    return found


def run_lengths(region: Region, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths of a region in a photo of `size` (H, W)."""
    height, width = region.pixels.shape
    full = np.zeros(size, np.uint8, order="F")
    full[region.top : region.top + height, region.left : region.left + width] = region.pixels
    return {"size": list(size), "counts": rle_codec.encode(full)["counts"].decode()}


# --- COCO --------------------------------------------------------------------------------------------------

Segmentation = Literal["rle", "polygons"]


def coco_annotations(file: Path, segmentation: Segmentation) -> list[dict[str, Any]]:
    """COCO annotations of a mask, without id and image_id."""
    mask = load_mask(file)
    found = []
    for region in regions(mask):
        (height, width), place = region.pixels.shape, (region.left, region.top)
        if segmentation == "rle":
            shape: Any = run_lengths(region, mask.shape)
        else:
            corners = np.reshape(polygon(region.pixels), (-1, 2)) + place
            shape = [corners.ravel().tolist()]
        found.append(
            {
                "category_id": region.class_id,
                "segmentation": shape,
                "area": int(region.pixels.sum()),
                "bbox": [*place, width, height],
                "iscrowd": 0,
            }
        )
    return found


def write_coco(
    masks: Mapping[str, Path],
    classes: Sequence[str],
    path: Path,
    segmentation: Segmentation = "rle",
    processes: int = 1,
) -> None:
    """Masks as a COCO file: an annotation for each region, of category 1..C, the class's id.

    Args:
        masks: name of the photo's file -> its mask, a palette PNG of the photo's size.
        classes: names by id, background first.
        segmentation: "rle", compressed run lengths, or "polygons"; both draw back pixel by pixel.

    Raises:
        FileNotFoundError, ValueError: a mask is missing or damaged.
        OSError: `path` cannot be written.
    """
    numbers = {name: number for number, name in enumerate(masks, start=1)}

    def images() -> Iterator[dict[str, Any]]:
        for name, number in numbers.items():
            with open_image(masks[name]) as image:
                width, height = image.size
            yield {"id": number, "file_name": name, "width": width, "height": height}

    def annotations() -> Iterator[dict[str, Any]]:
        calls = (delayed(coco_annotations)(file, segmentation) for file in masks.values())
        made = pool(processes, return_as="generator")(calls)
        title, number = f"COCO, {segmentation}", 0
        for image, found in zip(
            numbers.values(), report(made, title, unit="photo", total=len(masks)), strict=True
        ):
            for annotation in found:
                number += 1
                yield {"id": number, "image_id": image, **annotation}

    def write(temporary: Path) -> None:
        categories = [{"id": c, "name": name} for c, name in enumerate(classes) if c]
        with temporary.open("w", encoding="utf-8") as file:
            file.write(f'{{"categories": {json.dumps(categories)},\n"images": ')
            _write_list(images(), file)
            file.write(',\n"annotations": ')
            _write_list(annotations(), file)
            file.write("}\n")

    save_atomically(write, path)


def _write_list(items: Iterable[Any], file: TextIO) -> None:
    """A JSON list, one item a line and never more than one in memory."""
    file.write("[")
    for number, item in enumerate(items):
        file.write((",\n" if number else "\n") + json.dumps(item))
    file.write("\n]")


# --- CVAT --------------------------------------------------------------------------------------------------


def write_cvat(masks: Mapping[str, Path], classes: Sequence[str], path: Path) -> None:
    """Masks as a zip that CVAT imports as "Segmentation mask 1.1"; arguments and errors as of `write_coco`.

    Classes and objects are RGB in VOC's colours; labelmap.txt says which colour is which class. A colon in a
    class's name, which would end it there, becomes a hyphen.
    """
    colours = np.reshape(voc_palette(), (-1, 3)).astype(np.uint8)
    labelmap = ["# label:color_rgb:parts:actions"]
    for name, colour in zip(classes, colours, strict=False):
        labelmap.append(f"{name.replace(':', '-')}:{','.join(map(str, colour))}::")

    def write(temporary: Path) -> None:
        with ZipFile(temporary, "w", ZIP_DEFLATED) as archive:
            archive.writestr("labelmap.txt", "\n".join(labelmap) + "\n")
            names = [Path(name).stem for name in masks]
            archive.writestr("ImageSets/Segmentation/default.txt", "\n".join(names) + "\n")
            for name, file in report(
                zip(names, masks.values(), strict=True), "CVAT archive", unit="photo", total=len(masks)
            ):
                mask = load_mask(file)
                for folder, ids in (
                    ("SegmentationClass", np.where(mask == IGNORE, 0, mask)),
                    ("SegmentationObject", object_ids(mask)),
                ):
                    archive.writestr(f"{folder}/{name}.png", _png(colours[ids]))

    save_atomically(write, path)


def object_ids(mask: np.ndarray) -> np.ndarray:
    """(H, W) uint8: the number of each region from 1, the largest first; see `MOST_OBJECTS`."""
    found = sorted(regions(mask), key=lambda region: region.pixels.sum(), reverse=True)
    ids = np.zeros(mask.shape, np.uint8)
    for number, region in enumerate(found, start=1):
        height, width = region.pixels.shape
        box = ids[region.top : region.top + height, region.left : region.left + width]
        box[region.pixels] = min(number, MOST_OBJECTS)
    return ids


def _png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


# --- Label Studio ------------------------------------------------------------------------------------------

SIZES = (4, 8, 12, 16)
"""Bits of a run's length, the shortest that holds it; the format has room for four sizes of at most 16."""


def brush_strokes(pixels: np.ndarray) -> list[int]:
    """Label Studio's packed brush of pixels (H, W) bool: bytes of an RGBA picture, 255 where they are set.

    A header of 32 bits (how many bytes there are unpacked), 5 (bits of a value, less 1) and four times 4
    (`SIZES`, each less 1); then runs: a 1, the number of their size in 2 bits, length less 1, and value.
    """
    values = np.repeat(pixels.ravel().astype(np.uint8) * 255, 4)
    starts = np.flatnonzero(np.diff(values, prepend=~values[:1]))
    bits = [f"{values.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    for value, length in zip(values[starts], np.diff(starts, append=values.size).tolist(), strict=True):
        for run in _pieces(length, 2 ** SIZES[-1]):
            number = next(n for n, size in enumerate(SIZES) if run <= 2**size)
            bits.append(f"1{number:02b}{run - 1:0{SIZES[number]}b}{value:08b}")
    packed = "".join(bits)
    packed += "0" * (-len(packed) % 8)
    return [int(packed[place : place + 8], 2) for place in range(0, len(packed), 8)]


def _pieces(length: int, most: int) -> Iterator[int]:
    while length > 0:
        yield min(length, most)
        length -= most


def write_label_studio(
    masks: Mapping[str, Path],
    classes: Sequence[str],
    path: Path,
    score: Callable[[str], float | None],
    processes: int = 1,
) -> None:
    """Masks as a list of Label Studio's tasks with predictions, and beside it the labelling interface (.xml).

    Photos are looked for by their names in the document root of Label Studio's local files. Arguments and
    errors as of `write_coco`; score: name of the photo's file -> its confidence, or None.
    """
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in classes[1:])
    interface = (
        '<View>\n  <Image name="image" value="$image"/>\n  <BrushLabels name="label" toName="image">\n'
        f"{labels}  </BrushLabels>\n</View>\n"
    )

    def tasks() -> Iterator[dict[str, Any]]:
        calls = (delayed(_brushes)(file, tuple(classes)) for file in masks.values())
        made = pool(processes, return_as="generator")(calls)
        for name, result in zip(
            masks, report(made, "Label Studio", unit="photo", total=len(masks)), strict=True
        ):
            found = {"model_version": "wsss_lib", "score": score(name), "result": result}
            yield {"data": {"image": f"/data/local-files/?d={quote(name)}"}, "predictions": [found]}

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            _write_list(tasks(), file)

    save_atomically(write, path)
    save_atomically(lambda temporary: temporary.write_text(interface, "utf-8"), path.with_suffix(".xml"))


def _brushes(file: Path, classes: Sequence[str]) -> list[dict[str, Any]]:
    mask = load_mask(file)
    height, width = mask.shape
    return [
        {
            "id": f"class-{c}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": brush_strokes(mask == c), "brushlabels": [classes[c]]},
        }
        for c in np.unique(mask).tolist()
        if c not in (0, IGNORE)
    ]
