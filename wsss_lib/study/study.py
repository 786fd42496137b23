"""The study: which stage follows which, each computed once and cached. Notebooks talk to `Study` alone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsss_lib.classifiers import METHODS
from wsss_lib.config import Classifier, Section, load_config
from wsss_lib.data.examples import (
    ClassificationExamples,
    SegmentationExamples,
)
from wsss_lib.data.scenes.dataset import generate_scenes
from wsss_lib.data.splits import Splits
from wsss_lib.data.transforms import (
    classification_transform,
    segmentation_transform,
)
from wsss_lib.data.voc import VOCDataset
from wsss_lib.inference import class_probabilities, response_maps, write_maps
from wsss_lib.models.backbones import IMAGENET, RANDOM, Backbone, build_backbone, weights_digest
from wsss_lib.models.deeplab import SEGMENTATION_NETWORKS
from wsss_lib.runtime.cache import Artifact, Cache
from wsss_lib.runtime.errors import show_sentences
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.study.results import Results
from wsss_lib.study.scores import StudyScores
from wsss_lib.study_refinement import StudyRefinement, name_of, title_of
from wsss_lib.study_sub_categories import StudySubCategories
from wsss_lib.training import SeededExamples, load_trained, mix_seeds, train

REPOSITORY = Path(__file__).resolve().parents[2]
SCENES = "scenes"


class Study(StudySubCategories, StudyRefinement, StudyScores):
    """One dataset at one preset.

    Args:
        preset: "smoke", "quick", "standard", "paper" or a .yaml file.
        dataset: "scenes", drawn on first use, or a name for the dataset at `root`, e.g. "voc2012".
        root: folder in VOC layout; only for datasets other than the scenes.
        classes: foreground classes to keep; None keeps all.
        labels: source of the image labels, as in `VOCDataset`.
        seeds: of the preset if None.
        overrides: dotted preset keys, e.g. {"classifier.epochs": 2}.
        cache: folder of finished stages; results: where tables and figures go. Relative paths, also of
            `root`, start at the repository.

    Raises:
        ValueError, FileNotFoundError: bad preset, override or dataset, each with the remedy.
    """

    def __init__(
        self,
        preset: str = "quick",
        dataset: str = SCENES,
        root: str | Path | None = None,
        classes: Sequence[str] | None = None,
        labels: str = "masks",
        seeds: Sequence[int] | None = None,
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
        self.seeds = tuple(self.config.seeds if seeds is None else seeds)
        self.preset, self.dataset = preset, dataset
        self.cache = Cache(under_root(cache))
        origin = {
            "preset": preset,
            "overrides": dict(overrides or {}),
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

    def varied(self, overrides: Mapping[str, Any]) -> "Study":
        """The same study with further overrides, on the same cache: for sweeps and ablations."""
        both = {**(self._arguments["overrides"] or {}), **overrides}
        return Study(**{**self._arguments, "overrides": both})

    def _labelled(self, split: str) -> VOCDataset:
        data = self.data.dataset(split)
        if np.isnan(data.labels).any():
            raise ValueError(
                f"The photos of {split} have no image labels; give labels='masks', 'xml', a CSV or an npz."
            )
        return data

    @cached_property
    def data(self) -> Splits:
        """The dataset; draws the scenes if they are not there."""
        root = self._scenes().path if self._root is None else under_root(self._root)
        return Splits(root, self._classes, self._labels, self.config.limit)

    def _scenes(self) -> Artifact:
        scenes = self.config.scenes
        return self.cache.run(
            "scenes", 2, scenes.model_dump(), [],
            lambda out: generate_scenes(
                out, scenes.sizes, scenes.image_size, scenes.seed, self.config.processes
            ),
            title="embedded scenes", labels={},
        )  # fmt: skip

    # --- classifier and response maps --------------------------------------------------------------------

    def classifier(self, method: str, seed: int, rounds: int | None = None) -> Artifact:
        """Train a method's classifier on image-level labels.

        rounds: of "sc_cam", those of the preset if None; after 0 rounds its classifier is that of "cam".
        """
        if method == "sc_cam":
            return self.sub_category_classifier(seed, self.config.sc_cam.rounds if rounds is None else rounds)
        config, data = self.config.training_of(method), self._labelled("train")
        own = self.config.mixup_cam.objective if method == "mixup_cam" else {}

        def work(out: Path) -> None:
            model = self._classifier_net(method, seed)
            examples = self._classification_examples(model, config)
            self._train(model, examples, len(data), config, out, title, seed)

        title = f"{method} classifier, seed {seed}"
        return self._stage(
            "classifier", 1, {"method": method, "seed": seed, **own, **self._net_config(config)},
            [data.fingerprint()], work, title, {"method": method, "seed": seed}, trains=True,
        )  # fmt: skip

    def _classification_examples(self, model: nn.Module, config: Classifier) -> ClassificationExamples:
        transform = classification_transform(
            config.long_side, config.crop, model.backbone.mean, model.backbone.std, config.jitter
        )
        return ClassificationExamples(self._labelled("train"), transform)

    def response_maps(
        self, method: str, seed: int, split: str = "train", rounds: int | None = None
    ) -> Artifact:
        """Multi-scale class activation maps of the present classes (the image labels are known).

        rounds: as in `classifier`.
        """
        classifier = self.classifier(method, seed, rounds)
        data, config = self._labelled(split), self.config.maps

        def work(out: Path) -> None:
            model = self._trained_classifier(classifier)

            def maps(images: Tensor, ids: list[str]) -> list[ScoreMaps]:
                labels = torch.stack([torch.from_numpy(data.label(id)) for id in ids]).to(self.device)
                found = response_maps(model, images, labels, config.scales, config.flip, config.stride)
                return [ScoreMaps(*pair, tuple(images.shape[-2:]), config.stride) for pair in found]

            write_maps(data, out, title, self.config.maps.batch, self.device, maps)

        title = f"{name_of(classifier)} response maps, {split}, seed {seed}"
        return self._stage(
            "response_maps", 1, config.model_dump(exclude={"batch"}) | self._backbone_config(),
            [classifier.key, data.fingerprint()], work, title,
            {**classifier.labels, "stage": "CAM", "split": split},
        )  # fmt: skip

    # --- segmentation ------------------------------------------------------------------------------------

    def segmentation_net(self, masks: Artifact) -> Artifact:
        """Train the segmentation network on pseudo labels of the training photos."""
        config, seed = self.config.segmentation, masks.labels["seed"]
        title = title_of(masks, f"segmentation net on {masks.labels['stage']}")

        def work(out: Path) -> None:
            model = self._segmentation_net(seed)
            transform = segmentation_transform(
                config.scale, config.crop, model.backbone.mean, model.backbone.std
            )
            examples = SegmentationExamples(self.data.train, self.data.train.ids, masks.path, transform)
            self._train(model, examples, len(self.data.train), config, out, title, seed)

        return self._stage(
            "segmentation_net", 1, {"seed": seed, **self._net_config(config)}, [masks.key], work, title,
            masks.labels, trains=True,
        )  # fmt: skip

    def segment(self, masks: Artifact, split: str = "val") -> Artifact:
        """Class probabilities of the segmentation network trained on `masks`; no image labels are used."""
        net, data, config = self.segmentation_net(masks), self.data.dataset(split), self.config
        title = f"{name_of(masks)} segmentation, {split}, seed {masks.labels['seed']}"

        def work(out: Path) -> None:
            model = load_trained(self._segmentation_net(masks.labels["seed"]), net.path).to(self.device)

            def probabilities(images: Tensor, ids: list[str]) -> list[ScoreMaps]:
                found = class_probabilities(
                    model,
                    images,
                    config.segmentation.test_scales,
                    config.segmentation.test_flip,
                    config.maps.stride,
                )
                classes, size = torch.arange(found.shape[1]).numpy(), tuple(images.shape[-2:])
                return [ScoreMaps(classes, maps.cpu().numpy(), size, config.maps.stride) for maps in found]

            write_maps(data, out, title, self.config.maps.batch, self.device, probabilities)

        return self._stage(
            "segment", 1,
            {
                "scales": config.segmentation.test_scales,
                "flip": config.segmentation.test_flip,
                "stride": config.maps.stride,
            },
            [net.key, data.fingerprint()], work, title,
            {**masks.labels, "stage": "segmentation", "split": split, "learned from": masks.labels["stage"]},
        )  # fmt: skip

    # --- shared ------------------------------------------------------------------------------------------

    def _stage(self, stage, version, config, inputs, work, title, labels, trains=False) -> Artifact:
        config = {"dataset": self.dataset, **config}
        return self.cache.run(stage, version, config, inputs, work, title=title, labels=labels, trains=trains)

    def _backbone_config(self, section: Section | None = None) -> dict[str, Any]:
        backbone = self.config.backbone_of(section)
        config = backbone.model_dump()
        if backbone.weights not in (IMAGENET, RANDOM):  # another file under the same name is other work
            config["sha256"] = weights_digest(backbone.name, under_root(backbone.weights))
        return {"backbone": config}

    def _net_config(self, section: Section) -> dict[str, Any]:
        config = section.model_dump(exclude_defaults=True)  # fields that came later: see Section
        return config | self._backbone_config(section) | {"precision": self.config.precision}

    def _classifier_net(self, method: str, seed: int) -> nn.Module:
        if method not in METHODS:
            raise ValueError(f"Method {method!r} is unknown; choose one of {sorted(METHODS)}.")
        classes = len(self.data.classes) - 1
        config = self.config
        return self._seeded(seed, lambda: METHODS[method](self._backbone(config.classifier), classes, config))

    def _trained_classifier(self, classifier: Artifact) -> nn.Module:
        net = self._classifier_net(classifier.labels["method"], classifier.labels["seed"])
        return load_trained(net, classifier.path).to(self.device)

    def _segmentation_net(self, seed: int) -> nn.Module:
        config, classes = self.config.segmentation, len(self.data.classes)
        head = {} if config.channels is None else {"channels": config.channels}
        build = SEGMENTATION_NETWORKS[config.network]
        return self._seeded(seed, lambda: build(self._backbone(config), classes, **head))

    def _backbone(self, section: Section) -> Backbone:
        config = self.config.backbone_of(section)
        weights = config.weights if config.weights in (IMAGENET, RANDOM) else under_root(config.weights)
        stride = getattr(section, "output_stride", config.output_stride)
        return build_backbone(config.name, stride, weights, config.frozen_taps)

    @staticmethod
    def _seeded(seed: int, build):
        """New layers drawn from the seed, whatever was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix_seeds(seed))
            return build()

    def _train(self, model, example, size, schedule, out, title, seed) -> None:
        train(
            model, SeededExamples(size, example, seed), schedule, out,
            workers=self.config.workers, precision=self.config.precision, title=title,
        )  # fmt: skip


def under_root(path: str | Path) -> Path:
    """Relative paths start at the repository, wherever a notebook runs."""
    return REPOSITORY / path
