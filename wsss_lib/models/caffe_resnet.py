"""Caffe-style ResNets: timm's, with the stride in the first 1x1 convolution of a stage as He et al. have it.

torchvision and timm put it in the 3x3, so that weights of the one do not work in the other. Where a
stage is dilated instead of strided, the 3x3 that follows the removed stride is dilated as well.
Left out: Caffe's max pooling rounds sizes up, which gives a cell more for some sizes of the photo; here a
cell covers whole pixels, ceil(H / stride) of them, as on every backbone.
"""

import re
from collections.abc import Mapping, Sequence

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

CAFFE_MEAN = (122.675 / 255, 116.669 / 255, 104.008 / 255)  # RGB
CAFFE_STD = (1 / 255,) * 3  # inputs are 0..255 less the mean


def caffe_resnet(
    name: str,
    output_stride: int,
    eps: float = 1e-5,
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
) -> nn.Module:
    """timm's feature network `name` ("resnet50", "resnet101") with Caffe's strides.

    Args:
        output_stride: 8, 16 or 32.
        eps: of batch norm, as the weights expect it.
        mean, std: of the RGB input in [0, 1], as the weights expect it.
    """
    net = timm.create_model(name, features_only=True, output_stride=output_stride, pretrained=False)
    move_strides(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    net.pretrained_cfg = {"mean": mean, "std": std}
    return net


def move_strides(net: nn.Module) -> None:
    """Move the stride of layer2, layer3 and layer4 of a timm ResNet from the 3x3 to the 1x1, in place."""
    for stage in (net.layer2, net.layer3, net.layer4):
        first, second = stage[0], stage[1]
        first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
        first.conv2.dilation, first.conv2.padding = second.conv2.dilation, second.conv2.padding


# layer4.block23.conv3x3.bn.running_mean; layers are counted from the stem, which is layer1
DEEPLAB_NAME = re.compile(
    r"(?:base\.)?layer(?P<stage>[2-5])\.block(?P<block>\d+)\.(?P<unit>\w+)\.(?P<kind>conv|bn)\.(?P<parameter>\w+)"
)
UNITS = {"reduce": "{}1", "conv3x3": "{}2", "increase": "{}3", "shortcut": "downsample"}


def from_deeplab_pytorch(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """deeplab-pytorch's ResNet-101 (converted from Caffe, input BGR) under timm's names, input RGB.

    Raises:
        ValueError: the names are others.
    """
    renamed = {}
    for name, tensor in state.items():
        stem = re.fullmatch(r"(?:base\.)?layer1\.conv1\.(conv|bn)\.(\w+)", name)
        match = DEEPLAB_NAME.fullmatch(name)
        if stem:
            renamed[f"{stem[1]}1.{stem[2]}"] = tensor.flip(1) if stem[1] == "conv" else tensor
        elif match and match["unit"] in UNITS:
            unit = UNITS[match["unit"]].format(match["kind"])
            if unit == "downsample":
                unit += ".0" if match["kind"] == "conv" else ".1"
            block = f"layer{int(match['stage']) - 1}.{int(match['block']) - 1}"
            renamed[f"{block}.{unit}.{match['parameter']}"] = tensor
    if not renamed:
        raise ValueError(f"its names, such as {next(iter(state), '')!r}, are not deeplab-pytorch's")
    return renamed
