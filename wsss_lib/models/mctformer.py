"""MCTformer's network: a class token for each class, a map from the patch tokens, and attention that
refines it.

Xu et al., CVPR 2022, in its second version: class tokens and patches are classified both, and the patches'
map is a CAM. At test time attention gives two more things: where each class token looks, and which patches
belong together.
"""

from typing import Literal

from torch import Tensor, nn

from wsss_lib.losses import global_average_pool
from wsss_lib.models.backbones import TokenBackbone, with_class_tokens
from wsss_lib.models.cross_task import propagate
from wsss_lib.models.vit import Tokens

LAST_BLOCKS = 3
"""Blocks whose class-to-patch attention counts."""


MapKind = Literal["class_maps", "refined_patch_maps", "patch_maps"]
"""What shapes the patches' maps: class tokens' attention and patches' affinity, the affinity, or nothing."""


def class_attention(tokens: Tokens, blocks: int = LAST_BLOCKS) -> Tensor:
    """What each class token takes from each patch: mean over heads, sum over the last blocks, (B, K, h, w).

    The code sums over the blocks; a mean would change no min-max scaled map.
    """
    return tokens.class_to_patch().mean(2)[:, -blocks:].sum(1)


def patch_affinity(tokens: Tokens) -> Tensor:
    """What each patch takes from each patch: mean over heads, sum over all blocks, (B, h w, h w)."""
    return tokens.patch_to_patch().mean(2).sum(1)


class MCTformerNet(nn.Module):
    """A vision transformer with a class token a class, and a 3x3 convolution from patch tokens to a map a
    class.

    Args:
        backbone: its one class token becomes `num_classes`, each a copy of the pretrained one, and its last
            norm goes, as in the released code: a class token's logit is the mean over its channels, which a
            fresh layer norm makes 0.
        num_classes: foreground classes C.
        drop_path: stochastic depth of the last block in training.

    Raises:
        ValueError: a backbone without tokens.
    """

    def __init__(self, backbone: TokenBackbone, num_classes: int, drop_path: float = 0.0):
        super().__init__()
        if not isinstance(backbone, TokenBackbone):
            raise ValueError(
                "MCTformer's backbone must be a vision transformer; name one, say deit_small_patch16_224 or "
                "hybrid_lite0."
            )
        self.transformer = with_class_tokens(backbone, num_classes, drop_path, final_norm=False)
        self.base_lr_layers = (f"transformer.{backbone.pretrained_prefix}",)  # a hybrid's blocks are new
        self.stride = backbone.strides[-1]
        self.patch_classifier = nn.Conv2d(backbone.channels[-1], num_classes, 3, padding=1)

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of the RGB input in [0, 1], as the transformer's weights expect it."""
        return self.transformer.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """As `mean`."""
        return self.transformer.std

    def evidence(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, 3, H, W) -> patch maps (B, C, h, w), any sign; logits (B, C) of the class tokens and of the
        patches.

        The released code hands the map out without its gradient; ACR needs it, so here it has it.
        """
        tokens = self.transformer.tokens(images)
        maps = self.patch_classifier(tokens.patches)
        return maps, (tokens.classes.mean(-1), global_average_pool(maps))

    def patch_maps(self, images: Tensor) -> Tensor:
        """The CAM of the patches: (B, 3, H, W) -> (B, C, h, w), any sign."""
        return self.patch_classifier(self.transformer.tokens(images).patches)

    def refined_patch_maps(self, images: Tensor) -> Tensor:
        """Patch maps along the patches' affinity: (B, C, h, w), not below 0."""
        tokens = self.transformer.tokens(images, attention=True)
        return propagate(patch_affinity(tokens), self.patch_classifier(tokens.patches).relu())

    def class_maps(self, images: Tensor) -> Tensor:
        """Fused maps along the patches' affinity, MCTformer-V2's: (B, C, h, w), not below 0.

        Of a view: the maps of several views (flips, scales) are refined each by its own attention and added.
        """
        tokens = self.transformer.tokens(images, attention=True)
        fused = self.patch_classifier(tokens.patches).relu() * class_attention(tokens)
        return propagate(patch_affinity(tokens), fused)
