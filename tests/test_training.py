"""The training loop: its optimiser, its schedule, its seeds, and that a killed run ends like any other."""

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_backbone import tiny_backbone
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from wsss_lib.config import Optimiser, Schedule
from wsss_lib.methods.cam import CAM
from wsss_lib.models.affinity import AffinityNet
from wsss_lib.models.deeplab import LightDeepLab
from wsss_lib.models.trainable import START
from wsss_lib.training import (
    NonFiniteLossError,
    SeededExamples,
    build_optimiser,
    load_trained,
    lr_factor,
    mix_seeds,
    train,
)

SGD = {
    "name": "sgd", "lr": 0.01, "momentum": "weight_decay_slip", "weight_decay": 5e-4,
    "new_layers_lr": 10, "bias_lr": 2, "power": 0.9,
}  # fmt: skip
ADAMW = SGD | {"name": "adamw", "lr": 1e-3, "momentum": 0.9}


def schedule(epochs: int = 3, batch: int = 4, **optimiser) -> Schedule:
    return Schedule(epochs=epochs, batch=batch, crop=16, optimiser=Optimiser(**(SGD | optimiser)))


class Dropping(CAM):
    """A classifier that draws random numbers in its step, and has a batch norm that learns."""

    def __init__(self):
        super().__init__(tiny_backbone((2, 4)), 3)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            nn.init.normal_(self.classifier.weight, std=0.1)
        self.norm = nn.BatchNorm2d(3)

    def training_step(self, batch, clock, phase):
        features = F.dropout(self.norm(self.class_maps(batch["image"])), 0.3, self.training)
        return {"loss": F.multilabel_soft_margin_loss(features.mean((2, 3)), batch["label"])}


@dataclass
class Pictures:
    """Noisy pictures; raises `error` at the `fail_at`-th call, and keeps the first number of each call."""

    error: BaseException | None = None
    fail_at: int = -1
    calls: list[int] = field(default_factory=list)

    def __call__(self, index: int) -> dict[str, torch.Tensor]:
        if len(self.calls) == self.fail_at:
            raise self.error
        self.calls.append(index)
        image = torch.randn(3, 16, 16)
        return {"image": image + index % 3, "label": F.one_hot(torch.tensor(index % 3), 3).float()}


def run(
    out: Path, example=None, size=10, workers=0, seed=5, plan=None, model=None, title="tiny"
) -> nn.Module:
    out.mkdir(exist_ok=True)
    model = model or Dropping()
    examples = SeededExamples(size, example or Pictures(), seed)
    train(model, examples, plan or schedule(), out, workers=workers, precision="no", title=title)
    return model


def result(out: Path) -> bytes:
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "history.csv"}
    return (out / "model.safetensors").read_bytes()


# optimiser and schedule


def test_groups_follow_the_psa_family():
    model = nn.Module()
    model.backbone = tiny_backbone((2, 4))
    model.head = nn.Conv2d(6, 3, 1)
    optimiser = build_optimiser(model, Optimiser(**SGD))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {
        frozenset(names[id(p)] for p in group["params"]): (group["lr"], group["weight_decay"])
        for group in optimiser.param_groups
    }
    layers = ("backbone.net.layers.0.0", "backbone.net.layers.1.0")
    assert groups == {
        frozenset(f"{layer}.weight" for layer in layers): (0.01, 5e-4),
        frozenset(f"{layer}.bias" for layer in layers): (0.02, 0),
        frozenset({"head.weight"}): (0.1, 5e-4),
        frozenset({"head.bias"}): (0.2, 0),
    }
    # frozen batch norm is in none of them
    grouped = set().union(*groups)
    assert grouped == {name for name, p in model.named_parameters() if p.requires_grad}
    assert any(".1.weight" in name for name in set(names.values()) - grouped)


@pytest.mark.parametrize(("momentum", "expected"), [("weight_decay_slip", 5e-4), (0.9, 0.9), (0, 0)])
def test_sgd_momentum_is_what_the_preset_says(momentum, expected):
    optimiser = build_optimiser(Dropping(), Optimiser(**(SGD | {"momentum": momentum})))
    assert isinstance(optimiser, torch.optim.SGD)
    assert {group["momentum"] for group in optimiser.param_groups} == {expected}
    assert {group["nesterov"] for group in optimiser.param_groups} == {False}


def test_adam_adds_its_weight_decay_to_the_gradient():
    adam, adamw = (
        build_optimiser(Dropping(), Optimiser(**ADAMW | {"name": name})) for name in ("adam", "adamw")
    )
    assert type(adam) is torch.optim.Adam  # AdamW is a kind of it
    assert not adam.defaults["decoupled_weight_decay"]
    assert adamw.defaults["decoupled_weight_decay"]
    assert [g["weight_decay"] for g in adam.param_groups] == [g["weight_decay"] for g in adamw.param_groups]
    assert {g["betas"] for g in adam.param_groups} == {(0.9, 0.999)}


def test_adamw_takes_momentum_as_beta_1():
    optimiser = build_optimiser(Dropping(), Optimiser(**(ADAMW | {"momentum": 0.8})))
    assert isinstance(optimiser, torch.optim.AdamW)
    assert {group["betas"] for group in optimiser.param_groups} == {(0.8, 0.999)}
    assert {group["weight_decay"] for group in optimiser.param_groups} == {5e-4, 0}


def test_poly_schedule_in_closed_form():
    linear = Optimiser(**(SGD | {"power": 1}))
    assert [lr_factor(step, 4, linear) for step in range(4)] == [1, 0.75, 0.5, 0.25]
    assert lr_factor(9914, 9915, Optimiser(**SGD)) == pytest.approx((1 / 9915) ** 0.9)


@pytest.mark.parametrize("stop", [None, 13])
def test_the_learning_rates_used_are_poly_also_after_a_resumption(tmp_path, stop):
    used = []
    handle = register_optimizer_step_pre_hook(
        lambda optimiser, args, kwargs: used.append([group["lr"] for group in optimiser.param_groups])
    )
    try:
        if stop:
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, Pictures(KeyboardInterrupt(), stop), seed=1)
            del used[2:]  # the half epoch is done again
        run(tmp_path, seed=1)
    finally:
        handle.remove()
    factors = [(1 - step / 6) ** 0.9 for step in range(6)]  # 3 epochs of floor(10 / 4) steps
    multiples = (0.01, 0.02, 0.1, 0.2)
    np.testing.assert_allclose([sorted(lrs) for lrs in used], np.outer(factors, multiples), rtol=1e-12)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(history["lr"], 0.01 * np.array(factors[1::2]))


@pytest.mark.parametrize("momentum", ["weight_decay_slip", 0.9])
def test_weights_equal_sgd_written_by_hand(tmp_path, momentum):
    """One batch an epoch: v <- m v + (g + d w), w <- w - lr v with each group's lr and decay."""
    data = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))

    def example(index):
        return {"image": data[index], "label": F.one_hot(torch.tensor(index % 3), 3).float()}

    def tiny():
        torch.manual_seed(3)
        return CAM(tiny_backbone((2, 4)), 3)

    trained = run(tmp_path, example, size=4, plan=schedule(momentum=momentum), model=tiny())
    model = tiny().train()
    m = 5e-4 if momentum == "weight_decay_slip" else momentum
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    batch = {k: torch.stack([example(i)[k] for i in range(4)]) for k in ("image", "label")}
    losses = []
    for epoch in range(3):
        loss = model.training_step(batch, START, "train")["loss"]
        losses.append(loss.item())
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for (name, p), g in zip(
            parameters.items(), torch.autograd.grad(loss, parameters.values()), strict=True
        ):
            bias = name.endswith("bias")
            lr = 0.01 * (1 - epoch / 3) ** 0.9 * (10 if "classifier" in name else 1) * (2 if bias else 1)
            velocity[name] = m * velocity[name] + g + (0 if bias else 5e-4) * p.data
            p.data -= lr * velocity[name]
    for (name, p), q in zip(model.named_parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=lambda text, name=name: f"{name}: {text}")
    np.testing.assert_allclose(pd.read_csv(tmp_path / "history.csv")["loss"], losses, rtol=1e-5)


def test_adamw_trains(tmp_path):
    run(tmp_path, plan=schedule(epochs=8, **(ADAMW | {"lr": 3e-3})))
    losses = pd.read_csv(tmp_path / "history.csv")["loss"]
    assert losses.iloc[-1] < 0.9 * losses.iloc[0]


# seeds and resumption


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> bytes:
    out = tmp_path_factory.mktemp("uninterrupted")
    torch.manual_seed(123)  # the state outside must not matter
    run(out)
    return result(out)


@pytest.mark.parametrize(
    ("error", "fail_at"),
    [
        (KeyboardInterrupt(), 3),  # in the first epoch: nothing is kept
        (KeyboardInterrupt(), 8),  # just after the first epoch
        (RuntimeError("disk"), 15),  # late in the second
        (KeyboardInterrupt(), 23),
    ],
)
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, uninterrupted, error, fail_at):
    with pytest.raises(type(error)):
        run(tmp_path, Pictures(error, fail_at))
    assert (tmp_path / "checkpoint.pt").exists() == (fail_at >= 8)
    assert not (tmp_path / "model.safetensors").exists()
    torch.manual_seed(fail_at)
    again = Pictures()
    run(tmp_path, again)
    assert len(again.calls) == 24 - fail_at // 8 * 8  # finished epochs are not done again
    assert result(tmp_path) == uninterrupted


def test_interrupted_twice(tmp_path, uninterrupted):
    for fail_at in (10, 9):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Pictures(KeyboardInterrupt(), fail_at))
    run(tmp_path)
    assert result(tmp_path) == uninterrupted


def test_interrupted_adamw_resumes_its_moments(tmp_path):
    run(tmp_path / "whole", plan=schedule(**ADAMW))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "halves", Pictures(KeyboardInterrupt(), 17), plan=schedule(**ADAMW))
    run(tmp_path / "halves", plan=schedule(**ADAMW))
    assert result(tmp_path / "halves") == result(tmp_path / "whole")


def test_loader_processes_change_nothing(tmp_path, uninterrupted):
    run(tmp_path, workers=1)
    assert result(tmp_path) == uninterrupted


def test_another_seed_gives_other_weights(tmp_path, uninterrupted):
    run(tmp_path, seed=6)
    assert result(tmp_path) != uninterrupted


def test_killed_after_the_last_epoch_only_the_weights_are_written(tmp_path, uninterrupted, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("wsss_lib.training.save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    again = Pictures()
    run(tmp_path, again)
    assert again.calls == []
    assert result(tmp_path) == uninterrupted


def test_examples_depend_on_seed_epoch_and_index_alone():
    def pictures(seed, epoch, order):
        examples = SeededExamples(3, lambda index: {"x": torch.rand(2)}, seed)
        examples.epoch = epoch
        return {index: tuple(examples[index]["x"].tolist()) for index in order}

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = pictures(0, 0, [0, 1, 2])
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random state is left alone
    torch.manual_seed(9)
    assert pictures(0, 0, [2, 0, 1]) == first
    everything = [
        v for s, e in itertools.product(range(3), range(3)) for v in pictures(s, e, range(3)).values()
    ]
    assert len(set(everything)) == 27


def test_mixed_seeds_do_not_collide():
    grid = list(itertools.product(range(-3, 12), range(40), range(120)))
    seeds = {mix_seeds(*numbers) for numbers in grid}
    seeds |= {mix_seeds(seed, epoch) for seed, epoch in itertools.product(range(-3, 12), range(40))}
    assert len(seeds) == len(grid) + 15 * 40
    assert all(0 <= seed < 2**63 for seed in seeds)
    # neighbours differ in about half of the 63 bits
    flips = [(mix_seeds(0, 0, i) ^ mix_seeds(0, 0, i + 1)).bit_count() for i in range(500)]
    assert 30 < np.mean(flips) < 33


# what a run sees and leaves


def test_every_epoch_sees_whole_batches_of_a_new_order(tmp_path):
    pictures = Pictures()
    run(tmp_path, pictures)
    epochs = [pictures.calls[start : start + 8] for start in (0, 8, 16)]
    assert len(pictures.calls) == 24  # two photos of ten are dropped
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3


def test_fewer_photos_than_a_batch_make_one_batch(tmp_path):
    pictures = Pictures()
    run(tmp_path, pictures, size=3)
    assert len(pictures.calls) == 9
    assert len(pd.read_csv(tmp_path / "history.csv")) == 3


def test_frozen_batch_norm_is_unchanged_and_all_else_is_trained(tmp_path):
    before = {k: v.clone() for k, v in Dropping().state_dict().items()}
    model = run(tmp_path)
    for name, value in model.state_dict().items():
        if re.search(r"\.layers\.\d\.1\.", name):  # affine parameters, statistics and counter
            assert torch.equal(value, before[name]), name
        else:
            assert not torch.equal(value, before[name]), name


def test_trained_weights_are_loaded_for_evaluation(tmp_path):
    model = run(tmp_path)
    loaded = load_trained(Dropping(), tmp_path)
    assert not loaded.training
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_every_loss_of_a_step_is_in_the_history(tmp_path):
    class TwoLosses(Dropping):
        def training_step(self, batch, clock, phase):
            return {**super().training_step(batch, clock, phase), "step": torch.tensor(float(clock.step))}

    run(tmp_path, model=TwoLosses())
    history = pd.read_csv(tmp_path / "history.csv")
    assert history.columns.tolist() == ["epoch", "loss", "step", "lr"]
    assert history["step"].tolist() == [0.5, 2.5, 4.5]


class Exploding(Dropping):
    def __init__(self, step: int, value: float):
        super().__init__()
        self.at, self.value = step, value

    def training_step(self, batch, clock, phase):
        losses = super().training_step(batch, clock, phase)
        return {"loss": losses["loss"] * self.value} if clock.step == self.at else losses


@pytest.mark.parametrize(("value", "named"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path, uninterrupted, value, named
):
    with pytest.raises(
        NonFiniteLossError, match=rf"tiny: the loss is {named} at epoch 2, step 2; the last good state"
    ):
        run(tmp_path, model=Exploding(3, value))
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["epoch"] == 1
    assert all(v.isfinite().all() for v in kept["model"].values())
    run(tmp_path)  # without the cause the run goes on from there
    assert result(tmp_path) == uninterrupted


@pytest.fixture
def _fresh_accelerate():
    """accelerate keeps one precision a process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("_fresh_accelerate")
@pytest.mark.parametrize("kind", ["classifier", "affinity", "segmentation"])
def test_mixed_precision_trains_every_network_with_a_finite_loss(tmp_path, kind):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    labels = torch.rand(4, 3, generator=generator).round()
    cells, masks = (torch.randint(3, (4, n, n), generator=generator) for n in (4, 32))
    model, target = {
        "classifier": (CAM(tiny_backbone(), 3), {"label": labels}),
        "affinity": (AffinityNet(tiny_backbone((4, 8, 16, 16)), (4, 4, 4), 3, False), {"label": cells}),
        "segmentation": (LightDeepLab(tiny_backbone(), 3, 8), {"mask": masks}),
    }[kind]
    examples = SeededExamples(4, lambda i: {"image": images[i], **{k: v[i] for k, v in target.items()}}, 0)
    plan = schedule(epochs=4, **ADAMW)
    train(model, examples, plan, tmp_path, workers=0, precision="bf16", title=kind)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    losses = pd.read_csv(tmp_path / "history.csv")["loss"]
    assert losses.iloc[-1] < losses.iloc[0]


def test_no_photos_are_named(tmp_path):
    with pytest.raises(ValueError, match="cats: there is no photo to train on"):
        run(tmp_path, size=0, title="cats")
