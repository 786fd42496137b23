"""What a step of PSS costs: MainNet at three sizes and SupportNet, with the settings of preset quick.

The baseline is the same network and batch with the classification loss alone, as in every table of the paper.
"""

from collections.abc import Callable

import torch

from benchmarks.measuring import Row, compare, peaks, ratio, seconds_of
from wsss_lib.data.scenes.composition import CLASSES
from wsss_lib.methods import load_config
from wsss_lib.methods.pss import PSS, RECIPE
from wsss_lib.models.backbones import build_backbone
from wsss_lib.models.trainable import Clock
from wsss_lib.training import build_optimiser

STEPS = 3
ROUNDS = 5
VARIANTS = {
    "L_cls": {"pss.lambda_rcm": 0, "pss.lambda_mam": 0},
    "RCM": {"pss.lambda_mam": 0},
    "RCM + MAM": {},
}
QUICK = load_config("quick")


def prepare(variant: str) -> Callable[[], None]:
    """STEPS steps at the end of the training, where all that a variant has is on."""
    config = RECIPE.trained_by(load_config("quick", VARIANTS[variant]).pss)
    torch.manual_seed(0)
    backbone = build_backbone(QUICK.backbone.name, frozen_taps=QUICK.backbone.frozen_taps)
    model = PSS(backbone, len(CLASSES), config).eval()
    learns = model.trained_in("train").train()
    optimiser = build_optimiser(learns, config.optimiser)
    batch = {
        "image": torch.randn(config.batch, 3, config.crop, config.crop),
        "label": torch.randint(2, (config.batch, len(CLASSES))).float(),
    }
    per_epoch, last = QUICK.scenes.train // config.batch, config.epochs - 1
    clock = Clock(last * per_epoch, last, config.epochs, per_epoch)

    def steps() -> None:
        for _ in range(STEPS):
            model.training_step(batch, clock, "train")["loss"].backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            model.after_step(clock)

    steps()  # loads what torch loads late
    return steps


def rows(rounds: int = ROUNDS) -> list[Row]:
    runs = compare(prepare, [(variant,) for variant in VARIANTS], rounds)
    table = []
    for place, variant in list(enumerate(VARIANTS))[1:]:
        seconds = seconds_of(runs, 0, place, 1 / STEPS)
        cost, low, high = ratio(seconds[:, ::-1])
        table.append(
            Row(
                "training step of PSS",
                "L_cls alone",
                variant,
                f"step of {QUICK.pss.batch} crops of {QUICK.pss.crop}",
                seconds,
                peaks(runs, 0, place),
                f"costs {cost:.1f} [{low:.1f}, {high:.1f}] steps of L_cls",
            )
        )
    return table
