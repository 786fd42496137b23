"""Does the training loop wait for its photos? The classifier of preset quick, with and without loading.

The step alone trains on the same examples, already in memory. Loading alone reads, crops and jitters.
"""

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from benchmarks.measuring import Row, compare, peaks, seconds_of
from wsss_lib.config import load_config
from wsss_lib.data.examples import ClassificationExamples
from wsss_lib.data.scenes.dataset import generate_scenes
from wsss_lib.data.transforms import classification_transform
from wsss_lib.data.voc import VOCDataset
from wsss_lib.methods.cam import CAM
from wsss_lib.models.backbones import build_backbone
from wsss_lib.training import SeededExamples, train

PHOTOS = 96
ROUNDS = 3
QUICK = load_config("quick")


def prepare(what: str, workers: int, folder: Path) -> Callable[[], None]:
    """An epoch of `what`: "step" (examples in memory), "loading" or "loop" (both)."""
    config, data = QUICK.classifier, VOCDataset(folder, "train")
    backbone = build_backbone(QUICK.backbone.name, frozen_taps=QUICK.backbone.frozen_taps)
    transform = classification_transform(
        config.long_side, config.crop, backbone.mean, backbone.std, config.jitter
    )
    examples = SeededExamples(len(data), ClassificationExamples(data, transform), seed=0)
    if what == "loading":

        def load() -> None:
            for _ in DataLoader(examples, config.batch, num_workers=workers):
                pass

        return load
    if what == "step":
        examples = SeededExamples(len(data), list(examples).__getitem__, seed=0)
    torch.manual_seed(0)
    model = CAM(backbone, len(data.classes))
    outs = (folder / f"{what} {workers} {run}" for run in count())
    one_epoch = config.model_copy(update={"epochs": 1})

    def loop() -> None:
        out = next(outs)
        out.mkdir()
        train(model, examples, one_epoch, out, workers=workers, precision="no", title=f"{what}, {workers}")

    loop()  # loads what torch loads late
    return loop


def rows(rounds: int = ROUNDS) -> list[Row]:
    variants = [("step", 0), ("loop", 0), ("loop", 1), ("loading", 0), ("loading", 1)]
    with tempfile.TemporaryDirectory() as folder:
        generate_scenes(Path(folder), {"train": PHOTOS}, QUICK.scenes.image_size)
        runs = compare(prepare, [(*variant, Path(folder)) for variant in variants], rounds)
    table = []
    for workers in (0, 1):
        step, loading = seconds_of(runs, 0, 3 + workers, 1000 / PHOTOS).mean(0)
        slower = "the step" if step > loading else "loading"
        table.append(
            Row(
                "training, photos loaded",
                "photos in memory: the step alone",
                f"loaded by {workers or 'no'} other process{'es' * (not workers)}",
                "photo",
                seconds_of(runs, 0, 1 + workers, 1 / PHOTOS),
                peaks(runs, 0, 1 + workers),
                f"step alone {step:.0f} ms, loading alone {loading:.0f} ms: {slower} bounds; 1 never waits",
            )
        )
    return table
