"""AuxSegNet: auxiliary tasks and the affinity they learn together (Xu et al., ICCV 2021, with supplement).

One trunk learns three tasks: which classes are there (image labels), what stands out (saliency maps of an
off-the-shelf network) and which pixel is what (labels made of the two). From the features of the two dense
tasks comes a cross-task affinity (`models/cross_task.py`). It refines predictions in training and, when a
stage is over, the class activation maps and the saliency that the next stage's labels are made of. Its
supervision is "I+S", image labels and saliency.

The equations are numbered as in papers/auxsegnet/card.md, which tells paper and released code apart; that
code's loop over stages does not run as published, and is written here from the text. We differ in that
padding is ignored (there: background, not salient), each photo gets a scale of its own (there: one a batch),
and class activation maps are kept in [0, 1] in half precision. On a trunk of stride 16 the dense branches
read its stride-8 tap beside the deepest one, so that their grid has cells of 8 pixels everywhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as VF

from wsss_lib.artifacts import Artifact, Setting
from wsss_lib.config import CRFName, Fraction, OwnBackbone, Positive, Range, Scales, Schedule
from wsss_lib.data.examples import photo_tensor
from wsss_lib.data.masks import IGNORE, load_mask
from wsss_lib.data.saliency import (
    DEGRADED,
    ORACLE,
    degraded,
    find_maps,
    foreground_iou,
    numbered_objects,
    read_saliency,
    save_saliency,
)
from wsss_lib.data.transforms import RandomScale, normalise, segmentation_transform
from wsss_lib.data.voc import VOCDataset
from wsss_lib.inference import (
    MAXIMUM,
    MapRule,
    class_probabilities,
    passes,
    reading,
    response_maps,
    write_maps,
)
from wsss_lib.losses import classification_loss, full_size_loss, global_average_pool
from wsss_lib.methods.base import (
    BASELINE,
    Examples,
    Method,
    Recipe,
    train_classifier,
    trained_classifier,
)
from wsss_lib.metrics import class_scores, confusion_matrix
from wsss_lib.models.backbones import Backbone
from wsss_lib.models.cross_task import AffinityFusion, DenseBranch, TaskAffinity, entropy_ratio, propagate
from wsss_lib.models.trainable import Clock
from wsss_lib.refinement.saliency import write_labels, write_saliency
from wsss_lib.runtime.digest import content_fingerprint
from wsss_lib.runtime.files import save_atomically, under_root
from wsss_lib.runtime.workers import over_processes
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.training import mix_seeds, trained_weights

if TYPE_CHECKING:
    from wsss_lib.study.study import Study

STRIDE = 8
"""Pixels per cell of the dense branches and the affinity, as ResNet-38 has it."""
ABLATION: dict[str, dict[str, Any]] = {
    "baseline": {"auxsegnet.tasks": ["seg"], "auxsegnet.affinity": "none", "auxsegnet.rounds": 0},
    "AuxSegNet (MT)": {"auxsegnet.affinity": "none", "auxsegnet.rounds": 0},
    "AuxSegNet (MT+CT)": {"auxsegnet.rounds": 0},
    "AuxSegNet": {},
    "control": {"auxsegnet.relabel": False},
}
"""Rows of the supplement's Table 3 as overrides of a preset. The first three have the steps of stage 0; the
control is ours: all steps, on the labels of stage 0. Iterative learning, the fourth row, counts beyond it."""
AFFINITIES: dict[str, dict[str, Any]] = {
    "seg + cls": {**ABLATION["AuxSegNet (MT)"], "auxsegnet.tasks": ["cls", "seg"]},
    "seg + sal": {**ABLATION["AuxSegNet (MT)"], "auxsegnet.tasks": ["seg", "sal"]},
    "A_seg, refined seg": {
        "auxsegnet.affinity": "seg", "auxsegnet.constraints": ["seg"], "auxsegnet.rounds": 0,
    },
    "A, refined seg": {"auxsegnet.constraints": ["seg"], "auxsegnet.rounds": 0},
}  # fmt: skip
"""The main paper's further rows, 57.6, 59.8, 61.5 and 62.6 mIoU on VOC's val: two tasks without an affinity,
then three with segmentation's own or the fused one, and a loss on the refined segmentation alone."""
AS_THEY_ARE = MapRule("as they are", lambda maps: maps.clamp(max=1))
"""Refined maps are not normalised again. A row of the fused affinity may sum to a little more than 1, and a
column (`transposed`) to several: there clamped maps tie, and the class that comes first wins."""


class AuxSegNetTraining(Schedule):
    """How a stage trains its network. The rows of the ablation are `tasks`, `affinity` and `constraints`."""

    scale: Range  # factor of the photo's size, drawn for each photo
    jitter: bool
    dropout: Annotated[float, Field(ge=0, lt=1)]  # of whole channels, before the pooling
    channels: PositiveInt  # D, of the dense branches
    dilations: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=3)]  # as in `DenseBranch`
    tasks: tuple[Literal["cls", "seg", "sal"], ...]
    affinity: Literal["none", "seg", "cross"]  # that refines: none, segmentation's own, or the fused one
    constraints: tuple[Literal["seg", "sal"], ...]  # tasks whose refined predictions have a loss
    transposed: bool  # refine by A^T, as the paper's text has it
    scale_affinity: bool  # by 1 / sqrt(D), as the method does not
    fusion_lr: Literal["base", "new"]  # learning rate of the fusion's convolutions
    backbone: OwnBackbone | None  # None: the classifier's

    @model_validator(mode="after")
    def dilations_fit_the_grid(self) -> AuxSegNetTraining:
        cells = -(-self.crop // STRIDE)
        if max(self.dilations) >= cells:
            raise ValueError(
                f"dilations {self.dilations} reach beyond a crop of {cells} cells, where a 3x3 kernel is "
                f"a 1x1; take about {[max(1, round(d * cells / 41)) for d in (6, 12, 18)]}"
            )
        return self

    @model_validator(mode="after")
    def tasks_have_what_they_need(self) -> AuxSegNetTraining:
        if "seg" not in self.tasks or (self.affinity == "cross" and "sal" not in self.tasks):
            raise ValueError(
                f"tasks {self.tasks} with affinity {self.affinity!r}: seg is always needed, and sal for cross"
            )
        return self


class AuxSegNetSection(AuxSegNetTraining):
    """AuxSegNet in a preset; trained as the baseline is unless it says otherwise."""

    rounds: NonNegativeInt  # updates of the labels: stages 0 to `rounds` are trained
    relabel: bool  # off: every stage learns the labels of stage 0, the control of the updates
    saliency: str  # "degraded" or "oracle" (scenes), or a folder of grey PNGs
    cam_threshold: Fraction
    saliency_threshold: Fraction
    renormalise: bool  # refined maps over their maximum before they are thresholded, as they are not
    saliency_crf: CRFName
    saliency_crf_scale: Positive  # divides its pixel widths: 500 / the long side of the photos
    test_scales: Scales
    test_flip: bool
    crf: CRFName  # at test time

    @model_validator(mode="after")
    def updates_have_what_they_need(self) -> AuxSegNetSection:
        if self.rounds and self.relabel and (len(set(self.tasks)) < 3 or self.affinity == "none"):
            raise ValueError(
                f"labels are updated by the tasks cls, seg and sal and an affinity, not {self.tasks} and "
                f"{self.affinity!r}; set rounds to 0 or relabel to false"
            )
        return self


# --- the network -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Predictions:
    """Of the dense branches, by task: logits P_t (B, K or 1, h, w), affinities A (B, N, N), also "cross", and
    P_t refined by the affinity that the network is asked for; without one `refined` is empty.
    """

    logits: Mapping[str, Tensor]
    affinities: Mapping[str, Tensor]
    refined: Mapping[str, Tensor]


def saliency_loss(maps: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy, mean over the pixels that count; 0 where there is none.

    maps: logits (B, 1, h, w), upsampled to the target; target: (B, H, W) 0, 1, or 255 that is ignored.
    """
    height, width = target.shape[-2:]
    logits = F.interpolate(maps, scale_factor=STRIDE, mode="bilinear")[:, 0, :height, :width]
    counted = target != IGNORE
    each = F.binary_cross_entropy_with_logits(logits, (target == 1).to(logits), reduction="none")
    return (each * counted).sum() / counted.sum().clamp(min=1)


def dense_losses(
    found: Predictions, batch: Mapping[str, Tensor], constraints: tuple[str, ...]
) -> dict[str, Tensor]:
    """(C6) without the classification: cross-entropy of P_seg and P_seg^ref, binary of P_sal and P_sal^ref.

    batch: mask (B, H, W) and saliency (B, H, W), both with 255; constraints: tasks whose refined predictions
    count. The affinity has no loss of its own.
    """
    of = {
        "seg": lambda maps: full_size_loss(maps, STRIDE, batch["mask"]),
        "sal": lambda maps: saliency_loss(maps, batch["saliency"]),
    }
    first = {f"L_{task}": of[task](maps) for task, maps in found.logits.items()}
    refined = {f"L_{task}_ref": of[task](maps) for task, maps in found.refined.items() if task in constraints}
    return first | refined


class AuxSegNet(Method):
    """Classification, segmentation and saliency on one trunk, with the affinity that the last two share.

    Args:
        backbone: needs a tap of stride 8, the deepest one or another.
        num_classes: foreground classes C.
    """

    stride = STRIDE

    def __init__(self, backbone: Backbone, num_classes: int, config: AuxSegNetTraining):
        super().__init__()
        self.backbone, self.config = backbone, config
        self.base_lr_layers = ("fusion.",) if config.fusion_lr == "base" else ()
        self.fine = backbone.tap_at(STRIDE)
        taps = {self.fine, len(backbone.channels) - 1}  # one and the same on ResNet-38
        inputs = sum(backbone.channels[tap] for tap in taps)
        refined = {"none": (), "seg": ("seg",), "cross": ("seg", "sal")}[config.affinity]
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = (
            nn.Conv2d(backbone.channels[-1], num_classes, 1, bias=False) if "cls" in config.tasks else None
        )
        self.branches = nn.ModuleDict(
            {
                task: DenseBranch(
                    inputs, config.channels, outputs, config.dilations,
                    TaskAffinity(config.channels, config.scale_affinity) if task in refined else None,
                )
                for task, outputs in (("seg", num_classes + 1), ("sal", 1))
                if task in config.tasks
            }
        )  # fmt: skip
        self.fusion = AffinityFusion() if config.affinity == "cross" else None

    def on_grid(self, deepest: Tensor, taps: list[Tensor]) -> Tensor:
        """Maps on the cells of the deepest tap -> on the stride-8 cells of the dense branches."""
        fine = taps[self.fine]
        factor = self.backbone.strides[-1] // self.backbone.strides[self.fine]
        if factor > 1:
            deepest = F.interpolate(deepest, scale_factor=factor, mode="bilinear")
        return deepest[..., : fine.shape[-2], : fine.shape[-1]]

    def predictions(self, taps: list[Tensor]) -> Predictions:
        """(C1) to (C5) on the taps of the trunk."""
        config, trunk = self.config, self.on_grid(taps[-1], taps)
        if self.fine != len(taps) - 1:
            trunk = torch.cat([taps[self.fine], trunk], 1)
        logits, affinities = {}, {}
        for task, branch in self.branches.items():
            logits[task], own = branch(trunk)
            if own is not None:
                affinities[task] = own
        if self.fusion is not None:
            affinities["cross"] = self.fusion(torch.stack([affinities["seg"], affinities["sal"]], 1))
        refined = {}
        if affinities:
            refined = {
                task: propagate(affinities[config.affinity], maps, config.transposed)
                for task, maps in logits.items()
            }
        return Predictions(logits, affinities, refined)

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """(C6) Sum of the losses, each with weight 1.

        batch: image (B, 3, H, W), label (B, C), mask (B, H, W) with 255, saliency (B, H, W): 0, 1, 255. The
        entropy ratio of the affinity is recorded beside them.
        """
        taps = self.backbone(batch["image"])
        found = self.predictions(taps)
        parts = dense_losses(found, batch, self.config.constraints)
        if self.classifier is not None:
            logits = self.classifier(global_average_pool(self.dropout(taps[-1]))[..., None, None]).flatten(1)
            parts["L_cls"] = classification_loss(logits, batch["label"])
        health = {}
        if found.affinities:
            health["entropy ratio"] = entropy_ratio(found.affinities[self.config.affinity].detach())
        return {"loss": sum(parts.values()), **parts, **health}

    def class_maps(self, images: Tensor) -> Tensor:
        """(C5) Its own class activation maps, each over its maximum, refined by the affinity if there is one.

        (B, 3, H, W) normalised -> (B, C, ceil(H/8), ceil(W/8)), not below 0.

        Raises:
            ValueError: a network without the classification task.
        """
        if self.classifier is None:
            raise ValueError("This AuxSegNet has no task cls, so no class activation maps; add it to tasks.")
        taps = self.backbone(images)
        cam = self.on_grid(self.classifier(taps[-1]).relu(), taps)
        cam = cam / (cam.amax((2, 3), keepdim=True) + 1e-5)
        if self.config.affinity == "none":
            return cam
        return propagate(self.predictions(taps).affinities[self.config.affinity], cam, self.config.transposed)

    def task_maps(self, images: Tensor, task: str) -> Tensor:
        """P_t^ref, logits, or P_t without an affinity: (B, 3, H, W) normalised -> (B, K or 1, h, w)."""
        found = self.predictions(self.backbone(images))
        return (found.refined or found.logits)[task]

    def affinities(self, images: Tensor) -> Mapping[str, Tensor]:
        """ "seg", "sal" and "cross", those it has: (B, 3, H, W) normalised -> (B, N, N) each."""
        return self.predictions(self.backbone(images)).affinities

    def start_from(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights of the stage before, or of the CAM whose trunk and classifier these are."""
        own = self.state_dict()
        self.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)


# --- what a stage learns from ------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageExamples:
    """image (3, crop, crop), label (C,), and mask and saliency (crop, crop), cut from the same place.

    Labels are scaled to the nearest pixel, saliency bilinearly and then made binary (above 0.5); what is
    padded is 255 in both.
    """

    dataset: VOCDataset
    masks: Path
    saliency: Path
    scale: RandomScale
    transform: Callable

    def __call__(self, index: int) -> dict[str, Tensor]:
        id = self.dataset.ids[index]
        labels = load_mask(self.masks / f"{id}.png")
        salient = torch.from_numpy(read_saliency(self.saliency / f"{id}.png", labels.shape))
        image, mask = self.scale(photo_tensor(self.dataset, id), tv_tensors.Mask(torch.from_numpy(labels)))
        size = list(image.shape[-2:])
        salient = VF.resize(salient[None], size, VF.InterpolationMode.BILINEAR, antialias=True)[0] > 0.5
        image, mask, salient = self.transform(image, mask, tv_tensors.Mask(salient.to(torch.uint8)))
        return {
            "image": image,
            "label": torch.from_numpy(self.dataset.label(id)),
            "mask": mask,
            "saliency": salient,
        }


# --- stages: train, refine the maps, make labels, train again ----------------------------------------------


def run(study: Study, recipe: Recipe, seed: int, rounds: int | None) -> Artifact:
    """The network after stage `rounds`, the preset's last for None; 0 is the first, from a CAM's weights.

    Raises:
        ValueError: a stage below 0, or a CAM whose classifier is more than one linear layer.
    """
    section = study.section(recipe.name)
    stage = section.rounds if rounds is None else rounds
    if stage < 0:
        raise ValueError(f"AuxSegNet has no stage {stage}; its first is 0.")
    if study.section(BASELINE).head_channels is not None:
        raise ValueError(
            "AuxSegNet starts from the CAM's weights and has its linear classifier; set "
            "classifier.head_channels to null."
        )
    before = network_before(study, seed, stage)
    masks, salient = labels(study, seed, stage), saliency(study, seed, stage)

    def examples(study: Study, config: AuxSegNetTraining, model: Method) -> Examples:
        transform = segmentation_transform((1, 1), config.crop, model.mean, model.std, config.jitter)
        data = study.labelled("train")
        return StageExamples(data, masks.path, salient.path, RandomScale(*config.scale), transform)

    return train_classifier(
        study, recipe, recipe.trained_by(section), seed, rounds=stage,
        inputs=(before.key, masks.key, salient.key),
        start=lambda model, out: model.start_from(trained_weights(before.path)), examples=examples,
        data_seed=mix_seeds(seed, stage),  # a stage sees other crops than the stage before
    )  # fmt: skip


def network_before(study: Study, seed: int, stage: int) -> Artifact:
    """Whose weights a stage starts from, and whose maps its labels are made of: a CAM, then AuxSegNet."""
    return study.classifier(RECIPE.name, seed, stage - 1) if stage else study.classifier(BASELINE, seed)


def labelled_by(study: Study, stage: int) -> int:
    """The stage whose labels a stage learns: its own, or 0 if labels are not updated."""
    return stage if study.section(RECIPE.name).relabel else 0


def label_maps(study: Study, seed: int, stage: int) -> Artifact:
    """The class maps that a stage's labels are made of, of the training photos: whole, one scale, no flip.

    For stage 0 the CAM over its maximum, afterwards the CAM of the stage before, refined by its affinity.
    """
    stage = labelled_by(study, stage)
    data, before, section = (
        study.labelled("train"),
        network_before(study, seed, stage),
        study.section(RECIPE.name),
    )
    rule = AS_THEY_ARE if stage and not section.renormalise else MAXIMUM
    origin = study.origin(RECIPE, seed, stage).but(
        stage="CAM + affinity" if stage else "CAM", inference=passes((1.0,), False)
    )
    title = origin.title("maps for labels")

    def work(out: Path) -> None:
        model = trained_classifier(study, before)

        def maps(images: Tensor, ids: list[str]) -> list[ScoreMaps]:
            present = torch.stack([torch.from_numpy(data.label(id)) for id in ids]).to(study.device)
            return response_maps(model, images, present, (1.0,), False, model.stride, rule)

        write_maps(data, out, title, study.config.maps.batch, study.device, maps)

    scores = study.config.scores
    return study.stage(
        "auxsegnet_maps", 1, {"rule": rule.name}, [before.key, data.fingerprint()], work, title, "score maps",
        origin, Setting.at("threshold", tuple(scores.thresholds()), scores.fixed_threshold),
    )  # fmt: skip


def labels(study: Study, seed: int, stage: int) -> Artifact:
    """(C7) What a stage learns to segment: masks of class ids, 0 and 255, from class maps and saliency."""
    stage = labelled_by(study, stage)
    maps, salient = label_maps(study, seed, stage), saliency(study, seed, stage)
    section, data = study.section(RECIPE.name), study.labelled("train")
    thresholds = (section.cam_threshold, section.saliency_threshold)
    origin = maps.origin.but(stage="labels")
    title = origin.title("labels")

    def work(out: Path) -> None:
        jobs = [
            (maps.file(f"{id}.npz"), salient.file(f"{id}.png"), *thresholds, out / f"{id}.png")
            for id in data.ids
        ]
        over_processes(write_labels, jobs, study.config.processes, title)

    return study.stage(
        "auxsegnet_labels",
        1,
        {"thresholds": thresholds},
        [maps.key, salient.key],
        work,
        title,
        "masks",
        origin,
    )


def saliency(study: Study, seed: int, stage: int) -> Artifact:
    """(C9) What a stage learns to stand out: off-the-shelf maps at first, then updated ones; <id>.png, grey.

    The update after a stage is a CRF on the average of that stage's prediction and the *original* map.
    """
    stage = labelled_by(study, stage)
    original = source_saliency(study)
    if stage == 0:
        return original
    section, data = study.section(RECIPE.name), study.labelled("train")
    predicted = predicted_saliency(study, seed, stage - 1)
    origin = study.origin(RECIPE, seed, stage).but(stage="saliency + CRF")
    title, crf = origin.title("saliency"), (section.saliency_crf, section.saliency_crf_scale)

    def work(out: Path) -> None:
        jobs = [
            (
                data.image_path(id),
                predicted.file(f"{id}.npz"),
                original.file(f"{id}.png"),
                *crf,
                out / f"{id}.png",
            )
            for id in data.ids
        ]
        over_processes(write_saliency, jobs, study.config.processes, title)

    return study.stage(
        "auxsegnet_saliency", 1, {"crf": crf}, [predicted.key, original.key], work, title, "saliency", origin
    )


def predicted_saliency(study: Study, seed: int, stage: int) -> Artifact:
    """sigmoid(P_sal^ref) of a stage's network on the whole training photos, one scale: a map of "class" 1."""
    data, network = study.labelled("train"), study.classifier(RECIPE.name, seed, stage)
    origin = network.origin.but(stage="predicted saliency", inference=passes((1.0,), False))
    title = origin.title("predicted saliency")

    def work(out: Path) -> None:
        model = trained_classifier(study, network)

        @torch.inference_mode()
        def maps(images: Tensor, ids: list[str]) -> list[ScoreMaps]:
            inputs = normalise(images, model.mean, model.std)
            found = model.task_maps(inputs, "sal").sigmoid().float().cpu().numpy()
            return [ScoreMaps(np.array([1]), one, tuple(images.shape[-2:]), STRIDE) for one in found]

        write_maps(data, out, title, study.config.maps.batch, study.device, maps)

    return study.stage(
        "auxsegnet_predicted_saliency",
        1,
        {},
        [network.key, data.fingerprint()],
        work,
        title,
        "score maps",
        origin,
    )


def source_saliency(study: Study) -> Artifact:
    """The off-the-shelf saliency of the training photos, as the section says; <id>.png, grey, of any size.

    Raises:
        ValueError: degraded or true saliency of a dataset that was not drawn.
        FileNotFoundError: a folder that lacks a photo's map.
    """
    source, data = study.section(RECIPE.name).saliency, study.labelled("train")
    drawn = source in (DEGRADED, ORACLE)
    folder = data.root / "Saliency" if drawn else under_root(source)
    if drawn and not folder.is_dir():
        raise ValueError(
            f"Saliency {source!r} is made from the scenes' drawn masks, which {study.dataset} has not; set "
            "auxsegnet.saliency to a folder of grey PNGs, one for each photo."
        )
    files = find_maps(folder, data.ids)
    name = source if drawn else "folder"
    origin = study.origin(RECIPE, 0).but(stage=f"{name} saliency", inference="")

    def seen(id: str) -> np.ndarray:
        there = read_saliency(files[id], data.image_size(id)) > 0.5
        return degraded(numbered_objects(data.mask(id), there), id)

    def work(out: Path) -> None:
        for id, file in files.items():
            write = partial(save_saliency, seen(id)) if source == DEGRADED else partial(shutil.copyfile, file)
            save_atomically(write, out / f"{id}.png")

    return study.stage(
        "source_saliency", 1, {"source": name},
        [content_fingerprint(files.values()), data.fingerprint()], work, f"{name} saliency",
        "saliency", origin,
    )  # fmt: skip


def segment(study: Study, network: Artifact, split: str = "val") -> Artifact:
    """Class probabilities of its own segmentation branch, softmax(P_seg^ref); no image labels are used.

    Masks are `study.masks(probabilities, Background("included"), crf)`, with the CRF of the section or None.
    """
    section, data, stride = study.section(RECIPE.name), study.data.dataset(split), study.config.maps.stride
    learned = f"labels of stage {labelled_by(study, network.origin.rounds)}"
    origin = network.origin.but(
        stage="segmentation", split=split, learned_from=learned,
        inference=f"{passes(section.test_scales, section.test_flip)}, mean of softmax",
    )  # fmt: skip
    title = origin.title("segmentation")

    def work(out: Path) -> None:
        model = trained_classifier(study, network)
        branch = reading(model, partial(model.task_maps, task="seg"), fusion="mean of softmax")

        def probabilities(images: Tensor, ids: list[str]) -> list[ScoreMaps]:
            return class_probabilities(branch, images, section.test_scales, section.test_flip, stride)

        write_maps(data, out, title, study.config.maps.batch, study.device, probabilities)

    return study.stage(
        "auxsegnet_segment", 1, {"scales": section.test_scales, "flip": section.test_flip, "stride": stride},
        [network.key, data.fingerprint()], work, title, "probabilities", origin,
    )  # fmt: skip


# --- what the tables ask -----------------------------------------------------------------------------------


def saliency_iou(study: Study, salient: Artifact) -> pd.Series:
    """Foreground IoU (above 0.5) of saliency maps on each scored training photo; index id."""
    data, ids = study.data.train, study.data.scored("train")
    found = {}
    for id in ids:
        truth = data.mask(id)
        found[id] = foreground_iou(read_saliency(salient.file(f"{id}.png"), truth.shape), truth)
    return pd.Series(found, name="foreground IoU")


def label_scores(study: Study, masks: Artifact) -> dict[str, float]:
    """Precision, recall and mIoU of labels on the scored training photos, and their shares, all in %.

    Pixels labelled 255 count as missed and not as left out, as the paper's recall of 42.9 must have it. The
    shares of "class", "background" and "ignored" pixels are of all training photos.
    """
    classes = len(study.data.classes)
    counts = np.zeros(256, np.int64)
    confusion = np.zeros((classes + 1, classes + 1), np.int64)
    scored = set(study.data.scored("train"))
    for id in study.data.train.ids:
        mask = load_mask(masks.file(f"{id}.png"))
        counts += np.bincount(mask.ravel(), minlength=256)
        if id in scored:  # 255 is a class of its own that is never true
            found = np.where(mask == IGNORE, classes, mask)
            confusion += confusion_matrix(found, study.data.train.mask(id), classes + 1)
    means = class_scores(confusion)[:classes].mean()
    shares = {"class": counts[1:IGNORE].sum(), "background": counts[0], "ignored": counts[IGNORE]}
    return {
        "mIoU": 100 * means["iou"], "precision": 100 * means["precision"], "recall": 100 * means["recall"],
    } | {f"{name} (%)": 100 * count / counts.sum() for name, count in shares.items()}  # fmt: skip


def photo_affinities(study: Study, network: Artifact, id: str) -> dict[str, np.ndarray]:
    """ "seg", "sal", "cross" of a training photo: (h, w, h, w), [y, x] the row of cell (y, x) as a map."""
    model = trained_classifier(study, network)
    image = photo_tensor(study.data.train, id).as_subclass(Tensor)[None].to(study.device)
    grid = [-(-side // STRIDE) for side in image.shape[-2:]]
    with torch.inference_mode():
        found = model.affinities(normalise(image, model.mean, model.std))
    return {name: each[0].reshape(*grid, *grid).cpu().numpy() for name, each in found.items()}


RECIPE = Recipe(
    name="auxsegnet",
    paper_name="AuxSegNet",
    config=AuxSegNetTraining,
    section=AuxSegNetSection,
    build=lambda config, backbones, classes: AuxSegNet(backbones(config.backbone), classes, config),
    supervision="I+S",
    run=run,
    gives="masks",
)
