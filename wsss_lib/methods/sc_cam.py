"""SC-CAM: sub-category exploration (Chang et al., CVPR 2020; the thesis's chapter 3).

A classifier needs one telling part of an object and no more. SC-CAM sets it a harder task: K-means splits
each class into K sub-categories (`clustering.py`, equation 3.2), and the network must also say which of them
it sees. What tells sub-categories apart (pose, coat, company) lies all over the object. The class maps of
the *parent* head are the result; clustering and training take turns for a few rounds (Algorithm 1).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from wsss_lib.losses import classification_loss, global_average_pool
from wsss_lib.models.activation import ActivationNet
from wsss_lib.models.backbones import Backbone

SUB_HEAD = "sub_classifier"


def joint_loss(
    logits: Tensor, labels: Tensor, sub_logits: Tensor, sub_labels: Tensor, weight: float
) -> dict[str, Tensor]:
    """Equation 3.3: L_p(H_p(f), Y_p) + lambda L_s(H_s(f), Y_s), each a mean over images and outputs.

    logits, labels: (B, C); sub_logits, sub_labels: (B, C * K); weight: lambda. Returns the sum as "loss"
    and its unweighted parts.
    """
    parent, sub = classification_loss(logits, labels), classification_loss(sub_logits, sub_labels)
    return {"loss": parent + weight * sub, "parent loss": parent, "sub-category loss": sub}


class SCCAM(ActivationNet):
    """A parent head H_p and a sub-category head H_s on the same features f = E(I).

    Args:
        backbone, num_classes: as in `ActivationNet`.
        clusters: sub-categories K of each class; output c * K + k of H_s is sub-category k of class c.
        weight: lambda of equation 3.3.
        options: `dropout`, `xavier` and `head_channels` of `ActivationNet`. The thesis has a 3x3 convolution
            of 512 channels; the released code has none, dropout 0.5 and Xavier's initial weights.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, clusters: int, weight: float, **options: float | None
    ):
        super().__init__(backbone, num_classes, **options)
        self.weight = weight
        self.sub_classifier = self.head(num_classes * clusters)

    def sub_category_maps(self, images: Tensor) -> Tensor:
        """Equation 3.1 with the weights of H_s: (B, 3, H, W) -> (B, C * K, h, w)."""
        return self.sub_classifier(self.features(images))

    def training_step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), label (B, C), sub_label (B, C * K) -> loss and its parts."""
        pooled = global_average_pool(self.features(batch["image"]))[..., None, None]
        logits, sub_logits = (head(pooled).flatten(1) for head in (self.classifier, self.sub_classifier))
        return joint_loss(logits, batch["label"], sub_logits, batch["sub_label"], self.weight)

    @torch.no_grad()
    def start_from(self, previous: Mapping[str, Tensor]) -> None:
        """Take over the weights of the round before, or of a CAM, where they fit.

        The sub-category head stays new: the numbers of the clusters mean nothing from one round to the next.
        """
        own = self.state_dict()
        for name, value in previous.items():
            if name in own and own[name].shape == value.shape and not name.startswith(SUB_HEAD):
                own[name].copy_(value)
