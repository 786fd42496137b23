"""The embedded dataset: deterministic, in VOC layout, with the statistics that the studies rely on."""

import filecmp
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import rgb_to_hsv
from PIL import Image
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict

from wsss_lib.data.scenes.dataset import CLASSES, Scene, draw_scene, generate_scenes, object_traits

SIZES = {"train": 5, "val": 3, "tune": 2}
FOLDERS = {"JPEGImages", "SegmentationClass", "SegmentationPart", "Saliency", "Annotations"}
TABLES = ["objects.csv", "labels.csv", "context.csv", "classes.txt"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    generate_scenes(root, SIZES, (64, 72), seed=3, processes=2)
    return root


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(0, "train", i, (96, 116)) for i in range(150)]


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_layout_and_modes(root):
    ids = [f"{split}_{i:05d}" for split, n in SIZES.items() for i in range(n)]
    for split in SIZES:
        listed = (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
        assert listed == [name for name in ids if name.startswith(split)]
    assert (root / "classes.txt").read_text().split() == list(CLASSES)
    assert {Path(file).parts[0] for file in files(root)} == FOLDERS | {"ImageSets", "origin.json", *TABLES}
    for name in ids:
        photo = Image.open(root / "JPEGImages" / f"{name}.jpg")
        truth = Image.open(root / "SegmentationClass" / f"{name}.png")
        parts = Image.open(root / "SegmentationPart" / f"{name}.png")
        salient = Image.open(root / "Saliency" / f"{name}.png")
        assert [i.mode for i in (photo, truth, parts, salient)] == ["RGB", "P", "P", "L"]
        assert {i.size for i in (photo, truth, parts, salient)} == {(72, 64)}
        assert set(np.unique(salient)) == {0, 255}
    # Colours of background, aeroplane, bicycle, sofa's neighbour id 8 and void in VOC's own files.
    palette = np.reshape(truth.getpalette(), (-1, 3))
    expected = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [64, 0, 0], [224, 224, 192]]
    np.testing.assert_array_equal(palette[[0, 1, 2, 8, 255]], expected)


def test_tables_agree_with_masks(root):
    objects, labels = pd.read_csv(root / "objects.csv"), pd.read_csv(root / "labels.csv", index_col="id")
    assert list(labels.columns) == list(CLASSES)
    assert list(pd.read_csv(root / "context.csv").id) == list(labels.index)
    for name, rows in objects.groupby("id"):
        mask = np.array(Image.open(root / "SegmentationClass" / f"{name}.png"))
        assert {CLASSES[i - 1] for i in np.unique(mask) if 0 < i < 255} == set(rows["class"])
        assert set(labels.columns[labels.loc[name] == 1]) == set(rows["class"])
        for kind, same in rows.groupby("class"):
            inside = mask == CLASSES.index(kind) + 1
            grown = inside | ((mask == 255) & ndimage.binary_dilation(inside, np.ones((3, 3)), iterations=2))
            assert inside.mean() <= same.area.sum() + 1e-4 <= grown.mean() + 2e-4
        y, x = np.nonzero(np.array(Image.open(root / "Saliency" / f"{name}.png")))
        boxes = rows.xmin.min(), rows.ymin.min(), rows.xmax.max(), rows.ymax.max()
        assert boxes == (x.min(), y.min(), x.max(), y.max())


def test_deterministic_whatever_the_processes_and_the_size(root, tmp_path):
    generate_scenes(tmp_path, {"tune": 3, "val": 4, "train": 6}, (64, 72), seed=3, processes=1)
    shared = [file for file in files(root) if Path(file).parts[0] in FOLDERS]
    match, mismatch, errors = filecmp.cmpfiles(root, tmp_path, shared, shallow=False)
    assert len(match) == sum(SIZES.values()) * len(FOLDERS)
    assert not mismatch + errors
    one, two = draw_scene(3, "train", 0, (64, 72)), draw_scene(3, "train", 0, (64, 72))
    for field in fields(Scene):
        np.testing.assert_equal(getattr(one, field.name), getattr(two, field.name))
    np.testing.assert_array_equal(one.mask, Image.open(root / "SegmentationClass" / "train_00000.png"))


@pytest.mark.parametrize(
    ("seed", "split", "index"), [(4, "train", 0), (3, "val", 0), (3, "tune", 0), (3, "train", 1)]
)
def test_another_seed_split_or_index_is_another_picture(seed, split, index):
    one, two = draw_scene(3, "train", 0, (64, 72)), draw_scene(seed, split, index, (64, 72))
    assert (one.image != two.image).mean() > 0.5


def test_resumes_missing_files_and_touches_no_others(root, tmp_path):
    generate_scenes(tmp_path, {"train": 3}, (64, 72), seed=3, processes=1)
    kept, lost = tmp_path / "JPEGImages/train_00000.jpg", tmp_path / "SegmentationPart/train_00002.png"
    kept.write_bytes(b"kept")
    lost.unlink()
    generate_scenes(tmp_path, {"train": 3}, (64, 72), seed=3, processes=1)
    assert kept.read_bytes() == b"kept"
    assert lost.read_bytes() == (root / "SegmentationPart/train_00002.png").read_bytes()
    assert not list(tmp_path.rglob(".*"))


def test_parts_are_parts_of_the_mask(scenes):
    for scene in scenes[:50]:
        assert set(np.unique(scene.parts)) <= {0, 1, 2, 255}
        np.testing.assert_array_equal(scene.parts == 255, scene.mask == 255)
        np.testing.assert_array_equal(scene.parts == 0, scene.mask == 0)
        np.testing.assert_array_equal(scene.salient[scene.mask < 255], scene.mask[scene.mask < 255] > 0)
        # Where two labels meet there is a void outline, two pixels wide or a little more in corners.
        for axis in (0, 1):
            one, two = (np.take(scene.mask, range(k, scene.mask.shape[axis] - 1 + k), axis) for k in (0, 1))
            assert not ((one != two) & (one < 255) & (two < 255)).any()


def test_statistics_are_near_those_of_voc(scenes):
    masks = np.stack([scene.mask for scene in scenes])
    objects = pd.DataFrame([vars(item) for scene in scenes for item in scene.objects])
    labels = [{item.class_name for item in scene.objects} for scene in scenes]
    assert 0.30 < np.mean([len(names) > 1 for names in labels]) < 0.46
    assert 0.60 < (masks == 0).sum() / (masks < 255).sum() < 0.75
    assert objects.area.min() >= 0.01
    assert objects.area.max() <= 0.61
    assert objects.area.quantile(0.1) < 0.12 < 0.35 < objects.area.quantile(0.9)
    assert (objects.occluded > 0.1).mean() > 0.1
    assert objects.occluded.max() < 0.7
    cut = (objects.xmin == 0) | (objects.ymin == 0) | (objects.xmax == 115) | (objects.ymax == 95)
    assert 0.3 < cut.mean() < 0.8
    assert objects.groupby("class_name").subtype.nunique().between(3, 4).all()
    assert objects.class_name.value_counts(normalize=True).between(0.05, 0.35).all()
    assert {scene.context for scene in scenes} == {"meadow", "shore", "woodland", "room", "street"}
    company = [("starnose" in names) for names in labels if "tagalong" in names]
    assert len(company) > 10
    assert np.mean(company) > 0.75


def test_heads_are_small_and_in_sight(scenes):
    whole = [s for s in scenes if len(s.objects) == 1 and s.objects[0].occluded < 0.05]
    whole = [s for s in whole if s.objects[0].xmin > 0 and s.objects[0].xmax < 115 and s.objects[0].ymax < 95]
    shares = [(s.parts == 1).sum() / np.isin(s.parts, (1, 2)).sum() for s in whole]
    assert len(shares) > 8
    assert 0.03 < np.quantile(shares, 0.05) < np.quantile(shares, 0.95) < 0.12
    assert np.mean([(s.parts == 1).sum() >= 9 for s in scenes]) > 0.97


def test_bodies_differ_from_their_surroundings(scenes):
    """A dense CRF needs colour edges: most bodies differ in mean colour from a ring around them."""
    gaps = []
    for scene in scenes[:60]:
        body = scene.parts == 2
        ring = ndimage.binary_dilation(scene.salient, iterations=8) & (scene.mask == 0)
        gaps.append(np.linalg.norm(scene.image[body].mean(0) - scene.image[ring].mean(0)))
    assert np.mean(np.array(gaps) > 30) > 0.7


@pytest.mark.parametrize("sizes", [{}, {"train": 0}, {"train": -2}, {"train": 1.5}])
def test_rejects_bad_sizes(tmp_path, sizes):
    with pytest.raises(ValueError, match="sizes"):
        generate_scenes(tmp_path, sizes, (64, 64))


def test_rejects_bad_places_and_mixtures(root, tmp_path):
    with pytest.raises(ValueError, match="too small"):
        generate_scenes(tmp_path, {"train": 1}, (32, 64))
    with pytest.raises(ValueError, match="too small"):
        draw_scene(0, "train", 0, (64, 20))
    with pytest.raises(ValueError, match="another seed"):
        generate_scenes(root, {"train": 1}, (64, 72), seed=4)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="name a folder"):
        generate_scenes(tmp_path / "file", {"train": 1}, (64, 64))


def test_bodies_tell_part_of_the_class(scenes):
    """Chance < bodies alone < certainty, for a forest on colour, texture, shape and place.

    A stand-in for the network of the calibration, which takes minutes: that has 0.92 here and had 0.74 on the
    first version; the forest has 0.67 and had 0.39.
    """
    features, classes = [], []
    for scene in scenes:
        body = scene.parts == 2
        first = max(scene.objects, key=lambda item: item.area)
        y, x = np.nonzero(body)
        spread = [np.ptp(x) / np.ptp(y), body.sum() / (np.ptp(x) * np.ptp(y)), body.mean()]
        pixels = scene.image[body] / 255
        hue = np.histogram(rgb_to_hsv(pixels)[:, 0], 8, (0, 1))[0] / len(pixels)
        place = [scene.context == name for name in ("meadow", "shore", "woodland", "room", "street")]
        features.append([*spread, *pixels.mean(0), *pixels.std(0), *hue, *place])
        classes.append(CLASSES.index(first.class_name))
    forest = RandomForestClassifier(60, min_samples_leaf=2, random_state=0)
    scores = cross_val_predict(forest, np.array(features), classes, cv=3, method="predict_proba")
    precision = average_precision_score(np.eye(len(CLASSES))[classes], scores, average="macro")
    assert 0.55 < precision < 0.85


def test_traits_are_those_of_the_largest_object_of_each_class(root):
    traits = object_traits(root)
    objects, contexts = pd.read_csv(root / "objects.csv"), pd.read_csv(root / "context.csv")
    assert not traits.duplicated(["id", "class"]).any()
    assert len(traits) == len(objects.drop_duplicates(["id", "class"]))
    for row in traits.to_dict("records"):
        here = objects[objects["id"] == row["id"]]
        same = here[here["class"] == row["class"]]
        assert row["sub-type"] == same.loc[same["area"].idxmax(), "subtype"]
        assert row["place"] == contexts.set_index("id").loc[row["id"], "context"]
        assert row["company"] == (" ".join(sorted(set(here["class"]) - {row["class"]})) or "alone")
    largest = objects.groupby(["id", "class"], as_index=False)["area"].max().merge(traits)
    for _, group in largest.groupby("class"):
        sizes = group.sort_values("area")["size"].map(["small", "medium", "large"].index)
        assert sizes.is_monotonic_increasing
        assert sizes.iloc[-1] == 2
