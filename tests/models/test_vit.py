"""Vision transformers: timm's numbers, faithful attention, positions for any size, a hybrid that learns."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from wsss_lib.config import Optimiser
from wsss_lib.losses import classification_loss
from wsss_lib.methods.cam import CAM
from wsss_lib.models import vit
from wsss_lib.models.backbones import (
    RANDOM,
    TokenBackbone,
    build_backbone,
    build_token_backbone,
    efficientnet_lite0_state,
)
from wsss_lib.models.trainable import START
from wsss_lib.training import build_optimiser

SMALL = (
    "test_vit"  # timm's own for tests: 6 blocks of 2 heads, 64 channels, patches of 16, made for 160 x 160
)
LITE0, HYBRID = "tf_efficientnet_lite0", "hybrid_lite0"


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def random_state(net: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Larger than initial weights, so that positions, class tokens and attention matter."""
    generator = torch.Generator().manual_seed(seed)
    return {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in net.state_dict().items()}


def filled(backbone: TokenBackbone, seed: int = 0) -> TokenBackbone:
    backbone.net.load_state_dict(random_state(backbone.net, seed))
    return backbone.eval()


def photos(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


# timm's own numbers


@pytest.mark.parametrize(("name", "side"), [(SMALL, 160), ("deit_tiny_patch16_224", 224)])
@pytest.mark.parametrize("attention", [False, True])
@torch.no_grad()
def test_tokens_are_timms(name, side, attention):
    backbone = build_token_backbone(name, weights=RANDOM).eval()
    whole = timm.create_model(name, num_classes=0).eval()
    whole.load_state_dict(backbone.net.state_dict())
    images = photos(2, 3, side, side)
    expected = whole.forward_features(images)
    tokens = backbone.tokens(images, attention)
    torch.testing.assert_close(tokens.classes, expected[:, :1], atol=1e-5, rtol=1e-5)
    cells = tokens.patches.permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(cells, expected[:, 1:], atol=1e-5, rtol=1e-5)
    assert (tokens.attention is not None) == attention


@torch.no_grad()
def test_attention_is_the_softmax_of_queries_and_keys():
    backbone = filled(build_token_backbone(SMALL, 3, RANDOM))
    inputs = []
    for block in backbone.net.blocks:
        block.norm1.register_forward_hook(lambda *call: inputs.append(call[2]))
    tokens = backbone.tokens(photos(2, 3, 48, 64), attention=True)
    assert tokens.attention.shape == (2, 6, 2, 3 + 12, 3 + 12)
    torch.testing.assert_close(tokens.attention.sum(-1), torch.ones(2, 6, 2, 15))
    for i, (block, x) in enumerate(zip(backbone.net.blocks, inputs, strict=True)):
        qkv = (x @ block.attn.qkv.weight.T + block.attn.qkv.bias).double().numpy()
        for head in range(2):
            q, k = (qkv[..., part + head * 32 : part + head * 32 + 32] for part in (0, 64))
            weights = np.exp(np.einsum("bid,bjd->bij", q, k) / np.sqrt(32))
            expected = torch.from_numpy(weights / weights.sum(-1, keepdims=True)).float()
            torch.testing.assert_close(tokens.attention[:, i, head], expected, atol=1e-5, rtol=1e-4)


def test_attention_of_classes_and_patches():
    backbone = filled(build_token_backbone(SMALL, 3, RANDOM))
    tokens = backbone.tokens(photos(1, 3, 32, 48), attention=True)
    to_patch, between = tokens.class_to_patch(), tokens.patch_to_patch()
    assert to_patch.shape == (1, 6, 2, 3, 2, 3)
    assert between.shape == (1, 6, 2, 6, 6)
    for y in range(2):
        for x in range(3):
            column = 3 + 3 * y + x
            for c in range(3):
                assert torch.equal(to_patch[..., c, y, x], tokens.attention[..., c, column])
            assert torch.equal(between[..., column - 3, :], tokens.attention[..., column, 3:])


def test_gradients_flow_through_the_attention():
    """Against finite differences: of the last block's attention, along a random change of the photo."""
    backbone = filled(build_token_backbone(SMALL, 2, RANDOM)).double()
    images, direction = photos(1, 3, 32, 32).double(), photos(1, 3, 32, 32, seed=1).double()
    weights = photos(1, 6, 2, 6, 6, seed=2).double()

    def objective(step: float) -> torch.Tensor:
        return (backbone.tokens(images + step * direction, attention=True).attention * weights).sum()

    images.requires_grad_()
    objective(0).backward()
    slope = (images.grad * direction).sum().item()
    with torch.no_grad():
        expected = (objective(1e-5) - objective(-1e-5)).item() / 2e-5
    assert slope == pytest.approx(expected, rel=1e-5)
    assert abs(slope) > 1e-3
    assert all(block.attn.qkv.weight.grad.abs().sum() > 0 for block in backbone.net.blocks)


def test_reading_the_attention_leaves_the_network_as_it_was(monkeypatch):
    backbone = build_token_backbone(SMALL, weights=RANDOM)
    layers = [block.attn for block in backbone.net.blocks]
    before = [layer.fused_attn for layer in layers]
    backbone.tokens(photos(1, 3, 32, 32), attention=True)
    monkeypatch.setattr(backbone.net, "norm", None)
    with pytest.raises(TypeError):  # fails after the last block
        backbone.tokens(photos(1, 3, 32, 32), attention=True)
    assert [layer.fused_attn for layer in layers] == before
    assert not any(layer.attn_drop._forward_pre_hooks for layer in layers)


def test_attention_that_was_not_asked_for_is_named():
    tokens = build_token_backbone(SMALL, weights=RANDOM).tokens(photos(1, 3, 32, 32))
    for read in (tokens.class_to_patch, tokens.patch_to_patch):
        with pytest.raises(ValueError, match="without attention"):
            read()


# positions and sizes


def added_positions(net: VisionTransformer, height: int, width: int) -> torch.Tensor:
    """What is added to patches of zeros, (height, width, D)."""
    with torch.no_grad():
        tokens = net._pos_embed(torch.zeros(1, height, width, net.embed_dim))
    return tokens[0, net.num_prefix_tokens :].unflatten(0, (height, width))


@pytest.mark.parametrize(("name", "side"), [(SMALL, 10), (HYBRID, 14)])
def test_positions_at_the_size_of_the_weights_are_the_weights(name, side):
    net = filled(build_token_backbone(name, 3, RANDOM)).net
    assert torch.equal(added_positions(net, side, side).flatten(0, 1), net.pos_embed[0, 3:])


@pytest.mark.parametrize("size", [(14, 11), (7, 5), (10, 3), (1, 1)])
def test_positions_are_interpolated_as_images_are(size):
    """Pillow's bicubic resize, channel by channel; class tokens keep theirs."""
    net = filled(build_token_backbone(SMALL, 2, RANDOM)).net
    grid = net.pos_embed[0, 2:].detach().unflatten(0, (10, 10)).numpy()
    expected = [
        np.array(Image.fromarray(channel).resize(size[::-1], Image.BICUBIC))
        for channel in np.moveaxis(grid, -1, 0)
    ]
    torch.testing.assert_close(
        added_positions(net, *size), torch.from_numpy(np.stack(expected, -1)), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("size", [(160, 160), (96, 208)])
@torch.no_grad()
def test_other_sizes_are_timms_resized_network(size):
    backbone = filled(build_token_backbone(SMALL, weights=RANDOM))
    resized = timm.create_model(SMALL, num_classes=0, dynamic_img_size=False).eval()
    resized.load_state_dict(backbone.net.state_dict())
    resized.set_input_size(img_size=size)  # a new table of positions
    images = photos(1, 3, *size)
    expected = resized.forward_features(images)[:, 1:].transpose(1, 2).unflatten(2, [s // 16 for s in size])
    torch.testing.assert_close(backbone.tokens(images).patches, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [SMALL, HYBRID])
@torch.no_grad()
def test_odd_sizes_are_padded_with_the_mean_colour(name):
    backbone = build_token_backbone(name, 5, RANDOM).eval()
    for height, width in ((41, 70), (16, 16), (1, 31)):
        image = photos(2, 3, height, width)
        rows, columns = -(-height // 16), -(-width // 16)
        padded = torch.zeros(2, 3, 16 * rows, 16 * columns)
        padded[..., :height, :width] = image
        tokens = backbone.tokens(image, attention=True)
        assert tokens.patches.shape == (2, backbone.channels[-1], rows, columns)
        assert tokens.classes.shape == (2, 5, backbone.channels[-1])
        count = 5 + rows * columns
        assert tokens.attention.shape[-2:] == (count, count)
        torch.testing.assert_close(tokens.patches, backbone.tokens(padded).patches)


# class tokens


@torch.no_grad()
def test_class_tokens_start_as_copies_of_the_pretrained_one(tmp_path):
    state = random_state(timm.create_model(SMALL, num_classes=0))
    torch.save(state, tmp_path / "weights.pth")
    backbone = build_token_backbone(SMALL, 20, tmp_path / "weights.pth").eval()
    for i in range(20):
        assert torch.equal(backbone.net.cls_token[0, i], state["cls_token"][0, 0])
        assert torch.equal(backbone.net.pos_embed[0, i], state["pos_embed"][0, 0])
    assert torch.equal(backbone.net.pos_embed[0, 20:], state["pos_embed"][0, 1:])
    classes = backbone.tokens(photos(1, 3, 48, 48)).classes
    torch.testing.assert_close(classes, classes[:, :1].expand(-1, 20, -1))


@torch.no_grad()
def test_each_copy_of_a_class_token_is_attended_to_as_the_one_was():
    """In the first block, relative to any patch."""
    one, three = (filled(build_token_backbone(SMALL, 1, RANDOM)) for _ in range(2))
    vit.repeat_class_token(three.net, 3)
    image = photos(1, 3, 32, 48)
    single = one.tokens(image, attention=True).attention[0, 0]
    copies = three.tokens(image, attention=True).attention[0, 0]
    odds = single[..., :1] / single[..., 1:]
    torch.testing.assert_close(copies[:, 2:, :1] / copies[:, 2:, 3:], odds, rtol=1e-3, atol=1e-5)


def test_class_tokens_without_positions():
    """DeiT-III adds positions to the patches alone."""
    net = VisionTransformer(
        img_size=32, embed_dim=8, depth=1, num_heads=2, no_embed_class=True, dynamic_img_size=True
    )
    positions = net.pos_embed.clone()
    vit.repeat_class_token(net, 3)
    assert torch.equal(net.pos_embed, positions)
    assert net.forward_features(photos(1, 3, 48, 32)).shape == (1, 3 + 6, 8)


def test_class_tokens_learn():
    backbone = build_token_backbone(SMALL, 4, RANDOM)
    backbone.tokens(photos(1, 3, 32, 32)).classes[:, 2, 0].sum().backward()
    assert {backbone.net.cls_token, backbone.net.pos_embed} <= set(backbone.parameters())
    assert backbone.net.cls_token.grad[0, 2].abs().sum() > 1e-3


# the registry


@torch.no_grad()
def test_a_vit_is_an_ordinary_backbone_of_one_tap():
    backbone = build_backbone(SMALL, 16, RANDOM).eval()
    assert (backbone.channels, backbone.strides, backbone.weights) == ((64,), (16,), RANDOM)
    assert (backbone.mean, backbone.std) == ((0.5,) * 3, (0.5,) * 3)
    images = photos(1, 3, 160, 160)
    (tap,) = backbone(images)
    whole = timm.create_model(SMALL, num_classes=0).eval()
    whole.load_state_dict(backbone.net.state_dict())
    expected = whole.forward_intermediates(images, indices=[-1], norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(tap, expected, atol=1e-5, rtol=1e-5)


def test_input_is_what_the_weights_expect():
    deit = build_backbone("deit_tiny_patch16_224", 16, RANDOM)
    assert (deit.mean, deit.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    hybrid, stem = build_backbone(HYBRID, 16, RANDOM), build_backbone(LITE0, 16, RANDOM)
    assert (hybrid.mean, hybrid.std) == (stem.mean, stem.std)


@pytest.mark.parametrize("name", [SMALL, HYBRID])
def test_a_cam_stands_on_tokens(name):
    model = CAM(build_backbone(name, 16, RANDOM), 4)
    assert model.class_maps(photos(2, 3, 50, 33)).shape == (2, 4, 4, 3)
    loss = model.training_step({"image": photos(2, 3, 48, 48), "label": torch.eye(4)[:2]}, START, "train")[
        "loss"
    ]
    loss.backward()
    missing = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not missing


@pytest.mark.parametrize("layout", ["plain.pth", "classifier.pth", "wrapped.pth", "plain.safetensors"])
def test_weights_from_a_file(tmp_path, layout):
    whole = timm.create_model(SMALL, num_classes=7 if "classifier" in layout else 0)
    state = random_state(whole)
    path = tmp_path / layout
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state} if "wrapped" in layout else state, path)
    backbone = build_token_backbone(SMALL, weights=path)
    assert backbone.weights == path.name
    assert all(torch.equal(v, state[k]) for k, v in backbone.net.state_dict().items())


def test_weights_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        build_token_backbone(SMALL, 3, tmp_path / "nowhere.pth")
    state = random_state(timm.create_model(SMALL))
    for name, content, problem in (
        ("other", random_state(timm.create_model("test_vit2")), "of another shape|tensors missing"),
        ("larger", state | {"pos_embed": torch.zeros(1, 197, 64)}, "1 of another shape .*pos_embed"),
        ("odd", {"model": torch.zeros(3)}, "cannot be read as weights"),
    ):
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=rf"{name}\.pth.*({problem})"):
            build_token_backbone(SMALL, 3, tmp_path / f"{name}.pth")


@pytest.mark.parametrize("name", ["resnet18", "deit_smal", LITE0])
def test_networks_without_tokens_are_named(name):
    with pytest.raises(ValueError, match=rf"'{name}' is no vision transformer; .*hybrid_lite0"):
        build_token_backbone(name)


@pytest.mark.parametrize(
    "name", ["test_vit2", "deit_tiny_distilled_patch16_224", "vit_small_patch16_18x2_224"]
)
def test_vision_transformers_of_another_kind_are_named(name, monkeypatch):
    with pytest.raises(ValueError, match=rf"'{name}'.*only those with one class token and plain blocks"):
        build_backbone(name, 16, RANDOM)


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="test_vit reaches stride 16, not 8"):
        build_backbone(SMALL, 8, RANDOM)
    with pytest.raises(ValueError, match="test_vit has no tap 2 to freeze up to, only 1"):
        build_backbone(SMALL, 16, RANDOM, frozen_taps=2)
    with pytest.raises(ValueError, match="at least one class token, not 0"):
        build_token_backbone(SMALL, 0, RANDOM)


@torch.no_grad()
def test_tokens_before_the_last_norm():
    normed, plain = (
        build_token_backbone(SMALL, 3, RANDOM, final_norm=final_norm).eval() for final_norm in (True, False)
    )
    plain.net.load_state_dict(normed.net.state_dict(), strict=False)
    before, after = (backbone.tokens(photos(1, 3, 32, 48)) for backbone in (plain, normed))
    norm = normed.net.norm
    torch.testing.assert_close(norm(before.classes), after.classes)
    torch.testing.assert_close(norm(before.patches.movedim(1, -1)), after.patches.movedim(1, -1))
    assert "norm.weight" not in plain.net.state_dict()
    torch.testing.assert_close(after.classes.mean(-1), torch.zeros(1, 3))  # so says nothing of the photo


def test_drop_path_grows_as_timms():
    rates = [
        [block.drop_path1.drop_prob, block.drop_path2.drop_prob]
        for block in build_token_backbone(SMALL, weights=RANDOM, drop_path=0.1).net.blocks
    ]
    timms = timm.create_model(SMALL, drop_path_rate=0.1).blocks
    expected = [[getattr(b.drop_path1, "drop_prob", 0.0)] * 2 for b in timms]
    np.testing.assert_allclose(rates, expected, atol=1e-7)


# the hybrid


@torch.no_grad()
def test_hybrid_projects_the_pretrained_networks_features():
    hybrid, lite0 = build_token_backbone(HYBRID).eval(), build_backbone(LITE0, 32).eval()
    embed, image = hybrid.net.patch_embed, photos(1, 3, 96, 64)
    feature = lite0(image)[3]
    torch.testing.assert_close(embed.backbone(image)[-1], feature, atol=1e-3, rtol=1e-3)
    expected = torch.einsum("dc,bcyx->byxd", embed.proj.weight[..., 0, 0], feature)
    torch.testing.assert_close(embed(image), expected, atol=1e-3, rtol=1e-3)
    assert hybrid.weights == "imagenet"
    assert len(embed.backbone.blocks) == 5  # what lies deeper than stride 16 is not there


def test_hybrid_takes_a_file_of_its_stem(tmp_path):
    state = {k: v + 1 for k, v in efficientnet_lite0_state().items()}
    torch.save(state, tmp_path / "lite0.pth")
    stem = build_token_backbone(HYBRID, 3, tmp_path / "lite0.pth").net.patch_embed.backbone
    assert torch.equal(stem.conv_stem.weight, state["conv_stem.weight"])


def test_hybrids_batch_norm_stays_frozen():
    backbone = build_token_backbone(HYBRID, 2, RANDOM).train()
    norms = [m for m in backbone.modules() if hasattr(m, "running_mean")]
    assert len(norms) == len(backbone.batch_norms()) > 20
    assert not any(m.training or p.requires_grad for m in norms for p in m.parameters())


class Tagger(nn.Module):
    """One logit a class token, their mean; the least that trains a hybrid."""

    def __init__(self, classes: int, weights: str = RANDOM, **options):
        super().__init__()
        self.transformer = build_token_backbone(HYBRID, classes, weights, final_norm=False, **options)
        self.base_lr_layers = (f"transformer.{self.transformer.pretrained_prefix}",)

    def training_step(self, batch: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        logits = self.transformer.tokens(batch["image"]).classes.mean(-1)
        return {"loss": classification_loss(logits, batch["label"])}


def optimiser(model: nn.Module) -> torch.optim.Optimizer:
    settings = {
        "name": "adamw", "lr": 1e-4, "momentum": 0.9, "weight_decay": 0.01,
        "new_layers_lr": 10, "bias_lr": 1, "power": 0.9,
    }  # fmt: skip
    return build_optimiser(model, Optimiser(**settings))


def test_hybrids_stem_counts_as_pretrained_and_its_blocks_as_new():
    model = Tagger(2)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimiser(model).param_groups for p in group["params"]}
    stem = {name for name in rates if name.startswith("transformer.net.patch_embed.backbone.")}
    assert len(stem) > 20
    assert {rates[name] for name in stem} == {1e-4}
    assert {rates[name] for name in rates.keys() - stem} == {1e-3}
    assert {"transformer.net.cls_token", "transformer.net.patch_embed.proj.weight"} <= rates.keys() - stem


def test_a_vit_is_pretrained_as_a_whole():
    backbone = build_token_backbone(SMALL, 3, RANDOM)
    assert all(name.startswith(backbone.pretrained_prefix) for name, _ in backbone.named_parameters())


def test_frozen_taps_are_the_stems():
    names = {n for n, p in Tagger(2, frozen_taps=2).transformer.net.named_parameters() if not p.requires_grad}
    assert "patch_embed.backbone.conv_stem.weight" in names
    assert "patch_embed.backbone.blocks.1.0.conv_pw.weight" in names
    assert not any(".bn" not in name and ".blocks.2." in name for name in names)
    assert all(name.startswith("patch_embed.backbone.") for name in names)


def test_hybrid_learns():
    """Which of three stripes have their colour: every class token must find its own."""
    model = Tagger(3, "imagenet").train()
    label = torch.tensor([[i >> bit & 1 for bit in range(3)] for i in range(8)]).float()
    image = 0.1 * torch.randn(8, 3, 48, 48)
    for c in range(3):
        image[:, c, :, 16 * c : 16 * c + 16] += 2 * label[:, c, None, None]
    steps, losses = optimiser(model), []
    for step in range(30):
        loss = model.training_step({"image": image, "label": label}, step)["loss"]
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.log(2), abs=0.1)
    assert losses[-1] < 0.1 * losses[0]
    with torch.no_grad():
        logits = model.eval().transformer.tokens(image).classes.mean(-1)
    assert torch.equal((logits > 0).float(), label)
