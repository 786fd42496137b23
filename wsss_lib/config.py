"""Every hyper-parameter of a run, checked: a preset is a YAML file that fills these models.

Unknown keys and values out of range are rejected with their place, so nothing is hidden in code and a
typing error never runs silently on a default.
"""

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    create_model,
    model_validator,
)

from wsss_lib.crf import CRF_PARAMETERS
from wsss_lib.runtime.errors import brief

PRESETS = Path(__file__).parent / "presets"

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the range {pair} must ascend")
    return pair


def _known_crf(name: str) -> str:
    if name not in CRF_PARAMETERS:
        raise ValueError(f"{name!r} is no CRF parameter set; choose one of {list(CRF_PARAMETERS)}")
    return name


def whole_numbers(given: Any, name: str) -> tuple[int, ...]:
    """One number or several, as people write them: 0, [0, 1], range(3), a numpy array, a pandas index.

    name: of the parameter, for the error.

    Raises:
        ValueError: it holds anything but whole numbers from 0 on, none, or one twice.
    """
    found = np.atleast_1d(np.asarray(given))
    whole = found.ndim == 1 and found.dtype.kind in "iu" and len(found) and found.min() >= 0
    if not whole or len(np.unique(found)) < len(found):
        raise ValueError(f"{name} is {given!r}; give different whole numbers from 0 on, such as 0 or [0, 1].")
    return tuple(found.tolist())


def names(given: Any) -> list[str]:
    """One name or several, as people write them: "cat", ["cat", "dog"], a numpy array, a pandas index."""
    return [given] if isinstance(given, str) else [str(name) for name in given]


def plain(value: Any) -> Any:
    """Mappings, lists, numbers and texts, as JSON has them, in place of numpy's, pandas' and paths."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value


Range = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
CRFName = Annotated[str, AfterValidator(_known_crf)]  # a parameter set of crf.py
Scales = Annotated[tuple[Positive, ...], Field(min_length=1)]  # of a photo's size


class Section(BaseModel):
    """Fields have no defaults, so that a preset shows every value.

    Exceptions are fields that came later: their default is what was done before, and a stage whose fields
    are at their defaults keeps the key it had in the cache.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Scenes(Section):
    """Size of the embedded dataset."""

    image_size: tuple[PositiveInt, PositiveInt]  # height, width in pixels
    train: PositiveInt
    val: PositiveInt
    seed: int = 0
    tune: Annotated[int, Field(ge=0)] = 0  # pictures to choose settings on, neither trained on nor scored

    @property
    def sizes(self) -> dict[str, int]:
        """Pictures of each split that is drawn."""
        sizes = {"train": self.train, "val": self.val, "tune": self.tune}
        return {split: size for split, size in sizes.items() if size}


class BackboneConfig(Section):
    """The network below a head, as `models.backbones.build_backbone` takes it."""

    name: str
    weights: str  # "imagenet", "random" or a file
    output_stride: Literal[8, 16, 32]
    frozen_taps: Annotated[int, Field(ge=0)]  # layers up to this tap are not trained


class OwnBackbone(BackboneConfig):
    """Of a network that does not use the classifier's."""

    trained_on: Annotated[str, Field(min_length=1)]  # data behind the weights; stands beside the scores


class Optimiser(Section):
    """One optimiser with the learning-rate groups of the psa family.

    `momentum: weight_decay_slip` is what the public code ran: its PolyOptimizer hands the weight decay
    to SGD's momentum slot, so the published numbers come from nearly momentum-free SGD.
    """

    name: Literal["sgd", "adam", "adamw"]  # adam adds the weight decay to the gradient, adamw to the step
    lr: Positive
    momentum: Fraction | Literal["weight_decay_slip"]  # SGD's momentum, Adam's beta_1
    weight_decay: NonNegative
    new_layers_lr: Positive  # learning rate of layers without pretrained weights, as a multiple of lr
    bias_lr: Positive  # of biases, as a multiple of their layer's; they get no weight decay
    power: Positive  # of the poly schedule lr * (1 - step / steps) ** power
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the steps, over which lr rises


class Schedule(Section):
    """A training: its length, batches, crops and optimiser."""

    epochs: PositiveInt
    batch: PositiveInt
    crop: PositiveInt  # side of the square training crop in pixels
    optimiser: Optimiser

    def optimiser_of(self, phase: str) -> Optimiser:
        """Of a phase of the training; a method whose phases have several says so in its own section."""
        return self.optimiser


class Classifier(Schedule):
    """Training of a classifier, and how its photos are varied."""

    long_side: Annotated[
        tuple[PositiveInt, PositiveInt], AfterValidator(_ascending)
    ]  # the photo's long side is drawn from this range
    jitter: bool


class CAMClassifier(Classifier):
    """The classifier that class activation maps are read from."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of whole channels, before the pooling
    xavier: bool = False  # initial weights of the last layer; torch's if off
    head_channels: PositiveInt | None = None  # of a 3x3 convolution before the pooling; None: no such layer

    @property
    def head(self) -> dict[str, Any]:
        """What is said of the layers behind the backbone."""
        return self.model_dump(include={"dropout", "xavier", "head_channels"})


class Affinity(Schedule):
    """AffinityNet: labels from two CRF runs, then a pairwise affinity."""

    alpha_low: Positive  # strong background: its CRF foreground is trusted
    alpha_high: Positive  # weak background: its CRF background is trusted
    calibrated: bool = False  # the two suit maps cut best at scores.fixed_threshold, and follow others'
    crf: CRFName
    radius: PositiveInt
    output_stride: Literal[8, 16]  # of the backbone; its taps are brought to the stride-8 grid
    channels: tuple[PositiveInt, PositiveInt, PositiveInt]
    jitter: bool

    @model_validator(mode="after")
    def low_is_below_high(self) -> "Affinity":
        if self.alpha_low > self.alpha_high:
            raise ValueError(f"alpha_low {self.alpha_low} must not exceed alpha_high {self.alpha_high}")
        return self


class IRNWalk(Section):
    """Scores CAM * (1 - boundary) walked along affinity^beta, against a constant background."""

    radius: PositiveInt  # in cells of stride 4; the training has its own
    beta: Positive
    steps: PositiveInt
    normalise: Literal["photo", "class"]  # whose maximum is 1: all classes of the photo together, or each
    threshold: Fraction  # the background's score, one of scores.sweep


class IRN(Schedule):
    """IRN: labels from two constant backgrounds and a CRF, then boundaries and displacements."""

    foreground_threshold: Fraction  # strong background: foreground that beats it (after the CRF) is trusted
    background_threshold: Fraction  # weak background: background that beats the maps even so is trusted
    calibrated: bool = False  # as of `Affinity`
    crf: CRFName
    scale: Range
    radius: PositiveInt
    output_stride: Literal[8, 16]
    dilated: bool  # keep the backbone's dilation; true for ResNet-38, whose weights were trained with it
    boundary_width: Annotated[int, Field(gt=0, multiple_of=4)]  # group norm has 4 groups,
    displacement_width: Annotated[int, Field(gt=0, multiple_of=32)]  # and 8 to 16 here
    psa_compat: bool  # only the pairs of the public code, as in `walk`
    walk: IRNWalk
    backbone: OwnBackbone | None = None  # None: the classifier's

    @model_validator(mode="after")
    def background_is_below_foreground(self) -> "IRN":
        if self.background_threshold > self.foreground_threshold:
            raise ValueError(
                f"background_threshold {self.background_threshold} must not exceed foreground_threshold "
                f"{self.foreground_threshold}"
            )
        if self.calibrated and not 0 < self.background_threshold <= self.foreground_threshold < 1:
            raise ValueError(
                f"with calibrated, background_threshold {self.background_threshold} and foreground_threshold "
                f"{self.foreground_threshold} must lie between 0 and 1, or have calibrated: false"
            )
        return self


class Segmentation(Schedule):
    """The network that learns from pseudo labels, its training and its test."""

    scale: Range | Annotated[tuple[Positive, ...], Field(min_length=3)]  # any between two, or one of more
    channels: PositiveInt | None  # width of the head; None for deeplab_v2, which has none
    crf: CRFName  # at test time
    test_scales: Scales
    test_flip: bool
    network: Literal["light", "deeplab_v2", "largefov"] = "light"
    backbone: OwnBackbone | None = None  # None: the classifier's

    @model_validator(mode="after")
    def only_deeplab_v2_has_no_channels(self) -> "Segmentation":
        if (self.channels is None) != (self.network == "deeplab_v2"):
            raise ValueError(
                f"channels is {self.channels}: give the width of the head of light or largefov, and null for "
                f"deeplab_v2 (network is {self.network})"
            )
        return self


class ResponseMaps(Section):
    """Passes over a photo that make its score maps, and how these are kept."""

    scales: Scales
    flip: bool
    stride: Literal[1, 2, 4, 8]  # pixels per cell of the maps on disk
    batch: PositiveInt  # photos in one pass


class RandomWalk(Section):
    """Scores M T^steps with T from affinity^beta; background score (1 - max CAM)^alpha."""

    beta: Positive
    steps: PositiveInt
    alpha: Positive
    alpha_sweep: tuple[Positive, ...]
    psa_compat: bool

    @model_validator(mode="after")
    def alpha_is_swept(self) -> "RandomWalk":
        if self.alpha not in self.alpha_sweep:
            raise ValueError(f"alpha {self.alpha} must be one of alpha_sweep {self.alpha_sweep}")
        if list(self.alpha_sweep) != sorted(set(self.alpha_sweep)):
            raise ValueError(f"alpha_sweep {self.alpha_sweep} must ascend")
        return self


class Scores(Section):
    """Thresholds at which maps become masks to be scored: a fixed one, and a sweep that holds it."""

    fixed_threshold: Fraction
    sweep: tuple[Fraction, Fraction, Positive]  # first, last, step

    def thresholds(self) -> list[float]:
        """The values of the sweep, ascending, rounded to six decimals."""
        first, last, step = self.sweep
        return [round(first + i * step, 6) for i in range(round((last - first) / step) + 1)]

    @model_validator(mode="after")
    def fixed_threshold_is_swept(self) -> "Scores":
        if self.fixed_threshold not in self.thresholds():
            raise ValueError(f"fixed_threshold {self.fixed_threshold} must lie on the sweep {self.sweep}")
        return self


class Config(Section):
    """What all methods share; `load_config` adds a field for each method."""

    scenes: Scenes
    backbone: BackboneConfig
    classifier: CAMClassifier
    maps: ResponseMaps
    affinity: Affinity
    walk: RandomWalk
    irn: IRN
    refine_crf: CRFName  # after the walk
    crf_scale: Positive  # divides the pixel widths of every CRF kernel: 500 / the long side of the photos
    segmentation: Segmentation
    scores: Scores
    seeds: Annotated[tuple[int, ...], BeforeValidator(lambda given: whole_numbers(given, "seeds"))]
    limit: PositiveInt | None  # photos per list at most; None takes them all
    workers: Annotated[int, Field(ge=0)]  # loader processes in training
    processes: PositiveInt  # for per-image work
    left_out: tuple[str, ...] = ()  # methods that a comparison takes only where it names them
    precision: Literal["no", "bf16"]  # mixed precision in training

    def backbone_of(self, section: Section | None = None) -> BackboneConfig:
        """A section's own backbone if it has one, otherwise the classifier's."""
        return getattr(section, "backbone", None) or self.backbone

    @model_validator(mode="after")
    def irn_threshold_is_swept(self) -> "Config":
        if self.irn.walk.threshold not in self.scores.thresholds():
            raise ValueError(
                f"irn.walk.threshold {self.irn.walk.threshold} must lie on scores.sweep {self.scores.sweep}"
            )
        return self


def load_config(
    preset: str | Path,
    overrides: Mapping[str, Any] | None = None,
    methods: Mapping[str, type[Section]] | None = None,
) -> Config:
    """Read a preset by name (or a YAML file) and apply overrides.

    A preset may say `extends: quick` (a preset, or a .yaml file beside it) and then states only what differs.
    A method's section is optional. It, too, states only what differs from `classifier`, of the keys that both
    have; its `variant` names one of its `variants`, whose values come on top.

    Args:
        preset: "smoke", "quick", "standard", "paper" or a path ending in .yaml.
        overrides: dotted keys, e.g. {"classifier.epochs": 2}.
        methods: the sections of the methods, by name; None leaves them unread.

    Returns:
        A `Config` with an attribute for each of `methods`: its section, or None where the preset has none and
        `classifier` does not say all that the method wants to know.

    Raises:
        FileNotFoundError: unknown preset.
        ValueError: unknown key or value out of range, each named; overrides that are no mapping.
    """
    tree = read_preset(preset)
    if not isinstance(overrides, Mapping | None):
        raise ValueError(
            f'overrides is {overrides!r}; give keys and values, such as {{"classifier.epochs": 2}}.'
        )
    for key, value in plain(overrides or {}).items():
        tree = _overridden(tree, key, value, methods or {}, preset)
    names = tree.keys() - Config.model_fields.keys() if methods is None else methods.keys()
    try:
        shared = Config.model_validate({name: value for name, value in tree.items() if name not in names})
        found = {name: _method_section(tree, name, section) for name, section in (methods or {}).items()}
    except ValueError as error:
        reason = _problems(error) if isinstance(error, ValidationError) else error
        raise ValueError(f"Preset {preset} is not valid: {reason}.") from error
    values = {name: getattr(shared, name) for name in Config.model_fields}
    return _with_methods(tuple(found)).model_construct(**values, **found)


@cache
def _with_methods(names: tuple[str, ...]) -> type[Config]:
    fields = {name: (SerializeAsAny[Section | None], None) for name in names}
    return create_model("StudyConfig", __base__=Config, **fields)


def read_preset(preset: str | Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in a preset's file, merged over that of the one it extends; errors as of `load_config`."""
    path = Path(preset) if str(preset).endswith(".yaml") else PRESETS / f"{preset}.yaml"
    if not path.is_file():
        names = sorted(p.stem for p in PRESETS.glob("*.yaml"))
        raise FileNotFoundError(f"No preset {str(preset)!r}; choose one of {names} or give a .yaml file.")
    try:
        # libyaml's loader, seven times as fast: each varied study of a notebook reads its preset
        tree = dict(yaml.load(path.read_text(), yaml.CSafeLoader))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no YAML mapping of keys to values ({brief(error)}); correct it."
        ) from error
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if path in extended_by:
        raise ValueError(f"{path} extends itself, by way of {extended_by[-1]}; take one `extends` out.")
    beside = path.parent / str(base)
    found = read_preset(beside if str(base).endswith(".yaml") else base, (*extended_by, path))
    return merged(found, tree)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, mapping by mapping."""
    both = dict(base)
    for key, value in changes.items():
        inner = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
        both[key] = merged(both[key], value) if inner else value
    return both


def _method_section(tree: Mapping[str, Any], name: str, section: type[Section]) -> Section | None:
    """A method's section, completed by `classifier` and its variant; all its variants are checked."""
    own = tree.get(name)
    base = {key: value for key, value in tree["classifier"].items() if key in section.model_fields}
    if own is None:
        required = {key for key, field in section.model_fields.items() if field.is_required()}
        return _validated(section, base, name) if required <= base.keys() else None
    own = dict(own)
    variant, variants = own.pop("variant", None), own.pop("variants", {})
    if variant is not None and variant not in variants:
        raise ValueError(f"{name}.variant {variant!r} must be null or one of {list(variants)}")
    if "variant" in section.model_fields:
        own["variant"] = variant
    found = _validated(section, merged(merged(base, own), variants.get(variant, {})), name)
    for other, changes in variants.items():
        _validated(section, merged(merged(base, own), changes), name, "variants", other)
    return found


def _validated(section: type[Section], values: Mapping[str, Any], *place: str) -> Section:
    """A section of valid values; an error names the place of each in the preset."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ValueError(_problems(error, *place)) from error


def _problems(error: ValidationError, *place: str) -> str:
    return "; ".join(f"{'.'.join(map(str, (*place, *e['loc'])))}: {e['msg']}" for e in error.errors())


def _overridden(
    tree: Mapping[str, Any], key: str, value: Any, methods: Mapping[str, type[Section]], preset: str | Path
) -> dict[str, Any]:
    """The tree with a dotted key set, which it or a section of a method must know."""
    known = dict.fromkeys(dotted_keys(tree))
    for name, section in methods.items():
        variants = (tree.get(name) or {}).get("variants", {})
        for place in (name, *(f"{name}.variants.{variant}" for variant in variants)):
            known |= dict.fromkeys(f"{place}.{field}" for field in section.model_fields)
            known |= dict.fromkeys(f"{place}.optimiser.{field}" for field in Optimiser.model_fields)
    if key not in known:
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.4)
        raise ValueError(f"Override {key!r} is no key of preset {preset}; near: {near}.")
    for name in reversed(key.split(".")):
        value = {name: value}
    return merged(tree, value)


def dotted_keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """{"a": {"b": 1}} -> ["a", "a.b"]."""
    keys = []
    for key, value in tree.items():
        keys.append(prefix + key)
        if isinstance(value, Mapping):
            keys += dotted_keys(value, f"{prefix}{key}.")
    return keys
