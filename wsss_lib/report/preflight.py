"""Before the first step on data of your own: what `data.check` finds, at the demands of a preset."""

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from wsss_lib.config import Config
from wsss_lib.crf import CRF_PARAMETERS, widest_side
from wsss_lib.data.check import Finding, check, table_of
from wsss_lib.data.layout import LISTS, read_lists
from wsss_lib.data.photos import photo_files, read_image_size
from wsss_lib.data.voc import find_root
from wsss_lib.methods import load_config
from wsss_lib.runtime.files import under_root

# What the steps cost with EfficientNet-Lite0 on two cores of an Intel Xeon, in seconds a million pixels: from
# results/voc2012-subset/standard/tables/01_times.csv, an iteration of the CRF from results/benchmarks.md.
MEASURED = "tf_efficientnet_lite0"
TRAINING, INFERENCE, WALK = 3.0, 0.8, 1.1
CRF, CRF_ITERATION = 1.9, 0.15  # on one process
BYTES_IN_A_PASS = 250  # of activations, a pixel
BYTES_ON_DISK = 5  # a pixel; maps and marginals of 40 VOC photos at standard took 4.4, the rest is a guess
BYTES_OF_NETWORKS = 10**8


def preflight(
    root: str | Path,
    labels: str | Path | None = None,
    classes: Sequence[str] | str | None = None,
    preset: str | Path = "quick",
    overrides: Mapping[str, Any] | None = None,
    cache: str | Path = "cache",
) -> pd.DataFrame:
    """`data.check.check` of a data set at the demands of a preset, and the time and room that it needs.

    Args:
        root, labels, classes: as of `check`; preset, overrides, cache: as of `Study`.

    Returns:
        As of `check`.

    Raises:
        ValueError, FileNotFoundError: bad preset or override.
    """
    config = load_config(preset, overrides)
    found = check(
        root,
        labels,
        classes,
        widest=widest(config),
        processes=config.processes,
        bytes_a_pixel=bytes_a_pixel(config),
    )
    try:
        further = list(_needs(find_root(Path(root)), config, preset, under_root(cache)))
    except (ValueError, OSError):  # found by check
        further = []
    return table_of([*found.itertuples(index=False, name=None), *further])


def lines(findings: pd.DataFrame) -> Iterator[str]:
    """A table of findings for a terminal, each sentence in as many lines as it takes."""
    width = max(60, shutil.get_terminal_size((110, 24)).columns)
    for severity, subject, sentence in findings.itertuples(index=False):
        first = f"{severity:<8} {subject:<12} "
        yield textwrap.fill(
            sentence, width, initial_indent=first, subsequent_indent=" " * len(first),
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip


def widest(config: Config) -> int:
    """Longest side in pixels of a photo that every CRF of a preset takes, those of its methods included."""
    sections = config.model_dump()
    named = [
        (section[name], section.get(f"{name}_scale", config.crf_scale))
        for section in (sections, *(value for value in sections.values() if isinstance(value, dict)))
        for name in section
        if name.endswith("crf") and section[name]
    ]
    return int(min(widest_side(crf, scale) for crf, scale in named))


def bytes_a_pixel(config: Config) -> int:
    """Memory of the largest pass over a photo, a pixel of the photo: the resized photo as bytes and, with its
    flip, as numbers; and the activations, at least those of the backbone that was measured.
    """
    tests = (
        (config.maps.scales, config.maps.flip),
        (config.segmentation.test_scales, config.segmentation.test_flip),
    )
    return max(int(max(scales) ** 2 * (BYTES_IN_A_PASS + 15 + 12 * (1 + flip))) for scales, flip in tests)


def seconds(config: Config, learned: int, pixels: int) -> float:
    """Of all steps from photos to pseudo labels for one seed of the plain CAM with AffinityNet's walk.

    learned: photos to learn from; pixels: of all photos.
    """
    trained = learned * sum(part.epochs * part.crop**2 for part in (config.classifier, config.affinity))
    passes = sum(scale**2 for scale in config.maps.scales) * (1 + config.maps.flip)
    crfs = (config.affinity.crf, config.affinity.crf, config.refine_crf)
    refined = sum(CRF + CRF_ITERATION * CRF_PARAMETERS[crf].iterations for crf in crfs)
    per_pixel = INFERENCE * passes + WALK + refined / min(config.processes, 2)
    return (TRAINING * trained + per_pixel * pixels) / 1e6


def _needs(root: Path, config: Config, preset: str | Path, cache: Path) -> Iterator[Finding]:
    lists = {split: ids[: config.limit] for split, ids in read_lists(root).items()}
    learned = next(len(ids) for split, ids in lists.items() if LISTS[split] == "learned")
    listed = {id for ids in lists.values() for id in ids}
    sizes = [read_image_size(path) for path in photo_files(root / "JPEGImages") if path.stem in listed]
    pixels = sum(height * width for height, width in sizes)
    room = int(BYTES_ON_DISK * pixels) + BYTES_OF_NETWORKS
    name, takes = config.backbone.name, _duration(seconds(config, learned, pixels))
    where = "without a GPU" if name == MEASURED else f"with {MEASURED}, and far more with its {name}"
    yield (
        "note",
        "needs",
        f"From these photos to masks, one seed of the plain CAM at preset {preset} takes about {takes} on "
        f"two cores {where}, and {room / 1e9:.1f} GB of {cache}; each further seed and method takes about as "
        "much again.",
    )
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
    if (free := shutil.disk_usage(there).free) < room:
        yield (
            "error",
            "needs",
            f"{there} has room for {free / 1e9:.1f} GB, but preset {preset} writes about {room / 1e9:.1f} "
            "there; make room or choose another cache.",
        )


def _duration(seconds: float) -> str:
    if seconds < 90 * 60:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"
