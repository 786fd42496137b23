"""One training loop for every network: any `Trainable`, with one phase a batch or several.

Devices, mixed precision and data-parallel training come from accelerate. Epoch e of seed s always sees
the same pictures with the same augmentation, whatever the number of loader processes, so a run that
was killed and resumed ends with the same weights as one that was not.

Processes started by torchrun or accelerate launch share every batch of the schedule and average their
gradients: photos, steps and, where the loss is a mean over photos, losses are those of one process. Dropout,
batch norm and means over the pixels or pairs that count are of each process's own share.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
from wsss_lib.models.trainable import Clock, Trainable
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


def lr_factor(step: int, steps: int, config: Optimiser) -> float:
    """What the learning rate is multiplied by before step 0 <= step < steps.

    It rises linearly over the warm-up, then falls to 0 as (1 - progress) ** power ("poly") or as half a
    cosine wave, or stays ("constant").
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    if config.schedule == "poly":
        return (1 - progress) ** config.power
    return (1 + math.cos(math.pi * progress)) / 2 if config.schedule == "cosine" else 1.0


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


class Phase:
    """One phase of a model: what learns in it, by which optimiser."""

    def __init__(self, model: Trainable, name: str, config: Optimiser, accelerator: Accelerator):
        self.name, self.config, self.model = name, config, model
        self.prefix = f"{name} " if len(model.phases) > 1 else ""  # of its columns in history.csv
        self.learns = model.trained_in(name)
        self.frozen = [p for p in without(model, self.learns) if p.requires_grad]
        optimiser = build_optimiser(self.learns, config)
        with self.entered():  # data-parallel wrappers look at what is trained when they are made
            self.stepper, self.optimiser = accelerator.prepare(Stepper(model, name), optimiser)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Training mode for what learns in the phase, evaluation and no gradients for the rest."""
        self.model.eval()
        self.learns.train()
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.frozen:
                parameter.requires_grad_(True)

    def step(
        self, batch: dict[str, Tensor], clock: Clock, steps: int, accelerator: Accelerator
    ) -> dict[str, float]:
        """One step of its optimiser; returns the losses, means over all processes.

        Raises:
            NonFiniteLossError: before anything has changed.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * lr_factor(clock.step, steps, self.config)
        with self.entered():
            losses = self.stepper(batch, clock)
            # every process sees the mean over all of them, so that all stop together if it is not finite
            means = accelerator.reduce({name: value.detach() for name, value in losses.items()}, "mean")
            if not math.isfinite(loss := means["loss"].item()):
                place = f"epoch {clock.epoch + 1}, step {clock.step % clock.steps_per_epoch + 1}"
                raise NonFiniteLossError(f"the loss is {loss} at {place}")
            accelerator.backward(losses["loss"])
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
        return {name: value.item() for name, value in means.items()}


def train(
    model: Trainable,
    examples: SeededExamples,
    schedule: Schedule,
    out: Path,
    *,
    workers: int,
    precision: str,
    title: str,
) -> None:
    """Train `model` and leave model.safetensors (of what it keeps) and history.csv in `out`.

    history.csv has a row an epoch: each loss, its mean over the steps, and the learning rate of the last
    step; with several phases their names stand before those of the columns. After every epoch a checkpoint is
    written to `out`; called again, training goes on from it, and what is trained is left as it is. Of several
    processes all call this, with one folder `out`, and the main one writes.

    Raises:
        NonFiniteLossError: a loss is NaN or infinite.
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
    phases = [Phase(model, name, schedule.optimiser_of(name), accelerator) for name in model.phases]
    # drop_last, as psa does: poly's number of steps and every batch's statistics stay the same
    steps_per_epoch = len(examples) // batch
    steps = schedule.epochs * steps_per_epoch
    history: list[dict[str, float]] = []
    start = 0
    if (out / CHECKPOINT).is_file():
        state = load_checkpoint(out / CHECKPOINT)
        model.load_state_dict(state["model"])
        for phase in phases:
            phase.optimiser.load_state_dict(state["optimisers"][phase.name])
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
        sums: dict[str, float] = {}
        for index, data in enumerate(plain_errors(loader)):
            clock = Clock(epoch * steps_per_epoch + index, epoch, schedule.epochs, steps_per_epoch)
            for phase in phases:
                try:
                    losses = phase.step(data, clock, steps, accelerator)
                except NonFiniteLossError as error:
                    raise NonFiniteLossError(
                        f"{title}: {error}; the last good state, if any, is {out / CHECKPOINT}; lower the "
                        f"learning rate ({phase.config.lr:g}) or turn mixed precision off, which starts "
                        "afresh."
                    ) from None
                for name, value in losses.items():
                    sums[phase.prefix + name] = sums.get(phase.prefix + name, 0.0) + value
            model.after_step(clock)
        means = {name: total / steps_per_epoch for name, total in sums.items()}
        rates = {f"{p.prefix}lr": p.config.lr * lr_factor(clock.step, steps, p.config) for p in phases}
        history.append({"epoch": epoch + 1, **means, **rates})
        if main:
            state = {"model": model.state_dict(), "history": history, "epoch": len(history)}
            state["optimisers"] = {phase.name: phase.optimiser.state_dict() for phase in phases}
            save_atomically(lambda path, state=state: save_checkpoint(state, path), out / CHECKPOINT)
    accelerator.wait_for_everyone()  # all have read the checkpoint
    if main:
        weights = {k: v.detach().cpu().contiguous() for k, v in model.kept().state_dict().items()}
        save_atomically(lambda path: path.write_bytes(save(weights)), out / WEIGHTS)
        save_atomically(lambda path: pd.DataFrame(history).to_csv(path, index=False), out / HISTORY)
        (out / CHECKPOINT).unlink()
    accelerator.wait_for_everyone()  # nobody leaves before the weights are there


def without(model: nn.Module, part: nn.Module) -> list[nn.Parameter]:
    """Parameters of `model` that are none of `part`'s."""
    inside = {id(parameter) for parameter in part.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in inside]


def plain_errors(loader: Iterable[T]) -> Iterator[T]:
    """The loader's batches; where its process reports an error as a whole traceback, only its last line."""
    try:
        yield from loader
    except (OSError, ValueError) as error:
        if "Traceback" not in str(error):
            raise
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from error


class Stepper(nn.Module):
    """Gives one phase of a model's training step the name `forward`, which data-parallel wrappers call."""

    def __init__(self, model: Trainable, phase: str):
        super().__init__()
        self.model, self.phase = model, phase

    def forward(self, batch: dict[str, Tensor], clock: Clock) -> dict[str, Tensor]:
        return self.model.training_step(batch, clock, self.phase)


def load_trained(model: Trainable, folder: Path) -> nn.Module:
    """What `model` keeps, with the weights that `train` left in `folder`; in evaluation mode."""
    kept = model.kept()
    kept.load_state_dict(trained_weights(folder))
    return kept.eval()


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
