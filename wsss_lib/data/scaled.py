"""A data set at the size that a preset is made for: photos of a phone have ten times the pixels of VOC's."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from joblib import delayed
from PIL import Image

from wsss_lib.data.layout import write_text
from wsss_lib.data.masks import load_mask, save_mask
from wsss_lib.data.photos import open_image, photo_files, read_image, read_image_size
from wsss_lib.runtime.digest import file_digests
from wsss_lib.runtime.files import save_atomically
from wsss_lib.runtime.progress import report
from wsss_lib.runtime.workers import pool

QUALITY = 95  # of a JPEG: its blocks cannot be seen at this size


def scaled_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(H, W) with a long side of `side` pixels at most, in the same proportion."""
    factor = min(1, side / max(size))
    height, width = (max(1, round(length * factor)) for length in size)
    return height, width


def scale_down(root: Path, side: int, out: Path, processes: int) -> Path:
    """The data set of `root` with photos of at most `side` pixels, made in `out`; `root` itself if all are.

    Scaled photos that are there are kept as long as their originals have the same content.

    Args:
        root: folder that `from_folder` laid out, with masks that `VOCDataset` reads without a palette file.
        out: a folder of this function's alone; photos that `root` has no more are removed from it.

    Raises:
        ValueError: a photo or mask is damaged.
        OSError: `out` cannot be written.
    """
    photos = photo_files(root / "JPEGImages")
    with ThreadPoolExecutor() as threads:
        sizes = list(threads.map(read_image_size, photos))
    if all(max(size) <= side for size in sizes):
        return root
    for folder in ("JPEGImages", "SegmentationClass"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    digests = file_digests(photos)
    wanted = {f"{path.stem}.jpg": path for path in photos}
    for path in (out / "JPEGImages").iterdir():
        if path.name not in wanted:
            path.unlink()
    calls = (
        delayed(_scale_photo)(path, side, digests[path], out / "JPEGImages" / name)
        for name, path in wanted.items()
    )
    made = pool(processes, return_as="generator_unordered")(calls)
    for _ in report(made, f"photos at {side} pixels", unit="photo", total=len(photos)):
        pass
    for path in (out / "SegmentationClass").iterdir():
        path.unlink()
    for path in (root / "SegmentationClass").glob("*.png"):
        _scale_mask(path, side, out / "SegmentationClass" / path.name)
    lists = (root / "ImageSets" / "Segmentation").glob("*.txt")
    for path in (root / "classes.txt", root / "labels.csv", *lists):
        write_text(path.read_text("utf-8"), out / path.relative_to(root))
    return out


def _scale_photo(photo: Path, side: int, digest: str, out: Path) -> None:
    """Unless it is there; the comment of the file says what it was made from."""
    comment = f"{digest} {side}".encode()
    if out.is_file():
        with open_image(out) as image:
            if image.info.get("comment") == comment:
                return
    pixels = read_image(photo)
    height, width = scaled_size(pixels.shape[:2], side)
    scaled = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    save_atomically(lambda path: scaled.save(path, "JPEG", quality=QUALITY, comment=comment), out)


def _scale_mask(mask: Path, side: int, out: Path) -> None:
    with open_image(mask) as image:
        height, width = scaled_size((image.height, image.width), side)
        scaled = np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
    save_atomically(lambda path: save_mask(scaled, path), out)


def mask_at(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (h, w) of class ids at (H, W): each place gets the class of which most is near, bilinearly."""
    if mask.shape == size:
        return mask
    height, width = size
    ids = np.unique(mask)
    shares = [
        np.asarray(
            Image.fromarray((mask == id).astype(np.float32)).resize(
                (width, height), Image.Resampling.BILINEAR
            )
        )
        for id in ids
    ]
    return ids[np.argmax(shares, axis=0)]


def write_full_size(mask: Path, photo: Path, out: Path) -> str:
    """Write a mask at its photo's size; returns the SHA-256 of the file."""
    full = mask_at(load_mask(mask), read_image_size(photo))
    save_atomically(lambda path: save_mask(full, path), out)
    return hashlib.sha256(out.read_bytes()).hexdigest()
