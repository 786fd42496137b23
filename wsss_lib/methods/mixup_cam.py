"""Mixup-CAM: uncertainty regularisation (Chang et al., BMVC 2020; the thesis's chapter 2).

A classifier that is sure after one telling part looks no further. Mixup-CAM shows it two photos at once and
asks for their shares, so that each part's evidence is diluted and more of the object is needed. Two losses
keep the response from spreading too far: each place should belong to few classes (L_ent), and the response of
a class lie close to its own centre (L_con). No code was released; what the text leaves open is an option of
`MixupTraining`.
"""

from typing import Annotated, Literal

import torch
from pydantic import AliasChoices, Field
from torch import Tensor
from torch.nn import functional as F

from wsss_lib.config import CAMClassifier, NonNegative, Positive, Section
from wsss_lib.losses import at_least_float32, classification_loss, global_average_pool
from wsss_lib.methods.base import Method, Recipe
from wsss_lib.models.activation import ActivationNet
from wsss_lib.models.backbones import Backbone
from wsss_lib.models.trainable import Clock

PAPERS_STRIDE = 8
"""Pixels per cell of ResNet-38's maps, the unit of length of L_con."""
EPSILON = 1e-3
"""Added to every cell before a response is normalised, as in SCOPS, whose loss L_con is."""
SILENT = 1e-6
"""A class whose response sums to less has no centre to gather around."""


class MixupTraining(CAMClassifier):
    """A CAM classifier's training and Mixup-CAM's losses; the last five are what the paper leaves open."""

    alpha: Positive  # of Beta(alpha, alpha) in equation 2.2; the higher, the more even the mixtures
    lambda_ent: NonNegative  # of equation 2.5, weight of the entropy; 0 switches it off
    lambda_con: NonNegative  # of equation 2.5, weight of the concentration, in cells of stride 8; 0: off
    # one lambda_mix for the batch, as mixup's authors have it, or one for each photo
    mix_per: Literal["batch", "photo"] = Field(validation_alias=AliasChoices("mix_per", "lambda_per"))
    # P of equation 2.3 of each place, as its shape H x W says, or of the photo, as its argument reads
    entropy_of: Literal["places", "photo"]
    entropy_maximum: Literal["photo", "place"]  # as in `entropy_loss`
    concentration_weights: Literal["equal", "label"]  # as in `concentration_loss`
    concentration_reduction: Literal["sum", "mean"]


class MixupSweeps(Section):
    """Values of the sensitivity curves, each with the others as in `mixup_cam`."""

    alpha: Annotated[tuple[Positive, ...], Field(min_length=1)]  # of mixing alone, both lambdas 0
    lambda_ent: Annotated[tuple[Positive, ...], Field(min_length=1)]
    lambda_con: Annotated[tuple[Positive, ...], Field(min_length=1)]


class MixupSection(MixupTraining):
    """Mixup-CAM in a preset; trained as the baseline is unless it says otherwise."""

    variant: str | None = None  # whose values these are; None: those of the section itself
    sweeps: MixupSweeps


def draw_mixing(size: int, alpha: float, per: Literal["batch", "photo"]) -> tuple[Tensor, Tensor]:
    """lambda_mix ~ Beta(alpha, alpha), one per batch or photo, (size,), and each photo's partner, (size,).

    Drawn from torch's global CPU generator, so the same on every device. Partners are a random permutation of
    the batch; a photo may meet itself. Of several processes each mixes its own share of the batch.
    """
    beta = torch.distributions.Beta(alpha, alpha)
    share = beta.sample((size if per == "photo" else 1,)).expand(size)
    return share, torch.randperm(size)


def mixup(values: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """Equation 2.2: lambda_mix x_1 + (1 - lambda_mix) x_2 of images (B, 3, H, W) or labels (B, C).

    share: lambda_mix, (B,) in [0, 1]; partner: (B,) indices of x_2.
    """
    share = share.to(values).view(-1, *[1] * (values.ndim - 1))
    return share * values + (1 - share) * values[partner.to(values.device)]


def log_class_probabilities(logits: Tensor, maximum: Literal["photo", "place"]) -> Tensor:
    """log P of equation 2.3: sigmoids divided by their maximum, then softmax over the classes.

    The softmax sees values in [0, 1], so the entropy of P is always close to log C: of 20 classes it
    lies between 2.87 and 3.00. A nearly constant loss is no error.

    Args:
        logits: (B, C, h, w), the classifier's answer at each place.
        maximum: over all classes and places of a photo, which keeps places of weak response uncertain, or
            over the classes of each place.
    """
    log_sigmoid = F.logsigmoid(at_least_float32(logits))
    highest = log_sigmoid.amax((1, 2, 3) if maximum == "photo" else 1, keepdim=True)
    return (log_sigmoid - highest).exp().log_softmax(1)


def entropy_loss(logits: Tensor, maximum: Literal["photo", "place"] = "photo") -> Tensor:
    """Equation 2.3, L_ent: entropy of P over the classes, mean over places and photos.

    Arguments as in `log_class_probabilities`; minimised, so that each place decides for few classes.
    """
    log_p = log_class_probabilities(logits, maximum)
    return -(log_p.exp() * log_p).sum(1).mean()


def normalised_response(maps: Tensor) -> Tensor:
    """M-hat of equation 2.4: the positive part of each map as probabilities of places, (B, C, h, w)."""
    response = maps.relu() + EPSILON
    return response / response.sum((2, 3), keepdim=True)


def spread(response: Tensor, stride: int) -> Tensor:
    """The inner sum of equation 2.4: mean squared distance of each response from its centre mu, (B, C).

    Lengths are in cells of the paper's stride 8 whatever the network's, or the same object would weigh a
    quarter at stride 16. A flat map of n x n such cells has (n^2 - 1) / 6; in coordinates from -1 to 1, which
    SCOPS has, the loss would vanish beside L_cls at the paper's lambda_con of 2e-4.

    Args:
        response: M-hat, (B, C, h, w), sums to 1 over the places.
        stride: pixels per cell.
    """
    rows, columns = (
        torch.arange(size, device=response.device, dtype=response.dtype) * (stride / PAPERS_STRIDE)
        for size in response.shape[2:]
    )
    h, w = rows[:, None], columns
    mu_h, mu_w = ((x * response).sum((2, 3), keepdim=True) for x in (h, w))
    return (((h - mu_h) ** 2 + (w - mu_w) ** 2) * response).sum((2, 3))


def concentration_loss(
    maps: Tensor,
    labels: Tensor,
    stride: int,
    weights: Literal["equal", "label"] = "equal",
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Equation 2.4, L_con: spread of the maps of the present classes, mean over photos.

    Computed in float32 at least: in float16 the sum over a large map overflows. Absent classes and those that
    respond nowhere count nothing. Whether the gradient runs through the centres makes no difference: they
    minimise the sum.

    Args:
        maps: M, (B, C, h, w), any sign, not normalised.
        labels: Y', (B, C) in [0, 1]; a class is present if either photo of the mixture has it.
        stride: pixels per cell of the maps.
        weights: present classes count the same, or by their label, which is the same mixture of the two
            photos' losses as in L_cls.
        reduction: over the classes of a photo.
    """
    maps = at_least_float32(maps)
    present = (labels > 0).to(maps) if weights == "equal" else labels.to(maps)
    present = present * (maps.relu().sum((2, 3)) > SILENT)
    total = (present * spread(normalised_response(maps), stride)).sum(1)
    if reduction == "mean":
        total = total / present.sum(1).clamp(min=1e-6)
    return total.mean()


class MixupCAM(ActivationNet, Method):
    """A CAM classifier that learns from mixed photos. In evaluation it is a `CAM`: nothing is mixed."""

    def __init__(self, backbone: Backbone, num_classes: int, config: MixupTraining):
        super().__init__(backbone, num_classes, **config.head)
        self.config = config

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """Equation 2.5. batch: image (B, 3, H, W), label (B, C) -> loss and its unweighted parts.

        All three losses see the maps of one pass, after the dropout if there is any.
        """
        config = self.config
        mixing = draw_mixing(len(batch["image"]), config.alpha, config.mix_per)
        labels = mixup(batch["label"], *mixing)
        maps = self.class_maps(mixup(batch["image"], *mixing))
        logits = global_average_pool(maps)
        places = maps if config.entropy_of == "places" else logits[..., None, None]
        l_cls = classification_loss(logits, labels)
        l_ent = entropy_loss(places, config.entropy_maximum)
        weights, reduction = config.concentration_weights, config.concentration_reduction
        l_con = concentration_loss(maps, labels, self.stride, weights, reduction)
        return {
            "loss": l_cls + config.lambda_ent * l_ent + config.lambda_con * l_con,
            "L_cls": l_cls,
            "L_ent": l_ent,
            "L_con": l_con,
        }


RECIPE = Recipe(
    name="mixup_cam",
    paper_name="Mixup-CAM",
    config=MixupTraining,
    section=MixupSection,
    build=lambda config, backbones, classes: MixupCAM(backbones(), classes, config),
)
