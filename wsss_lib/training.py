"""One training loop for every model: anything with `training_step(batch, step) -> {"loss": ...}`.

Devices, mixed precision and data-parallel training come from accelerate. Epoch e of seed s always sees
the same pictures with the same augmentation, whatever the number of loader processes, so a run that
was killed and resumed ends with the same weights as one that was not.

Processes started by torchrun or accelerate launch share every batch of the schedule and average their
gradients: photos, steps and, where the loss is a mean over photos, losses are those of one process. Dropout,
batch norm and means over the pixels or pairs that count are of each process's own share.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from wsss_lib.config import Optimiser, Schedule
from wsss_lib.runtime.errors import brief
from wsss_lib.runtime.files import save_atomically
from wsss_lib.runtime.launch import is_main, main_says
from wsss_lib.runtime.progress import report

T = TypeVar("T")
CHECKPOINT, WEIGHTS, HISTORY = "checkpoint.pt", "model.safetensors", "history.csv"


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


class SeededExamples(Dataset):
    """Examples whose augmentation depends on (seed, epoch, index) alone.

    Args:
        size: number of examples.
        example: index -> dict of tensors; may draw from torch's global random state.
        seed: of the run.
    """

    def __init__(self, size: int, example: Callable[[int], dict[str, Tensor]], seed: int):
        self.size, self.example, self.seed, self.epoch = size, example, seed, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):  # the CPU's generator alone: the model's stays untouched
            torch.default_generator.manual_seed(mix_seeds(self.seed, self.epoch, index))
            return self.example(index)


def mix_seeds(*numbers: int) -> int:
    """One 63-bit seed from several integers; neighbouring inputs give unrelated seeds."""
    mixed = 0
    for number in numbers:
        # splitmix64: a bijection that scatters neighbouring integers
        mixed = (mixed ^ number) + 0x9E3779B97F4A7C15 & (1 << 64) - 1
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
        mixed ^= mixed >> 31
    return mixed >> 1


def poly_lr(step: int, steps: int, power: float) -> float:
    """Factor (1 - step / steps) ** power, applied before step 0 <= step < steps."""
    return (1 - step / steps) ** power


def build_optimiser(model: nn.Module, config: Optimiser) -> torch.optim.Optimizer:
    """The psa family's groups: pretrained weights and biases, new weights and biases.

    Parameters below `model.backbone` count as pretrained, and so do those whose names start as the model's
    `base_lr_layers` say; frozen ones are in no group.
    """
    base = ("backbone.", *getattr(model, "base_lr_layers", ()))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        bias = name.endswith(".bias")
        scale = (1.0 if name.startswith(base) else config.new_layers_lr) * (config.bias_lr if bias else 1.0)
        groups.setdefault((config.lr * scale, 0.0 if bias else config.weight_decay), []).append(parameter)
    params = [
        {"params": parameters, "lr": lr, "initial_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
    momentum = config.weight_decay if config.momentum == "weight_decay_slip" else config.momentum
    if config.name == "sgd":
        return torch.optim.SGD(params, lr=config.lr, momentum=momentum)
    adam = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return adam(params, lr=config.lr, betas=(momentum, 0.999))


def train(
    model: nn.Module,
    examples: SeededExamples,
    schedule: Schedule,
    out: Path,
    *,
    workers: int,
    precision: str,
    title: str,
) -> None:
    """Train `model` and leave model.safetensors and history.csv (epoch, each loss, lr) in `out`.

    After every epoch a checkpoint is written to `out`; called again, training goes on from it, and what is
    trained is left as it is. Of several processes all call this, with one folder `out`, and the main one
    writes.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
        ValueError: no examples, a damaged checkpoint, or a batch that the processes cannot share evenly.
    """
    if not len(examples):
        raise ValueError(f"{title}: there is no photo to train on; check the list and the classes.")
    if main_says((out / WEIGHTS).is_file() and (out / HISTORY).is_file()):  # killed after the last epoch
        if is_main():
            (out / CHECKPOINT).unlink(missing_ok=True)
        return
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else each process on a CPU would be a run of its own
        mixed_precision=precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        # methods freeze layers, and leave some out of a step's loss
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    main, batch = accelerator.is_main_process, min(schedule.batch, len(examples))
    if batch % accelerator.num_processes:
        raise ValueError(
            f"{title}: {accelerator.num_processes} processes cannot share a batch of {batch} photos evenly; "
            "start a number that divides it."
        )
    optimiser = build_optimiser(model, schedule.optimiser)
    stepper, optimiser = accelerator.prepare(Stepper(model), optimiser)
    # drop_last, as psa does: poly's number of steps and every batch's statistics stay the same
    steps_per_epoch = len(examples) // batch
    history: list[dict[str, float]] = []
    start = 0
    if (out / CHECKPOINT).is_file():
        state = load_checkpoint(out / CHECKPOINT)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        history, start = state["history"], state["epoch"]
    epochs = range(start, schedule.epochs)
    for epoch in (
        report(epochs, title, unit="epoch", initial=start, total=schedule.epochs) if main else epochs
    ):
        torch.manual_seed(mix_seeds(examples.seed, epoch) + accelerator.process_index)  # dropout differs
        examples.epoch = epoch
        order = torch.randperm(
            len(examples), generator=torch.Generator().manual_seed(mix_seeds(examples.seed, epoch))
        ).tolist()
        loader = accelerator.prepare_data_loader(
            DataLoader(examples, batch, sampler=order, drop_last=True, num_workers=workers)
        )
        model.train()
        sums: dict[str, float] = {}
        for index, data in enumerate(plain_errors(loader)):
            step = epoch * steps_per_epoch + index
            factor = poly_lr(step, schedule.epochs * steps_per_epoch, schedule.optimiser.power)
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * factor
            losses = stepper(data, step)
            # every process sees the mean over all of them, so that all stop together if it is not finite
            means = accelerator.reduce({name: value.detach() for name, value in losses.items()}, "mean")
            loss = means["loss"].item()
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"{title}: the loss is {loss} at epoch {epoch + 1}, step {index + 1}; the last "
                    f"good state, if any, is {out / CHECKPOINT}; lower the learning rate "
                    f"({schedule.optimiser.lr:g}) or turn mixed precision off, which starts afresh."
                )
            accelerator.backward(losses["loss"])
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            for name, value in means.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        history.append(
            {
                "epoch": epoch + 1,
                **{name: total / steps_per_epoch for name, total in sums.items()},
                "lr": schedule.optimiser.lr * factor,
            }
        )
        if main:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            state |= {"history": history, "epoch": len(history)}
            save_atomically(lambda path, state=state: save_checkpoint(state, path), out / CHECKPOINT)
    accelerator.wait_for_everyone()  # all have read the checkpoint
    if main:
        weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_atomically(lambda path: path.write_bytes(save(weights)), out / WEIGHTS)
        save_atomically(lambda path: pd.DataFrame(history).to_csv(path, index=False), out / HISTORY)
        (out / CHECKPOINT).unlink()
    accelerator.wait_for_everyone()  # nobody leaves before the weights are there


def plain_errors(loader: Iterable[T]) -> Iterator[T]:
    """The loader's batches; where its process reports an error as a whole traceback, only its last line."""
    try:
        yield from loader
    except (OSError, ValueError) as error:
        if "Traceback" not in str(error):
            raise
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from error


class Stepper(nn.Module):
    """Gives a model's training step the name `forward`, which data-parallel wrappers call."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return self.model.training_step(batch, step)


def load_trained(model: nn.Module, folder: Path) -> nn.Module:
    """Fill `model` with the weights that `train` left in `folder`; returned in evaluation mode."""
    model.load_state_dict(trained_weights(folder))
    return model.eval()


def trained_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that `train` left in `folder`; raises ValueError where they are missing or damaged."""
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{folder / WEIGHTS} is missing or damaged ({error}); delete its folder, and the next run trains "
            "it again."
        ) from error


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Through Python's own file, whose error on a full disk is an OSError; torch's would be no sentence."""
    with path.open("wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Raises ValueError for a damaged file, naming it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is damaged ({brief(error)}); delete it, and the next run trains from the start."
        ) from error
