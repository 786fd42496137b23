"""PSS: pixel-level self-supervision (Yoon et al., arXiv 2112.05351).

MainNet F learns by gradient; SupportNet G, its moving average, sees the crop at three sizes and teaches. The
regional contrastive module (RCM) makes maps precise: G's maps say which place belongs to which class, G's
features make a prototype of each class, and the feature of each place is drawn to the prototype of its class.
The multi-scale attentive module (MAM) makes them complete: F's map at each size is drawn to G's maps at all
sizes, the more the less they resemble it. No code was released; what the text leaves open is an option of
`PSSTraining`, and papers/pss/card.md lists what cannot be known.

Shapes: B photos, C classes, D channels of the features X, S sizes (small, middle, large), h x w cells of the
one grid that features and maps of all sizes are brought to.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors

from wsss_lib.artifacts import Artifact
from wsss_lib.config import CAMClassifier, Fraction, NonNegative, Positive
from wsss_lib.data.examples import ClassificationExamples, photo_tensor
from wsss_lib.data.masks import IGNORE
from wsss_lib.data.transforms import normalise
from wsss_lib.losses import classification_loss, global_average_pool
from wsss_lib.methods.base import Examples, Method, Recipe, classification_examples, trained_classifier
from wsss_lib.models.activation import ActivationNet
from wsss_lib.models.backbones import Backbone
from wsss_lib.models.trainable import Clock
from wsss_lib.resampling import grid_centres, interpolate, interpolation_matrix, labels_on_cells

if TYPE_CHECKING:
    from wsss_lib.study.study import Study

EPSILON = 1e-5
"""Added to a map's maximum before dividing by it, as in psa."""
CLAMP = 1e-4
"""Maps that are supervised directly stay so far from 0 and 1."""


class PSSTraining(CAMClassifier):
    """A CAM classifier's training and the two modules."""

    channels: PositiveInt  # D
    scales: tuple[Positive, Positive]  # of I_s and I_l, as multiples of the crop I_m
    grid: PositiveInt  # pixels of I_m per cell that all is brought to; 1 is the literal "size of I_m"
    threshold: Fraction  # of the masks (1)
    renormalise: bool  # divide the mean of G's maps by its own maximum before (1)
    prototype: Literal["mean", "sum"]  # (3) as its prose says and as it is printed
    temperature: Positive
    rcm_form: Literal["log", "printed", "direct", "direct softmax"]  # (5), or Table 2's "direct"
    mam_form: Literal["mam", "mmm", "smm"]  # Table 1
    clip_target: bool  # targets (7) above 1, which no map can reach, become 1
    detach_max: bool  # no gradient through the maximum that a map of F is divided by
    lambda_rcm: NonNegative  # lambda_2 of (9); 0 switches the module off; lambda_1 is 1
    lambda_mam: NonNegative  # lambda_3
    rcm_start: Fraction  # share of the epochs, in whole ones, that L_cls trains alone, G being F's copy
    mam_start: Fraction  # share of the epochs before MAM; the paper's 6 of 20
    ema_memory: Positive | None  # of G in epochs: 1 / (1 - alpha) steps; None: G shares F's weights (W.S.)
    ema_ramp: bool  # alpha_t = min(alpha, (1 + t) / (10 + t)), so that a young G is not its own start

    @model_validator(mode="after")
    def mam_has_a_teacher(self) -> PSSTraining:
        if self.mam_start < self.rcm_start:
            raise ValueError(f"mam_start {self.mam_start} must not lie before rcm_start {self.rcm_start}")
        return self


class PSSSection(PSSTraining):
    """PSS in a preset; trained as the baseline is unless it says otherwise."""

    threshold_sweep: Annotated[tuple[Fraction, ...], Field(min_length=1)]  # of RCM alone, Figure 7


# --- maps ---


def three_views(crop: Tensor, scales: tuple[float, float]) -> list[Tensor]:
    """I_s, I_m, I_l: a crop (B, 3, H, W) at the small scale, its own and the large one."""
    small, large = (
        F.interpolate(crop, [round(side * scale) for side in crop.shape[-2:]], mode="bilinear")
        for scale in scales
    )
    return [small, crop, large]


def on_grid(maps: Tensor, stride: int, view: Sequence[int], crop: Sequence[int], grid: int) -> Tensor:
    """Maps (..., h', w') of a resized crop -> (..., h, w), a value for each `grid` x `grid` pixels of it.

    stride: pixels of the view, the resized crop, per cell of `maps`; view, crop: height and width of both.
    """
    rows, columns = (
        interpolation_matrix(cells, stride, grid_centres(whole, grid) * seen / whole)
        for cells, seen, whole in zip(maps.shape[-2:], view, crop, strict=True)
    )
    return interpolate(maps, rows, columns)


def scaled(maps: Tensor, labels: Tensor, detach_max: bool = False) -> Tensor:
    """A^k <- ReLU(A^k) / max A^k of each photo and size; absent classes are exactly 0.

    The ReLU is not printed, but the maps are "as in [2, 25]", whose codes have it.

    maps: (B, C, S, h, w), any sign; labels: (B, C).
    """
    positive = maps.relu()
    highest = positive.amax((-2, -1), keepdim=True) + EPSILON
    return positive / (highest.detach() if detach_max else highest) * labels[..., None, None, None]


def multi_scale_maps(maps: Tensor, renormalise: bool = True) -> Tensor:
    """The msinf-CAM: the mean of `scaled` maps over the sizes, (B, C, S, h, w) -> (B, C, h, w) in [0, 1].

    Where the sizes peak at different places its maximum is below 1, and a threshold would mean something else
    in each photo; `renormalise` divides by it.
    """
    mean = maps.mean(2)
    return mean / (mean.amax((-2, -1), keepdim=True) + EPSILON) if renormalise else mean


# --- RCM ---


def class_regions(maps: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Equations 1 and 2: the k of each place with M^k_p = 1, (B, h, w) in 0..C; 0 is the background.

    The present class whose map is highest there, if it is above the threshold.

    maps: (B, C, h, w) in [0, 1]; labels: (B, C).
    """
    highest, winner = maps.masked_fill(labels[..., None, None] == 0, -1).max(1)
    return torch.where(highest > threshold, winner + 1, 0)


def class_prototypes(
    features: Tensor, regions: Tensor, classes: int, form: Literal["mean", "sum"] = "mean"
) -> tuple[Tensor, Tensor]:
    """Equation 3: pt^k of each region, (classes, D), and which regions there are, (classes,) bool.

    The text averages over the places of a photo and over the photos, the formulas sum over both: normalised,
    a sum is an average in which large regions count more.

    features: X, (B, D, h, w); regions: (B, h, w) in 0..classes - 1.
    """
    masks = F.one_hot(regions, classes).to(features)
    sums = torch.einsum("bhwk,bdhw->bkd", masks, features)
    places = masks.sum((1, 2))
    shown = places > 0
    if form == "mean":
        sums = sums / places.clamp(min=1)[..., None] / shown.sum(0).clamp(min=1)[:, None]
    return sums.sum(0), shown.any(0)


def log_similarity(features: Tensor, prototypes: Tensor, temperature: float = 1) -> Tensor:
    """Equation 4: log sim = x_p . pt^k / T of unit vectors, (B, D, h, w) and (K, D) -> (B, K, h, w)."""
    return torch.einsum("bdhw,kd->bkhw", F.normalize(features, dim=1), F.normalize(prototypes)) / temperature


def contrastive_loss(
    features: Tensor,
    prototypes: Tensor,
    seen: Tensor,
    regions: Tensor,
    temperature: float,
    form: Literal["log", "printed"] = "log",
) -> Tensor:
    """Equation 5, L_RCM: each place against the prototype of its region, mean over places and photos.

    Printed is minus the share of the right prototype in the sum, without the logarithm of the InfoNCE that
    the text cites. Minus its logarithm is the cross-entropy, which `contrastive_bounds` enclose.

    Args:
        features: X^F, (B, D, h, w).
        prototypes, seen: (K, D), constants, and (K,) bool; those not seen have no part in the sum.
        regions: (B, h, w) in 0..K - 1, of seen classes only.
    """
    exponents = log_similarity(features, prototypes.detach(), temperature)
    log_shares = exponents.masked_fill(~seen[:, None, None], -math.inf).log_softmax(1)
    right = log_shares.gather(1, regions[:, None])
    return -(right if form == "log" else right.exp()).mean()


def contrastive_bounds(classes: int, temperature: float) -> tuple[float, float]:
    """Where the logarithmic L_RCM of C classes starts, all vectors being alike, and what it cannot pass.

    C + 1 unit vectors lie at best as a simplex, which leaves log(1 + C e^(-(1 + 1 / C) / T)).

    >>> contrastive_bounds(20, 0.5)
    (3.04..., 1.24...)
    """
    return math.log(classes + 1), math.log(1 + classes * math.exp(-(1 + 1 / classes) / temperature))


def direct_loss(
    maps: Tensor, regions: Tensor, labels: Tensor, form: Literal["direct", "direct softmax"] = "direct"
) -> Tensor:
    """Table 2's "direct": the regions supervise F's maps themselves, by a cross-entropy that is not printed.

    There is no map of the background: each present class has a binary cross-entropy, mean over places and
    classes; or all compete in a softmax, in which background scores 1 - max A.

    maps: `scaled` A^F of the middle size, (B, C, h, w); regions: (B, h, w); labels: (B, C).
    """
    present = labels[..., None, None]
    if form == "direct":
        masks = F.one_hot(regions, maps.shape[1] + 1).movedim(-1, 1)[:, 1:].to(maps)
        each = F.binary_cross_entropy(maps.clamp(CLAMP, 1 - CLAMP), masks, reduction="none")
        return (each * present).sum() / (labels.sum().clamp(min=1) * regions[0].numel())
    scores = torch.cat([1 - maps.amax(1, keepdim=True), maps.masked_fill(present == 0, -math.inf)], 1)
    return F.cross_entropy(scores, regions)


# --- MAM ---


def attention(main: Tensor, support: Tensor) -> Tensor:
    """Equation 6: xi_{i:j} = 2 - cos(A^F_i, A^G_j) of whole maps, in [1, 2]; 2 where one is 0 everywhere.

    (B, C, S, h, w) of both -> (B, C, S, S), F's sizes i before G's sizes j.
    """
    i, j = (F.normalize(maps.flatten(-2), dim=-1) for maps in (main, support))
    return 2 - torch.einsum("bcip,bcjp->bcij", i, j)


def targets(support: Tensor, xi: Tensor) -> Tensor:
    """Equation 7: the mean over j of xi_{i:j} A^G_j for the sizes i of `xi`, (B, C, S, h, w).

    All xi = 1 gives the target of MMM and SMM. Larger ones raise what a map has; its zeros stay 0.
    """
    return torch.einsum("bcij,bcjhw->bcihw", xi, support) / support.shape[2]


def multi_scale_loss(main: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """Equation 8, L_MAM: |target - A^F|, mean over places, present classes and the three sizes.

    SMM's one size is a third of it, its term of MMM.

    main, target: (B, C, S, h, w), both 0 for absent classes, the target a constant; labels: (B, C).
    """
    distance = (target.detach() - main).abs().sum()
    return distance / (3 * labels.sum().clamp(min=1) * main[0, 0, 0].numel())


# --- SupportNet ---


def momentum(memory: float, steps: int, ramp: bool) -> float:
    """alpha of a moving average of `memory` steps; the paper's 0.997 remembers 333.

    With `ramp` at most (1 + t) / (10 + t), t being the `steps` since its start.
    """
    alpha = max(0.0, 1 - 1 / memory)
    return min(alpha, (1 + steps) / (10 + steps)) if ramp else alpha


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, alpha: float) -> None:
    """theta_G <- alpha theta_G + (1 - alpha) theta_F, in place; buffers, which do not learn, are copied."""
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - alpha)
    for slow, fast in zip(average.buffers(), model.buffers(), strict=True):
        slow.copy_(fast)


class MainNet(ActivationNet, Method):
    """F, and in structure G: backbone -> 1x1 -> X -> ReLU -> 1x1 -> class maps, without bias (Figure 8).

    X is taken before the ReLU, as in a later network of the group. channels: D; others as of `ActivationNet`.
    """

    def __init__(self, backbone: Backbone, num_classes: int, channels: int, **options: float | None):
        super().__init__(backbone, num_classes, **options)
        self.projection = self.head(channels)
        self.channels = channels
        self.classifier = self.head(num_classes)

    def features(self, images: Tensor) -> Tensor:
        """X: (B, 3, H, W) normalised images -> (B, D, h, w)."""
        return self.projection(super().features(images))

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """X and the class maps, (B, D, h, w) and (B, C, h, w)."""
        features = self.features(images)
        return features, self.classifier(features.relu())

    def class_maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, C, h, w), any sign, not normalised."""
        return self.look(images)[1]


class PSS(Method):
    """MainNet, which alone is kept for inference, and what teaches it.

    Batches may hold the truth as "mask" (B, H, W). It has no part in any loss: with it history.csv says how
    precise and complete the regions of (1) were. Of several processes each makes prototypes of its own share
    of a batch; what the share lacks comes from the main process's memory.
    """

    def __init__(self, backbone: Backbone, num_classes: int, config: PSSTraining):
        super().__init__()
        self.config = config
        self.main = MainNet(backbone, num_classes, config.channels, **config.head)
        self.stride = self.main.stride
        shared = config.ema_memory is None
        self.support = None if shared else copy.deepcopy(self.main).requires_grad_(False)
        self.register_buffer("prototypes", torch.zeros(num_classes + 1, config.channels))
        self.register_buffer("seen", torch.zeros(num_classes + 1, dtype=torch.bool))

    @property
    def backbone(self) -> Backbone:
        """MainNet's, whose input this network takes."""
        return self.main.backbone

    def trained_in(self, phase: str) -> MainNet:
        """MainNet: SupportNet is in no optimiser."""
        return self.main

    def kept(self) -> MainNet:
        """MainNet."""
        return self.main

    def class_maps(self, images: Tensor) -> Tensor:
        """MainNet's."""
        return self.main.class_maps(images)

    def balance(self, clock: Clock) -> tuple[float, float]:
        """lambda_2 and lambda_3 of equation 9 at this time."""
        config = self.config
        starts = (round(share * clock.epochs) for share in (config.rcm_start, config.mam_start))
        rcm, mam = (clock.epoch >= start for start in starts)
        return rcm * config.lambda_rcm, mam * config.lambda_mam

    @torch.no_grad()
    def taught(self, views: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What G sees, in evaluation mode and without a gradient; F in its place where they share weights."""
        teacher = self.main if self.support is None else self.support
        training = teacher.training
        teacher.eval()
        looks = [teacher.look(view) for view in views]
        teacher.train(training)
        return looks

    def placed(self, seen: Tensor, view: Tensor, crop: Tensor) -> Tensor:
        """Features or maps (B, K, h', w') of a view of the crop on the one grid, in float32: (B, K, h, w)."""
        return on_grid(seen.float(), self.stride, view.shape[-2:], crop.shape[-2:], self.config.grid)

    def maps(self, looks: Sequence[tuple[Tensor, Tensor]], views: Sequence[Tensor], crop: Tensor) -> Tensor:
        """The class maps of views of the crop on the one grid, any sign: (B, C, S, h, w)."""
        pairs = zip(looks, views, strict=True)
        return torch.stack([self.placed(maps, view, crop) for (_, maps), view in pairs], 2)

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """Equation 9. batch: image (B, 3, H, W), label (B, C), perhaps mask (B, H, W) -> loss and its parts.

        F looks at I_s and I_l only where a loss needs their maps, G at nothing before a module is on. Also
        recorded: the share of places that are in an object's region, and the prototypes' mean cosine.
        """
        config, crop, labels = self.config, batch["image"], batch["label"]
        lambda_rcm, lambda_mam = self.balance(clock)
        views = three_views(crop, config.scales)
        middle = 1 if lambda_mam and config.mam_form != "smm" else 0
        seen = views if middle else [crop]
        main = [self.main.look(view) for view in seen]
        support = self.taught(views) if lambda_rcm or lambda_mam else []
        with torch.autocast(crop.device.type, enabled=False):
            found = {"L_cls": classification_loss(global_average_pool(main[middle][1].float()), labels)}
            loss = found["L_cls"]
            if support:
                a_f = scaled(self.maps(main, seen, crop), labels, config.detach_max)
                a_g = scaled(self.maps(support, views, crop), labels)
                regions = class_regions(multi_scale_maps(a_g, config.renormalise), labels, config.threshold)
                found["foreground share"] = (regions > 0).float().mean()
                if "mask" in batch:
                    cells = labels_on_cells(batch["mask"], regions.shape[-2:], (config.grid, config.grid))
                    found |= mask_scores(regions, cells)
            if lambda_rcm:
                x_f, x_g = (self.placed(looks[0], crop, crop) for looks in (main[middle], support[1]))
                found |= self.rcm(x_f, x_g, a_f[:, :, middle], regions, labels)
                loss = loss + lambda_rcm * found["L_RCM"]
            if lambda_mam:
                found["L_MAM"] = self.mam(a_f, a_g, labels)
                loss = loss + lambda_mam * found["L_MAM"]
        return {"loss": loss, **found}

    def rcm(
        self, x_f: Tensor, x_g: Tensor, a_f: Tensor, regions: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """L_RCM from X of F and G and F's scaled maps, all of the middle size and on the grid."""
        config = self.config
        if config.rcm_form.startswith("direct"):
            return {"L_RCM": direct_loss(a_f, regions, labels, config.rcm_form)}
        found, shown = class_prototypes(x_g, regions, len(self.seen), config.prototype)
        self.prototypes[shown] = found[shown]  # a class that no photo shows keeps its latest
        self.seen |= shown
        memory = self.prototypes, self.seen
        loss = contrastive_loss(x_f, *memory, regions, config.temperature, config.rcm_form)
        return {"L_RCM": loss, "prototype cosine": mean_cosine(self.prototypes[self.seen])}

    def mam(self, a_f: Tensor, a_g: Tensor, labels: Tensor) -> Tensor:
        """L_MAM from the scaled maps of F, of all sizes or (SMM) the middle one, and of G."""
        xi = attention(a_f.detach(), a_g)
        target = targets(a_g, xi if self.config.mam_form == "mam" else torch.ones_like(xi))
        return multi_scale_loss(a_f, target.clamp(max=1) if self.config.clip_target else target, labels)

    def after_step(self, clock: Clock) -> None:
        """Move G; while L_cls trains alone it is F's copy."""
        if self.support is None:
            return
        config, epoch = self.config, clock.steps_per_epoch
        steps = clock.step - round(config.rcm_start * clock.epochs) * epoch
        alpha = momentum(config.ema_memory * epoch, steps, config.ema_ramp) if steps >= 0 else 0
        move_average(self.support, self.main, alpha)


# --- what is watched ---


def mask_scores(regions: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Shares of the places called an object that are that object, and of the objects' places called so.

    regions, truth: (B, h, w) class ids; places whose truth is 255 do not count.
    """
    called, objects = ((ids > 0) & (truth != IGNORE) for ids in (regions, truth))
    right = (called & (regions == truth)).sum()
    of = {"mask precision": called, "mask recall": objects}
    return {name: right / places.sum().clamp(min=1) for name, places in of.items()}


def mean_cosine(vectors: Tensor) -> Tensor:
    """Mean over the pairs of (K, D): 1 if all point one way, -1 / (K - 1) at the widest; 0 of one vector."""
    count = len(vectors)
    return (F.normalize(vectors).sum(0).square().sum() - count) / max(1, count * (count - 1))


@dataclass(frozen=True)
class WatchedExamples:
    """Classification examples with the truth of their crop, "mask" (crop, crop)."""

    examples: ClassificationExamples

    def __call__(self, index: int) -> dict[str, Tensor]:
        data, transform = self.examples.dataset, self.examples.transform
        id = data.ids[index]
        truth = tv_tensors.Mask(torch.from_numpy(data.mask(id)))
        image, mask = transform(photo_tensor(data, id), truth)
        return {"image": image, "label": torch.from_numpy(data.label(id)), "mask": mask}


def examples(study: Study, config: PSSTraining, model: Method) -> Examples:
    """Augmented training photos with their image labels; if all have a mask, the truth to be watched.

    Masks are in no key of a training: those that come later train nothing again, and history.csv lacks them.
    """
    plain = classification_examples(study, config, model)
    return WatchedExamples(plain) if all(map(plain.dataset.has_mask, plain.dataset.ids)) else plain


@torch.inference_mode()
def three_sizes(study: Study, classifier: Artifact, id: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What MAM sees of the first class of a training photo where F and G are one trained network.

    Returns:
        Its `scaled` maps at the three sizes, (3, h, w); xi of (6), (3, 3); the targets of (7), (3, h, w).
    """
    data, config, net = study.labelled("train"), study.section("pss"), trained_classifier(study, classifier)
    photo = photo_tensor(data, id).as_subclass(Tensor)[None].to(study.device)
    views, size = three_views(normalise(photo, net.mean, net.std), config.scales), photo.shape[-2:]
    seen = [on_grid(net.class_maps(v), net.stride, v.shape[-2:], size, config.grid) for v in views]
    labels = torch.from_numpy(data.label(id))[None].to(study.device)
    maps = scaled(torch.stack(seen, 2), labels)
    xi = attention(maps, maps)
    maps, xi, target = (found[0, labels.argmax()].cpu().numpy() for found in (maps, xi, targets(maps, xi)))
    return maps, xi, target


RECIPE = Recipe(
    name="pss",
    paper_name="PSS",
    config=PSSTraining,
    section=PSSSection,
    build=lambda config, backbones, classes: PSS(backbones(), classes, config),
    examples=examples,
    parts=("baseline", "SMM", "MMM", "MAM", "RCM", "RCM + MMM"),
)
