"""Vision transformers that hand out their tokens and attention: timm's, and a hybrid that laptops can train.

The networks are timm's `VisionTransformer` throughout, its patch embedding, blocks and norm, and its position
embeddings, which it interpolates (bicubic, antialiased) to the grid of any photo. Added is what weak
supervision asks of them: several class tokens, one a class in MCTformer (Xu et al., CVPR 2022), and the
attention of each block, through which gradients flow. `backbones.TokenBackbone` wraps them.

The hybrid is the answer to a lack of pretrained transformers: an ImageNet network up to stride 16 gives the
patch tokens, as in the hybrids of Dosovitskiy et al. (ICLR 2021), and a few blocks that start from random
weights relate them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import timm
import torch
from timm.layers import DropPath, HybridEmbed
from timm.models import FeatureInfo, is_model_in_modules
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

HYBRIDS = {"hybrid_lite0": "tf_efficientnet_lite0"}
"""Each hybrid's stem, whose weights it takes."""


@dataclass(frozen=True)
class Tokens:
    """What a vision transformer makes of a batch of B photos.

    Args:
        patches: patch tokens as a map, (B, D, h, w).
        classes: class tokens, (B, K, D).
        attention: of every block and head, after the softmax and before any dropout,
            (B, blocks, heads, K + h w, K + h w). Class tokens come first, then patches row by row. Row i is
            what token i takes from each token and sums to 1. None: it was not asked for.
    """

    patches: Tensor
    classes: Tensor
    attention: Tensor | None = None

    def class_to_patch(self) -> Tensor:
        """What each class token takes from each patch: (B, blocks, heads, K, h, w)."""
        count = self.classes.shape[1]
        return self._attention()[..., :count, count:].unflatten(-1, self.patches.shape[-2:])

    def patch_to_patch(self) -> Tensor:
        """What each patch (rows) takes from each patch (columns): (B, blocks, heads, h w, h w)."""
        count = self.classes.shape[1]
        return self._attention()[..., count:, count:]

    def _attention(self) -> Tensor:
        if self.attention is None:
            raise ValueError("These tokens came without attention; ask for tokens(images, attention=True).")
        return self.attention


def is_vision_transformer(name: str) -> bool:
    """Whether `vision_transformer` is the one to build network `name`."""
    return name in HYBRIDS or is_model_in_modules(name, ("vision_transformer", "deit"))


def vision_transformer(name: str) -> VisionTransformer:
    """A hybrid or timm's network `name` for photos of any size, without its classifier; random weights.

    Raises:
        ValueError: timm's network has other tokens than patches and one class token, or other blocks.
    """
    if name in HYBRIDS:
        net = hybrid(HYBRIDS[name])
    else:
        net = timm.create_model(name, num_classes=0, dynamic_img_size=True, pretrained=False)
        if net.cls_token is None or net.num_prefix_tokens != 1 or not isinstance(net.blocks[0], Block):
            raise ValueError("of vision transformers only those with one class token and plain blocks work")
    # what timm's feature networks say about themselves: width, stride and last layer of each tap
    tap = {"num_chs": net.embed_dim, "reduction": net.patch_embed.feat_ratio(), "module": "norm"}
    net.feature_info = FeatureInfo([tap], out_indices=(0,))
    return net


def hybrid(stem: str) -> VisionTransformer:
    """Transformer blocks on the stride-16 features of timm's EfficientNet `stem`, one token a cell.

    A 1x1 convolution brings the features to the blocks' width. Random weights; the blocks are DeiT-Ti's, four
    of them for twelve, and the tokens are normed before the first, as in CLIP.
    """
    features = timm.create_model(stem, features_only=True, out_indices=(0, 1, 2, 3), pretrained=False)
    del features.blocks[features.feature_info.get_dicts()[-1]["stage"] :]  # timm would run them for nothing
    net = VisionTransformer(
        embed_dim=192,
        num_heads=3,
        depth=4,
        patch_size=1,  # in cells of the features
        pre_norm=True,  # the stem's features are large; without it class tokens learned unsteadily
        num_classes=0,
        dynamic_img_size=True,
        embed_layer=partial(HybridEmbed, backbone=features),
    )
    net.pretrained_cfg = features.pretrained_cfg
    return net


def pretrained_part(net: nn.Module) -> nn.Module:
    """The stem of a hybrid; any other network as it is."""
    embed = getattr(net, "patch_embed", None)
    return embed.backbone if isinstance(embed, HybridEmbed) else net


def repeat_class_token(net: VisionTransformer, count: int) -> None:
    """Turn the one class token into `count`, in place: copies of it and of its position, as in MCTformer."""
    net.cls_token = _repeat_first(net.cls_token, count)
    if not net.no_embed_class:  # DeiT-III gives the class token no position
        net.pos_embed = _repeat_first(net.pos_embed, count)
    net.num_prefix_tokens = count


def _repeat_first(tokens: nn.Parameter, count: int) -> nn.Parameter:
    """(1, 1 + n, D) -> (1, count + n, D)."""
    first, others = tokens.detach().split([1, tokens.shape[1] - 1], dim=1)
    return nn.Parameter(torch.cat([first.repeat(1, count, 1), others], 1), tokens.requires_grad)


def set_drop_path(net: VisionTransformer, rate: float) -> None:
    """Stochastic depth that grows linearly from 0 in the first block to `rate` in the last, in place."""
    shares = torch.linspace(0, rate, len(net.blocks), device="cpu").tolist()
    for block, share in zip(net.blocks, shares, strict=True):
        block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)


def read_tokens(net: VisionTransformer, images: Tensor, attention: bool = False) -> Tokens:
    """Tokens of normalised images (B, 3, H, W), H and W whole patches.

    Args:
        attention: keep the attention of each block, in the graph; it takes B x blocks x heads x (K + h w)^2
            numbers, and the attention is computed without timm's fused kernel, which never forms it.
    """
    with recorded_attention(net.blocks if attention else ()) as weights:
        tokens = net.forward_features(images)
    stride, count = net.feature_info.reduction()[0], net.num_prefix_tokens
    height, width = (size // stride for size in images.shape[-2:])
    patches = tokens[:, count:].transpose(1, 2).unflatten(2, (height, width))
    return Tokens(patches, tokens[:, :count], torch.stack(weights, 1) if attention else None)


@contextmanager
def recorded_attention(blocks: Iterable[Block]) -> Iterator[list[Tensor]]:
    """A list that fills with each block's attention (B, heads, N, N) while the blocks run in this context."""
    weights: list[Tensor] = []
    layers = [block.attn for block in blocks]
    fused = [layer.fused_attn for layer in layers]
    # what enters the dropout is what the softmax gave
    hooks = [
        layer.attn_drop.register_forward_pre_hook(lambda _, inputs: weights.append(inputs[0]))
        for layer in layers
    ]
    try:
        for layer in layers:
            layer.fused_attn = False
        yield weights
    finally:
        for layer, before, hook in zip(layers, fused, hooks, strict=True):
            layer.fused_attn = before
            hook.remove()
