"""The embedded dataset: scenes drawn from a seed, in VOC layout, with the failure that WSSS cures.

Six classes of invented animals live in five kinds of places. The *head* of an animal (3-12 % of its area)
belongs to its class alone; its *body* shares poses, coats and colours with the other classes and with the
clutter, and is only weak evidence. A classifier therefore looks at the heads, and its class activation maps
miss the bodies, as they miss the bodies of cats and dogs in photos. What photos lack is drawn too: masks of
the discriminative part, true sub-types (pose, proportions, coat, size, favourite place), occluded shares and
the place of each picture.

`curlhorn` and `forkhorn` look alike (as cow and sheep); a `tagalong` nearly always comes with a `starnose`,
on whose back it rides (as person and bicycle).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from PIL import Image

from wsss_lib.data.scene_composition import CLASSES, Scene, SceneObject, draw_scene

__all__ = ["CLASSES", "Scene", "SceneObject", "draw_scene", "generate_scenes"]

FOLDERS = {
    "JPEGImages": ".jpg",
    "SegmentationClass": ".png",
    "SegmentationPart": ".png",
    "Saliency": ".png",
    "Annotations": ".json",
}


def generate_scenes(
    root: Path, sizes: Mapping[str, int], image_size: tuple[int, int], seed: int = 0, processes: int = 2
) -> None:
    """Draw a dataset in VOC layout; pictures that are already there are kept, so a stopped run goes on.

    Picture i of a split is the same whatever the sizes and the number of processes: a larger set contains
    the smaller. Beside JPEGImages, SegmentationClass and ImageSets/Segmentation it writes classes.txt,
    labels.csv, SegmentationPart, Saliency, Annotations (per-picture JSON), objects.csv and context.csv.

    Args:
        root: folder to write into, created if need be.
        sizes: pictures per split, such as {"train": 400, "val": 120}.
        image_size: height and width in pixels, at least 48.

    Raises:
        ValueError: sizes or image_size out of range, or `root` holds scenes of another seed or size.
        NotADirectoryError: `root` is a file.
    """
    root = Path(root)
    if not sizes or any(int(n) != n or n < 1 for n in sizes.values()):
        raise ValueError(
            f"sizes {dict(sizes)} must give each split at least one picture, as in {{'train': 400}}."
        )
    if min(image_size) < 48:
        raise ValueError(
            f"image_size {tuple(image_size)} is too small to draw in; use at least 48 x 48 pixels."
        )
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f"Scenes cannot be written to {root}, which is a file; name a folder.")
    for folder in (*FOLDERS, "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    origin = {"seed": seed, "image_size": list(image_size)}
    if (root / "origin.json").exists():
        if json.loads((root / "origin.json").read_text()) != origin:
            raise ValueError(f"{root} holds scenes of another seed or image size; choose an empty folder.")
    _write(root / "origin.json", json.dumps(origin).encode())

    ids = {split: [f"{split}_{index:05d}" for index in range(n)] for split, n in sizes.items()}
    missing = [
        (split, index)
        for split, names in ids.items()
        for index, name in enumerate(names)
        if not all((root / folder / (name + suffix)).exists() for folder, suffix in FOLDERS.items())
    ]
    Parallel(n_jobs=processes)(
        delayed(_write_scene)(root, seed, split, index, tuple(image_size)) for split, index in missing
    )
    for split, names in ids.items():
        _write(
            root / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{n}\n" for n in names).encode()
        )
    _write(root / "classes.txt", "".join(f"{name}\n" for name in CLASSES).encode())
    _write_tables(root, [name for names in ids.values() for name in names])


def _write_tables(root: Path, ids: list[str]) -> None:
    notes = {name: json.loads((root / "Annotations" / f"{name}.json").read_text()) for name in ids}
    labels = [
        {"id": name, **{c: int(any(o["class"] == c for o in note["objects"])) for c in CLASSES}}
        for name, note in notes.items()
    ]
    objects = [{"id": name, **o} for name, note in notes.items() for o in note["objects"]]
    contexts = [{"id": name, "context": note["context"]} for name, note in notes.items()]
    for file, rows in (("labels.csv", labels), ("objects.csv", objects), ("context.csv", contexts)):
        lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
        _write(root / file, ("\n".join(lines) + "\n").encode())


def _write_scene(root: Path, seed: int, split: str, index: int, image_size: tuple[int, int]) -> None:
    scene = draw_scene(seed, split, index, image_size)
    objects = [asdict(item) for item in scene.objects]
    objects = [{("class" if key == "class_name" else key): v for key, v in item.items()} for item in objects]
    files = {
        "JPEGImages": _encode(Image.fromarray(scene.image), "JPEG", quality=92),
        "SegmentationClass": _encode(_with_palette(scene.mask), "PNG"),
        "SegmentationPart": _encode(_with_palette(scene.parts), "PNG"),
        "Saliency": _encode(Image.fromarray(np.where(scene.parts > 0, 255, 0).astype(np.uint8)), "PNG"),
        "Annotations": json.dumps({"context": scene.context, "objects": objects}).encode(),
    }
    for folder, content in files.items():
        _write(root / folder / f"{split}_{index:05d}{FOLDERS[folder]}", content)


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _with_palette(ids: np.ndarray) -> Image.Image:
    """A palette image with the VOC colour map, in which id bits are spread over the colours' high bits."""
    number, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(3):
        for channel in range(3):
            colours[:, channel] |= ((number >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    image = Image.fromarray(ids)
    image.putpalette(colours.ravel().tolist())
    return image


def _write(path: Path, content: bytes) -> None:
    """Write a whole file or nothing."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
