"""Training augmentations of the three kinds of network, on torchvision tv_tensors.

Image and mask move together because every random choice is drawn once a call, from torch's global generator:
`torch.manual_seed` makes a run repeatable. The three differ in the order of their steps, which decides what a
padded pixel looks like: the mean colour if padding follows normalisation, black if it precedes it.
"""

from collections.abc import Sequence

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from wsss_lib.data.masks import IGNORE

PSA_JITTER = (0.3, 0.3, 0.3, 0.1)
"""Brightness, contrast, saturation and hue jitter of psa (Ahn & Kwak, CVPR 2018) and its descendants."""


def classification_transform(
    long_side: tuple[int, int],
    crop: int,
    mean: Sequence[float],
    std: Sequence[float],
    jitter: bool = True,
) -> v2.Compose:
    """Augmentation of classifier training, in the order of psa.

    Long side ~ U{lo..hi} -> flip -> jitter -> normalise -> random crop. Normalising before the crop pads with
    the mean colour (0); an image smaller than the crop lies at a random place in it.

    Args:
        long_side: inclusive range of the long side, in pixels.
        crop: side of the square output.
        mean, std: colour statistics of a backbone, for values in [0, 1].
        jitter: whether the colours are changed, by `PSA_JITTER`.

    Returns:
        A callable from a tv_tensors.Image (3, H, W) uint8 to a tensor (3, crop, crop) float32.

    Raises:
        ValueError: an empty or non-positive range of long sides.
    """
    return v2.Compose(
        [
            RandomLongSide(*long_side),
            v2.RandomHorizontalFlip(),
            *_jitter(jitter),
            *_normalise(mean, std),
            PlacedCrop(crop),
            v2.ToPureTensor(),
        ]
    )


def affinity_transform(
    crop: int, mean: Sequence[float], std: Sequence[float], jitter: bool = True
) -> v2.Compose:
    """Augmentation of AffinityNet training, in the order of psa.

    Jitter -> random crop -> normalise -> flip, without scaling. Normalising after the crop makes padding
    black; its marginals are 0, which marks these cells as unlabelled. Other arguments as above.

    Returns:
        A callable from an image (3, H, W) uint8 and a tv_tensors.Mask (n, H, W) of class marginals, float or
        uint8, to tensors (3, crop, crop) float32 and (n, crop, crop) of the marginals' type.
    """
    return v2.Compose(
        [
            *_jitter(jitter),
            PlacedCrop(crop, mask_fill=0),
            *_normalise(mean, std),
            v2.RandomHorizontalFlip(),
            v2.ToPureTensor(),
        ]
    )


def segmentation_transform(
    scale: Sequence[float],
    crop: int,
    mean: Sequence[float],
    std: Sequence[float],
    jitter: bool = False,
) -> v2.Compose:
    """Augmentation of DeepLab training (Chen et al., PAMI 2018).

    Scale -> flip -> jitter -> normalise -> random crop: padding is the mean colour (0) in the image and 255,
    not background, in the label.

    Args:
        scale: factors of the photo's size: any between the two given, or one of three or more.
        Others as above.

    Returns:
        A callable from an image (3, H, W) uint8 and a tv_tensors.Mask (H, W) uint8 of class ids to tensors
        (3, crop, crop) float32 and (crop, crop) uint8.

    Raises:
        ValueError: an empty or non-positive range of scales.
    """
    return v2.Compose(
        [
            (RandomScale if len(scale) == 2 else ChosenScale)(*scale),
            v2.RandomHorizontalFlip(),
            *_jitter(jitter),
            *_normalise(mean, std),
            PlacedCrop(crop),
            v2.ToPureTensor(),
        ]
    )


def normalise(image: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(..., 3, H, W) uint8 to float32: (image / 255 - mean) / std."""
    if image.dtype != torch.uint8:
        raise ValueError(f"The image is {image.dtype}; give uint8 values 0..255, they are scaled here.")
    return v2.Compose(_normalise(mean, std))(image)


class RandomScale(v2.Transform):
    """Resize by a factor ~ U[low, high]: images bicubic with antialias, masks to the nearest pixel.

    Masks use "nearest-exact", whose pixel centres agree with the image's: torch's "nearest" shifts labels.
    """

    def __init__(self, low: float, high: float):
        super().__init__()
        if not 0 < low <= high:
            raise ValueError(f"The range {low}..{high} is empty or not positive; give 0 < low <= high.")
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list) -> dict:
        height, width = v2.query_size(flat_inputs)
        factor = self.factor(height, width)
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def factor(self, height: int, width: int) -> float:
        return torch.empty(()).uniform_(self.low, self.high).item()

    def transform(self, inpt: torch.Tensor, params: dict) -> torch.Tensor:
        if isinstance(inpt, tv_tensors.Mask):
            plain = inpt.as_subclass(torch.Tensor)[None]
            plain = F.resize_image(plain, params["size"], v2.InterpolationMode.NEAREST_EXACT)
            return tv_tensors.wrap(plain[0], like=inpt)
        return F.resize(inpt, params["size"], v2.InterpolationMode.BICUBIC, antialias=True)


class ChosenScale(RandomScale):
    """Resize by one of `factors`, each as likely."""

    def __init__(self, *factors: float):
        super().__init__(min(factors), max(factors))
        self.factors = factors

    def factor(self, height: int, width: int) -> float:
        return self.factors[torch.randint(len(self.factors), ()).item()]


class RandomLongSide(RandomScale):
    """Resize so that the long side is an integer ~ U{low..high}."""

    def factor(self, height: int, width: int) -> float:
        return torch.randint(self.low, self.high + 1, ()).item() / max(height, width)


class PlacedCrop(v2.RandomCrop):
    """Random square crop; along a dimension shorter than `size`, random place in a padded canvas.

    torchvision's `pad_if_needed` adds the lacking length on both sides before the crop, so that the place is
    uniform over the canvas.
    """

    def __init__(self, size: int, mask_fill: float = IGNORE):
        super().__init__(size, pad_if_needed=True, fill={tv_tensors.Mask: mask_fill, "others": 0})


def _normalise(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


def _jitter(on: bool) -> list[v2.Transform]:
    return [v2.ColorJitter(*PSA_JITTER)] if on else []
