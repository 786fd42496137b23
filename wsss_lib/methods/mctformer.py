"""MCTformer-V2 (Xu et al., CVPR 2022): class tokens and attention, what ACR's vision transformer starts from.

Class tokens and patch tokens are both classified; the patches' map, weighed by where the class tokens look
and spread along the attention between patches, is the response map. The network is in
`models/mctformer.py`; built on its description in ACR's supplement and the released first version of its
code.

What we do differently: photos keep their shape and are cropped as for every method here; RandAugment comes
before the scaling and not after the crop; maps come from the preset's scales, where the code has the
original size alone (`maps.scales: [1.0]`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch import Tensor
from torchvision.transforms import v2

from wsss_lib.config import BackboneConfig, Classifier, Fraction
from wsss_lib.data.examples import ClassificationExamples
from wsss_lib.data.transforms import classification_transform
from wsss_lib.inference import MIN_MAX
from wsss_lib.losses import classification_loss
from wsss_lib.methods.base import Examples, Method, Recipe
from wsss_lib.models.mctformer import MapKind, MCTformerNet
from wsss_lib.models.trainable import Clock

if TYPE_CHECKING:
    from wsss_lib.study.study import Study


class MCTformerTraining(Classifier):
    """A classifier's training on a network of its own."""

    backbone: BackboneConfig  # a vision transformer
    drop_path: Annotated[float, Field(ge=0, lt=1)]  # stochastic depth of the last block
    rand_augment: bool  # two changes a photo, at nine tenths of their range
    erasing: Fraction  # share of the crops in which a rectangle becomes noise


class MCTformerSection(MCTformerTraining):
    """MCTformer in a preset."""

    maps_of: MapKind  # those that are read out


class MCTformer(MCTformerNet, Method):
    """Trained on the class tokens' logits and the pooled patch maps, alike."""

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), label (B, C) -> the sum of both losses as "loss", and each."""
        _, logits = self.evidence(batch["image"])
        classes, patches = (classification_loss(answer, batch["label"]) for answer in logits)
        return {"loss": classes + patches, "class tokens' loss": classes, "patches' loss": patches}


def examples(study: Study, config: MCTformerTraining, model: Method) -> Examples:
    """Augmented training photos with their image labels, with DeiT's augmentation where it is asked for."""
    steps = [classification_transform(config.long_side, config.crop, model.mean, model.std, config.jitter)]
    if config.rand_augment:
        steps.insert(0, v2.RandAugment(num_ops=2, magnitude=27))  # of 30; DeiT's is 9 of timm's 10
    if config.erasing:
        steps.append(v2.RandomErasing(config.erasing, value="random"))
    return ClassificationExamples(study.labelled("train"), v2.Compose(steps))


RECIPE = Recipe(
    name="mctformer",
    paper_name="MCTformerV2",
    config=MCTformerTraining,
    section=MCTformerSection,
    build=lambda config, backbones, classes: MCTformer(backbones(config.backbone), classes, config.drop_path),
    examples=examples,
    maps=MIN_MAX,
)
