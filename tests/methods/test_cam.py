"""The classifier's maps, its pooling and its loss."""

import pytest
import torch
from tiny_backbone import tiny_backbone

from wsss_lib.losses import classification_loss, global_average_pool
from wsss_lib.methods.cam import CAM
from wsss_lib.models.trainable import START


def test_loss_is_the_mean_binary_cross_entropy_also_of_soft_labels():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(4, 20, generator=generator, dtype=torch.float64)
    labels = torch.rand(4, 20, generator=generator, dtype=torch.float64).round(decimals=1)
    p = 1 / (1 + torch.exp(-logits))
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).sum() / 80
    assert classification_loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-9)


def test_loss_of_extreme_logits_is_finite():
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = classification_loss(logits, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("size", [(64, 48), (50, 33)])
def test_class_maps_weigh_the_deepest_features(size):
    model = CAM(tiny_backbone(), 5).eval()
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps, features = model.class_maps(images), model.backbone(images)[-1]
    assert model.stride == 16
    assert maps.shape == (2, 5, -(-size[0] // 16), -(-size[1] // 16))
    for c in range(5):
        by_hand = sum(model.classifier.weight[c, d, 0, 0] * features[:, d] for d in range(features.shape[1]))
        torch.testing.assert_close(maps[:, c], by_hand)
    # the pooled maps are the classifier of the pooled features: what makes a CAM free
    pooled = features.mean((2, 3)) @ model.classifier.weight[..., 0, 0].T
    torch.testing.assert_close(global_average_pool(maps), pooled)


def test_training_step_is_the_loss_of_the_pooled_maps():
    model = CAM(tiny_backbone(), 3).train()
    batch = {"image": torch.randn(2, 3, 32, 32), "label": torch.tensor([[1.0, 0, 1], [0, 0, 0]])}
    losses = model.training_step(batch, START, "train")
    expected = classification_loss(model.class_maps(batch["image"]).mean((2, 3)), batch["label"])
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    losses["loss"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
