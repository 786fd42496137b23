"""Mixup-CAM: each equation against loops in float64, where gradients go, and its place in a study."""

import math

import pandas as pd
import pytest
import torch
from tiny_backbone import tiny_backbone

from wsss_lib.losses import classification_loss
from wsss_lib.methods import load_config
from wsss_lib.methods.cam import CAM
from wsss_lib.methods.mixup_cam import (
    MixupCAM,
    concentration_loss,
    draw_mixing,
    entropy_loss,
    log_class_probabilities,
    mixup,
    normalised_response,
    spread,
)
from wsss_lib.models.trainable import START
from wsss_lib.study.study import Study

LABELS = torch.tensor([[1.0, 0, 0.3, 0], [0, 0.7, 0, 0]])


def mixup_cam(alpha: float, lambda_ent: float, lambda_con: float, **options) -> MixupCAM:
    changes = {"alpha": alpha, "lambda_ent": lambda_ent, "lambda_con": lambda_con, **options}
    return MixupCAM(tiny_backbone(), 4, load_config("smoke").mixup_cam.model_copy(update=changes))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def entropy_by_loops(logits: torch.Tensor, maximum: str) -> float:
    photos, classes, height, width = logits.shape
    total = 0.0
    for b in range(photos):
        p = [[[1 / (1 + math.exp(-z)) for z in row] for row in m] for m in logits[b].tolist()]
        top = max(v for m in p for row in m for v in row)
        for i in range(height):
            for j in range(width):
                here = [p[c][i][j] for c in range(classes)]
                highest = top if maximum == "photo" else max(here)
                e = [math.exp(v / highest) for v in here]
                total -= sum(v / sum(e) * math.log(v / sum(e)) for v in e)
    return total / (photos * height * width)


def concentration_by_loops(maps, labels, stride, weights, reduction) -> float:
    photos, classes, height, width = maps.shape
    total, unit = 0.0, stride / 8
    for b in range(photos):
        of_photo, weight = 0.0, 0.0
        for c in range(classes):
            m = [[max(v, 0.0) for v in row] for row in maps[b, c].tolist()]
            present = float(labels[b, c])
            if present == 0 or sum(map(sum, m)) < 1e-6:
                continue
            mass = sum(v + 1e-3 for row in m for v in row)
            cells = [
                (i * unit, j * unit, (m[i][j] + 1e-3) / mass) for i in range(height) for j in range(width)
            ]
            mu_h, mu_w = (sum(cell[axis] * cell[2] for cell in cells) for axis in (0, 1))
            inner = sum(((h - mu_h) ** 2 + (w - mu_w) ** 2) * v for h, w, v in cells)
            share = 1.0 if weights == "equal" else present
            of_photo, weight = of_photo + share * inner, weight + share
        total += of_photo / weight if reduction == "mean" and weight else of_photo
    return total / photos


# --- equation 2.2 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["batch", "photo"])
def test_images_and_labels_are_mixed_alike(per):
    images, labels = random(6, 3, 4, 5), torch.rand(6, 2)
    share, partner = draw_mixing(6, 1.0, per)
    assert sorted(partner.tolist()) == list(range(6))
    assert ((share >= 0) & (share <= 1)).all()
    assert (len(set(share.tolist())) == 1) == (per == "batch")
    for values in (images, labels):
        mixed = mixup(values, share, partner)
        assert mixed.dtype == values.dtype
        for i, (own, j) in enumerate(zip(share.to(values.dtype), partner, strict=True)):
            torch.testing.assert_close(mixed[i], own * values[i] + (1 - own) * values[j])


def test_a_share_of_one_or_none_is_a_plain_photo():
    images, partner = random(3, 3, 2, 2), torch.tensor([2, 0, 1])
    assert torch.equal(mixup(images, torch.ones(3), partner), images)
    assert torch.equal(mixup(images, torch.zeros(3), partner), images[partner])


def test_shares_follow_the_beta_distribution():
    torch.manual_seed(0)
    for alpha in (0.2, 1.0, 5.0):
        share, _ = draw_mixing(20_000, alpha, "photo")
        assert share.mean().item() == pytest.approx(0.5, abs=0.01)
        assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_the_classification_loss_is_linear_in_the_mixed_labels():
    logits, labels = 3 * random(5, 4), (random(5, 4, seed=1) > 0).double()
    share, partner = draw_mixing(5, 0.4, "batch")
    mixed = classification_loss(logits, mixup(labels, share, partner))
    first, second = (classification_loss(logits, given) for given in (labels, labels[partner]))
    own = share[0].item()
    assert mixed.item() == pytest.approx(own * first.item() + (1 - own) * second.item(), rel=1e-9)


def test_the_seed_decides_the_mixing():
    given = {"image": random(4, 3, 32, 32).float(), "label": torch.rand(4, 4)}
    model = mixup_cam(0.2, 0.02, 2e-4).train()
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(model.training_step(given, START, "train")["loss"].item())
    assert found[0] == found[1] != found[2]


# --- equation 2.3 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("maximum", ["photo", "place"])
def test_entropy_is_that_of_a_loop(maximum):
    logits = 4 * random(2, 5, 3, 4)
    log_p = log_class_probabilities(logits, maximum)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(2, 3, 4, dtype=torch.float64))
    assert entropy_loss(logits, maximum).item() == pytest.approx(entropy_by_loops(logits, maximum), rel=1e-9)


def test_entropy_of_twenty_classes_stays_close_to_its_maximum():
    flat, one = torch.zeros(1, 20, 2, 2), torch.full((1, 20, 2, 2), -30.0)
    one[:, 3] = 30
    assert entropy_loss(flat).item() == pytest.approx(math.log(20))
    assert entropy_loss(one).item() == pytest.approx(2.953, abs=5e-4)
    ten = torch.where(torch.arange(20) < 10, 30.0, -30.0)[None, :, None, None]
    assert entropy_loss(ten).item() == pytest.approx(2.885, abs=5e-4)


@pytest.mark.parametrize("maximum", ["photo", "place"])
def test_entropy_has_the_gradient_of_finite_differences(maximum):
    logits = (3 * random(2, 3, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: entropy_loss(z, maximum), logits)


def test_entropy_of_sure_absence_is_finite():
    logits = torch.full((1, 4, 2, 2), -1e4, requires_grad=True)
    loss = entropy_loss(logits)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(4))  # the quotients are 1, though every sigmoid is 0
    assert logits.grad.isfinite().all()


# --- equation 2.4 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("weights", ["equal", "label"])
@pytest.mark.parametrize("stride", [8, 16])
def test_concentration_is_that_of_a_loop(stride, weights, reduction):
    maps = 3 * random(2, 4, 5, 3)
    maps[0, 2] = -1  # present and silent: has no centre
    expected = concentration_by_loops(maps, LABELS, stride, weights, reduction)
    assert expected > 0
    found = concentration_loss(maps, LABELS, stride, weights, reduction)
    assert found.item() == pytest.approx(expected, rel=1e-7)


def test_concentration_weighed_by_label_is_the_mixture_of_both_photos():
    maps = random(2, 4, 5, 3)
    first, second = (random(2, 4, seed=s) > 0 for s in (1, 2))
    mixed = 0.3 * first + 0.7 * second
    both = [
        concentration_loss(maps, labels, 8, "label").item() for labels in (first.double(), second.double())
    ]
    found = concentration_loss(maps, mixed, 8, "label").item()
    assert found == pytest.approx(0.3 * both[0] + 0.7 * both[1], rel=1e-6)


def test_spread_of_known_responses():
    flat = normalised_response(torch.zeros(1, 1, 28, 28, dtype=torch.float64))
    assert spread(flat, 8).item() == pytest.approx((28**2 - 1) / 6)  # 130.5
    point = torch.zeros(1, 1, 6, 7, dtype=torch.float64)
    point[..., 4, 2] = 1
    assert spread(point, 8).item() == 0
    point[..., 0, 2] = point[..., 4, 2] = 0.5  # two cells from the middle, each
    assert spread(point, 8).item() == 4
    assert spread(point, 16).item() == 16
    torch.testing.assert_close(spread(point.roll((1, 3), (2, 3)), 8), spread(point, 8))


@pytest.mark.parametrize(("weights", "reduction"), [("equal", "sum"), ("label", "mean")])
def test_concentration_has_the_gradient_of_finite_differences(weights, reduction):
    maps = random(2, 4, 3, 4)
    maps = torch.where(maps.abs() < 0.05, 0.5, maps).requires_grad_()  # away from ReLU's corner
    assert torch.autograd.gradcheck(lambda m: concentration_loss(m, LABELS, 8, weights, reduction), maps)


def test_concentration_moves_present_classes_that_respond_and_no_other():
    maps = random(2, 4, 5, 5)
    maps[0, 2] = -1
    maps.requires_grad_()
    concentration_loss(maps, LABELS, 8).backward()
    moved = maps.grad.abs().sum((2, 3)) > 0
    assert moved.tolist() == [[True, False, False, False], [False, True, False, False]]
    assert (maps.grad[maps.detach() < 0] == 0).all()
    far, near = maps.grad[0, 0].flatten().max(), maps.grad[0, 0].flatten().min()
    assert far > 0 > near  # lower far from the centre, higher close to it


def test_concentration_of_a_photo_without_response_is_zero():
    maps = torch.full((2, 4, 3, 3), -1.0, requires_grad=True)
    for reduction in ("sum", "mean"):
        loss = concentration_loss(maps, LABELS, 8, "equal", reduction)
        loss.backward()
        assert loss.item() == 0
        assert (maps.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_give_the_losses_of_float32(dtype):
    maps = (100 * random(2, 4, 56, 56)).to(dtype).requires_grad_()
    labels = LABELS.to(dtype)
    exact = maps.detach().float()
    with torch.autocast("cpu", dtype):
        losses = entropy_loss(maps), concentration_loss(maps, labels, 8)
        sum(losses).backward()
    assert [loss.dtype for loss in losses] == [torch.float32] * 2
    assert losses[0].item() == pytest.approx(entropy_loss(exact).item(), rel=1e-6)
    assert losses[1].item() == pytest.approx(concentration_loss(exact, labels, 8).item(), rel=1e-6)
    assert maps.grad.isfinite().all()


# --- equation 2.5 ----------------------------------------------------------------------------------------


def given(seed: int = 0) -> dict[str, torch.Tensor]:
    return {"image": random(4, 3, 64, 48, seed=seed).float(), "label": (random(4, 4, seed=seed) > 0).float()}


@pytest.mark.parametrize("entropy_of", ["places", "photo"])
@pytest.mark.parametrize(("ent", "con"), [(0, 0), (0.5, 0), (0, 0.1), (0.5, 0.1)])
def test_a_step_is_the_weighted_sum_on_the_mixed_photos(ent, con, entropy_of):
    model = mixup_cam(0.5, ent, con, entropy_of=entropy_of).train()
    torch.manual_seed(3)
    losses = model.training_step(given(), START, "train")
    torch.manual_seed(3)
    mixing = draw_mixing(4, 0.5, "batch")
    image, label = (mixup(values, *mixing) for values in given().values())
    maps = model.class_maps(image)
    pooled = maps.mean((2, 3), keepdim=True)
    expected = {
        "L_cls": classification_loss(pooled.flatten(1), label),
        "L_ent": entropy_loss(maps if entropy_of == "places" else pooled),
        "L_con": concentration_loss(maps, label, model.stride),
    }
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4)
    total = expected["L_cls"] + ent * expected["L_ent"] + con * expected["L_con"]
    assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-4)
    losses["loss"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("entropy_of", ["places", "photo"])
def test_each_loss_teaches_head_and_features_and_a_weight_of_zero_silences_it(entropy_of):
    model = mixup_cam(0.5, 0, 0, entropy_of=entropy_of).train()
    taught = [p for p in model.parameters() if p.requires_grad]
    torch.manual_seed(3)
    losses = model.training_step(given(), START, "train")
    gradients = {name: torch.autograd.grad(loss, taught, retain_graph=True) for name, loss in losses.items()}
    for name in ("L_cls", "L_ent", "L_con"):
        of = dict(zip((id(p) for p in taught), gradients[name], strict=True))
        assert of[id(model.classifier.weight)].abs().max() > 0
        assert of[id(taught[0])].abs().max() > 0
    torch.testing.assert_close(gradients["loss"], gradients["L_cls"])


def test_nothing_is_mixed_in_evaluation():
    mixed, plain = mixup_cam(0.2, 0.02, 2e-4).eval(), CAM(tiny_backbone(), 4).eval()
    plain.load_state_dict(mixed.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(mixed.class_maps(given()["image"]), plain.class_maps(given()["image"]))


def test_steps_lower_the_loss():
    torch.manual_seed(0)
    model = mixup_cam(0.2, 0.02, 2e-4).train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    found = []
    for _ in range(30):
        losses = model.training_step(given(), START, "train")
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        found.append(losses["loss"].item())
    assert sum(found[-10:]) < 0.9 * sum(found[:10])


# --- in a study ------------------------------------------------------------------------------------------

SMALL = {
    "scenes.train": 8, "scenes.val": 2, "classifier.epochs": 1, "classifier.batch": 4, "maps.scales": [1.0],
}  # fmt: skip


@pytest.mark.whole
def test_a_study_trains_it_like_the_baseline_with_its_own_key(tmp_path, monkeypatch):
    study = Study("smoke", cache=tmp_path, results=tmp_path / "results", overrides=SMALL)
    maps = study.response_maps("mixup_cam", 0)
    assert maps.origin.method == "mixup_cam"
    history = pd.read_csv(study.classifier("mixup_cam", 0).file("history.csv"))
    assert {"L_cls", "L_ent", "L_con"} < set(history)
    config = study.config.mixup_cam
    expected = history["L_cls"] + config.lambda_ent * history["L_ent"] + config.lambda_con * history["L_con"]
    assert history["loss"].to_list() == pytest.approx(expected.to_list(), rel=1e-4)

    trained = []
    monkeypatch.setattr("wsss_lib.study.study.train", lambda model, *_, **__: trained.append(model) or 1 / 0)

    def trains(method: str, **overrides) -> bool:
        varied = {f"mixup_cam.{name}": value for name, value in overrides.items()}
        other = Study("smoke", cache=tmp_path, results=tmp_path / "results", overrides=SMALL | varied)
        try:
            other.classifier(method, 0)
        except ZeroDivisionError:
            return True
        return False

    assert trains("cam")
    assert type(trained[-1]) is CAM
    assert not trains("mixup_cam", sweeps={"alpha": [3], "lambda_ent": [1], "lambda_con": [1]})
    for name, value in {"alpha": 1.0, "lambda_ent": 0, "lambda_con": 0, "mix_per": "photo"}.items():
        assert trains("mixup_cam", **{name: value})
        assert getattr(trained[-1].config, name) == value
    assert trains("mixup_cam", variant="thesis")
    assert trained[-1].neck[0].out_channels == 16
    with pytest.raises(ValueError, match=r"mixup_cam\.variant 'release' must be null or one of \['thesis'\]"):
        trains("mixup_cam", variant="release")
