"""SC-CAM's loss against a loop, its two heads, and what a round takes over from the round before."""

import pytest
import torch
from tiny_backbone import tiny_backbone

from wsss_lib.methods import load_config, sc_cam
from wsss_lib.methods.cam import CAM
from wsss_lib.methods.cam import RECIPE as BASELINE
from wsss_lib.methods.sc_cam import SCCAM, joint_loss
from wsss_lib.models.trainable import START


def batch(classes: int = 3, clusters: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    sub_label = torch.zeros(2, classes, clusters)
    sub_label[0, 0, 3] = sub_label[0, 2, 1] = sub_label[1, 1, 0] = 1
    image = torch.randn(2, 3, 32, 48, generator=generator)
    return {"image": image, "label": label, "sub_label": sub_label.flatten(1)}


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean over images and outputs of -[y log s(x) + (1 - y) log(1 - s(x))], as loops in float64."""
    total = 0.0
    for row, truth in zip(logits.double(), labels.double(), strict=True):
        for x, y in zip(row, truth, strict=True):
            p = 1 / (1 + torch.exp(-x))
            total -= float(y * torch.log(p) + (1 - y) * torch.log(1 - p))
    return total / logits.numel()


@pytest.mark.parametrize("weight", [0.0, 1.0, 5.0])
def test_the_loss_is_both_cross_entropies_by_weight(weight):
    generator = torch.Generator().manual_seed(1)
    logits, sub_logits = (4 * torch.randn(2, n, generator=generator) for n in (3, 12))
    given = batch()
    losses = joint_loss(logits, given["label"], sub_logits, given["sub_label"], weight)
    parent, sub = cross_entropy(logits, given["label"]), cross_entropy(sub_logits, given["sub_label"])
    assert losses["parent loss"].item() == pytest.approx(parent, rel=1e-5)
    assert losses["sub-category loss"].item() == pytest.approx(sub, rel=1e-5)
    assert losses["loss"].item() == pytest.approx(parent + weight * sub, rel=1e-5)


@pytest.mark.parametrize("head_channels", [None, 7])
def test_a_step_teaches_both_heads_and_the_features(head_channels):
    model = SCCAM(tiny_backbone(), 3, 4, 5.0, head_channels=head_channels).train()
    losses = model.training_step(batch(), START, "train")
    losses["loss"].backward()
    for part in (model.classifier, model.sub_classifier, *model.neck[:-1]):
        assert all(p.grad.abs().sum() > 0 for p in part.parameters())
    grads = [p.grad for p in model.backbone.parameters() if p.requires_grad]
    assert all(g is not None for g in grads)
    assert sum(g.abs().sum() for g in grads) > 0
    with torch.no_grad():  # the loss is that of the pooled maps of both heads
        image = batch()["image"]
        expected = joint_loss(
            model.class_maps(image).mean((2, 3)), batch()["label"],
            model.sub_category_maps(image).mean((2, 3)), batch()["sub_label"], 5.0,
        )  # fmt: skip
    assert losses["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-5)


def test_the_sub_category_loss_changes_the_features_and_not_the_parent_head():
    given = batch()
    grads = {}
    for weight in (0.0, 5.0):
        torch.manual_seed(0)
        model = SCCAM(tiny_backbone(), 3, 4, weight).train()
        model.training_step(given, START, "train")["loss"].backward()
        grads[weight] = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    torch.testing.assert_close(grads[0.0]["classifier.weight"], grads[5.0]["classifier.weight"])
    assert grads[0.0]["sub_classifier.weight"].abs().sum() == 0
    deepest = [name for name in grads[0.0] if name.startswith("backbone.")][-1]
    assert (grads[0.0][deepest] - grads[5.0][deepest]).abs().max() > 1e-6


def test_maps_come_from_their_heads():
    model = SCCAM(tiny_backbone(), 3, 4, 5.0).eval()
    image = batch()["image"]
    with torch.no_grad():
        features = model.features(image)
        maps, finer = model.class_maps(image), model.sub_category_maps(image)
    assert maps.shape == (2, 3, 2, 3)
    assert finer.shape == (2, 12, 2, 3)
    for found, head in ((maps, model.classifier), (finer, model.sub_classifier)):
        by_hand = torch.einsum("cd,bdhw->bchw", head.weight[..., 0, 0], features)
        torch.testing.assert_close(found, by_hand)


def test_whole_channels_are_dropped_in_training_only():
    model = SCCAM(tiny_backbone(), 3, 4, 5.0, dropout=0.5)
    image = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain = model.eval().features(image)
        torch.manual_seed(0)
        dropped = model.train().features(image)
    kept = (dropped != 0).flatten(2)
    assert 0 < kept.any(2).float().mean() < 1
    torch.testing.assert_close(dropped, torch.where(dropped != 0, 2 * plain, dropped))


def test_a_round_takes_over_all_but_the_sub_category_head():
    before, after = (SCCAM(tiny_backbone(seed=s), 3, 4, 5.0, head_channels=7) for s in (0, 1))
    own = after.sub_classifier.weight.clone()
    after.start_from(before.state_dict())
    torch.testing.assert_close(after.sub_classifier.weight, own)
    for name, value in before.state_dict().items():
        if not name.startswith("sub_classifier"):
            torch.testing.assert_close(after.state_dict()[name], value)


def test_the_first_round_takes_over_what_fits_of_a_cam():
    cam = CAM(tiny_backbone(seed=0), 3)
    plain, with_neck = (
        SCCAM(tiny_backbone(seed=1), 3, 4, 5.0),
        SCCAM(tiny_backbone(seed=1), 3, 4, 5.0, head_channels=7),
    )
    for model in (plain, with_neck):
        model.start_from(cam.state_dict())
        torch.testing.assert_close(model.backbone.state_dict(), cam.backbone.state_dict())
    torch.testing.assert_close(plain.classifier.weight, cam.classifier.weight)
    assert with_neck.classifier.weight.shape == (3, 7, 1, 1)


def test_round_0_of_the_thesis_is_its_network_and_all_of_it_is_carried_over():
    section = load_config("quick", {"sc_cam.variant": "thesis"}).sc_cam
    assert (section.start, section.head_channels) == ("previous", 512)
    config = BASELINE.trained_by(section)
    before = BASELINE.build(config, lambda: tiny_backbone(seed=0), 3)
    assert before.neck[0].weight.shape[:2] == (512, before.backbone.channels[-1])
    after = sc_cam.RECIPE.build(sc_cam.RECIPE.trained_by(section), lambda: tiny_backbone(seed=1), 3)
    after.start_from(before.state_dict())
    own = {name: value for name, value in after.state_dict().items() if not name.startswith(sc_cam.SUB_HEAD)}
    torch.testing.assert_close(own, dict(before.state_dict()))


@pytest.mark.parametrize("preset", ["smoke", "quick", "standard", "paper"])
def test_lambda_is_the_papers_in_its_preset_and_in_every_variant(preset):
    weights = {
        variant: load_config(preset, {"sc_cam.variant": variant}).sc_cam.weight
        for variant in (None, "thesis", "release")
    }
    assert weights == {None: 5 if preset == "paper" else 1, "thesis": 5, "release": 5}
