"""The network under every CAM: a classifier whose maps before pooling say where its evidence lies."""

from torch import Tensor, nn

from wsss_lib.models.backbones import Backbone


class ActivationNet(nn.Module):
    """Features and a 1x1 convolution that classifies each of their cells.

    Average pooling of the class maps gives the logits of the image, so the same weights that classify it give
    a response map per class at no extra cost (Zhou et al., CVPR 2016). Methods add a `training_step`.

    Args:
        backbone: the deepest tap is classified.
        num_classes: foreground classes C.
        channels: of `features`, if a subclass adds layers to the backbone's.
    """

    def __init__(self, backbone: Backbone, num_classes: int, channels: int | None = None):
        super().__init__()
        self.backbone = backbone
        self.stride = backbone.strides[-1]
        self.classifier = nn.Conv2d(channels or backbone.channels[-1], num_classes, kernel_size=1, bias=False)

    def features(self, images: Tensor) -> Tensor:
        """f(x, y): (B, 3, H, W) normalised images -> (B, D, h, w)."""
        return self.backbone(images)[-1]

    def class_maps(self, images: Tensor) -> Tensor:
        """w_c^T f(x, y): (B, 3, H, W) normalised images -> (B, C, h, w), any sign, not normalised."""
        return self.classifier(self.features(images))
