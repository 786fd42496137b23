"""ACR: each equation against loops, who learns in which phase, signs on a toy, its place in a study, COCO."""

import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from scipy import stats
from tiny_backbone import tiny_backbone
from torch import Tensor, nn

from wsss_lib.data.coco import convert_coco
from wsss_lib.inference import MIN_MAX, response_maps
from wsss_lib.methods import acr, load_config
from wsss_lib.methods.acr import (
    ACR,
    PANELS,
    ACRTraining,
    CNNClassifier,
    alarms,
    attack_masks,
    draw_remnants,
    draw_targets,
    masked_l1,
    reconstruction_inputs,
    remnant_probability,
    target_map,
)
from wsss_lib.methods.base import build
from wsss_lib.models.reconstructor import Reconstructor, restated
from wsss_lib.models.trainable import START, Clock
from wsss_lib.report.tables import PAPERS
from wsss_lib.study.study import Study
from wsss_lib.training import Phase, SeededExamples, train

SHARED = next((p / "shared" for p in Path(__file__).parents if (p / "shared").is_dir()), Path("shared"))
COCO128 = SHARED / "data" / "coco128"
SIDE = 16
CLOCK = Clock(step=5, epoch=1, epochs=2, steps_per_epoch=4)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def given(photos: int = 4, classes: int = 3, side: int = 32, seed: int = 0) -> dict[str, Tensor]:
    labels = (random(photos, classes, seed=seed) > 0).float()
    labels[:, 0] = 1
    return {"image": random(photos, 3, side, side, seed=seed).float(), "label": labels}


def config(**changes) -> ACRTraining:
    section = load_config("smoke").acr
    values = section.model_dump(exclude={"sweeps"}) | {"attack_from": 0}
    values["reconstructor"] |= {"side": SIDE}
    return ACRTraining.model_validate(values | changes)


def tiny(seed: int = 0, **changes) -> ACR:
    """Class maps of `given` photos have a mean of 0: there are zeros, and each class wins somewhere."""
    torch.manual_seed(seed)
    settings = config(**changes)
    classifier = CNNClassifier(tiny_backbone((1, 2, 4)), 3).eval()
    weight = nn.init.normal_(classifier.classifier[0].weight.data)[..., 0, 0]
    with torch.no_grad():
        mean = classifier.features(given()["image"]).mean((0, 2, 3))
        weight -= (weight @ mean)[:, None] * mean / mean.dot(mean)
    if not (settings.lambda_t or settings.lambda_nt):
        return ACR(classifier, None, settings)
    other = Reconstructor(
        tiny_backbone((1, 2, 4), seed=1), 3, SIDE, taps=(2, 3, 4), channels=(4, 6, 6), dropout=0.5
    )
    return ACR(classifier, other, settings)


# --- target class and map --------------------------------------------------------------------------------


def test_the_target_is_uniform_over_the_present_classes():
    torch.manual_seed(0)
    label = torch.tensor([0, 1, 0, 1, 1, 0.0])
    drawn = draw_targets(label.repeat(6000, 1))
    counts = torch.bincount(drawn, minlength=6)
    assert counts[label == 0].sum() == 0
    assert stats.chisquare(counts[label == 1].numpy()).pvalue > 0.01


def test_both_phases_of_a_batch_have_the_same_targets(monkeypatch):
    model = tiny()
    drawn, used = [], []
    monkeypatch.setattr(acr, "draw_targets", lambda labels: drawn.append(draw_targets(labels)) or drawn[-1])

    def watched(maps, labels, targets, side):
        used.append(targets)
        return target_map(maps, labels, targets, side)

    monkeypatch.setattr(acr, "target_map", watched)
    for seed in (0, 1):
        for phase in model.phases:
            model.training_step(given(seed=seed), CLOCK, phase)
    assert len(drawn) == 2
    assert [id(targets) for targets in used] == [id(drawn[0])] * 2 + [id(drawn[1])] * 2


def test_a_map_runs_from_exact_zeros_to_one():
    maps, labels = random(3, 4, 6, 6), torch.ones(3, 4)
    targets = torch.tensor([2, 0, 3])
    small = target_map(maps, labels, targets, 6)
    assert small.shape == (3, 1, 6, 6)
    for photo, target in enumerate(targets):
        a = maps[photo, target].clamp(min=0).numpy()
        expected = np.maximum(a - a.min() - 1e-5, 0) / (a.max() - a.min() + 1e-5)
        assert expected.min() == 0
        assert expected.max() == pytest.approx(1, abs=2e-5)
        np.testing.assert_allclose(small[photo, 0].numpy(), expected, atol=1e-12)


def test_flat_and_absent_maps_are_zero_and_not_nan():
    maps, labels = random(4, 2, 4, 4), torch.ones(4, 2)
    maps[0], maps[1] = 3.0, -2.0
    labels[2] = 0
    found = target_map(maps, labels, torch.zeros(4, dtype=torch.long), 16)
    assert (found[:3] == 0).all()
    assert found[3].max() > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_zeros_survive_the_upsampling(dtype):
    lowest = torch.full((1, 1, 8, 8), 2.0)
    lowest[..., :3, :3] = 4.0
    found = target_map(lowest.to(dtype), torch.ones(1, 1), torch.zeros(1, dtype=torch.long), 64)
    assert found.dtype == torch.float32
    assert (found[..., 28:, :] == 0).all()
    assert (found[..., :20, :20] > 0.99).all()
    assert (found == 0).float().mean() > 0.5


def test_a_map_of_a_photo_is_not_that_of_the_batch():
    maps = random(2, 3, 4, 4)
    labels, targets = torch.ones(2, 3), torch.tensor([1, 2])
    both = target_map(maps, labels, targets, 8)
    for photo in range(2):
        alone = target_map(maps[photo : photo + 1], labels[:1], targets[photo : photo + 1], 8)
        torch.testing.assert_close(both[photo : photo + 1], alone)


# --- stochastic remnant feeding --------------------------------------------------------------------------


@pytest.mark.parametrize(("cells", "side", "q"), [(8, 64, 0.8), (12, 64, 0.5), (16, 256, 0.3), (10, 64, 0.9)])
def test_grids_are_bernoulli_on_cells(cells, side, q):
    torch.manual_seed(0)
    photos = 40
    grid = draw_remnants(photos, side, cells, q)
    assert grid.shape == (photos, 1, side, side)
    assert set(grid.unique().tolist()) == {0.0, 1.0}
    corners = np.ceil(np.arange(cells) * side / cells).astype(int)  # the first pixel of each cell
    values = grid[:, 0][:, corners][:, :, corners]
    index = np.floor(np.arange(side) * cells / side).astype(int)
    assert torch.equal(grid[:, 0], values[:, index][:, :, index])
    low, high = stats.binom(values.numel(), q).interval(0.9999)
    assert low <= values.sum() <= high
    assert len({tuple(photo.flatten().tolist()) for photo in values}) > photos // 2


def test_the_number_of_cells_is_drawn_within_its_range(monkeypatch):
    model, seen = tiny(), []

    def watched(photos, side, cells, q):
        seen.append((cells, q))
        return draw_remnants(photos, side, cells, q)

    monkeypatch.setattr(acr, "draw_remnants", watched)
    torch.manual_seed(0)
    for _ in range(20):
        model.training_step(given(1), CLOCK, "reconstruct")
    low, high = model.config.remnants.cells
    assert {cells for cells, _ in seen} == set(range(low, high + 1))
    assert {q for _, q in seen} == {remnant_probability(model.config.remnants, CLOCK)}


def test_q_falls_by_the_same_amount_every_epoch():
    paper = load_config("paper")
    schedule = [remnant_probability(paper.acr.remnants, Clock(10 * e + 9, e, 40, 10)) for e in range(40)]
    assert schedule == pytest.approx([0.8 - 0.01 * e for e in range(40)])
    coco = load_config("paper", {"acr.variant": "coco"}).acr
    schedule = [remnant_probability(coco.remnants, Clock(0, e, 3, 1)) for e in range(3)]
    assert schedule == pytest.approx([0.8, 0.79, 0.78])
    steady = paper.acr.remnants.model_copy(update={"fall": 0.0})
    assert remnant_probability(steady, Clock(39, 39, 40, 1)) == 0.8


def test_what_remnants_show_and_what_is_scored():
    target, grid = random(2, 1, 8, 8).sigmoid(), (random(2, 1, 8, 8, seed=1) > 0).double()
    shown_t, mask_t, shown_nt, mask_nt = reconstruction_inputs(target, grid)
    rest = 1 - target
    torch.testing.assert_close(shown_t, target + grid * rest)
    torch.testing.assert_close(shown_nt, rest + grid * target)
    torch.testing.assert_close(mask_t, (1 - grid) * rest)
    torch.testing.assert_close(mask_nt, (1 - grid) * target)
    everything, nothing = torch.ones_like(grid), torch.zeros_like(grid)
    shown_t, mask_t, *_ = reconstruction_inputs(target, everything)
    assert (shown_t == 1).all()
    assert (mask_t == 0).all()
    shown_t, mask_t, shown_nt, mask_nt = reconstruction_inputs(target, nothing)
    torch.testing.assert_close(torch.cat([shown_t, shown_nt]), torch.cat([target, rest]))
    torch.testing.assert_close(torch.cat([mask_t, mask_nt]), torch.cat([rest, target]))


# --- losses ----------------------------------------------------------------------------------------------


def test_masked_l1_is_that_of_a_loop():
    rebuilt, photo = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1)
    mask = random(2, 1, 4, 5, seed=2).sigmoid()
    total = sum(
        float(mask[b, 0, y, x]) * abs(float(rebuilt[b, c, y, x]) - float(photo[b, c, y, x]))
        for b in range(2) for c in range(3) for y in range(4) for x in range(5)
    )  # fmt: skip
    assert masked_l1(rebuilt, photo, mask).item() == pytest.approx(total / 120)
    assert masked_l1(rebuilt, photo, 2 * mask).item() == pytest.approx(total / 60)
    mask[..., :2] = 0
    before = masked_l1(rebuilt, photo, mask)
    rebuilt[..., :2] += 100
    assert torch.equal(masked_l1(rebuilt, photo, mask), before)


def test_the_masks_of_the_attack_are_those_of_a_loop():
    maps, targets = random(2, 3, 4, 4), torch.tensor([2, 0])
    target = target_map(maps, torch.ones(2, 3), targets, 16)
    mask_t, mask_nt = attack_masks(maps, targets, target)
    full = torch.nn.functional.interpolate(maps, (16, 16), mode="bilinear")
    for b in range(2):
        for y in range(16):
            for x in range(16):
                a = target[b, 0, y, x].item()
                assert mask_t[b, 0, y, x].item() == float(a == 0)
                wins = max(range(3), key=lambda c, b=b, y=y, x=x: full[b, c, y, x].item()) == targets[b]
                assert mask_nt[b, 0, y, x].item() == pytest.approx(a * wins)
    assert 0 < mask_t.mean() < 1
    assert 0 < mask_nt.mean() < 1


def test_the_masks_pass_no_gradient_and_the_weights_do():
    maps = random(2, 3, 4, 4).requires_grad_()
    target = target_map(maps, torch.ones(2, 3), torch.tensor([0, 1]), 16)
    assert target.requires_grad
    assert not any(mask.requires_grad for mask in attack_masks(maps, torch.tensor([0, 1]), target))


def test_a_step_of_the_reconstructor_is_the_sum_of_its_terms():
    model = tiny()
    torch.manual_seed(1)
    losses = model.eval().training_step(given(), CLOCK, "reconstruct")
    settings = model.config.reconstructor
    expected = losses["L_cls"] + settings.lambda_whole * losses["L1 of the whole"]
    expected += settings.lambda_t * losses["L_t"] + settings.lambda_nt * losses["L_nt"]
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    # the same from the equations
    torch.manual_seed(1)
    batch = given()
    targets = draw_targets(batch["label"])
    low, high = model.config.remnants.cells
    cells = torch.randint(low, high + 1, ()).item()
    grid = draw_remnants(4, SIDE, cells, remnant_probability(model.config.remnants, CLOCK))
    with torch.no_grad():
        a = target_map(model.classifier.class_maps(batch["image"]), batch["label"], targets, SIDE)
        photo = torch.nn.functional.interpolate(
            restated(batch["image"], (0.5,) * 3, (0.25,) * 3), (SIDE, SIDE), mode="bilinear", antialias=True
        )
        x, _ = model.reconstructor.encode(batch["image"])
        h = 1 - grid
        l_t = (h * (1 - a) * (model.reconstructor.decode(x * (a + grid * (1 - a))) - photo).abs()).mean()
        l_nt = (h * a * (model.reconstructor.decode(x * (1 - a + grid * a)) - photo).abs()).mean()
    assert losses["L_t"].item() == pytest.approx(l_t.item(), rel=1e-4)
    assert losses["L_nt"].item() == pytest.approx(l_nt.item(), rel=1e-4)
    assert losses["L_t per pixel"].item() == pytest.approx((l_t / (h * (1 - a)).mean()).item(), rel=1e-4)
    colour = (photo - photo.mean((2, 3), keepdim=True)).abs().mean()
    assert losses["L1 of the mean colour"].item() == pytest.approx(colour.item(), rel=1e-5)


def test_the_whole_photo_teaches_the_decoder_alone():
    model = tiny()
    settings = model.config.reconstructor.model_copy(update={"lambda_t": 0.0, "lambda_nt": 0.0})
    model.config = model.config.model_copy(update={"reconstructor": settings})
    losses = model.training_step(given(), CLOCK, "reconstruct")
    (losses["loss"] - losses["L_cls"]).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.reconstructor.decoder.parameters())
    assert all(p.grad is None or not p.grad.any() for p in model.reconstructor.reductions.parameters())
    assert all(p.grad is None for p in model.classifier.parameters())


def test_the_attack_subtracts_its_terms_and_begins_late():
    model = tiny(lambda_t=0.7, lambda_nt=2.0, attack_from=0.5).eval()
    model.training_step(given(), CLOCK, "reconstruct")
    late = model.training_step(given(), CLOCK, "classify")  # step 5 of 8
    expected = late["L_cls"] - 0.7 * late["L_t"] - 2.0 * late["L_nt"]
    assert late["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert min(late["L_t"], late["L_nt"]) > 0
    early = model.training_step(given(), START, "classify")
    assert early["loss"].item() == early["L_cls"].item()
    assert not early["L_t"].requires_grad
    assert early["L_t"].item() == pytest.approx(late["L_t"].item())


def test_photos_without_labels_have_no_target():
    model = tiny(lambda_t=1.0, lambda_nt=1.0).eval()
    batch = given(2)
    batch["label"][:] = 0
    torch.manual_seed(0)
    found = [model.training_step(batch, CLOCK, phase) for phase in model.phases]
    for losses in found:
        assert losses["L_t"].item() == losses["L_nt"].item() == 0
        assert all(value.isfinite() for value in losses.values())
    assert found[0]["L1 of the whole"] > 0


@pytest.mark.parametrize("phase", ["reconstruct", "classify"])
def test_half_precision_gives_losses_of_float32(phase):
    model = tiny().eval()
    exact = []
    for precision in (False, True):
        torch.manual_seed(0)
        model._targets = torch.zeros(4, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision):
            exact.append(model.training_step(given(), CLOCK, phase))
    assert exact[1]["L_t"].dtype == torch.float32
    assert exact[1]["L_t"].item() == pytest.approx(exact[0]["L_t"].item(), rel=0.1)


# --- who learns ------------------------------------------------------------------------------------------


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_each_phase_teaches_its_network_and_leaves_the_other_bit_identical():
    model = tiny(lambda_t=1.0, lambda_nt=1.0)
    accelerator = Accelerator(cpu=True)
    phases = [Phase(model, name, model.config.optimiser_of(name), accelerator) for name in model.phases]
    networks = {"reconstruct": model.reconstructor, "classify": model.classifier}
    seen = []
    for network in networks.values():
        network.register_forward_pre_hook(lambda module, _: seen.append((module, module.training)))
    for phase in phases:
        before = {name: state(network) for name, network in networks.items()}
        phase.step(given(), CLOCK, 8, accelerator)
        for name, network in networks.items():
            moved = changed(before[name], state(network))
            learnt = {n for n, p in network.named_parameters() if p.requires_grad}
            assert moved == (learnt if name == phase.name else set())
        assert model.trained_in(phase.name).training
        assert not any(network.training for name, network in networks.items() if name != phase.name)
        assert all(p.grad is None for p in model.parameters())  # nothing is left for the next phase


@pytest.mark.parametrize(
    ("weights", "terms"), [((1, 0), ["L_t"]), ((0, 1), ["L_nt"]), ((1, 1), ["L_t", "L_nt"])]
)
def test_a_step_of_the_attack_alone_raises_the_errors_of_the_rebuilding(weights, terms):
    model = tiny(lambda_t=1.0, lambda_nt=1.0).eval().double()
    batch = {name: value.double() for name, value in given().items()}
    targets = torch.zeros(4, dtype=torch.long)

    def errors(masks=None):
        maps, _ = model.classifier.evidence(batch["image"])
        target = target_map(maps, batch["label"], targets, SIDE)
        masks = masks or attack_masks(maps, targets, target)
        features = model.encode(batch["image"])[0].detach()
        photo = model.rebuilt_photo(batch["image"])
        found = model.rebuilding_errors(features, photo, target, *masks)
        return dict(zip(("L_t", "L_nt"), found, strict=True)), masks

    before, masks = errors()
    loss = -sum(w * before[name] for w, name in zip(weights, ("L_t", "L_nt"), strict=True))
    learnt = [p for p in model.classifier.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, learnt)
    norm = sum((g**2).sum() for g in gradients) ** 0.5
    with torch.no_grad():
        for parameter, gradient in zip(learnt, gradients, strict=True):
            parameter -= 1e-4 * gradient / norm
        after, _ = errors(masks)
    assert min(mask.mean() for mask in masks) > 0
    assert norm > 0
    assert sum(after[name] for name in terms) > sum(before[name] for name in terms)


def test_the_loss_of_the_attack_has_the_gradient_of_finite_differences():
    """In A_t, with the masks held as they are."""
    model = tiny(lambda_t=0.8, lambda_nt=0.3).eval().double()
    features, photo = random(1, 9, SIDE, SIDE), random(1, 3, SIDE, SIDE, seed=1)
    target = random(1, 1, SIDE, SIDE, seed=2).sigmoid().requires_grad_()
    masks = (random(1, 1, SIDE, SIDE, seed=3) > 0).double(), random(1, 1, SIDE, SIDE, seed=4).sigmoid()

    def loss(a: Tensor) -> Tensor:
        l_t, l_nt = model.rebuilding_errors(features, photo, a, *masks)
        return -0.8 * l_t - 0.3 * l_nt

    (gradient,) = torch.autograd.grad(loss(target), target)
    for seed in range(5):
        direction = random(1, 1, SIDE, SIDE, seed=10 + seed)
        with torch.no_grad():
            slope = (loss(target + 1e-6 * direction) - loss(target - 1e-6 * direction)) / 2e-6
        assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-9)


class MeanColour(nn.Module):
    """A reconstructor made by hand: it paints the mean colour of what it is shown."""

    def encode(self, photo: Tensor) -> tuple[Tensor, None]:
        return torch.cat([photo, torch.ones_like(photo[:, :1])], 1), None

    def decode(self, shown: Tensor) -> Tensor:
        colour, weight = shown.sum((2, 3), keepdim=True).split((3, 1), 1)
        return (colour / weight).expand(-1, -1, *shown.shape[2:])


def test_on_a_toy_one_term_expands_and_the_other_prunes():
    """A dark object on bright ground, half covered by A_t, which also covers some ground."""
    photo = torch.ones(1, 3, 16, 16, dtype=torch.float64)
    photo[..., 4:12, 4:12] = -1
    regions = {
        "object": (slice(4, 12), slice(4, 8)), "missed": (slice(4, 12), slice(8, 12)),
        "ground": (slice(12, 16), slice(0, 16)), "caught": (slice(0, 3), slice(0, 8)),
    }  # fmt: skip
    target = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    for name in ("object", "caught"):
        target[0, 0][regions[name]] = 0.9
    target.requires_grad_()
    model = ACR(CNNClassifier(tiny_backbone(), 3), None, config())
    model.reconstructor = MeanColour()
    features, _ = model.reconstructor.encode(photo)
    mask_t, mask_nt = (target == 0).double(), target.detach().clone()
    mask_nt[0, 0][regions["caught"]] = 0  # another class wins there
    l_t, l_nt = model.rebuilding_errors(features, photo, target, mask_t, mask_nt)

    def pull(error: Tensor) -> dict[str, Tensor]:
        """What CU, which raises the error, does to A_t: its gradient."""
        (gradient,) = torch.autograd.grad(error, target, retain_graph=True)
        return {name: gradient[0, 0][place] for name, place in regions.items()}

    expand, prune = pull(l_nt), pull(l_t)
    assert (expand["missed"] > 0).all()  # the object's other half gives it away: take it in
    assert (expand["ground"] < 0).all()
    assert (prune["caught"] < 0).all()  # ground inside gives the ground away: drop it
    assert (prune["object"] > 0).all()


def test_the_baseline_has_no_reconstructor_and_the_same_classifier_and_maps_are_watched():
    attacked, plain = tiny(lambda_t=1.0), tiny(lambda_t=0.0, lambda_nt=0.0)
    assert plain.phases == ("classify",)
    assert plain.reconstructor is None
    assert not changed(state(attacked.classifier), state(plain.classifier))
    losses = plain.training_step(given(), CLOCK, "classify")
    assert set(losses) == {"loss", "L_cls", "mean A_t", "area A_t = 0", "mask of the target"}
    assert losses["loss"] is losses["L_cls"]
    assert plain.kept() is plain.classifier
    assert attacked.kept() is attacked.classifier


def test_terms_that_have_died_are_named():
    alive = {"mean A_t": 0.3, "area A_t = 0": 0.4, "mask of the target": 0.2}
    settings = config(lambda_t=1.0, lambda_nt=1.0)
    assert alarms(alive, settings) == []
    dead = {
        "A_t covers the photos (mean 0.95)": {"mean A_t": 0.95},
        "A_t has vanished (mean 0.010)": {"mean A_t": 0.01},
        "the pruning term is dead": {"area A_t = 0": 0.0},
        "the expanding term is dead": {"mask of the target": 0.0},
    }
    for words, values in dead.items():
        (sentence,) = alarms(alive | values, settings)
        assert words in sentence
        assert sentence.endswith(".")
    both = alive | {"area A_t = 0": 0.0, "mask of the target": 0.0}
    assert alarms(both, config(lambda_t=0.0, lambda_nt=0.0)) == []


def test_an_epoch_of_dead_terms_warns_once(tmp_path):
    model = tiny(lambda_t=1.0, lambda_nt=1.0)
    nn.init.zeros_(model.classifier.classifier[0].weight)
    clocks = [Clock(step, 0, 1, 2) for step in range(2)]
    for clock in clocks:
        for phase in model.phases:
            model.training_step(given(), clock, phase)
        if clock is clocks[0]:
            model.after_step(clock)
    with pytest.warns() as caught:
        model.after_step(clocks[1])
    vanished, dead = (str(warning.message) for warning in caught)
    assert vanished.startswith("ACR, epoch 1: A_t has vanished")
    assert "the expanding term is dead" in dead
    assert model._seen == []


def test_other_settings_of_the_classifier():
    backbone = tiny_backbone((1, 2, 4))
    backbone.net.layers.append(nn.Dropout2d(0.5))
    assert acr.with_dropout(backbone, None).net.layers[-1].p == 0.5
    assert acr.with_dropout(backbone, 0.2).net.layers[-1].p == 0.2
    model = CNNClassifier(tiny_backbone((2, 4, 8)), 3, hidden=5, xavier=True)
    maps, (logits,) = model.evidence(given()["image"])
    torch.testing.assert_close(logits, maps.mean((2, 3)))
    torch.testing.assert_close(maps, model.class_maps(given()["image"]))
    assert [tuple(p.shape[:2]) for p in model.classifier.parameters()] == [(5, 8), (3, 5)]


# --- training, killed and resumed ------------------------------------------------------------------------


class StoppedError(Exception):
    pass


def test_a_killed_and_resumed_training_ends_with_the_same_bytes(tmp_path):
    settings = config(
        epochs=3, batch=2, lambda_t=0.5, lambda_nt=0.5,
        remnants={"q": 0.8, "fall": 0.3, "cells": (4, 6)},
    )  # fmt: skip
    batch = given(6)

    def example(index: int) -> dict[str, Tensor]:
        noise = 0.1 * torch.randn(3, 32, 32)
        return {"image": batch["image"][index] + noise, "label": batch["label"][index]}

    def run(folder: Path, stop_at: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        model = tiny(epochs=3, batch=2, lambda_t=0.5, lambda_nt=0.5)
        model.config = settings
        model.watch(["a", "b"], batch["image"][:2], batch["label"][:2], folder)
        if stop_at is not None:
            step = model.training_step

            def stopping(batch, clock, phase):
                if clock.step == stop_at and phase == "classify":  # between the phases of a batch
                    raise StoppedError
                return step(batch, clock, phase)

            model.training_step = stopping
        train(model, SeededExamples(6, example, 0), settings, folder, workers=0, precision="no", title="tiny")

    run(tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(tmp_path / "killed", stop_at=4)
    assert (tmp_path / "killed" / "checkpoint.pt").is_file()
    run(tmp_path / "killed")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    killed = {path.name: path.read_bytes() for path in (tmp_path / "killed").iterdir()}
    assert whole == killed
    pictures = {f"pictures_{epoch:03d}.npz" for epoch in (1, 2, 3)}
    assert set(whole) == {"model.safetensors", "history.csv"} | pictures
    history = pd.read_csv(tmp_path / "whole" / "history.csv")
    assert {"reconstruct L_t", "classify mean A_t", "classify area A_t = 0"} < set(history)


def test_the_eight_pictures():
    model = tiny(lambda_t=1.0, lambda_nt=1.0)
    batch, targets = given(2), torch.tensor([0, 0])
    generator = torch.random.get_rng_state()
    found = model.panels(batch["image"], batch["label"], targets)
    again = model.panels(batch["image"], batch["label"], targets)
    assert torch.equal(generator, torch.random.get_rng_state())  # no draw that the training would miss
    assert tuple(found) == PANELS
    assert all(torch.equal(found[name], again[name]) for name in PANELS)
    torch.testing.assert_close(found["A_t"] + found["A_nt"], torch.ones(2, 1, SIDE, SIDE))
    with torch.no_grad():
        features, _ = model.encode(batch["image"])
        torch.testing.assert_close(model.reconstructor.decode(features * found["A_t"]), found["CU_t"])
        shown = found["A_nt"] + found["g"] * found["A_t"]
        torch.testing.assert_close(model.reconstructor.decode(features * shown), found["RU_nt"])
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    white = torch.tensor([(1 - m) / s for m, s in zip(mean, std, strict=True)])
    picture = acr.as_picture(white.view(1, 3, 1, 1) * torch.ones(1, 3, 2, 2), grey=False)
    assert picture.shape == (1, 2, 2, 3)
    assert (picture == 255).all()


# --- in a study ------------------------------------------------------------------------------------------

SMALL = {
    "scenes.train": 4, "scenes.val": 1, "acr.epochs": 1, "acr.batch": 4, "maps.scales": [1.0],
    "backbone.weights": "random",
}  # fmt: skip


@pytest.mark.whole
def test_a_study_trains_it_and_scores_its_min_max_maps(tmp_path):
    study = Study("smoke", cache=tmp_path, results=tmp_path / "results", overrides=SMALL)
    maps = study.response_maps("acr", 0)
    classifier = study.classifier("acr", 0)
    assert maps.provenance()["config"]["rule"] == MIN_MAX.name == "min-max"
    assert maps.origin.weights == ("tf_efficientnet_lite0, random",)
    pictures = acr.pictures(classifier, 1)
    assert pictures["RU_t"].shape == (2, 32, 32, 3)
    first = study.data.train.label(str(pictures["ids"][0]))
    assert first[pictures["targets"][0]] == 1
    table = study.scores([maps])
    assert (table["method"] == "acr").all()
    base = study.varied({"acr.lambda_t": 0, "acr.lambda_nt": 0})
    assert base.classifier("acr", 0).key != classifier.key
    history = pd.read_csv(base.classifier("acr", 0).file("history.csv"))
    assert list(history) == ["epoch", "loss", "L_cls", "mean A_t", "area A_t = 0", "mask of the target", "lr"]
    with pytest.raises(ValueError, match="ACR has no rounds"):
        study.classifier("acr", 0, rounds=1)
    with pytest.raises(ValueError, match=r"reconstructor\.side 36 is no multiple of 2\^4"):
        study.varied({"acr.reconstructor.side": 36}).classifier("acr", 0)


def test_the_preset_paper_is_the_code_and_the_supplement():
    section = load_config("paper").acr
    assert section.reconstructor.channels == (64, 128, 256, 512, 512, 512, 512, 512)
    assert sum(section.reconstructor.taps) == 448
    assert (section.lambda_t, section.lambda_nt) == (0.8, 0.3)
    assert (section.reconstructor.lambda_t, section.reconstructor.lambda_nt) == (0.5, 0.3)
    assert (section.epochs, section.batch, section.crop, section.jitter) == (40, 8, 256, False)
    for phase, new in (("reconstruct", 10), ("classify", 1)):
        optimiser = section.optimiser_of(phase)
        assert (optimiser.name, optimiser.lr, optimiser.momentum) == ("sgd", 0.01, "weight_decay_slip")
        assert optimiser.new_layers_lr == new


def test_table_a1_is_read_from_the_decoder():
    printed = pd.read_csv(PAPERS / "acr" / "tables" / "table-A1.csv")[["block", "metric", "value"]]
    found = acr.decoder_sizes(load_config("paper").acr.reconstructor)
    assert found["value"].tolist() == printed["value"].tolist()
    assert found["block"].tolist() == printed["block"].tolist()
    small = acr.decoder_sizes(load_config("quick").acr.reconstructor)
    assert small["block"].unique().tolist() == ["Input", "D1", "D2", "D3", "D4", "U3", "U2", "U1", "C"]


@pytest.mark.skipif(not COCO128.is_dir(), reason="needs ../shared/data/coco128 beside the checkout")
def test_the_coco_path_runs_on_real_photos(tmp_path):
    root = tmp_path / "coco2014"
    convert_coco(COCO128, root, processes=1)
    study = Study(
        "smoke", dataset="coco2014", root=root, labels=root / "labels.npz", cache=tmp_path / "cache",
        results=tmp_path / "results", overrides=SMALL | {"limit": 4, "maps.batch": 4},
    )  # fmt: skip
    assert len(study.data.classes) == 81
    maps = study.response_maps("acr", 0)
    weights = study.classifier("acr", 0).file("model.safetensors")
    assert weights.is_file()
    history = pd.read_csv(study.classifier("acr", 0).file("history.csv"))
    assert history[["reconstruct loss", "classify loss"]].notna().all(axis=None)
    table = study.scores([maps])
    assert (table["dataset"] == "coco2014").all()
    assert table.loc[table["class"] != "all", "class"].nunique() == 81
    mean = table[(table["class"] == "all") & (table["metric"] == "mIoU")]
    assert mean["value"].between(0, 100).all()
    assert len(mean) == 2  # fixed and oracle threshold


@pytest.mark.slow
def test_the_preset_paper_does_one_iteration_and_one_inference(tmp_path, capsys):
    """Two full-width ResNet-38, the 256-pixel decoder, batch 1, random weights: minutes and 10 GB."""
    study = Study(
        "paper", cache=tmp_path, results=tmp_path / "results",
        overrides={
            "scenes.train": 1, "scenes.val": 1, "processes": 1, "backbone.weights": "random",
            "acr.backbone.weights": "random",
        },
    )  # fmt: skip
    recipe, section = study.recipe("acr"), study.section("acr")
    settings = recipe.trained_by(section)
    model = build(study, recipe, settings, 0)
    example = recipe.examples(study, settings, model)(0)
    batch = {name: value[None] for name, value in example.items()}
    assert batch["image"].shape == (1, 3, 256, 256)
    accelerator = Accelerator(cpu=True)
    clock = Clock(0, 0, 40, 1)
    seconds = {}
    for name in model.phases:
        phase = Phase(model, name, settings.optimiser_of(name), accelerator)
        start = time.perf_counter()
        losses = phase.step(batch, clock, 40, accelerator)
        seconds[name] = time.perf_counter() - start
        assert all(np.isfinite(value) for value in losses.values())
    image = torch.randint(0, 256, (1, 3, 375, 500), dtype=torch.uint8)
    start = time.perf_counter()
    scales = study.config.maps.scales
    kept = model.kept().eval()
    (found,) = response_maps(kept, image, batch["label"], scales, True, 1, recipe.maps)
    seconds["inference"] = time.perf_counter() - start
    assert found.maps.shape == (len(found.classes), 375, 500)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with capsys.disabled():
        times = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        print(f"\npeak {peak:.1f} GB, {times}")
