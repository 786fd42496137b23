"""What `test_distributed` starts on two processes, and does itself on one; few imports, to start soon."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from wsss_lib.config import Optimiser, Schedule
from wsss_lib.models.trainable import Trainable
from wsss_lib.runtime.cache import Cache
from wsss_lib.runtime.launch import is_main
from wsss_lib.training import SeededExamples, train

SGD = Optimiser(
    name="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, new_layers_lr=1, bias_lr=2, power=0.9
)  # fmt: skip


class Classifier(Trainable):
    """Two convolutions, the second used at even steps only; NaN at one step, in the last process alone."""

    def __init__(self, nan_at: int = -1):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 1)
        self.nan_at = nan_at

    def training_step(self, batch, clock, phase):
        x = self.first(batch["image"]).relu()
        x = self.second(x) if clock.step % 2 == 0 else x
        poison = torch.nan if clock.step == self.nan_at and not is_main() else 1
        loss = F.cross_entropy(x.mean((2, 3)), batch["label"]) * poison
        return {"loss": loss, "half": loss.detach() / 2}


def train_tiny(out: Path, size: int = 27, nan_at: int = -1, kill_at: int = -1) -> list[int]:
    """Three epochs of three batches of eight -> the photos seen; the last process dies at one of them."""
    seen = []

    def example(index: int) -> dict[str, torch.Tensor]:
        if len(seen) == kill_at and not is_main():
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(index)
        return {"image": torch.randn(3, 8, 8) + index % 5, "label": torch.tensor(index % 5)}

    out.mkdir(parents=True, exist_ok=True)
    plan = Schedule(epochs=3, batch=8, crop=8, optimiser=SGD)
    examples = SeededExamples(size, example, seed=5)
    train(Classifier(nan_at), examples, plan, out, workers=0, precision="no", title="tiny")
    return seen


def train_toy(out: Path) -> None:
    """A method of two phases, each with its optimiser, for two epochs of two batches."""
    from tiny_backbone import tiny_backbone
    from toy_method import Toy, ToyTraining

    def example(index: int) -> dict[str, torch.Tensor]:
        return {"image": torch.randn(3, 32, 32), "label": F.one_hot(torch.tensor(index % 3), 3).float()}

    out.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Toy(tiny_backbone((2, 4)), 3, 0.5)
    plan = ToyTraining(
        epochs=2, batch=4, crop=32, optimiser=SGD, long_side=(32, 32), jitter=False
    )  # fmt: skip
    train(model, SeededExamples(8, example, seed=5), plan, out, workers=0, precision="no", title="toy")


def stages(root: Path) -> list[str]:
    """A stage for the main process, one for all, and both again from the cache -> what this process did."""
    done, cache = [], Cache(root)

    def draw(out: Path) -> None:
        done.append("drawn")
        time.sleep(0.5)
        (out / "photo").write_text("drawn")

    def learn(out: Path) -> None:
        done.append("trained on " + photos.file("photo").read_text())
        train_tiny(out)

    for _ in range(2):
        photos = cache.run("photos", 1, {}, [], draw, title="photos", labels={})
        net = cache.run("net", 1, {}, [photos.key], learn, title="net", labels={}, trains=True)
        done.append(f"{len(net.file('model.safetensors').read_bytes())} bytes")
    return done


def message_of(call, *args, **kwargs) -> str:
    try:
        call(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(out: Path, dies: bool) -> None:
    """Die in the second epoch; started again, record all that is asked in <rank>.json."""
    written: list[str] = []
    sys.addaudithook(lambda event, args: written.append(str(args[1])) if event == "os.rename" else None)
    record = {
        "killed": train_tiny(out / "killed", kill_at=17 if dies else -1),
        "whole": train_tiny(out / "whole"),
        "toy": train_toy(out / "toy"),
        "nan": message_of(train_tiny, out / "nan", nan_at=4),
        "uneven": message_of(train_tiny, out / "uneven", size=3),
        "stages": stages(out / "cache"),
        "written": written,
    }
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "die")
