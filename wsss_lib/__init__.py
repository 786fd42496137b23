"""Weakly-supervised semantic segmentation that reproduces: from image-level labels to masks.

The names of `__all__` are loaded when they are first used, so that `import wsss_lib` is quick.
"""

from pkgutil import resolve_name
from typing import Any

_ROOMS = {
    "Study": "wsss_lib.study.study:Study",
    "from_folder": "wsss_lib.data.folder:from_folder",
    "load_config": "wsss_lib.methods:load_config",
    "register": "wsss_lib.methods:register",
    "Recipe": "wsss_lib.methods.base:Recipe",
    "Method": "wsss_lib.methods.base:Method",
    "ScoreMaps": "wsss_lib.score_maps:ScoreMaps",
    "dense_crf": "wsss_lib.crf:dense_crf",
    "walk": "wsss_lib.random_walk:random_walk",  # its own name is that of the module
    "mean_iou": "wsss_lib.metrics:mean_iou",
}
__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"wsss_lib has no {name!r}; it has: {', '.join(__all__)}, and its modules.")
    return resolve_name(_ROOMS[name])


def __dir__() -> list[str]:
    return [*globals(), *__all__]
