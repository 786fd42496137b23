"""ACR: a classifier, CNN or vision transformer, against a reconstructor (Kweon et al., CVPR 2023).

Split a photo by the map of one of its classes. As long as the cut misses the object's border, each side tells
something of the other: half a dog tells where the other half is. A reconstructor learns to paint one side
from the other (RU phase); the classifier then moves its map so that the painting fails (CU phase). The two
take turns on every batch.

Of the two terms of CU the one that paints the rest from the target drops what is caught inside, since
background inside the map gives the background away; the one that paints the target from the rest takes in
what was left outside. They prune and expand.

The main paper was not at hand. What is built follows its supplement and its public code, whose names t and nt
are swapped in the RU phase; here, as in the supplement, the subscript names the side that is *shown*. The
equations are numbered as in papers/acr/card.md. What we do differently: a loss that is not finite stops the
training, where the code skips the step; and the code's test for photos whose visible side has 50 pixels or
fewer, which never happens, is left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, PositiveInt
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from wsss_lib.artifacts import Artifact
from wsss_lib.config import (
    BackboneConfig,
    CAMClassifier,
    Classifier,
    Fraction,
    NonNegative,
    Optimiser,
    Section,
)
from wsss_lib.data.examples import photo_tensor
from wsss_lib.data.transforms import normalise
from wsss_lib.inference import MIN_MAX, min_max
from wsss_lib.losses import at_least_float32, classification_loss, global_average_pool
from wsss_lib.methods.base import Backbones, Method, Recipe, train_classifier
from wsss_lib.models.activation import ActivationNet
from wsss_lib.models.backbones import Backbone
from wsss_lib.models.mctformer import MapKind, MCTformerNet
from wsss_lib.models.reconstructor import Reconstructor, UNet, at_size, class_head, restated
from wsss_lib.models.trainable import Clock
from wsss_lib.runtime.cache import arrays
from wsss_lib.runtime.files import save_atomically
from wsss_lib.runtime.launch import is_main
from wsss_lib.training import trained_weights

if TYPE_CHECKING:
    from wsss_lib.study.study import Study

RECONSTRUCT, CLASSIFY = "reconstruct", "classify"
PANELS = ("I", "A_t", "RU_t", "CU_t", "g", "A_nt", "RU_nt", "CU_nt")
"""Figure A6, row by row; a subscript names the side that is shown to the decoder."""
DEAD, VANISHED, FLOODED = 0.005, 0.02, 0.9
"""Share of a mask below which its term says nothing; mean A_t outside of which the map is no map."""


# --- configuration ---------------------------------------------------------------------------------------


class ReconstructorConfig(Section):
    """The network, its losses of the RU phase, and how it learns."""

    side: PositiveInt  # of the rebuilt photo in pixels, a multiple of 2 ** len(channels); the crop is shrunk
    taps: tuple[PositiveInt, PositiveInt, PositiveInt]  # channels from each of the encoder's three depths
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=2)]  # of the decoder's blocks down
    dropout: Annotated[float, Field(ge=0, lt=1)]  # from the fourth block on
    variant: Literal["paper", "code"]  # activation of the blocks up, and the last block
    hidden: PositiveInt | None  # of a 1x1 convolution in the encoder's class head; None: no such layer
    xavier: bool  # initial weights of the class head; torch's if off
    fast: Literal["new", "transposed"]  # layers that get new_layers_lr
    lambda_whole: NonNegative  # of the whole photo, which teaches the decoder alone
    lambda_t: NonNegative  # RU: the rest from the target; code: .5
    lambda_nt: NonNegative  # RU: the target from the rest; code: .3
    optimiser: Optimiser


class Remnants(Section):
    """The grid through which the RU phase shows a part of the hidden side."""

    q: Fraction  # probability of a cell to be shown, at first
    fall: Fraction  # of q over the whole training, in equal parts an epoch; 0: no curriculum
    cells: tuple[PositiveInt, PositiveInt]  # of the grid's side; drawn between the two in every step


class Adversarial(Classifier):
    """A classifier's training and what attacks it."""

    lambda_t: NonNegative  # CU: the rest from the target; prunes
    lambda_nt: (
        NonNegative  # CU: the target from the rest; expands. Both 0: the baseline, without reconstructor
    )
    attack_from: Annotated[float, Field(ge=0, lt=1)]  # share of the steps before which CU only classifies
    remnants: Remnants
    reconstructor: ReconstructorConfig
    watched: Annotated[int, Field(ge=0)]  # training photos whose rebuilding is kept after every epoch
    backbone_dropout: Annotated[float, Field(ge=0, lt=1)] | None  # of ResNet-38's last blocks; None: psa's

    def optimiser_of(self, phase: str) -> Optimiser:
        """The reconstructor has one of its own."""
        return self.reconstructor.optimiser if phase == RECONSTRUCT else self.optimiser


class ACRTraining(Adversarial, CAMClassifier):
    """With a CNN, of which F and the encoder are a copy each."""

    backbone: BackboneConfig | None  # None: the preset's
    hidden: PositiveInt | None  # of a 1x1 convolution before the class maps; None: no such layer


class ACRSweeps(Section):
    """Values of Table A2, each with the others as in the section."""

    q: Annotated[tuple[Fraction, ...], Field(min_length=1)]


class ACRSection(ACRTraining):
    """ACR in a preset."""

    sweeps: ACRSweeps


class ACRViTTraining(Adversarial):
    """With MCTformer as F; the encoder stays a CNN.

    start: weights that F starts from, those of the trained method "mctformer" or ImageNet's.
    """

    backbone: BackboneConfig  # of the classifier, a vision transformer
    encoder: BackboneConfig  # of the reconstructor
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    start: Literal["mctformer", "imagenet"]


class ACRViTSection(ACRViTTraining):
    """ACR with a ViT in a preset."""

    maps_of: MapKind  # those that are read out; the attack is on the patches' own


# --- equations -------------------------------------------------------------------------------------------


def draw_targets(labels: Tensor) -> Tensor:
    """(R1) The target class of each photo, uniform over those it has: (B, C) multi-hot -> (B,).

    Of a photo without labels any class; `target_map` gives it no target. Drawn from torch's global CPU
    generator, so the same on every device.
    """
    present = (labels > 0).float().cpu()
    present[present.sum(1) == 0] = 1
    return torch.multinomial(present, 1)[:, 0].to(labels.device)


def target_map(maps: Tensor, labels: Tensor, targets: Tensor, side: int) -> Tensor:
    """(R2) A_t in [0, 1], (B, 1, side, side): the target's map, minimum to maximum, then upsampled.

    A = ReLU(ReLU(a) - min - 1e-5) / (max - min + 1e-5) on the network's own grid. The shift gives exact
    zeros, which survive the upsampling wherever a neighbourhood is zero: the mask of CU's pruning term lives
    on them, so this is computed in float32 at least.

    Args:
        maps: (B, C, h, w), any sign; labels: (B, C) multi-hot; targets: (B,).
    """
    photos = torch.arange(len(maps), device=maps.device)
    scaled = min_max(at_least_float32(maps)[photos, targets].relu())
    return at_size((scaled * labels[photos, targets].to(scaled)[:, None, None])[:, None], side)


def remnant_probability(remnants: Remnants, clock: Clock) -> float:
    """(R4) q in an epoch: it falls by as much every epoch; the paper's .80 and .40 over 40 make .01."""
    return remnants.q - remnants.fall * clock.epoch / clock.epochs


def draw_remnants(
    photos: int, side: int, cells: int, q: float, generator: torch.Generator | None = None
) -> Tensor:
    """(R4) The grid g of stochastic remnant feeding: `cells` x `cells` cells, each 1 with probability q.

    (photos, 1, side, side) of 0 and 1; drawn on the CPU, a grid a photo.
    """
    grid = (torch.rand(photos, 1, cells, cells, generator=generator) < q).float()
    return F.interpolate(grid, size=(side, side))


def masked_l1(rebuilt: Tensor, photo: Tensor, mask: Tensor) -> Tensor:
    """(R6) Mean over *all* values of mask * |rebuilt - photo|, as in the code: a small mask weighs little.

    rebuilt, photo: (B, 3, S, S); mask: (B, 1, S, S).
    """
    return (mask * (at_least_float32(rebuilt) - at_least_float32(photo)).abs()).mean()


def reconstruction_inputs(target: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(R5) RU: weights of the features and masks of the losses, (B, 1, S, S) each.

    Returns:
        A_t + g A_nt = 1 - h A_nt and its mask h A_nt, which rebuilds the rest from the target; and
        A_nt + g A_t = 1 - h A_t and its mask h A_t, which rebuilds the target from the rest; h = 1 - g.
    """
    hidden_rest, hidden_target = (1 - grid) * (1 - target), (1 - grid) * target
    return 1 - hidden_rest, hidden_rest, 1 - hidden_target, hidden_target


def attack_masks(maps: Tensor, targets: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(R9) CU: where the rest must not be rebuilt, 1[A_t == 0], where the target must not, A_t 1[argmax = t].

    The argmax is over the raw maps of all classes, also of absent ones. Neither passes a gradient.

    Args:
        maps: (B, C, h, w); targets: (B,); target: A_t, (B, 1, S, S).
    """
    winner = at_size(at_least_float32(maps.detach()), target.shape[-1]).argmax(1, keepdim=True)
    target = target.detach()
    return (target == 0).to(target), target * (winner == targets.view(-1, 1, 1, 1))


def per_pixel(term: Tensor, mask: Tensor) -> Tensor:
    """A masked L1 over the mask's mean: the error of a pixel inside it; 0 of an empty mask."""
    return (term / mask.mean().clamp(min=1e-6)).detach()


def labelled(labels: Tensor) -> Tensor:
    """1 for each photo that has a class, and so a target, (B, 1, 1, 1)."""
    return (labels.sum(1) > 0).float().view(-1, 1, 1, 1)


# --- networks --------------------------------------------------------------------------------------------


class CNNClassifier(ActivationNet, Method):
    """F as under every CAM, if wanted with the code's layer before the class maps.

    Args:
        backbone, num_classes, head: as in `ActivationNet`.
        hidden, xavier: as in `class_head`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        hidden: int | None = None,
        xavier: bool = False,
        **head: Any,
    ):
        super().__init__(backbone, num_classes, **head)
        self.classifier = class_head(self.channels, num_classes, hidden, xavier)

    def evidence(self, images: Tensor) -> tuple[Tensor, tuple[Tensor]]:
        """(B, 3, H, W) -> class maps (B, C, h, w), any sign, and the logits (B, C) that are to be learnt."""
        maps = self.class_maps(images)
        return maps, (global_average_pool(maps),)


def with_dropout(backbone: Backbone, rate: float | None) -> Backbone:
    """Give every channel-wise dropout of a backbone one rate, in place; None leaves it as it is.

    ResNet-38 has psa's 0.3 and 0.5 in its last two blocks, ACR's code 0.2.
    """
    for layer in backbone.modules():
        if isinstance(layer, nn.Dropout2d) and rate is not None:
            layer.p = rate
    return backbone


class ACR(Method):
    """A classifier F and a reconstructor G that take turns on every batch; F alone is kept.

    Args:
        classifier: has `evidence(images) -> (maps, logits)`, `class_maps`, `mean`, `std` and `stride`.
        reconstructor: None trains the baseline, F alone on the same photos with the same maps watched.
        config: weights of the terms, and the remnants.
    """

    def __init__(self, classifier: nn.Module, reconstructor: Reconstructor | None, config: Adversarial):
        super().__init__()
        self.classifier, self.reconstructor, self.config = classifier, reconstructor, config
        self.phases = (RECONSTRUCT, CLASSIFY) if reconstructor else (CLASSIFY,)
        self.stride = classifier.stride
        self._targets: Tensor | None = None  # of the batch, the same in both phases
        self._seen: list[dict[str, float]] = []  # of the steps of this epoch
        self._watch: dict[str, Any] = {}

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of the RGB input in [0, 1]: the classifier's."""
        return self.classifier.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """As `mean`."""
        return self.classifier.std

    def trained_in(self, phase: str) -> nn.Module:
        """G in the phase "reconstruct", F in the phase "classify"."""
        return self.reconstructor if phase == RECONSTRUCT else self.classifier

    def kept(self) -> nn.Module:
        """F."""
        return self.classifier

    def class_maps(self, images: Tensor) -> Tensor:
        """F's."""
        return self.classifier.class_maps(images)

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """batch: image (B, 3, H, W), label (B, C) multi-hot -> the phase's loss and what to watch."""
        if phase == self.phases[0]:
            self._targets = draw_targets(batch["label"])
        step = self.reconstruct if phase == RECONSTRUCT else self.classify
        return step(batch["image"], batch["label"], self._targets, clock)

    def reconstruct(self, images: Tensor, labels: Tensor, targets: Tensor, clock: Clock) -> dict[str, Tensor]:
        """(R7) RU: L_cls of the encoder + lambda_whole L1 of the photo + lambda_t L_t + lambda_nt L_nt.

        A_t is a constant here. Photos without labels have no target: L_t and L_nt leave them out.
        """
        config, remnants = self.config.reconstructor, self.config.remnants
        photo = self.rebuilt_photo(images)
        with torch.no_grad():
            target = target_map(self.classifier.evidence(images)[0], labels, targets, config.side)
        cells = torch.randint(remnants.cells[0], remnants.cells[1] + 1, ()).item()
        grid = draw_remnants(len(images), config.side, cells, remnant_probability(remnants, clock)).to(target)
        shown_t, mask_t, shown_nt, mask_nt = reconstruction_inputs(target, grid)
        mask_t, mask_nt = mask_t * labelled(labels), mask_nt * labelled(labels)
        features, logits = self.encode(images)
        inputs = torch.cat([features.detach(), features * shown_t, features * shown_nt])
        whole, rebuilt_t, rebuilt_nt = self.reconstructor.decode(inputs).chunk(3)
        everywhere = torch.ones_like(target)
        l_cls, l_whole = classification_loss(logits, labels), masked_l1(whole, photo, everywhere)
        l_t, l_nt = masked_l1(rebuilt_t, photo, mask_t), masked_l1(rebuilt_nt, photo, mask_nt)
        return {
            "loss": l_cls + config.lambda_whole * l_whole + config.lambda_t * l_t + config.lambda_nt * l_nt,
            "L_cls": l_cls,
            "L_t": l_t,
            "L_nt": l_nt,
            "L_t per pixel": per_pixel(l_t, mask_t),
            "L_nt per pixel": per_pixel(l_nt, mask_nt),
            "L1 of the whole": l_whole,
            "L1 of the mean colour": masked_l1(photo.mean((2, 3), keepdim=True), photo, everywhere),
        }

    def classify(self, images: Tensor, labels: Tensor, targets: Tensor, clock: Clock) -> dict[str, Tensor]:
        """(R10) CU: L_cls of F - lambda_t L_t - lambda_nt L_nt, the last two from `attack_from` on.

        The gradient reaches F through the weights A_t and 1 - A_t of the features alone; it passes the
        decoder, which does not learn here. Where A_t is exactly 0 it has none: F expands through what cells
        share.
        """
        maps, logits = self.classifier.evidence(images)
        target = target_map(maps, labels, targets, self.config.reconstructor.side)
        mask_t, mask_nt = (mask * labelled(labels) for mask in attack_masks(maps, targets, target))
        l_cls = sum(classification_loss(answer, labels) for answer in logits)
        watched = {
            "mean A_t": target.detach().mean(),
            "area A_t = 0": mask_t.mean(),
            "mask of the target": mask_nt.mean(),
        }
        self._seen.append({name: value.item() for name, value in watched.items()})
        if self.reconstructor is None:
            return {"loss": l_cls, "L_cls": l_cls, **watched}
        attacked = clock.progress >= self.config.attack_from
        with torch.no_grad():
            photo, (features, _) = self.rebuilt_photo(images), self.encode(images)
        with torch.set_grad_enabled(attacked and torch.is_grad_enabled()):
            l_t, l_nt = self.rebuilding_errors(features, photo, target, mask_t, mask_nt)
        attack = self.config.lambda_t * l_t + self.config.lambda_nt * l_nt
        return {
            "loss": l_cls - attack if attacked else l_cls,
            "L_cls": l_cls,
            "L_t": l_t,
            "L_nt": l_nt,
            "L_t per pixel": per_pixel(l_t, mask_t),
            "L_nt per pixel": per_pixel(l_nt, mask_nt),
            **watched,
        }

    def rebuilding_errors(
        self, features: Tensor, photo: Tensor, target: Tensor, mask_t: Tensor, mask_nt: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(R8) CU: L1 of the rest, from the target alone, and of the target, from the rest alone; scalars.

        features: X, (B, D, S, S); photo: (B, 3, S, S); target: A_t; masks: of `attack_masks`, (B, 1, S, S).
        """
        inputs = torch.cat([features * target, features * (1 - target)])
        rebuilt_t, rebuilt_nt = self.reconstructor.decode(inputs).chunk(2)
        return masked_l1(rebuilt_t, photo, mask_t), masked_l1(rebuilt_nt, photo, mask_nt)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """X and the class logits of the encoder, whose input may be normalised otherwise than F's."""
        encoder = self.reconstructor.backbone
        return self.reconstructor.encode(restated(images, self.mean, self.std, encoder.mean, encoder.std))

    def rebuilt_photo(self, images: Tensor) -> Tensor:
        """What the decoder is to paint: the photo in ImageNet's units, shrunk, (B, 3, S, S)."""
        side = self.config.reconstructor.side
        photo = restated(images, self.mean, self.std)
        if photo.shape[-1] == side:
            return photo
        return F.interpolate(photo, size=(side, side), mode="bilinear", antialias=True)

    # --- watching ---------------------------------------------------------------------------------------

    def after_step(self, clock: Clock) -> None:
        """After an epoch: a warning for each term that has died, and the pictures of the watched photos."""
        if (clock.step + 1) % clock.steps_per_epoch:
            return
        if clock.progress >= self.config.attack_from:
            for sentence in alarms(pd.DataFrame(self._seen).mean().to_dict(), self.config):
                warnings.warn(f"ACR, epoch {clock.epoch + 1}: {sentence}", stacklevel=2)
        self._seen.clear()
        if self._watch and is_main():
            watched = {name: self._watch[name] for name in ("images", "labels", "targets")}
            found = self.panels(**watched)
            found = {name: as_picture(value, name in ("g", "A_t", "A_nt")) for name, value in found.items()}
            found |= {"ids": np.array(self._watch["ids"]), "targets": watched["targets"].numpy()}
            file = self._watch["out"] / picture_file(clock.epoch + 1)
            save_atomically(lambda path: np.savez_compressed(path, **found), file)

    def watch(self, ids: Sequence[str], images: Tensor, labels: Tensor, out: Path) -> None:
        """Keep pictures of these photos after every epoch, in `out`; the target is each one's first class.

        images: (B, 3, H, W) normalised for F; labels: (B, C), each with a class at least.
        """
        targets = labels.argmax(1)
        self._watch = {"ids": ids, "images": images, "labels": labels, "targets": targets, "out": out}

    @torch.no_grad()
    def panels(self, images: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The eight pictures of Figure A6, by their names in `PANELS`: (B, 3 or 1, S, S) on the CPU.

        Of both networks in evaluation mode, in which it leaves them. The grid is the same at every call, with
        the first q and the fewest cells.
        """
        self.eval()
        device = next(self.parameters()).device
        images, labels, targets = (given.to(device) for given in (images, labels, targets))
        remnants, side = self.config.remnants, self.config.reconstructor.side
        generator = torch.Generator().manual_seed(0)
        grid = draw_remnants(len(images), side, remnants.cells[0], remnants.q, generator).to(device)
        target = target_map(self.classifier.evidence(images)[0], labels, targets, side)
        shown_t, _, shown_nt, _ = reconstruction_inputs(target, grid)
        features, _ = self.encode(images)
        shown = {"RU_t": shown_t, "RU_nt": shown_nt, "CU_t": target, "CU_nt": 1 - target}
        found = {name: self.reconstructor.decode(features * weight) for name, weight in shown.items()}
        found |= {"I": self.rebuilt_photo(images), "A_t": target, "A_nt": 1 - target, "g": grid}
        return {name: found[name].float().cpu() for name in PANELS}


@torch.no_grad()
def decoder_sizes(config: ReconstructorConfig) -> pd.DataFrame:
    """Table A1: rows block, metric ("channels" and "size") and value, read from the decoder as it runs.

    The blocks are in their order, the features themselves ("Input") first; a size is the side in pixels.
    """
    with torch.device("meta"):
        features = torch.empty(1, sum(config.taps), config.side, config.side)
        decoder = UNet(sum(config.taps), config.channels, config.dropout, config.variant)
        shapes = {name: tuple(output.shape) for name, output in decoder.blocks(features)}
    rows = {"Input": tuple(features.shape), **shapes}
    return pd.DataFrame(
        [
            {"block": block, "metric": metric, "value": value}
            for block, (_, channels, size, _) in rows.items()
            for metric, value in (("channels", channels), ("size", size))
        ]
    )


def alarms(means: Mapping[str, float], config: Adversarial) -> list[str]:
    """A sentence for every term of CU that says nothing any more, given the means of an epoch.

    means: "mean A_t", "area A_t = 0" and "mask of the target" in [0, 1].
    """
    target = means["mean A_t"]
    found = []
    if target > FLOODED:
        found.append(f"A_t covers the photos (mean {target:.2f}); lower lambda_nt or raise lambda_t.")
    if target < VANISHED:
        found.append(f"A_t has vanished (mean {target:.3f}); lower lambda_t.")
    if config.lambda_t and means["area A_t = 0"] < DEAD:
        found.append("A_t is zero nowhere, so the pruning term is dead; lower lambda_nt or raise lambda_t.")
    if config.lambda_nt and means["mask of the target"] < DEAD:
        found.append(
            "no target beats the other classes, so the expanding term is dead; begin the attack later."
        )
    return found


def as_picture(values: Tensor, grey: bool) -> np.ndarray:
    """(B, 3, S, S) in ImageNet's units, or (B, 1, S, S) in [0, 1] -> (B, S, S, 3 or 1) uint8, clipped."""
    units = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, (0, 0, 0), (1, 1, 1))
    shown = values if grey else restated(values, *units)
    return (255 * shown.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).numpy()


# --- in a study ------------------------------------------------------------------------------------------


def run(study: Study, recipe: Recipe, seed: int, rounds: int | None) -> Artifact:
    """The trained classifier, and beside its weights the pictures of the watched photos after every epoch."""
    if rounds is not None:
        raise ValueError(f"{recipe.paper_name} has no rounds; leave the argument rounds out.")
    config = recipe.trained_by(study.section(recipe.name))
    before = None
    if getattr(config, "start", "") == "mctformer":
        before = study.classifier("mctformer", seed)

    def start(model: ACR, out: Path) -> None:
        if before:
            model.classifier.load_state_dict(trained_weights(before.path))
        data = study.labelled("train")
        ids = [id for id in data.ids if data.label(id).any()][: config.watched]
        if ids and model.reconstructor:
            square = v2.Compose([v2.Resize(config.crop, antialias=True), v2.CenterCrop(config.crop)])
            photos = torch.stack([square(photo_tensor(data, id)).as_subclass(Tensor) for id in ids])
            labels = torch.stack([torch.from_numpy(data.label(id)) for id in ids])
            model.watch(ids, normalise(photos, model.mean, model.std), labels, out)

    return train_classifier(study, recipe, config, seed, inputs=[before.key] if before else [], start=start)


def pictures(classifier: Artifact, epoch: int) -> dict[str, np.ndarray]:
    """Figure A6 after an epoch, counted from 1, of a classifier that `run` trained.

    Returns:
        The names in `PANELS` -> (photos, S, S, 3 or 1) uint8; "ids" of the photos; "targets", their classes
        as columns of the labels.
    """
    return classifier.read(picture_file(epoch), arrays)


def picture_file(epoch: int) -> str:
    """Of an epoch counted from 1, in the folder of the classifier."""
    return f"pictures_{epoch:03d}.npz"


def build(config: ACRTraining, backbones: Backbones, classes: int) -> ACR:
    """ACR with a CNN."""
    backbone = with_dropout(backbones(config.backbone), config.backbone_dropout)
    classifier = CNNClassifier(backbone, classes, config.hidden, **config.head)
    return ACR(classifier, reconstructor(config, lambda: backbones(config.backbone), classes), config)


def build_vit(config: ACRViTTraining, backbones: Backbones, classes: int) -> ACR:
    """ACR with MCTformer."""
    classifier = MCTformerNet(backbones(config.backbone), classes, config.drop_path)
    return ACR(classifier, reconstructor(config, lambda: backbones(config.encoder), classes), config)


def reconstructor(config: Adversarial, encoder: Callable[[], Backbone], classes: int) -> Reconstructor | None:
    """None where nothing attacks the classifier."""
    if not (config.lambda_t or config.lambda_nt):
        return None
    fields = {"side", "taps", "channels", "dropout", "variant", "hidden", "xavier", "fast"}
    backbone = with_dropout(encoder(), config.backbone_dropout)
    return Reconstructor(backbone, classes, **config.reconstructor.model_dump(include=fields))


RECIPE = Recipe(
    name="acr",
    paper_name="ACR",
    config=ACRTraining,
    section=ACRSection,
    build=build,
    run=run,
    maps=MIN_MAX,
)
VIT = Recipe(
    name="acr_vit",
    paper_name="ACR with ViT",
    config=ACRViTTraining,
    section=ACRViTSection,
    build=build_vit,
    run=run,
    maps=MIN_MAX,
)
