"""What stages hand on: a finished folder that knows what it is, how it was reached, what may be set on it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from wsss_lib.runtime.cache import Folder

Kind = Literal[
    "network",
    "score maps",
    "marginals",
    "probabilities",
    "boundaries",
    "masks",
    "saliency",
    "features",
    "clusters",
    "scores",
]


@dataclass(frozen=True)
class Setting:
    """The one knob between score maps and masks, and the value that the preset fixes.

    name: "threshold" (a constant background) or "alpha" (of a walked background); values: ascending;
    fixed: index of the preset's.
    """

    name: Literal["threshold", "alpha"]
    values: tuple[float, ...]
    fixed: int

    @staticmethod
    def at(name: Literal["threshold", "alpha"], values: tuple[float, ...], fixed: float) -> "Setting":
        """With the fixed value itself in place of its index."""
        return Setting(name, tuple(values), tuple(values).index(fixed))

    def text(self, index: int) -> str:
        """ "threshold 0.45"."""
        return f"{self.name} {self.values[index]:g}"


@dataclass(frozen=True)
class Origin:
    """How an artifact was reached: the columns that stand beside every number.

    method, seed and rounds (of methods that have them) say whose it is; split, whose photos; stage, how far
    it is refined, "CAM+RW+CRF"; learned_from, what its network learned from; supervision, "I" for image
    labels, "I+S" with saliency; weights, the networks behind it and what they started from; inference, their
    passes.
    """

    method: str
    seed: int
    rounds: int | None = None
    split: str = "train"
    stage: str = ""
    learned_from: str = "image labels"
    supervision: Literal["I", "I+S"] = "I"
    weights: tuple[str, ...] = ()
    inference: str = ""

    @property
    def name(self) -> str:
        """The method, with its rounds if it has them."""
        return self.method + ("" if self.rounds is None else f" round {self.rounds}")

    @property
    def system(self) -> str:
        """Method, stage and, of a network's answer, what it learned from."""
        learned = "" if self.learned_from == "image labels" else f" on {self.learned_from}"
        return f"{self.name}: {self.stage}{learned}"

    def title(self, what: str) -> str:
        """What a stage is called in progress lines and tables of times."""
        return f"{self.name} {what}, {self.split}, seed {self.seed}"

    def but(self, **changes: Any) -> "Origin":
        """The same with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Artifact(Folder):
    """A finished stage.

    title: what to call it; setting: None where nothing is left to set; on: the same of another split's
    photos, computed if need be.
    """

    title: str
    kind: Kind
    origin: Origin
    setting: Setting | None = None
    on: Callable[[str], "Artifact"] | None = field(default=None, compare=False, repr=False)


def swept(artifact: Artifact) -> np.ndarray:
    """The values of the knob, (T,); one 0 where there is none."""
    return np.array(artifact.setting.values if artifact.setting else [0.0])
