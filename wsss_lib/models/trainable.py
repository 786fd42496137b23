"""What the training loop asks of a network, and what it tells a network of the time."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Clock:
    """Where a training is: `step` of all steps and `epoch` of `epochs`, both counted from 0."""

    step: int
    epoch: int
    epochs: int
    steps_per_epoch: int

    @property
    def progress(self) -> float:
        """Share of the steps that are done, in [0, 1)."""
        return self.step / (self.epochs * self.steps_per_epoch)


START = Clock(step=0, epoch=0, epochs=1, steps_per_epoch=1)


class Trainable(nn.Module):
    """A network that `training.train` trains; most have one phase, and define `training_step` alone.

    The loop goes through the phases of every batch in their order. In each, `trained_in(phase)` is in
    training mode and learns by an optimiser of its own; all the rest is frozen and in evaluation mode.
    """

    phases: tuple[str, ...] = ("train",)
    base_lr_layers: tuple[str, ...] = ()  # new layers whose names start so learn as slowly as pretrained ones
    stride: int  # pixels per cell of its maps

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of the RGB input in [0, 1], as its weights expect it; the backbone's unless overridden."""
        return self.backbone.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """As `mean`."""
        return self.backbone.std

    def trained_in(self, phase: str) -> nn.Module:
        """The part that learns in a phase; the parts of two phases share no parameter."""
        return self

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        """The scalar "loss" to minimise in this phase, and others to record, of a batch of examples."""
        raise NotImplementedError(f"{type(self).__name__} has no training_step.")

    def after_step(self, clock: Clock) -> None:
        """Called when all phases of a batch have made their steps, for example to move an average."""

    def kept(self) -> nn.Module:
        """The part whose weights are saved for inference once the training has ended."""
        return self
