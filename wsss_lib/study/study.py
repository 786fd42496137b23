"""The study: one dataset at one preset. Notebooks talk to `Study` alone.

It holds data, configuration and cache, and runs stages; what a stage does stands beside its science, in
functions that take the study: `methods`, `refinement`, `segmentation`, `study.scores`. Those that most people
need are methods here as well.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

from wsss_lib import segmentation
from wsss_lib.artifacts import Artifact, Kind, Origin, Setting
from wsss_lib.config import (
    BackboneConfig,
    OwnBackbone,
    Schedule,
    Section,
    names,
    plain,
    whole_numbers,
)
from wsss_lib.data.scenes.dataset import generate_scenes
from wsss_lib.data.splits import Splits
from wsss_lib.data.voc import VOCDataset
from wsss_lib.methods import RECIPES, load_config
from wsss_lib.methods.base import Examples, Recipe, class_response_maps
from wsss_lib.models.backbones import IMAGENET, RANDOM, Backbone, build_backbone, weights_digest
from wsss_lib.models.trainable import Trainable
from wsss_lib.refinement import affinitynet, irn, masks
from wsss_lib.runtime.cache import Cache, Folder
from wsss_lib.runtime.errors import show_sentences
from wsss_lib.runtime.files import under_root
from wsss_lib.study import scores
from wsss_lib.study.results import Results
from wsss_lib.training import SeededExamples, mix_seeds, train

T = TypeVar("T")
SCENES = "scenes"
REFINEMENTS = {"affinitynet": affinitynet.affinity_walk, "irn": irn.irn_walk}


class Study:
    """One dataset at one preset.

    Args:
        preset: "smoke", "quick", "standard", "paper" or a .yaml file.
        dataset: "scenes", drawn on first use, or a name for the dataset at `root`, e.g. "voc2012".
        root: folder in VOC layout; only for datasets other than the scenes.
        classes: foreground classes to keep, or one; None keeps all.
        labels: source of the image labels, as in `VOCDataset`.
        seeds: of the preset if None; one or several, also as an array.
        overrides: dotted preset keys, e.g. {"classifier.epochs": 2}.
        cache: folder of finished stages; results: where tables and figures go. Relative paths, also of
            `root`, start at the repository, or at the working folder where there is none.

    Raises:
        ValueError, FileNotFoundError: bad preset, override or dataset, each with the remedy.
    """

    def __init__(
        self,
        preset: str | Path = "quick",
        dataset: str = SCENES,
        root: str | Path | None = None,
        classes: Sequence[str] | str | None = None,
        labels: str | Path = "masks",
        seeds: Sequence[int] | int | None = None,
        overrides: Mapping[str, Any] | None = None,
        cache: str | Path = "cache",
        results: str | Path = "results",
    ):
        self._arguments = {name: value for name, value in locals().items() if name != "self"}
        show_sentences()
        if (root is None) != (dataset == SCENES):
            raise ValueError(
                f"Dataset {dataset!r} with root {root}: the scenes need no root, every other dataset needs "
                "its folder in VOC layout."
            )
        self.config = load_config(preset, overrides)
        self.seeds = self.config.seeds if seeds is None else whole_numbers(seeds, "seeds")
        self.preset, self.dataset = str(preset), dataset
        classes = None if classes is None else names(classes)
        self.cache = Cache(under_root(cache))
        origin = {
            "preset": str(preset),
            "overrides": plain(overrides or {}),
            "dataset": dataset,
            "classes": classes,
            "labels": str(labels),
            "seeds": self.seeds,
            "config": self.config.model_dump(),
        }
        # a trial with other values never overwrites the preset's own tables
        trial = (
            "-" + hashlib.sha256(json.dumps(origin["overrides"]).encode()).hexdigest()[:6]
            if overrides
            else ""
        )
        self.results = Results(under_root(results) / dataset / (Path(preset).stem + trial), origin)
        self._root, self._classes = root, classes
        self._labels = labels if labels in ("masks", "xml", "none") else under_root(labels)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # A sharp softmax is full of numbers below 1e-38, with which a CPU calculates ten times as slowly
        torch.set_flush_denormal(True)

    def varied(self, overrides: Mapping[str, Any]) -> "Study":
        """The same study with further overrides, on the same cache: for sweeps and ablations."""
        both = {**(self._arguments["overrides"] or {}), **overrides}
        return Study(**{**self._arguments, "overrides": both})

    # --- data and methods --------------------------------------------------------------------------------

    @cached_property
    def data(self) -> Splits:
        """The dataset; draws the scenes if they are not there."""
        root = self._scenes().path if self._root is None else under_root(self._root)
        return Splits(root, self._classes, self._labels, self.config.limit)

    def _scenes(self) -> Folder:
        scenes = self.config.scenes
        return self.cache.run(
            "scenes", 2, scenes.model_dump(), [],
            lambda out: generate_scenes(
                out, scenes.sizes, scenes.image_size, scenes.seed, self.config.processes
            ),
            title="embedded scenes", labels={},
        )  # fmt: skip

    def labelled(self, split: str) -> VOCDataset:
        """A split whose image labels are known; raises ValueError where they are not."""
        data = self.data.dataset(split)
        if np.isnan(data.labels).any():
            raise ValueError(
                f"The photos of {split} have no image labels; give labels='masks', 'xml', a CSV or an npz."
            )
        return data

    @property
    def methods(self) -> dict[str, str]:
        """Methods that this preset knows and what papers call them, the baseline first."""
        return {
            name: recipe.paper_name for name, recipe in RECIPES.items() if getattr(self.config, name, None)
        }

    def chosen(self, methods: Sequence[str] | str | None = None) -> dict[str, str]:
        """Those of `methods` that are named, one or several; None: all but the preset's `left_out`.

        Errors as of `recipe`.
        """
        taken = [method for method in self.methods if method not in self.config.left_out]
        asked = taken if methods is None else names(methods)
        return {method: self.recipe(method).paper_name for method in asked}

    def recipe(self, method: str) -> Recipe:
        """Raises ValueError for a method that is unknown, or has no section in the preset."""
        if method not in RECIPES:
            raise ValueError(f"Method {method!r} is unknown; choose one of {sorted(RECIPES)}.")
        if getattr(self.config, method, None) is None:
            raise ValueError(
                f"Preset {self.preset} has no section {method!r}, which says how to train it; add one, or "
                "begin the preset with the line `extends: quick`."
            )
        return RECIPES[method]

    def section(self, method: str) -> Section:
        """The configuration of a method; errors as of `recipe`."""
        return getattr(self.config, self.recipe(method).name)

    # --- what stages are made of -------------------------------------------------------------------------

    def stage(
        self,
        name: str,
        version: int,
        config: Mapping[str, Any],
        inputs: Sequence[str],
        work: Callable[[Path], None],
        title: str,
        kind: Kind,
        origin: Origin,
        setting: Setting | None = None,
        on: Callable[[str], Artifact] | None = None,
        trains: bool = False,
    ) -> Artifact:
        """A finished stage, from the cache if it is there; arguments as of `Cache.run` and `Artifact`."""
        labels = {"kind": kind, **vars(origin)}
        folder = self.cache.run(
            name, version, {"dataset": self.dataset, **config}, inputs, work,
            title=title, labels=labels, trains=trains,
        )  # fmt: skip
        return Artifact(folder.path, folder.key, title, kind, origin, setting, on)

    def train(
        self,
        model: Trainable,
        example: Examples,
        size: int,
        schedule: Schedule,
        out: Path,
        title: str,
        seed: int,
    ) -> None:
        """`training.train` on `size` examples, with the preset's loader processes and precision."""
        train(
            model, SeededExamples(size, example, seed), schedule, out,
            workers=self.config.workers, precision=self.config.precision, title=title,
        )  # fmt: skip

    @staticmethod
    def seeded(seed: int, build: Callable[[], T]) -> T:
        """What `build` makes, its new layers drawn from the seed whatever was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix_seeds(seed))
            return build()

    def backbone(self, config: BackboneConfig | None = None, section: Section | None = None) -> Backbone:
        """A new backbone: of `config`, or the one a section of the preset asks for, at its output stride."""
        config = config or self.config.backbone_of(section)
        weights = config.weights if config.weights in (IMAGENET, RANDOM) else under_root(config.weights)
        stride = getattr(section, "output_stride", config.output_stride)
        return build_backbone(config.name, stride, weights, config.frozen_taps)

    def backbones_of(self, section: Section | None = None) -> dict[str, BackboneConfig]:
        """Every backbone that a section names, by its field; the preset's `backbone` where it names none."""
        own = {name: value for name, value in section or () if isinstance(value, BackboneConfig)}
        return own or {"backbone": self.config.backbone}

    def network_config(self, section: Section | None = None) -> dict[str, Any]:
        """What a network depends on beside its own section, for the key of its stage."""
        found: dict[str, Any] = {"precision": self.config.precision}
        for name, backbone in self.backbones_of(section).items():
            found[name] = backbone.model_dump()
            if backbone.weights not in (IMAGENET, RANDOM):  # another file under the same name is other work
                found[name]["sha256"] = weights_digest(backbone.name, under_root(backbone.weights))
        return found

    def origin(self, recipe: Recipe, seed: int, rounds: int | None = None) -> Origin:
        """Of a method's classifier, and every network that it was trained with."""
        weights = tuple(
            ("" if name == "backbone" else f"{name}: ") + f"{backbone.name}, {Path(backbone.weights).name}"
            for name, backbone in self.backbones_of(getattr(self.config, recipe.name, None)).items()
        )
        return Origin(recipe.name, seed, rounds, supervision=recipe.supervision, weights=weights)

    @staticmethod
    def weights_of(network: str, own: OwnBackbone | None) -> tuple[str, ...]:
        """What a table says of a network with a backbone of its own; nothing of one with the classifier's."""
        if own is None:
            return ()
        return (f"{network}: {own.name}, {Path(own.weights).name} (trained on {own.trained_on})",)

    # --- from photos to masks ----------------------------------------------------------------------------

    def classifier(self, method: str, seed: int, rounds: int | None = None) -> Artifact:
        """Train a method on image-level labels; rounds: of a method that has them, the preset's if None."""
        recipe = self.recipe(method)
        [seed] = whole_numbers(seed, "seed")
        return recipe.run(self, recipe, seed, rounds)

    def response_maps(
        self, method: str, seed: int, split: str = "train", rounds: int | None = None
    ) -> Artifact:
        """Multi-scale class activation maps of the present classes; arguments as of `classifier`."""
        return class_response_maps(self, self.classifier(method, seed, rounds), split)

    def refine(self, maps: Artifact, by: str = "affinitynet") -> Artifact:
        """Random walk of the maps along affinities that "affinitynet" or "irn" learned from training maps."""
        if by not in REFINEMENTS:
            raise ValueError(f"Refinement {by!r} is unknown; choose one of {sorted(REFINEMENTS)}.")
        return REFINEMENTS[by](self, maps)

    def masks(self, maps: Artifact, background: masks.Background, crf: str | None) -> Artifact:
        """Masks in VOC layout from score maps; with a dense CRF if it is named."""
        return masks.masks(self, maps, background, crf)

    def pseudo_labels(self, maps: Artifact, crf: bool = True) -> Artifact:
        """Masks of score maps at their calibrated setting, refined by the preset's CRF unless it is off."""
        return masks.pseudo_labels(self, maps, crf)

    def segment(self, labels: Artifact, split: str = "val") -> Artifact:
        """Class probabilities of a segmentation network trained on pseudo labels."""
        return segmentation.segment(self, labels, split)

    def calibrated(self, maps: Artifact) -> int | None:
        """Index of the setting that is best on the photos of `tune`; see `scores.calibrated`."""
        return scores.calibrated(self, maps)

    def headline(self, maps: Artifact) -> int:
        """Index of the setting to conclude from: the calibrated one, or the preset's if there is none."""
        index = self.calibrated(maps)
        return maps.setting.fixed if index is None else index

    # --- scores ------------------------------------------------------------------------------------------

    def scores(self, artifacts: Iterable[Artifact] | Artifact) -> pd.DataFrame:
        """Tidy scores in %; see `scores.table`."""
        return scores.table(self, _several(artifacts))

    def compare(
        self, ours: Iterable[Artifact] | Artifact, baseline: Iterable[Artifact] | Artifact
    ) -> pd.DataFrame:
        """How much mIoU `ours` has over `baseline`; see `scores.compare`."""
        return scores.compare(self, _several(ours), _several(baseline))

    def sweep(self, artifact: Artifact) -> pd.DataFrame:
        """Summary metrics at every setting; see `scores.sweep`."""
        return scores.sweep(self, artifact)

    def times(self, artifacts: Iterable[Artifact]) -> pd.DataFrame:
        """Wall time of each stage as it was first computed, with the device."""
        records = [artifact.provenance() for artifact in artifacts]
        return pd.DataFrame(
            [(r["title"], r["seconds"], r["resumed"], r["device"]) for r in records],
            columns=["stage", "seconds", "resumed", "device"],
        )


def _several(artifacts: Iterable[Artifact] | Artifact) -> Iterable[Artifact]:
    return [artifacts] if isinstance(artifacts, Artifact) else artifacts
