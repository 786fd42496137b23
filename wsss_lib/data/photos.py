"""Photos from disk as RGB arrays, whatever way they were saved."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

_EXIF_ORIENTATION = 0x0112


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
        image = ImageOps.exif_transpose(image)
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
        width, height = image.size
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5  # 5..8 exchange rows and columns
    return (width, height) if turned else (height, width)
