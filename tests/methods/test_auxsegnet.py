"""AuxSegNet: its losses in numpy, where gradients go, its stages, and one step at the paper's size."""

import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import keep_apart
from PIL import Image
from safetensors.torch import save
from tiny_backbone import tiny_backbone

from wsss_lib.data.coco import convert_coco
from wsss_lib.data.masks import load_mask, save_mask
from wsss_lib.data.saliency import find_maps, save_saliency
from wsss_lib.data.transforms import RandomScale, segmentation_transform
from wsss_lib.data.voc import VOCDataset
from wsss_lib.methods import auxsegnet, base, load_config
from wsss_lib.methods.auxsegnet import AuxSegNet, StageExamples, dense_losses
from wsss_lib.methods.cam import CAM
from wsss_lib.models.backbones import Backbone
from wsss_lib.models.trainable import START
from wsss_lib.refinement.masks import Background
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.study.study import Study
from wsss_lib.training import WEIGHTS, build_optimiser, trained_weights

COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco128"
TINY = {
    "scenes.image_size": [48, 56], "scenes.train": 6, "scenes.val": 3,
    "backbone.name": "test_resnet", "backbone.weights": "random", "backbone.frozen_taps": 0,
    "workers": 0, "maps.batch": 3, "maps.stride": 4,
    "classifier.crop": 48, "classifier.long_side": [48, 64], "classifier.batch": 3, "classifier.epochs": 1,
    "auxsegnet.epochs": 2, "auxsegnet.channels": 8, "auxsegnet.dilations": [1, 2, 3], "auxsegnet.rounds": 1,
}  # fmt: skip
ROWS = {
    "baseline": {"tasks": ("seg",), "affinity": "none"},
    "AuxSegNet (MT)": {"affinity": "none"},
    "AuxSegNet (MT+CT)": {},
}


def network(seed: int = 0, backbone: Backbone | None = None, **options) -> AuxSegNet:
    as_released = {"scale_affinity": False, "fusion_lr": "base", "dropout": 0.0}
    small = {"channels": 6, "dilations": (1, 2, 2), **as_released, **options}
    config = auxsegnet.RECIPE.trained_by(load_config("smoke").auxsegnet.model_copy(update=small))
    torch.manual_seed(seed)
    return AuxSegNet(backbone or tiny_backbone(), 3, config).train()


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 4, (2, 40, 40), generator=draw).to(torch.uint8)
    saliency = torch.randint(0, 2, (2, 40, 40), generator=draw).to(torch.uint8)
    mask[:, :6], saliency[:, 30:] = 255, 255
    return {
        "image": torch.randn(2, 3, 40, 40, generator=draw),
        "label": torch.tensor([[1.0, 0, 1], [0, 1, 0]]),
        "mask": mask,
        "saliency": saliency,
    }


# --- losses ----------------------------------------------------------------------------------------------


def bilinear(maps: np.ndarray, size: int) -> np.ndarray:
    """(C, h, w) on cells of 8 pixels -> (C, size, size), pixel by pixel."""
    out = np.zeros((len(maps), size, size))
    for y in range(size):
        for x in range(size):
            total = 0.0
            place = [
                min(max((v + 0.5) / 8 - 0.5, 0), n - 1) for v, n in zip((y, x), maps.shape[1:], strict=True)
            ]
            for i in range(maps.shape[1]):
                for j in range(maps.shape[2]):
                    weight = max(0, 1 - abs(place[0] - i)) * max(0, 1 - abs(place[1] - j))
                    total = total + weight * maps[:, i, j]
            out[:, y, x] = total
    return out


def losses_by_hand(found: auxsegnet.Predictions, given: dict) -> dict[str, float]:
    parts = {}
    for name, maps in (("", found.logits), ("_ref", found.refined)):
        seg = np.concatenate([bilinear(m, 40).reshape(4, -1) for m in maps["seg"].double().numpy()], 1)
        target = given["mask"].numpy().ravel()
        kept = target != 255
        seg = seg[:, kept] - np.log(np.exp(seg[:, kept]).sum(0))
        parts[f"L_seg{name}"] = -seg[target[kept], np.arange(kept.sum())].mean()
        sal = np.concatenate([bilinear(m, 40).ravel() for m in maps["sal"].double().numpy()])
        truth = given["saliency"].numpy().ravel()
        p = 1 / (1 + np.exp(-sal))
        parts[f"L_sal{name}"] = -np.log(np.where(truth == 1, p, 1 - p))[truth != 255].mean()
    return parts


def test_the_loss_is_the_sum_of_five_in_numpy():
    model, given = network(), batch()
    with torch.no_grad():
        taps = model.backbone(given["image"])
        found = model.predictions(taps)
        losses = model.training_step(given, START, "train")
        pooled = taps[-1].mean((2, 3)).double().numpy()
    logits = pooled @ model.classifier.weight[..., 0, 0].detach().double().numpy().T
    p, y = 1 / (1 + np.exp(-logits)), given["label"].numpy()
    expected = {
        "L_cls": -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(),
        **losses_by_hand(found, given),
    }
    assert set(losses) == {"loss", "entropy ratio", *expected}
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name
    assert losses["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-4)


def test_photos_without_a_labelled_pixel_leave_the_loss_finite():
    given = batch()
    given["mask"], given["saliency"] = torch.full_like(given["mask"], 255), given["saliency"] * 0 + 255
    model = network()
    losses = model.training_step(given, START, "train")
    assert losses["L_seg"] == losses["L_seg_ref"] == losses["L_sal"] == 0
    losses["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_affinity_learns_through_refined_predictions_only():
    """Fusion has no gradient without them; theta and phi keep that of their refined features."""

    def gradients(constraints: tuple[str, ...]) -> dict[str, float]:
        model = network(constraints=constraints)
        model.training_step(batch(), START, "train")["loss"].backward()
        return {
            name: 0.0 if p.grad is None else p.grad.abs().sum().item() for name, p in model.named_parameters()
        }

    none, seg, both = (gradients(tasks) for tasks in ((), ("seg",), ("seg", "sal")))
    embeddings = [name for name in none if "theta" in name or "phi.weight" in name]
    assert len(embeddings) == 6
    fusion = [name for name in none if name.startswith("fusion.")]
    assert all(none[name] == 0 for name in fusion)
    for found in (seg, both):
        assert any(found[name] > 0 for name in fusion)
        assert all(found[name] > 0 for name in embeddings if "weight" in name)
        assert any(found[name] != pytest.approx(none[name], rel=1e-3) for name in embeddings)
    assert seg != both


@pytest.mark.parametrize("row", ROWS)
def test_the_rows_of_the_ablation_have_their_parts_alone(row):
    model = network(**ROWS[row])
    names = {name.partition(".")[0] for name, _ in model.named_parameters()}
    affinity = [name for name, _ in model.named_parameters() if "affinity" in name or "fusion" in name]
    losses = model.training_step(batch(), START, "train")
    wanted = {
        "baseline": {"loss", "L_seg"},
        "AuxSegNet (MT)": {"loss", "L_cls", "L_seg", "L_sal"},
        "AuxSegNet (MT+CT)": {"loss", "L_cls", "L_seg", "L_sal", "L_seg_ref", "L_sal_ref", "entropy ratio"},
    }[row]
    assert set(losses) == wanted
    assert bool(affinity) == (row == "AuxSegNet (MT+CT)")
    assert ("classifier" in names) == (row != "baseline")
    assert {name.split(".")[1] for name, _ in model.branches.named_parameters("x")} <= {"seg", "sal"}
    with torch.no_grad():
        assert model.eval().task_maps(batch()["image"], "seg").shape == (2, 4, 5, 5)


def test_segmentations_own_affinity_may_refine_both_tasks():
    model = network(affinity="seg", constraints=("seg",)).eval()
    assert model.fusion is None
    with torch.no_grad():
        found = model.predictions(model.backbone(batch()["image"]))
        losses = dense_losses(found, batch(), ("seg",))
    assert set(found.affinities) == {"seg"}
    assert set(losses) == {"L_seg", "L_sal", "L_seg_ref"}


# --- maps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strides", [(2, 4, 8), (2, 4, 8, 16)])
@pytest.mark.parametrize("transposed", [False, True])
def test_class_maps_are_the_normalised_cam_times_the_affinity(strides, transposed):
    torch.manual_seed(0)
    backbone = tiny_backbone(strides)
    model = network(backbone=backbone, dilations=(1, 2), transposed=transposed).eval()
    image = torch.randn(1, 3, 40, 52)
    with torch.no_grad():
        maps, affinity = model.class_maps(image), model.affinities(image)["cross"]
        cam = CAM(backbone, 3)
        cam.classifier = model.classifier
        plain = cam.eval().class_maps(image).relu()
    assert maps.shape == (1, 3, 5, 7)
    if strides[-1] == 16:
        plain = torch.nn.functional.interpolate(plain, scale_factor=2, mode="bilinear")[..., :5, :7]
    for c in range(3):
        one = plain[0, c] / (plain[0, c].max() + 1e-5)
        matrix = affinity[0].T if transposed else affinity[0]
        torch.testing.assert_close(maps[0, c].flatten(), matrix @ one.flatten())


def test_a_network_without_classification_has_no_maps():
    with pytest.raises(ValueError, match="has no task cls, so no class activation maps; add it to tasks"):
        network(**ROWS["baseline"]).class_maps(batch()["image"])


def test_a_stage_starts_from_the_trunk_and_classifier_of_the_cam_or_all_of_the_stage_before():
    cam, before, after = CAM(tiny_backbone(seed=1), 3), network(1), network(2)
    branch = after.branches["seg"].features[0].weight.clone()
    after.start_from(cam.state_dict())
    torch.testing.assert_close(after.classifier.weight, cam.classifier.weight)
    torch.testing.assert_close(after.backbone.state_dict(), cam.backbone.state_dict())
    torch.testing.assert_close(after.branches["seg"].features[0].weight, branch)
    after.start_from(before.state_dict())
    torch.testing.assert_close(after.state_dict(), before.state_dict())


@pytest.mark.parametrize(("fusion_lr", "factor"), [("base", 1), ("new", 10)])
def test_the_fusion_learns_at_the_rate_asked_for(fusion_lr, factor):
    model = network(fusion_lr=fusion_lr)
    names = {id(p): name for name, p in model.named_parameters()}
    config = load_config("quick").classifier.optimiser
    rates = {names[id(p)]: g["lr"] for g in build_optimiser(model, config).param_groups for p in g["params"]}
    assert rates["fusion.mix.0.weight"] == pytest.approx(factor * config.lr)
    assert rates["branches.sal.affinity.theta.weight"] == pytest.approx(10 * config.lr)


def test_image_label_and_saliency_are_cut_from_one_place(tiny_voc, tmp_path):
    """Photo, label and saliency show one and the same square; padding is 255 in label and saliency."""
    square = np.zeros((24, 32), np.uint8)
    square[6:18, 8:24] = 1
    data = VOCDataset(tiny_voc, "train")
    for id in data.ids:
        Image.fromarray(np.repeat(square[..., None] * 255, 3, 2)).save(data.image_path(id), quality=100)
        save_mask(square * 8, tmp_path / f"{id}.png")
    (tmp_path / "saliency").mkdir()
    for id in data.ids:  # at half the size
        save_saliency(square[::2, ::2], tmp_path / "saliency" / f"{id}.png")
    transform = segmentation_transform((1, 1), 40, (0.5,) * 3, (0.5,) * 3)
    examples = StageExamples(data, tmp_path, tmp_path / "saliency", RandomScale(0.7, 1.5), transform)
    padded = 0
    for seed in range(20):
        torch.manual_seed(seed)
        one = examples(seed % len(data))
        assert one["image"].shape == (3, 40, 40)
        assert set(one["mask"].unique().tolist()) <= {0, 8, 255}
        assert set(one["saliency"].unique().tolist()) <= {0, 1, 255}
        assert torch.equal(one["mask"] == 255, one["saliency"] == 255)
        inside = one["mask"] != 255
        white = one["image"].mean(0) > 0
        assert (white == (one["mask"] == 8))[inside].float().mean() > 0.9
        assert (white == (one["saliency"] == 1))[inside].float().mean() > 0.9
        padded += int((~inside).any())
    assert padded > 5


# --- stages ----------------------------------------------------------------------------------------------


def tiny(folder: Path, **overrides) -> Study:
    return Study("smoke", overrides=TINY | overrides, cache=folder / "cache", results=folder / "results")


def made(folder: Path, **overrides) -> Study:
    """A study with all that AuxSegNet makes of seed 0."""
    study = tiny(folder, **overrides)
    net = study.classifier("auxsegnet", 0)
    study.masks(auxsegnet.segment(study, net), Background("included"), None)
    return study


def content(folder: Path) -> dict[str, bytes]:
    """All files that must not differ between two runs."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "cache").rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name != "provenance.json"
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    made(folder)
    return folder


class Killed(BaseException):
    pass


KILLS = (
    (AuxSegNet, "training_step", 3),  # within stage 0, after its first epoch of two
    (auxsegnet, "labels", 4),  # when stage 0 is trained, before the labels of stage 1
    (auxsegnet, "write_saliency", 4),  # within the update of the saliency
    (AuxSegNet, "training_step", 3),  # within stage 1
)


@pytest.mark.whole
def test_killed_between_and_within_stages_it_ends_with_the_same_bytes(whole, tmp_path, monkeypatch):
    """Killed at the n-th call of a function, again and again, each time with more done than before."""
    there = 0
    for place, name, calls in KILLS:
        original, count = getattr(place, name), []

        def until(*args, original=original, count=count, calls=calls):
            count.append(1)
            if len(count) == calls:
                raise Killed
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(place, name, until)
            with pytest.raises(Killed):
                made(tmp_path)
        assert len(content(tmp_path)) > there
        there = len(content(tmp_path))
        assert there < len(content(whole))
    made(tmp_path)
    assert content(tmp_path) == content(whole)


def fake_train(log: list, study, model, example, size, schedule, out, title, seed) -> None:
    """Notes what a stage starts from and learns, and writes the number of the stage into the weights."""
    mark = model.classifier.weight.detach().flatten()[0].item()
    out.mkdir(exist_ok=True)
    log.append(
        (type(model).__name__, mark, getattr(example, "masks", None), getattr(example, "saliency", None))
    )
    with torch.no_grad():
        model.classifier.weight.fill_(float(len(log)))
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    (out / WEIGHTS).write_bytes(save(weights))
    pd.DataFrame({"loss": [0.0]}).to_csv(out / "history.csv", index=False)


@pytest.mark.parametrize("relabel", [True, False])
def test_a_stage_sees_what_the_stage_before_it_made(tmp_path, monkeypatch, relabel):
    log: list = []
    monkeypatch.setattr(Study, "train", lambda self, *args: fake_train(log, self, *args))
    study = tiny(tmp_path, **{"auxsegnet.rounds": 2, "auxsegnet.relabel": relabel})
    study.classifier("auxsegnet", 0, 1)
    study = tiny(tmp_path, **{"auxsegnet.rounds": 2, "auxsegnet.relabel": relabel})
    study.classifier("auxsegnet", 0)  # goes on after stage 1
    assert [kind for kind, *_ in log] == ["CAM", "AuxSegNet", "AuxSegNet", "AuxSegNet"]
    assert [mark for _, mark, *_ in log[1:]] == [1, 2, 3]  # each from the weights of the one before
    networks = [study.classifier("cam", 0), *(study.classifier("auxsegnet", 0, s) for s in range(3))]
    original = auxsegnet.source_saliency(study)
    for stage in range(3):
        masks, saliency = auxsegnet.labels(study, 0, stage), auxsegnet.saliency(study, 0, stage)
        assert log[stage + 1][2:] == (masks.path, saliency.path)
        maps = auxsegnet.label_maps(study, 0, stage)
        assert masks.provenance()["inputs"] == [maps.key, saliency.key]
        made_by = networks[stage if relabel else 0]
        assert maps.provenance()["inputs"][0] == made_by.key
        if stage == 0 or not relabel:
            assert saliency == original
        else:
            predicted, with_ = saliency.provenance()["inputs"]
            assert with_ == original.key  # never an earlier update
            assert predicted == auxsegnet.predicted_saliency(study, 0, stage - 1).key
    shown = [auxsegnet.labels(study, 0, stage).path for stage in range(3)]
    assert len(set(shown)) == (3 if relabel else 1)
    assert trained_weights(networks[3].path)["classifier.weight"].unique().tolist() == [4]


def test_what_a_study_makes_of_it(whole):
    study = tiny(whole)
    net = study.classifier("auxsegnet", 0)
    probabilities = auxsegnet.segment(study, net)
    maps = ScoreMaps.load(probabilities.file("val_00000.npz"))
    assert maps.classes.tolist() == list(range(7))
    np.testing.assert_allclose(maps.maps.astype(float).sum(0), 1, atol=5e-3)
    scores = study.scores([study.response_maps("auxsegnet", 0, "val"), probabilities])
    assert set(scores["supervision"]) == {"I+S"}
    assert set(scores["stage"]) == {"CAM", "segmentation"}
    history = pd.read_csv(net.file("history.csv"))
    assert history["entropy ratio"].between(0.05, 1).all()
    assert "auxsegnet" in study.methods
    # stage 0 is the same whatever comes after, so that rows of the table share it
    alone = study.varied({"auxsegnet.rounds": 0}).classifier("auxsegnet", 0)
    assert alone.key == study.classifier("auxsegnet", 0, 0).key


def test_labels_that_are_ignored_count_as_missed(whole):
    study = tiny(whole)
    masks = auxsegnet.labels(study, 0, 0)
    found = auxsegnet.label_scores(study, masks)
    hits, true, seen, pixels = np.zeros(7), np.zeros(7), np.zeros(7), np.zeros(3)
    for id in study.data.train.ids:
        mask, truth = load_mask(masks.file(f"{id}.png")), study.data.train.mask(id)
        for m, t in zip(mask.ravel().tolist(), truth.ravel().tolist(), strict=True):
            pixels[2 if m == 255 else int(m == 0)] += 1
            if t != 255:
                true[t] += 1
                hits[t] += m == t
                if m != 255:
                    seen[m] += 1
    there = true + seen > 0
    assert found["recall"] == pytest.approx(100 * np.mean(hits[true > 0] / true[true > 0]))
    assert found["mIoU"] == pytest.approx(100 * np.mean(hits[there] / (true + seen - hits)[there]))
    assert found["precision"] == pytest.approx(100 * np.mean((hits / np.maximum(seen, 1))[there]))
    shares = [found[f"{name} (%)"] for name in ("class", "background", "ignored")]
    np.testing.assert_allclose(shares, 100 * pixels / pixels.sum())


def test_rows_of_an_affinity_are_maps_of_the_photo(whole):
    study = tiny(whole)
    found = auxsegnet.photo_affinities(study, study.classifier("auxsegnet", 0, 0), "train_00001")
    assert set(found) == {"seg", "sal", "cross"}
    for name in ("seg", "sal"):
        assert found[name].shape == (6, 7, 6, 7)
        np.testing.assert_allclose(found[name].sum((2, 3)), 1, rtol=1e-4)
    between = np.minimum(found["seg"], found["sal"]) - 1e-6, np.maximum(found["seg"], found["sal"]) + 1e-6
    assert ((found["cross"] >= between[0]) & (found["cross"] <= between[1])).all()


def test_saliency_comes_from_where_the_section_says(tmp_path):
    study = tiny(tmp_path)
    degraded = auxsegnet.source_saliency(study)
    oracle = auxsegnet.source_saliency(study.varied({"auxsegnet.saliency": "oracle"}))
    assert auxsegnet.saliency_iou(study, oracle).mean() > 0.97  # but for the void outline
    assert auxsegnet.saliency_iou(study, degraded).mean() < 0.9
    folder = tmp_path / "mine"
    folder.mkdir()
    mine = study.varied({"auxsegnet.saliency": str(folder)})
    with pytest.raises(FileNotFoundError, match="mine has no saliency map for 6 of 6 photos"):
        auxsegnet.source_saliency(mine)
    for id in study.data.train.ids:
        save_saliency(np.zeros((6, 7)), folder / f"{id}.png")
    first = auxsegnet.source_saliency(mine)
    assert len(find_maps(first.path, study.data.train.ids)) == 6
    save_saliency(np.ones((6, 7)), folder / "train_00000.png")
    again = auxsegnet.source_saliency(mine)
    assert again.key != first.key  # another content, other work
    folder.rename(tmp_path / "moved")
    moved = study.varied({"auxsegnet.saliency": str(tmp_path / "moved")})
    assert auxsegnet.source_saliency(moved).key == again.key  # the same content from another place


def test_photos_have_no_drawn_truth(tiny_voc, tmp_path):
    study = Study("smoke", "voc", keep_apart(tiny_voc), cache=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"'degraded' is made from .* auxsegnet\.saliency to a folder"):
        auxsegnet.source_saliency(study)


# --- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"auxsegnet.dilations": [6, 12, 18]}, r"reach beyond a crop of 12 cells.*take about \[2, 4, 5\]"),
        ({"auxsegnet.tasks": ["cls", "sal"]}, "seg is always needed"),
        ({"auxsegnet.tasks": ["cls", "seg"]}, "sal for cross"),
        ({"auxsegnet.affinity": "none"}, "set rounds to 0 or relabel to false"),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config("smoke", overrides)


@pytest.mark.parametrize("row", [*auxsegnet.ABLATION, *auxsegnet.AFFINITIES])
def test_overrides_of_the_rows_are_valid_and_mean_what_the_tests_of_their_parts_say(row):
    section = load_config("smoke", {**auxsegnet.ABLATION, **auxsegnet.AFFINITIES}[row]).auxsegnet
    assert section.rounds == (load_config("smoke").auxsegnet.rounds if row in ("AuxSegNet", "control") else 0)
    assert section.relabel == (row != "control")
    for option, value in ROWS.get(row, {}).items():
        assert getattr(section, option) == value


def test_paper_and_code_are_variants():
    default, paper, code = (
        load_config("paper", {"auxsegnet.variant": v}).auxsegnet for v in (None, "paper", "code")
    )
    assert [c.dilations for c in (default, paper, code)] == [(6, 12, 18), (6, 12), (6, 12, 18)]
    assert [c.transposed for c in (default, paper, code)] == [False, True, False]
    assert [c.epochs for c in (default, paper, code)] == [10, 10, 15]
    assert [c.optimiser.lr for c in (default, paper, code)] == [1e-3, 1e-3, 7e-4]
    assert [c.jitter for c in (default, paper, code)] == [True, True, False]
    assert [len(c.test_scales) for c in (default, paper, code)] == [5, 5, 1]
    for config in (default, paper, code):
        assert (config.optimiser.momentum, config.optimiser.weight_decay) == (1e-5, 0)
        assert (config.cam_threshold, config.saliency_threshold, config.rounds) == (0.2, 0.06, 3)
        assert not config.renormalise


def test_the_cams_classifier_must_be_linear(tmp_path):
    study = tiny(tmp_path, **{"classifier.head_channels": 8})
    with pytest.raises(ValueError, match=r"set classifier\.head_channels to null"):
        study.classifier("auxsegnet", 0)
    with pytest.raises(ValueError, match="no stage -1; its first is 0"):
        tiny(tmp_path).classifier("auxsegnet", 0, -1)


# --- real sizes ------------------------------------------------------------------------------------------


@pytest.mark.whole
@pytest.mark.skipif(not COCO.is_dir(), reason="needs ../shared/data/coco128 beside the checkout")
def test_the_path_of_coco_runs_with_81_classes(tmp_path):
    """From COCO's photos and polygons to a table; its numbers mean nothing."""
    convert_coco(COCO, tmp_path / "coco", processes=1)
    listed = (tmp_path / "coco" / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    (tmp_path / "saliency").mkdir()
    for id in listed:
        y, x = np.mgrid[-1:1:12j, -1:1:16j]
        save_saliency(np.exp(-2 * (x**2 + y**2)), tmp_path / "saliency" / f"{id}.png")
    small = {key: value for key, value in TINY.items() if not key.startswith("scenes")}
    small |= {"limit": 6, "auxsegnet.epochs": 1, "auxsegnet.saliency": str(tmp_path / "saliency")}
    study = Study(
        "smoke", "coco2014", tmp_path / "coco", cache=tmp_path / "cache", results=tmp_path / "results",
        overrides=small,
    )  # fmt: skip
    net = study.classifier("auxsegnet", 0)
    masks = study.masks(auxsegnet.segment(study, net), Background("included"), None)
    scores = study.scores([masks])
    assert len(study.data.classes) == 81
    assert (scores["metric"] == "IoU").sum() == 81
    assert scores.loc[scores["metric"] == "pixel accuracy", "value"].between(0, 100).all()


@pytest.mark.slow
def test_preset_paper_does_a_step_and_an_inference_on_the_cpu(tmp_path, capsys):
    """Full-width ResNet-38 with random weights: crop 321, batch 1, then a whole photo of 375 x 500."""
    small = {"scenes.train": 1, "scenes.val": 1, "scenes.image_size": [48, 48], "processes": 1}
    untrained = {"backbone.weights": "random", "auxsegnet.backbone.weights": "random"}
    study = Study("paper", overrides=small | untrained, cache=tmp_path)
    section, recipe = study.section("auxsegnet"), study.recipe("auxsegnet")
    study.__dict__["data"] = type("Data", (), {"classes": range(21)})
    model = base.build(study, recipe, recipe.trained_by(section), 0).train()
    optimiser = build_optimiser(model, section.optimiser)
    crop = section.crop
    given = {
        "image": torch.randn(1, 3, crop, crop), "label": torch.eye(20)[:1],
        "mask": torch.randint(0, 21, (1, crop, crop)), "saliency": torch.randint(0, 2, (1, crop, crop)),
    }  # fmt: skip
    before = model.branches["seg"].affinity.theta.weight.clone()
    start = time.perf_counter()
    losses = model.training_step(given, START, "train")
    losses["loss"].backward()
    optimiser.step()
    step = time.perf_counter() - start
    assert all(value.isfinite() for value in losses.values())
    assert not torch.equal(model.branches["seg"].affinity.theta.weight, before)
    frozen = {name for name, p in model.backbone.named_parameters() if "conv" in name and not p.requires_grad}
    assert frozen == {"net.conv1a.weight"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    del optimiser, losses
    model.eval()
    start = time.perf_counter()
    with torch.inference_mode():
        maps = model.task_maps(torch.randn(1, 3, 375, 500), "seg")
    whole = time.perf_counter() - start
    assert maps.shape == (1, 21, 47, 63)
    peak_all = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with capsys.disabled():
        print(f"\na step: {step:.0f} s, peak {peak:.1f} GiB; a photo: {whole:.0f} s, {peak_all:.1f} GiB")
