"""ResNet-38, the wide "Model A1" of Wu et al. (Wider or Deeper, 2016), at output stride 8 as psa has it.

Pre-activation blocks: batch norm and ReLU come before each convolution, a projecting shortcut reads what
they give, an identity shortcut the raw input. Down-sampling is by stride 2 alone; no convolution has a bias.
Dropout in the last two blocks is psa's: whole channels, before the 3x3 and the last 1x1 (the original drops
single values, before the last 1x1 only).
"""

import re
from collections.abc import Mapping

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)
FILE = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"  # ImageNet, top-1 error 19.54 %
MD5 = "ff21f45d6bf03284100dcbec571edfad"


class ResNet38(nn.Module):
    """Six feature maps, each after batch norm and ReLU; psa calls the last three conv4, conv5 and conv6.

    Args:
        output_stride: 8, the only one.
        widths: channels after conv1a and the stages b2 to b7.

    Parameter names are psa's, so that its .pth files load as they are.
    """

    def __init__(self, output_stride: int = 8, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        if output_stride != 8:
            raise ValueError(f"ResNet-38 has output stride 8, not {output_stride}")
        w1, w2, w3, w4, w5, w6, w7 = widths
        self.conv1a = nn.Conv2d(3, w1, 3, padding=1, bias=False)
        self.b2 = Basic(w1, w2, w2, stride=2)
        self.b2_1, self.b2_2 = (Basic(w2, w2, w2) for _ in range(2))
        self.b3 = Basic(w2, w3, w3, stride=2)
        self.b3_1, self.b3_2 = (Basic(w3, w3, w3) for _ in range(2))
        self.b4 = Basic(w3, w4, w4, stride=2)
        self.b4_1, self.b4_2, self.b4_3, self.b4_4, self.b4_5 = (Basic(w4, w4, w4) for _ in range(5))
        self.b5 = Basic(w4, w5 // 2, w5, dilations=(1, 2))
        self.b5_1, self.b5_2 = (Basic(w5, w5 // 2, w5, dilations=(2, 2)) for _ in range(2))
        self.b6 = Bottleneck(w5, w6, dropout=0.3)
        self.b7 = Bottleneck(w6, w7, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(w7)
        # what timm's feature networks say about themselves: width, stride and last layer of each tap
        taps = zip(
            (w1, w2, w3, w4, w5, w7),
            (1, 2, 4, 8, 8, 8),
            ("conv1a", "b2_2", "b3_2", "b4_5", "b5_2", "bn7"),
            strict=True,
        )
        self.feature_info = FeatureInfo(
            [{"num_chs": width, "reduction": stride, "module": module} for width, stride, module in taps],
            out_indices=tuple(range(6)),
        )
        self.pretrained_cfg = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> taps at strides 1, 2, 4, 8, 8 and 8."""
        taps = []
        x = self.conv1a(images)
        stages = (
            (self.b2, self.b2_1, self.b2_2),
            (self.b3, self.b3_1, self.b3_2),
            (self.b4, self.b4_1, self.b4_2, self.b4_3, self.b4_4, self.b4_5),
            (self.b5, self.b5_1, self.b5_2),
            (self.b6, self.b7),
        )
        for first, *others in stages:
            x, tap = first(x)  # the tap is the stage's input after the first block's batch norm and ReLU
            taps.append(tap)
            for block in others:
                x, _ = block(x)
        return [*taps, F.relu(self.bn7(x))]


class Basic(nn.Module):
    """Two 3x3 convolutions; returns the sum with the shortcut, and the activated input."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int = 1, dilations: tuple[int, int] = (1, 1)
    ):
        super().__init__()
        first, second = dilations
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, middle, 3, stride, first, first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = nn.Conv2d(middle, outputs, 3, 1, second, second, bias=False)
        self.projects = inputs != outputs or stride != 1
        if self.projects:
            self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, H, W) -> (B, outputs, ceil(H/stride), ceil(W/stride)) and (B, inputs, H, W)."""
        active = F.relu(self.bn_branch2a(x))
        shortcut = self.conv_branch1(active) if self.projects else x
        y = self.conv_branch2a(active)
        y = self.conv_branch2b1(F.relu(self.bn_branch2b1(y)))
        return shortcut + y, active


class Bottleneck(nn.Module):
    """1x1 to a quarter, 3x3 (dilation 4) to a half, 1x1 to the whole width; returns as `Basic` does."""

    def __init__(self, inputs: int, outputs: int, dropout: float):
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, outputs // 4, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(outputs // 4)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = nn.Conv2d(outputs // 4, outputs // 2, 3, padding=4, dilation=4, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(outputs // 2)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(outputs // 2, outputs, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, H, W) -> (B, outputs, H, W) and (B, inputs, H, W)."""
        active = F.relu(self.bn_branch2a(x))
        y = self.conv_branch2a(active)
        y = self.conv_branch2b1(self.dropout_2b1(F.relu(self.bn_branch2b1(y))))
        y = self.conv_branch2b2(self.dropout_2b2(F.relu(self.bn_branch2b2(y))))
        return self.conv_branch1(active) + y, active


# res4b3_branch2b1_weight, bn2a_branch2a_moving_var, conv1a_weight, bn7_gamma, linear1000_bias
MXNET_NAME = re.compile(
    r"(?:arg|aux):(?:(?:res|bn)(?P<stage>\d)(?:a|b(?P<block>\d))_branch(?P<branch>1|2a|2b1|2b2)"
    r"|(?P<single>conv1a|bn7|linear1000))_(?P<parameter>weight|bias|gamma|beta|moving_mean|moving_var)"
)
PARAMETERS = {
    "weight": "weight", "gamma": "weight", "beta": "bias",
    "moving_mean": "running_mean", "moving_var": "running_var",
}  # fmt: skip


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The 193 tensors of the published MXNet file under psa's names, classifier left out; psa's as they are.

    MXNet lays out convolutions as torch does.

    Raises:
        ValueError: a name that ResNet-38 does not have.
    """
    if not any(name.startswith(("arg:", "aux:")) for name in state):
        return dict(state)
    renamed = {}
    for name, tensor in state.items():
        match = MXNET_NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"it holds {name!r}, which ResNet-38 does not have")
        if match["single"] == "linear1000":
            continue
        layer = match["single"]
        if layer is None:
            block = f"b{match['stage']}" + (f"_{match['block']}" if match["block"] else "")
            kind = "bn" if ":bn" in name else "conv"
            layer = f"{block}.{kind}_branch{match['branch']}"
        renamed[f"{layer}.{PARAMETERS[match['parameter']]}"] = tensor
    return renamed
