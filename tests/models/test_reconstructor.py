"""The reconstructor: Table A1, the decoder against one written from functions, what the encoder hands on."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_backbone import tiny_backbone
from torch import Tensor
from torch.nn import functional as F

from wsss_lib.config import Optimiser
from wsss_lib.models.reconstructor import Reconstructor, UNet, class_head, restated
from wsss_lib.training import build_optimiser

TABLE = Path(__file__).parents[2] / "papers" / "acr" / "tables" / "table-A1.csv"
PAPER = (64, 128, 256, 512, 512, 512, 512, 512)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tiny(side: int = 32, strides: tuple[int, ...] = (2, 4, 8, 16), **options) -> Reconstructor:
    torch.manual_seed(0)
    options = {"taps": (2, 3, 4), "channels": (4, 6, 8, 8), "dropout": 0.0} | options
    return Reconstructor(tiny_backbone(strides), 3, side, **options)


# --- decoder ---------------------------------------------------------------------------------------------


def test_the_decoder_has_the_sizes_of_table_a1():
    printed = pd.read_csv(TABLE)
    expected = printed.pivot(index="block", columns="metric", values="value").astype(int)
    with torch.device("meta"):
        found = dict(UNet(448, PAPER).blocks(torch.empty(1, 448, 256, 256)))
    assert list(found) == [block for block in printed["block"].unique() if block != "Input"]
    for block, output in found.items():
        channels, size = expected.loc[block, ["channels", "size"]]
        assert output.shape == (1, channels, size, size), block


@pytest.mark.parametrize(("blocks", "side"), [(7, 128), (7, 256), (4, 64), (4, 96), (4, 16), (2, 4)])
@pytest.mark.parametrize("variant", ["paper", "code"])
def test_other_depths_and_sides_run(blocks, side, variant):
    decoder = UNet(5, (4, 8, 8, 8, 8, 8, 8)[:blocks], variant=variant)
    painted = decoder(torch.randn(1, 5, side, side))
    assert painted.shape == (1, 3, side, side)
    assert painted.isfinite().all()


def test_a_side_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match=r"halves its input 4 times.*multiples of 16\.$"):
        UNet(5, (4, 4, 4, 4))(torch.randn(1, 5, 64, 72))
    with pytest.raises(ValueError, match=r"side 40 is no multiple of 2\^4"):
        tiny(side=40)


def by_functions(decoder: UNet, x: Tensor, variant: str) -> Tensor:
    """Table A1 and its text, block by block, from the decoder's weights; no dropout."""
    weights = decoder.state_dict()
    depth = len(decoder.down)

    def normed(x: Tensor) -> Tensor:
        flat = x.flatten(2)
        variance = flat.var(2, unbiased=False)
        return (x - flat.mean(2)[..., None, None]) / (variance[..., None, None] + 1e-5).sqrt()

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    kept = {}
    for d in range(1, depth + 1):
        x = F.conv2d(x, weights[f"down.D{d}.0.weight"], stride=2, padding=1)
        kept[d] = x = leaky(x if d in (1, depth) else normed(x))
    for u in range(depth - 1, 0, -1):
        x = normed(F.conv_transpose2d(x, weights[f"up.U{u}.0.weight"], stride=2, padding=1))
        x = torch.cat([leaky(x) if variant == "paper" else x.clamp(min=0), kept[u]], 1)
    weight, bias = weights["colour.1.weight"], weights["colour.1.bias"]
    if variant == "paper":
        height, width = 2 * x.shape[2], 2 * x.shape[3]
        x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
        return torch.einsum("bihw,oi->bohw", x, weight[..., 0, 0]) + bias[:, None, None]
    return F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), weight, bias, padding=1)


@pytest.mark.parametrize("variant", ["paper", "code"])
@torch.no_grad()
def test_the_decoder_is_the_one_of_the_text(variant):
    torch.manual_seed(1)
    decoder = UNet(5, (4, 6, 8, 7, 9), variant=variant).double().eval()
    features = random(2, 5, 64, 32)
    torch.testing.assert_close(decoder(features), by_functions(decoder, features, variant))


@torch.no_grad()
def test_dropout_acts_from_the_fourth_block_on_and_in_training_alone():
    decoder = UNet(5, (4, 4, 4, 8, 8), dropout=0.5)
    features = random(1, 5, 32, 32).float()
    outputs = [dict(decoder.train().blocks(features)) for _ in range(2)]
    same = {name: torch.equal(outputs[0][name], outputs[1][name]) for name in outputs[0]}
    assert same == {name: name in ("D1", "D2", "D3") for name in same}  # the rest sees what D4 dropped
    with_dropout = {
        name for name, block in (*decoder.down.items(), *decoder.up.items()) if "Dropout" in str(block)
    }
    assert with_dropout == {"D4", "D5", "U4"}
    assert torch.equal(decoder.eval()(features), decoder(features))


# --- encoder ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_encoder_joins_its_three_deepest_taps():
    model = tiny(side=48).eval()
    images = random(2, 3, 96, 96).float()
    features, logits = model.encode(images)
    assert features.shape == (2, 9, 48, 48)
    taps = model.backbone(images)[1:]
    parts = features.split((2, 3, 4), 1)
    for tap, reduction, part in zip(taps, model.reductions, parts, strict=True):
        weight = reduction.weight[..., 0, 0]
        assert reduction.bias is None
        small = torch.einsum("bihw,oi->bohw", tap, weight)
        expected = F.interpolate(small, (48, 48), mode="bilinear", align_corners=False)
        torch.testing.assert_close(part, expected)
    weight = model.classifier[0].weight[..., 0, 0]
    torch.testing.assert_close(logits, taps[-1].mean((2, 3)) @ weight.T)
    assert model.decode(features).shape == (2, 3, 48, 48)


def test_an_encoder_of_one_tap_is_refused():
    with pytest.raises(ValueError, match="reads 3 depths of its encoder, which has 1; give"):
        tiny(strides=(16,))


@torch.no_grad()
def test_the_class_head_of_paper_and_code():
    features = random(2, 6, 3, 3).float()
    single, double = class_head(6, 4, None, False), class_head(6, 4, 5, True)
    assert [tuple(p.shape) for p in single.parameters()] == [(4, 6, 1, 1)]
    assert [tuple(p.shape) for p in double.parameters()] == [(5, 6, 1, 1), (4, 5, 1, 1)]
    first, second = (p[..., 0, 0] for p in double.parameters())
    hidden = torch.einsum("bihw,oi->bohw", features, first).clamp(min=0)
    torch.testing.assert_close(double(features), torch.einsum("bihw,oi->bohw", hidden, second))
    assert first.abs().max() <= (6 / 11) ** 0.5 + 1e-6  # Xavier's bound


@pytest.mark.parametrize("fast", ["new", "transposed"])
def test_learning_rates(fast):
    config = Optimiser(
        name="sgd", lr=0.01, momentum="weight_decay_slip", weight_decay=5e-4, new_layers_lr=10, bias_lr=2,
        power=0.9,
    )  # fmt: skip
    model = tiny(fast=fast)
    optimiser = build_optimiser(model, config)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in optimiser.param_groups
        for p in group["params"]
    }
    assert all(group["momentum"] == 5e-4 for group in optimiser.param_groups)
    for name, rate in rates.items():
        new = not name.startswith("backbone.") if fast == "new" else name.startswith("decoder.up.")
        bias = name.endswith(".bias")
        expected = (0.01 * (10 if new else 1) * (2 if bias else 1), 0 if bias else 5e-4)
        assert rate == pytest.approx(expected), name
    assert {name for name in rates if name.endswith(".bias") and "backbone" not in name} == {
        "decoder.colour.1.bias"
    }


# --- units -----------------------------------------------------------------------------------------------


def test_images_in_other_units():
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lite = (pixels - 127 / 255) / (128 / 255)
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None]
        for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    found = restated(lite, (127 / 255,) * 3, (128 / 255,) * 3)
    torch.testing.assert_close(found, (pixels - mean) / std)
    differences = (found[0] - found[1]).abs().mean() / (lite[0] - lite[1]).abs().mean()
    assert differences.item() == pytest.approx(2.2, abs=0.06)  # what a lambda of the papers would lose
