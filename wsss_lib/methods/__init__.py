"""The registry of methods, a line each; `register` and entry points add those of others."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from wsss_lib import config
from wsss_lib.methods import acr, auxsegnet, cam, mctformer, mixup_cam, pss, sc_cam
from wsss_lib.methods.base import Recipe

RECIPES: dict[str, Recipe] = {}
"""By name, in the order of tables and figures."""


def register(recipe: Recipe) -> None:
    """Make a method known to studies that are opened from now on.

    A package of yours does the same for every process, notebooks run by `make reproduce` included, with a
    line below `[project.entry-points."wsss_lib.methods"]` in its pyproject.toml: `mine = "my_module:RECIPE"`.

    Raises:
        ValueError: another recipe has its name.
    """
    if RECIPES.get(recipe.name, recipe) != recipe:
        raise ValueError(f"There is a method {recipe.name!r} already; give yours another name.")
    if recipe.name in config.Config.model_fields:
        raise ValueError(f"{recipe.name!r} is a section of every preset; give the method another name.")
    RECIPES[recipe.name] = recipe


def load_config(preset: str | Path, overrides: Mapping[str, Any] | None = None) -> config.Config:
    """`config.load_config` with the section of every registered method."""
    sections = {name: recipe.section or recipe.config for name, recipe in RECIPES.items()}
    return config.load_config(preset, overrides, sections)


for known in (
    cam.RECIPE,
    mixup_cam.RECIPE,
    sc_cam.RECIPE,
    pss.RECIPE,
    auxsegnet.RECIPE,
    acr.RECIPE,
    mctformer.RECIPE,
    acr.VIT,
):
    register(known)
for entry in entry_points(group="wsss_lib.methods"):
    register(entry.load())
