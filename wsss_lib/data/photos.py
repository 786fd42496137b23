"""Photos from disk as RGB arrays, whatever way they were saved."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = (".jpg", ".jpeg", ".png")
"""Endings of the files that count as photos, in small letters."""
_EXIF_ORIENTATION = 0x0112
# PIL.ImageOps.exif_transpose also writes the other metadata anew, and fails where these are damaged
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def photo_files(folder: Path) -> list[Path]:
    """Photos of a folder, by name, without its subfolders and dot-files ("._a.jpg" is no photo)."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in PHOTOS and not path.name.startswith(".")
    )


def by_id(files: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Files of `folder` by their names without ending.

    Raises:
        ValueError: two of them have one id.
    """
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            raise ValueError(
                f"{folder} holds {found[path.stem].name} and {path.name}, two photos of one id; rename or "
                "remove one of them."
            )
        found[path.stem] = path
    return found


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """`PIL.Image.open` whose errors, also those of a late decoding in the with block, name file and remedy.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or no image.
    """
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}; copy it there.") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large to be read ({error}); scale it down.") from error
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError on damaged PNG
        raise ValueError(f"{path} is damaged or no image ({error}); replace it by an intact copy.") from error


def read_image(path: str | Path) -> np.ndarray:
    """Any photo Pillow decodes as (H, W, 3) uint8 RGB.

    EXIF rotation is applied, transparency is laid on white, 16-bit grey is cut to 8 bits; grey, palette and
    CMYK are converted.

    Raises:
        ValueError: the file is damaged or no photo.
    """
    with open_image(Path(path)) as image:
        if (turn := _UPRIGHT.get(orientation(image))) is not None:
            image = image.transpose(turn)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(
                f"{path} holds {image.mode} pixels of unknown range; save it with 8 bits a channel."
            )
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))


def read_image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of `read_image(path)`, from the header of the file."""
    with open_image(Path(path)) as image:
        return upright_size(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) after the rotation of `orientation`."""
    width, height = image.size
    turned = orientation(image) >= 5  # these exchange rows and columns
    return (width, height) if turned else (height, width)


def orientation(image: Image.Image) -> int:
    """How a photo is stored, 1..8 of EXIF; 1, upright, where its metadata say something else."""
    found = said_orientation(image)
    return found if found in range(1, 9) else 1


def said_orientation(image: Image.Image) -> object:
    """What a photo's metadata say of its orientation, 1 without any, None if they are damaged."""
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # Pillow's parser raises many kinds on damaged EXIF
        return None
