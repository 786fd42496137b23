"""Artifacts written by hand, so that reports are tested without a training."""

from pathlib import Path

import numpy as np

from wsss_lib.artifacts import Artifact, Kind, Origin, Setting
from wsss_lib.data.masks import save_mask
from wsss_lib.score_maps import ScoreMaps


def masks(folder: Path, found: dict[str, np.ndarray], split: str = "train", **origin) -> Artifact:
    """Masks (H, W) of each photo."""
    folder.mkdir(parents=True)
    for id, mask in found.items():
        save_mask(mask, folder / f"{id}.png")
    about = {"method": "hand", "seed": 0, "split": split, "stage": "masks", **origin}
    return Artifact(folder, folder.name, f"masks {folder.name}", "masks", Origin(**about))


def maps(
    folder: Path,
    found: dict[str, ScoreMaps],
    split: str = "train",
    kind: Kind = "score maps",
    setting: Setting | None = None,
) -> Artifact:
    """Score maps of each photo."""
    folder.mkdir(parents=True)
    for id, one in found.items():
        one.save(folder / f"{id}.npz")
    about = Origin("hand", 0, split=split, stage="maps")
    return Artifact(folder, folder.name, f"maps {folder.name}", kind, about, setting)
