"""The classifier of each method, built from the preset."""

from collections.abc import Callable

from torch import nn

from wsss_lib.config import Config
from wsss_lib.methods.cam import CAM
from wsss_lib.methods.sc_cam import SCCAM
from wsss_lib.models.backbones import Backbone

METHODS: dict[str, Callable[[Backbone, int, Config], nn.Module]] = {
    "cam": lambda backbone, classes, config: CAM(
        backbone, classes, config.classifier.dropout, config.classifier.xavier
    ),
    "sc_cam": lambda backbone, classes, config: SCCAM(
        backbone,
        classes,
        config.sc_cam.clusters,
        config.sc_cam.weight,
        dropout=config.sc_cam.training.dropout,
        xavier=config.sc_cam.training.xavier,
        head_channels=config.sc_cam.training.head_channels,
    ),
}
