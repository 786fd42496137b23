"""A method in one file, as a user would write it: two phases, a teacher that averages, a rule of its own."""

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_lib import Method, Recipe
from wsss_lib.config import CAMClassifier, Fraction, Optimiser
from wsss_lib.inference import MIN_MAX
from wsss_lib.losses import classification_loss, global_average_pool
from wsss_lib.models.activation import ActivationNet
from wsss_lib.models.trainable import Clock


class ToyTraining(CAMClassifier):
    """A classifier's training, the teacher's memory and the critic's learning rate."""

    memory: Fraction = 0.5
    critic_lr: float = 1e-2

    def optimiser_of(self, phase: str) -> Optimiser:
        own = {"lr": self.critic_lr, "schedule": "cosine", "warmup": 0.25}
        return self.optimiser.model_copy(update=own) if phase == "judge" else self.optimiser


class Toy(Method):
    """A student agrees with its slow teacher; a critic learns to tell their maps apart."""

    phases = ("learn", "judge")

    def __init__(self, backbone, num_classes: int, memory: float):
        super().__init__()
        self.student = ActivationNet(backbone, num_classes)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.critic = torch.nn.Conv2d(num_classes, 1, 1)
        self.memory = memory

    mean = property(lambda self: self.student.backbone.mean)
    std = property(lambda self: self.student.backbone.std)

    def trained_in(self, phase: str) -> torch.nn.Module:
        return self.critic if phase == "judge" else self.student

    def training_step(self, batch: dict[str, Tensor], clock: Clock, phase: str) -> dict[str, Tensor]:
        ours, theirs = (net.class_maps(batch["image"]) for net in (self.student, self.teacher))
        fake, real = self.critic(ours).mean(), self.critic(theirs).mean()
        if phase == "judge":
            return {"loss": F.softplus(real) + F.softplus(-fake)}
        loss = classification_loss(global_average_pool(ours), batch["label"])
        return {"loss": loss + 0.1 * F.softplus(fake) * clock.progress, "classes": loss}

    @torch.no_grad()
    def after_step(self, clock: Clock) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.memory)

    def kept(self) -> torch.nn.Module:
        return self.teacher


RECIPE = Recipe(
    name="toy",
    paper_name="Toy",
    config=ToyTraining,
    build=lambda config, backbones, classes: Toy(backbones(), classes, config.memory),
    maps=MIN_MAX,
)
