"""The classifier of each method, built from the preset."""

from collections.abc import Callable
from typing import Any

from torch import nn

from wsss_lib.config import CAMClassifier, Config
from wsss_lib.methods.cam import CAM
from wsss_lib.methods.mixup_cam import MixupCAM
from wsss_lib.methods.sc_cam import SCCAM
from wsss_lib.models.backbones import Backbone


def head(training: CAMClassifier) -> dict[str, Any]:
    """What a training section says of the layers behind the backbone."""
    return training.model_dump(include={"dropout", "xavier", "head_channels"})


METHODS: dict[str, Callable[[Backbone, int, Config], nn.Module]] = {
    "cam": lambda backbone, classes, config: CAM(backbone, classes, **head(config.classifier)),
    "mixup_cam": lambda backbone, classes, config: MixupCAM(
        backbone, classes, **config.mixup_cam.objective, **head(config.training_of("mixup_cam"))
    ),
    "sc_cam": lambda backbone, classes, config: SCCAM(
        backbone, classes, config.sc_cam.clusters, config.sc_cam.weight, **head(config.training_of("sc_cam"))
    ),
}
