"""The network under every CAM: a classifier whose maps before pooling say where its evidence lies."""

from torch import Tensor, nn

from wsss_lib.models.backbones import Backbone
from wsss_lib.models.trainable import Trainable


class ActivationNet(Trainable):
    """Features and a 1x1 convolution that classifies each of their cells.

    Average pooling of the class maps gives the logits of the image, so the same weights that classify it give
    a response map per class at no extra cost (Zhou et al., CVPR 2016). Methods add a `training_step`.

    Args:
        backbone: the deepest tap is classified.
        num_classes: foreground classes C.
        dropout: probability that a channel of the features is dropped in training; psa has 0.5.
        xavier: initial weights of the heads as psa has them; torch's if False.
        head_channels: of a 3x3 convolution between backbone and heads; None: there is none.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        dropout: float = 0.0,
        xavier: bool = False,
        head_channels: int | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        self.stride = backbone.strides[-1]
        deepest = backbone.channels[-1]
        adapt = [nn.Conv2d(deepest, head_channels, 3, padding=1), nn.ReLU()] if head_channels else []
        self.neck = nn.Sequential(*adapt, nn.Dropout2d(dropout))
        self.channels, self._xavier = head_channels or deepest, xavier
        self.classifier = self.head(num_classes)

    def head(self, outputs: int) -> nn.Conv2d:
        """A new 1x1 classifier of the features, without bias."""
        head = nn.Conv2d(self.channels, outputs, kernel_size=1, bias=False)
        if self._xavier:
            nn.init.xavier_uniform_(head.weight)
        return head

    def features(self, images: Tensor) -> Tensor:
        """f(x, y): (B, 3, H, W) normalised images -> (B, D, h, w)."""
        return self.neck(self.backbone(images)[-1])

    def class_maps(self, images: Tensor) -> Tensor:
        """w_c^T f(x, y): (B, 3, H, W) normalised images -> (B, C, h, w), any sign, not normalised."""
        return self.classifier(self.features(images))
