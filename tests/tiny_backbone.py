"""A backbone of five small layers, for tests of the networks built on backbones."""

import torch
from torch import Tensor, nn

from wsss_lib.models.backbones import Backbone


class Taps(nn.Module):
    def __init__(self, strides: tuple[int, ...], channels: tuple[int, ...]):
        super().__init__()
        steps = [after // before for before, after in zip((1, *strides), strides, strict=False)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, step, 1), nn.BatchNorm2d(o), nn.ReLU())
            for i, o, step in zip((3, *channels), channels, steps, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        taps = []
        for layer in self.layers:
            x = layer(x)
            taps.append(x)
        return taps


def tiny_backbone(strides: tuple[int, ...] = (2, 4, 8, 16), seed: int = 0) -> Backbone:
    """Random weights, random batch-norm statistics, a tap of 4 + 2 i channels at each stride."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        channels = tuple(4 + 2 * i for i in range(len(strides)))
        net = Taps(strides, channels)
        for layer in net.layers:
            layer[1].running_mean.normal_()
            layer[1].running_var.uniform_(0.5, 2)
        return Backbone(net, channels, strides, (0.5,) * 3, (0.25,) * 3, "random")
