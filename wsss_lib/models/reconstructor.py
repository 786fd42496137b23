"""ACR's reconstructor: an encoder that reads a photo at three depths, and a UNet that paints it again.

Kweon et al., CVPR 2023, supplement A.1. What is hidden from the decoder is hidden in the encoder's
features, so the encoder sees the whole photo and the decoder what a map lets through.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_lib.losses import global_average_pool
from wsss_lib.models.backbones import Backbone

SLOPE = 0.2
"""Of every leaky ReLU."""
DROPOUT_FROM = 4
"""The first block with dropout, down (D4) and up (U4)."""


class UNet(nn.Module):
    """The decoder G_D of Table A1, of any depth.

    Blocks D1 to Dn halve the grid, U(n-1) to U1 double it, C doubles it once more and colours. Every U is
    joined with the D of its size. The first and the last D have no norm: the colours of the input are wanted,
    and the last map may have a single cell.

    Args:
        inputs: channels of the features.
        channels: of D1 to Dn; Table A1 has 64, 128, 256 and five times 512.
        dropout: in training, from D4 on and down to U4; the code has 0.5.
        variant: "paper", leaky ReLU in U, C is a bilinear upsampling and a 1x1 convolution; "code", ReLU, C
            is a nearest upsampling and a 3x3 convolution.

    >>> UNet(448, (64, 128, 256, 512))(torch.rand(1, 448, 64, 96)).shape
    torch.Size([1, 3, 64, 96])
    """

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int],
        dropout: float = 0.5,
        variant: Literal["paper", "code"] = "paper",
    ):
        super().__init__()
        blocks = len(channels)
        self.unit = 2**blocks

        def tail(block: int, norm: nn.Module | None, activation: nn.Module) -> list[nn.Module]:
            drop = nn.Dropout(dropout) if block >= DROPOUT_FROM else None
            return [layer for layer in (norm, activation, drop) if layer]

        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        for block, (before, after) in enumerate(zip((inputs, *channels), channels, strict=False), start=1):
            halve = nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)
            norm = nn.InstanceNorm2d(after) if 1 < block < blocks else None
            self.down[f"D{block}"] = nn.Sequential(halve, *tail(block, norm, nn.LeakyReLU(SLOPE)))
        width = channels[-1]
        for block in range(blocks - 1, 0, -1):
            after = channels[block - 1]
            double = nn.ConvTranspose2d(width, after, 4, stride=2, padding=1, bias=False)
            active = nn.LeakyReLU(SLOPE) if variant == "paper" else nn.ReLU()
            self.up[f"U{block}"] = nn.Sequential(double, *tail(block, nn.InstanceNorm2d(after), active))
            width = 2 * after
        if variant == "paper":
            colour = nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(width, 3, 1)
        else:
            colour = nn.Upsample(scale_factor=2), nn.Conv2d(width, 3, 3, padding=1)
        self.colour = nn.Sequential(*colour)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, H, W) -> RGB (B, 3, H, W), any value; errors as of `blocks`."""
        for _, output in self.blocks(features):
            last = output
        return last

    def blocks(self, features: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each block's name in Table A1 and its output, that of a U joined with its D.

        Raises:
            ValueError: H or W is no multiple of 2 ** blocks.
        """
        if any(side % self.unit for side in features.shape[-2:]):
            raise ValueError(
                f"The decoder halves its input {len(self.down)} times, which {tuple(features.shape[-2:])} "
                f"does not allow; give sides that are multiples of {self.unit}."
            )
        skips: list[Tensor] = []
        for name, block in self.down.items():
            features = block(features)
            skips.append(features)
            yield name, features
        skips.pop()
        for name, block in self.up.items():
            features = torch.cat([block(features), skips.pop()], 1)
            yield name, features
        yield "C", self.colour(features)


def class_head(channels: int, num_classes: int, hidden: int | None, xavier: bool) -> nn.Sequential:
    """1x1 convolutions without biases from features to class maps.

    hidden: width of one before the last, with a ReLU, as the code has it (256); None: a single one, as the
    supplement says. xavier: initial weights; torch's if off.
    """
    widths = [channels, *([hidden] if hidden else []), num_classes]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.ReLU()] if layers else []
        layers.append(nn.Conv2d(before, after, 1, bias=False))
        if xavier:
            nn.init.xavier_uniform_(layers[-1].weight)
    return nn.Sequential(*layers)


class Reconstructor(nn.Module):
    """Encoder G_E, whose three deepest taps make the features X, and decoder G_D.

    The code gives the encoder a class head of its own, which the supplement doesn't name; only this head and
    the rebuilding teach the encoder.

    Args:
        backbone: of the encoder. ResNet-38's three deepest taps are the inputs of b5 and b6 and conv6.
        num_classes: foreground classes C.
        side: S, of the rebuilt photo in pixels; features and photo are brought to it.
        taps: channels that a 1x1 convolution makes of each tap; 64, 128 and 256 in the code, 448 together.
        channels, dropout, variant: as in `UNet`.
        hidden, xavier: as in `class_head`.
        fast: layers that get `new_layers_lr`: all that are not pretrained ("new"), or the transposed
            convolutions alone ("transposed"), as the groups of the code have it.

    Raises:
        ValueError: a backbone of fewer taps than three, or a side that the decoder cannot halve.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        side: int,
        taps: Sequence[int] = (64, 128, 256),
        channels: Sequence[int] = (64, 128, 256, 512, 512, 512, 512, 512),
        dropout: float = 0.5,
        variant: Literal["paper", "code"] = "paper",
        hidden: int | None = None,
        xavier: bool = False,
        fast: Literal["new", "transposed"] = "new",
    ):
        super().__init__()
        if side % 2 ** len(channels):
            raise ValueError(
                f"reconstructor.side {side} is no multiple of 2^{len(channels)}; give one, or fewer channels."
            )
        if len(backbone.channels) < len(taps):
            raise ValueError(
                f"The reconstructor reads {len(taps)} depths of its encoder, which has "
                f"{len(backbone.channels)}; give it a convolutional backbone."
            )
        self.backbone, self.side = backbone, side
        self.reductions = nn.ModuleList(
            nn.Conv2d(before, after, 1, bias=False)
            for before, after in zip(backbone.channels[-len(taps) :], taps, strict=True)
        )
        self.classifier = class_head(backbone.channels[-1], num_classes, hidden, xavier)
        self.decoder = UNet(sum(taps), channels, dropout, variant)
        if fast == "transposed":
            self.base_lr_layers = ("reductions.", "classifier.", "decoder.down.", "decoder.colour.")

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(R3) (B, 3, H, W) normalised as the encoder expects it -> X (B, D, S, S), class logits (B, C)."""
        taps = self.backbone(images)[-len(self.reductions) :]
        reduced = (reduce(tap) for reduce, tap in zip(self.reductions, taps, strict=True))
        features = torch.cat([at_size(tap, self.side) for tap in reduced], 1)
        return features, global_average_pool(self.classifier(taps[-1]))

    def decode(self, features: Tensor) -> Tensor:
        """X, what is hidden weighed down, (B, D, S, S) -> the photo in ImageNet's units, (B, 3, S, S)."""
        return self.decoder(features)


def at_size(maps: Tensor, side: int) -> Tensor:
    """(B, C, h, w) -> (B, C, side, side), bilinear; the maps cover a square."""
    return F.interpolate(maps, size=(side, side), mode="bilinear")


def restated(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    new_mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    new_std: Sequence[float] = IMAGENET_DEFAULT_STD,
) -> Tensor:
    """Images (B, 3, H, W) normalised by one pair of colour statistics, as another normalises them.

    Losses are weighed against L1 in ImageNet's units (a standard deviation near 0.225). EfficientNet-Lite's
    input has one of 0.5, in whose units every difference, and so every weight, would be 2.2 times smaller.
    """
    mean, std, new_mean, new_std = (
        images.new_tensor(values).view(3, 1, 1) for values in (mean, std, new_mean, new_std)
    )
    return (images * std + mean - new_mean) / new_std
