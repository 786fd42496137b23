"""MCTformer and ACR on it: attention against loops, where gradients go, who learns, in a study."""

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from tiny_backbone import tiny_backbone
from torch import Tensor

from wsss_lib.inference import min_max
from wsss_lib.losses import classification_loss
from wsss_lib.methods import load_config
from wsss_lib.methods.acr import ACR, VIT, target_map
from wsss_lib.methods.base import build, class_response_maps
from wsss_lib.methods.mctformer import MCTformer, examples
from wsss_lib.models.backbones import RANDOM, build_backbone
from wsss_lib.models.cross_task import propagate
from wsss_lib.models.mctformer import MCTformerNet, class_attention, patch_affinity
from wsss_lib.models.reconstructor import Reconstructor
from wsss_lib.models.trainable import START, Clock
from wsss_lib.models.vit import Tokens
from wsss_lib.study.study import Study
from wsss_lib.training import Phase, build_optimiser, trained_weights

NETWORK = "test_vit"  # of timm: 6 blocks, 2 heads, 64 channels, patches of 16


def photos(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def tiny(network: type = MCTformerNet, classes: int = 3, name: str = NETWORK, **options) -> MCTformerNet:
    """Weights that are no near-zeros, so that class tokens differ and attention is not flat."""
    torch.manual_seed(0)
    model = network(build_backbone(name, 16, RANDOM), classes, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    return model.eval()


def random_tokens() -> Tokens:
    """Of 2 photos, 5 blocks, 2 heads, 3 classes and 2 x 3 patches."""
    attention = photos(2, 5, 2, 9, 9).double().softmax(-1)
    return Tokens(photos(2, 8, 2, 3).double(), photos(2, 3, 8).double(), attention)


# --- attention -------------------------------------------------------------------------------------------


def test_attention_of_classes_and_patches_is_that_of_loops():
    tokens = random_tokens()
    to_patch, affinity = class_attention(tokens), patch_affinity(tokens)
    a = tokens.attention.numpy()
    for b in range(2):
        for k in range(3):
            for y in range(2):
                for x in range(3):
                    j = 3 + 3 * y + x
                    expected = sum(a[b, block, head, k, j] / 2 for block in (2, 3, 4) for head in range(2))
                    assert to_patch[b, k, y, x].item() == pytest.approx(expected)
        for i in range(6):
            for j in range(6):
                expected = sum(a[b, block, head, 3 + i, 3 + j] / 2 for block in range(5) for head in range(2))
                assert affinity[b, i, j].item() == pytest.approx(expected)


def test_maps_go_along_the_affinity():
    maps, affinity = photos(2, 4, 2, 3).double(), photos(2, 6, 6, seed=1).double().softmax(-1)
    found = propagate(affinity, maps).numpy()
    for b in range(2):
        for c in range(4):
            flat = maps[b, c].flatten().tolist()
            for i in range(6):
                expected = sum(affinity[b, i, j].item() * flat[j] for j in range(6))  # i takes from j
                assert found[b, c, i // 3, i % 3] == pytest.approx(expected)
    same = torch.eye(6, dtype=torch.float64).expand(2, 6, 6)
    torch.testing.assert_close(propagate(same, maps), maps)
    flat = propagate(affinity, torch.ones(2, 1, 2, 3, dtype=torch.float64))
    torch.testing.assert_close(flat, torch.ones_like(flat))


def test_the_mean_over_blocks_changes_no_scaled_map():
    tokens = random_tokens()
    summed = class_attention(tokens)[:, 0]
    torch.testing.assert_close(min_max(summed / 3), min_max(summed), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("size", [(64, 96), (50, 33)])
@torch.no_grad()
def test_the_kinds_of_maps(size):
    model = tiny()
    images = photos(2, 3, *size)
    tokens = model.transformer.tokens(images, attention=True)
    grid = tuple(-(-side // 16) for side in size)
    patch = model.patch_maps(images)
    assert patch.shape == (2, 3, *grid)
    weight, bias = model.patch_classifier.weight, model.patch_classifier.bias
    padded = torch.nn.functional.pad(tokens.patches, (1, 1, 1, 1))
    for y in range(grid[0]):
        for x in range(grid[1]):
            here = torch.einsum("bdij,kdij->bk", padded[:, :, y : y + 3, x : x + 3], weight) + bias
            torch.testing.assert_close(patch[..., y, x], here, atol=1e-4, rtol=1e-4)
    positive, affinity = patch.clamp(min=0), patch_affinity(tokens)
    attended = class_attention(tokens)
    expected = propagate(affinity, positive), propagate(affinity, positive * attended)
    found = model.refined_patch_maps(images), model.class_maps(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_maps_of_a_photo_do_not_depend_on_its_batch():
    model, images = tiny(), photos(3, 3, 48, 48)
    together, alone = model.class_maps(images)[1:2], model.class_maps(images[1:2])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


# --- training --------------------------------------------------------------------------------------------


def test_a_step_is_the_loss_of_class_tokens_and_patches():
    model = tiny(MCTformer)
    batch = {"image": photos(2, 3, 48, 48), "label": torch.tensor([[1.0, 0, 1], [0, 1, 0]])}
    losses = model.training_step(batch, START, "train")
    tokens = model.transformer.tokens(batch["image"])
    classes = sum(tokens.classes[..., d] for d in range(64)) / 64
    patches = model.patch_maps(batch["image"]).mean((2, 3))
    expected = [classification_loss(logits, batch["label"]).item() for logits in (classes, patches)]
    assert [losses["class tokens' loss"].item(), losses["patches' loss"].item()] == pytest.approx(expected)
    assert losses["loss"].item() == pytest.approx(sum(expected))
    assert classes.std() > 0.01  # a last norm would make all of them 0
    losses["loss"].backward()
    learnt = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.any() for p in learnt)


def test_the_map_has_its_gradient():
    """The released code detaches it: an attack on the map would be silent."""
    model, images = tiny(), photos(2, 3, 48, 48)
    maps, _ = model.evidence(images)
    target = target_map(maps, torch.ones(2, 3), torch.tensor([0, 1]), 16)
    target.mean().backward()
    assert model.patch_classifier.weight.grad.abs().sum() > 0
    assert all(block.attn.qkv.weight.grad.abs().sum() > 0 for block in model.transformer.net.blocks)


def test_every_class_token_starts_as_the_pretrained_one():
    backbone = build_backbone(NETWORK, 16, RANDOM)
    first = backbone.net.cls_token.detach().clone()
    model = MCTformerNet(backbone, 5, drop_path=0.1)
    assert torch.equal(model.transformer.net.cls_token, first.repeat(1, 5, 1))
    assert model.transformer.net.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)
    assert (model.mean, model.std, model.stride) == (backbone.mean, backbone.std, 16)


def test_a_backbone_without_tokens_is_refused():
    with pytest.raises(ValueError, match="must be a vision transformer; name one, say deit_small"):
        MCTformerNet(tiny_backbone(), 3)


def test_a_hybrids_stem_counts_as_pretrained_and_its_blocks_as_new():
    config = load_config("quick").mctformer.optimiser
    model = MCTformer(build_backbone("hybrid_lite0", 16, RANDOM, 2), 3)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {
        names[id(p)]: round(group["lr"] / config.lr, 6)
        for group in build_optimiser(model, config).param_groups
        for p in group["params"]
    }
    stem = {name for name in rates if ".patch_embed.backbone." in name}
    assert stem
    assert {rates[name] for name in stem} == {1}
    assert {rates[name] for name in rates.keys() - stem} == {config.new_layers_lr}
    assert "patch_classifier.weight" in rates
    assert any("blocks.3" in name for name in rates)


def test_deits_augmentation_is_drawn_from_the_seed(tmp_path):
    study = Study("smoke", overrides={"scenes.train": 2, "scenes.val": 1}, cache=tmp_path)
    model, plain = tiny(), study.section("mctformer")
    strong = plain.model_copy(update={"rand_augment": True, "erasing": 1.0})

    def draw(config, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return examples(study, config, model)(0)["image"]

    assert draw(plain, 0).shape == draw(strong, 0).shape == (3, 64, 64)
    assert torch.equal(draw(strong, 0), draw(strong, 0))
    assert not torch.equal(draw(strong, 0), draw(strong, 1))
    assert not torch.equal(draw(strong, 0), draw(plain, 0))


# --- ACR on it -------------------------------------------------------------------------------------------


def attacked() -> ACR:
    changes = {"reconstructor.side": 16, "lambda_t": 1.0, "lambda_nt": 1.0, "attack_from": 0}
    preset = load_config("smoke", {f"acr_vit.{key}": value for key, value in changes.items()})
    config = VIT.trained_by(preset.acr_vit)
    rebuilder = Reconstructor(tiny_backbone((2, 4, 8)), 3, 16, taps=(2, 3, 4), channels=(4, 6, 6), dropout=0)
    return ACR(tiny(), rebuilder, config)


def test_each_phase_teaches_its_network_and_leaves_the_other():
    model, accelerator = attacked(), Accelerator(cpu=True)
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 1], [1, 0, 0]])
    batch = {"image": photos(4, 3, 64, 64), "label": labels}
    for name in model.phases:
        phase = Phase(model, name, model.config.optimiser_of(name), accelerator)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        losses = phase.step(batch, Clock(1, 0, 1, 2), 2, accelerator)
        assert np.isfinite(list(losses.values())).all()
        moved = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(before[n], p)}
        assert moved == {"reconstructor" if name == "reconstruct" else "classifier"}


def test_the_class_loss_is_that_of_both_logits():
    model = attacked()
    batch = {"image": photos(2, 3, 64, 64), "label": torch.tensor([[1.0, 0, 1], [0, 1, 0]])}
    model.training_step(batch, START, "reconstruct")
    losses = model.training_step(batch, START, "classify")
    _, both = model.classifier.evidence(batch["image"])
    expected = sum(classification_loss(logits, batch["label"]) for logits in both)
    assert losses["L_cls"].item() == pytest.approx(expected.item(), rel=1e-5)


# --- in a study ------------------------------------------------------------------------------------------

SMALL = {
    "scenes.train": 4, "scenes.val": 1, "maps.scales": [1.0], "backbone.weights": "random",
    "acr_vit.encoder.weights": "random",
} | {
    f"{method}.{key}": value
    for method in ("mctformer", "acr_vit")
    for key, value in {"epochs": 1, "batch": 4, "backbone.name": NETWORK, "backbone.weights": "random",
                       "backbone.frozen_taps": 0}.items()
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    return Study("smoke", cache=folder, results=folder / "results", overrides=SMALL)


def test_a_study_says_which_networks_are_behind_a_map(study):
    mctformer, vit = study.response_maps("mctformer", 0), study.response_maps("acr_vit", 0)
    assert mctformer.origin.weights == (f"{NETWORK}, random",)
    assert vit.origin.weights == (f"{NETWORK}, random", "encoder: tf_efficientnet_lite0, random")
    table = study.scores([mctformer, vit])
    assert set(table["weights"]) == {"; ".join(maps.origin.weights) for maps in (mctformer, vit)}
    history = pd.read_csv(study.classifier("acr_vit", 0).file("history.csv"))
    assert {"reconstruct L_nt", "classify mean A_t"} < set(history)
    assert mctformer.provenance()["config"]["rule"] == "min-max"


def test_acr_starts_from_the_trained_mctformer(study, monkeypatch):
    before = trained_weights(study.classifier("mctformer", 0).path)
    started = []

    def watched(model, *_, **__):
        started.append({name: value.clone() for name, value in model.classifier.state_dict().items()})
        raise ZeroDivisionError

    monkeypatch.setattr("wsss_lib.study.study.train", watched)
    for start in ("mctformer", "imagenet"):
        with pytest.raises(ZeroDivisionError):
            study.varied({"acr_vit.start": start, "acr_vit.lambda_t": 3}).classifier("acr_vit", 0)
    same = [all(torch.equal(before[name], found[name]) for name in before) for found in started]
    assert same == [True, False]
    made_from = study.classifier("acr_vit", 0).provenance()["inputs"]
    assert study.classifier("mctformer", 0).key in made_from


def test_other_maps_of_the_same_network_have_a_stage_of_their_own(study):
    classifier = study.classifier("mctformer", 0)
    names = ("patch_maps", "refined_patch_maps", "class_maps")
    kinds = {name: class_response_maps(study, classifier, "train", name) for name in names}
    assert [maps.origin.stage for maps in kinds.values()] == [
        "CAM (patch maps)", "CAM (refined patch maps)", "CAM (class maps)",
    ]  # fmt: skip
    id = study.data.train.ids[0]
    assert len({maps.file(f"{id}.npz").read_bytes() for maps in kinds.values()}) == 3
    for name, maps in kinds.items():  # the preset's choice is the same work under the plain name
        chosen = study.varied({"mctformer.maps_of": name}).response_maps("mctformer", 0)
        assert (chosen.key, chosen.origin.stage) == (maps.key, "CAM")


def test_another_file_under_the_same_name_is_another_network(study, tmp_path):
    file = tmp_path / "encoder.pth"
    keys = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(build_backbone("tf_efficientnet_lite0", 16, RANDOM).net.state_dict(), file)
        section = study.varied({"acr_vit.encoder.weights": str(file)}).section("acr_vit")
        keys.append(study.network_config(section)["encoder"]["sha256"])
        file.unlink()
    assert keys[0] != keys[1]
    assert study.network_config(study.section("cam")) == study.network_config()


def test_the_networks_of_preset_paper_are_deit_small():
    study = Study("paper", overrides={"mctformer.backbone.weights": "random"})
    study.__dict__["data"] = type("Data", (), {"classes": range(21)})
    with torch.device("meta"):
        model = build(study, study.recipe("mctformer"), study.section("mctformer"), 0)
        tokens = model.transformer.tokens(torch.empty(1, 3, 256, 256), attention=True)
        maps, logits = model.evidence(torch.empty(2, 3, 224, 224))
    assert tokens.attention.shape == (1, 12, 6, 20 + 256, 20 + 256)
    assert maps.shape == (2, 20, 14, 14)
    assert [answer.shape for answer in logits] == [(2, 20), (2, 20)]
    optimiser = study.section("mctformer").optimiser
    assert optimiser.lr == pytest.approx(5e-4 * 64 / 512)
    assert optimiser.warmup * 60 == pytest.approx(5, abs=0.01)
