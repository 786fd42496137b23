"""The contract of a method: a `Recipe` in one file, which `methods.register` or the tuple in `methods` names.

A recipe says what a method is configured by, which network it builds, from which examples it learns and how
its maps are scaled. What every method shares is here too: training its classifier, and its response maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from wsss_lib.artifacts import Artifact, Setting
from wsss_lib.config import CAMClassifier, Section
from wsss_lib.data.examples import ClassificationExamples
from wsss_lib.data.transforms import classification_transform
from wsss_lib.inference import MAXIMUM, MapRule, passes, reading, response_maps, write_maps
from wsss_lib.models.backbones import Backbone
from wsss_lib.models.trainable import Trainable
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.training import load_trained

if TYPE_CHECKING:
    from wsss_lib.study.study import Study

BASELINE = "cam"
"""The method that every other is compared with, and that rounds and later stages may start from."""
Examples = Callable[[int], dict[str, Tensor]]
Backbones = Callable[..., Backbone]
"""backbones() is a new copy of the classifiers' backbone, backbones(config) another `BackboneConfig`'s."""


class Method(Trainable):
    """A network that learns from image labels and gives a map a class; `kept()` has `class_maps` too."""

    def class_maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, C, ceil(H / stride), ceil(W / stride)), any sign."""
        raise NotImplementedError(f"{type(self).__name__} has no class_maps.")


def classification_examples(study: Study, config: CAMClassifier, model: Method) -> Examples:
    """Augmented training photos with their image labels."""
    transform = classification_transform(config.long_side, config.crop, model.mean, model.std, config.jitter)
    return ClassificationExamples(study.labelled("train"), transform)


def run_once(study: Study, recipe: Recipe, seed: int, rounds: int | None) -> Artifact:
    """Training of a method without rounds."""
    if rounds is not None:
        raise ValueError(f"{recipe.paper_name} has no rounds; leave the argument rounds out.")
    return train_classifier(study, recipe, recipe.trained_by(study.section(recipe.name)), seed)


@dataclass(frozen=True)
class Recipe:
    """All that the library has to know of a method.

    Args:
        name: of its section in a preset, and in tables of ours.
        paper_name: what the papers' tables call it.
        config: what its training depends on. It is dumped whole into the key of the cache and handed to
            `build` and `examples`: they cannot differ.
        build: (config, backbones, number of foreground classes) -> network.
        supervision: "I", image labels alone, or "I+S", with saliency maps; stands beside every number.
        section: `config` with what its notebook sweeps, as a preset has it; None: the same as `config`.
        examples: what it learns from, given its network; drawn anew each epoch.
        run: (study, recipe, seed, rounds) -> the trained classifier; once, unless it has rounds.
        maps: how its maps are scaled to [0, 1].
        gives: "masks" if it predicts these too.
        parts: what the paper's tables call it with parts of it switched off.
    """

    name: str
    paper_name: str
    config: type[Section]
    build: Callable[[Section, Backbones, int], Method]
    supervision: Literal["I", "I+S"] = "I"
    section: type[Section] | None = None
    examples: Callable[[Study, Section, Method], Examples] = classification_examples
    run: Callable[[Study, Recipe, int, int | None], Artifact] = run_once
    maps: MapRule = MAXIMUM
    gives: Literal["maps", "masks"] = "maps"
    parts: tuple[str, ...] = ()

    def trained_by(self, section: Section) -> Section:
        """The part of a preset's section that the training depends on."""
        return self.config.model_validate(section.model_dump(include=set(self.config.model_fields)))


def train_classifier(
    study: Study,
    recipe: Recipe,
    config: Section,
    seed: int,
    *,
    rounds: int | None = None,
    inputs: tuple[str, ...] = (),
    start: Callable[[Method, Path], None] | None = None,
    examples: Callable[[Study, Section, Method], Examples] | None = None,
    data_seed: int | None = None,
) -> Artifact:
    """Train a method's network on the image labels of the training photos.

    Args:
        start: what to do to the new network, given the folder that the training leaves its files in.
        rounds, inputs, examples, data_seed: of methods with rounds: the number of this one, keys of what it
            is made from, examples in place of the recipe's, and the seed of their order and augmentation.
    """
    data, origin = study.labelled("train"), study.origin(recipe, seed, rounds)
    title = f"{recipe.name} classifier" + (f", round {rounds}" if rounds else "") + f", seed {seed}"

    def work(out: Path) -> None:
        model = build(study, recipe, config, seed)
        if start:
            start(model, out)
        found = (examples or recipe.examples)(study, config, model)
        study.train(model, found, len(data), config, out, title, seed if data_seed is None else data_seed)

    own = {"seed": seed, "rounds": rounds, "config": config.model_dump(exclude_defaults=True)}
    return study.stage(
        "classifier", 2, {"method": recipe.name, **own, **study.network_config(config)},
        [*inputs, data.fingerprint()], work, title, "network", origin, trains=True,
    )  # fmt: skip


def build(study: Study, recipe: Recipe, config: Section, seed: int) -> Method:
    """A method's network, its new layers drawn from the seed."""
    classes = len(study.data.classes) - 1
    return study.seeded(seed, lambda: recipe.build(config, study.backbone, classes))


def trained_classifier(study: Study, classifier: Artifact) -> Method:
    """The trained network, on the study's device; its configuration is that of the artifact."""
    recipe = study.recipe(classifier.origin.method)
    config = recipe.config.model_validate(classifier.provenance()["config"]["config"])
    return load_trained(build(study, recipe, config, classifier.origin.seed), classifier.path).to(
        study.device
    )


CLASS_MAPS = "class_maps"


def class_response_maps(
    study: Study, classifier: Artifact, split: str, maps_of: str | None = None
) -> Artifact:
    """Multi-scale response maps of the present classes (the image labels are known).

    maps_of: the method of the network that gives them, of networks with several kinds of maps, whose section
        names the kind to take for None.
    """
    data, config = study.labelled(split), study.config.maps
    rule = study.recipe(classifier.origin.method).maps
    taken = maps_of or getattr(study.section(classifier.origin.method), "maps_of", CLASS_MAPS)
    kind = {} if taken == CLASS_MAPS else {"maps_of": taken}
    stage = f"CAM ({maps_of.replace('_', ' ')})" if maps_of else "CAM"
    origin = classifier.origin.but(split=split, stage=stage, inference=passes(config.scales, config.flip))
    title = origin.title(" ".join(["response maps", *kind.values()]))

    def work(out: Path) -> None:
        trained = trained_classifier(study, classifier)
        model = reading(trained, getattr(trained, taken))

        def maps(images: Tensor, ids: list[str]) -> list[ScoreMaps]:
            labels = torch.stack([torch.from_numpy(data.label(id)) for id in ids]).to(study.device)
            return response_maps(model, images, labels, config.scales, config.flip, config.stride, rule)

        write_maps(data, out, title, config.batch, study.device, maps)

    scores = study.config.scores
    return study.stage(
        "response_maps", 2, config.model_dump(exclude={"batch"}) | {"rule": rule.name} | kind,
        [classifier.key, data.fingerprint()], work, title, "score maps", origin,
        Setting.at("threshold", tuple(scores.thresholds()), scores.fixed_threshold),
        on=partial(class_response_maps, study, classifier, maps_of=maps_of),
    )  # fmt: skip
