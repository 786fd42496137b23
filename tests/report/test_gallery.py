"""The gallery draws what artifacts hold: values against the files, one photo once, one class a row."""

from pathlib import Path

import handmade
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import keep_apart
from sklearn.metrics import jaccard_score

from wsss_lib.artifacts import Artifact, Origin, Setting
from wsss_lib.data.masks import load_mask
from wsss_lib.report.gallery import PHOTO, TRUTH, gallery
from wsss_lib.report.plots import overlay_map, overlay_mask
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.study.study import Study

SIZE = (24, 32)  # of the photos of tiny_voc
CAT, DOG, PERSON = 8, 12, 15


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def study(tiny_voc, tmp_path) -> Study:
    return Study(
        "smoke", "tiny", keep_apart(tiny_voc), cache=tmp_path / "cache", results=tmp_path / "results"
    )


def score_maps(*classes: int, stride: int = 4) -> ScoreMaps:
    shape = (len(classes), -(-SIZE[0] // stride), -(-SIZE[1] // stride))
    values = np.random.default_rng(len(classes)).uniform(0.1, 0.5, shape)
    return ScoreMaps(np.array(classes), values.astype(np.float16), SIZE, stride)


@pytest.fixture
def cams(tmp_path) -> Artifact:
    found = {"a1": score_maps(CAT), "a2": score_maps(CAT, PERSON), "a3": score_maps(DOG)}
    return handmade.maps(tmp_path / "cams", found, setting=Setting.at("threshold", (0.1, 0.3), 0.3))


@pytest.fixture
def labels(tmp_path) -> Artifact:
    rng = np.random.default_rng(1)
    found = {id: rng.choice([0, CAT, PERSON], SIZE).astype(np.uint8) for id in ("a1", "a2", "a3")}
    return handmade.masks(tmp_path / "labels", found)


def shown(axis) -> np.ndarray:
    (image,) = axis.images
    return image.get_array()


def test_every_column_shows_its_own(study, cams, labels):
    columns = {"photo": PHOTO, "CAM": cams, "label": labels, "truth": TRUTH}
    figure = gallery(study, ["a2", "a3"], columns)
    axes = np.array(figure.axes[:8]).reshape(2, 4)
    assert [axis.get_title() for axis in axes[0]] == list(columns)
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["a2", "a3"]
    for line, id, c in zip(axes, ("a2", "a3"), (CAT, DOG), strict=True):
        image = study.data.train.image(id)
        np.testing.assert_array_equal(shown(line[0]), image)
        maps = ScoreMaps.load(cams.file(f"{id}.npz"))
        response = maps.full()[maps.classes.tolist().index(c)]
        np.testing.assert_allclose(shown(line[1]), overlay_map(image, response / response.max()))
        assert line[1].texts[0].get_text() == study.data.classes[c]
        for axis, mask in (
            (line[2], load_mask(labels.file(f"{id}.png"))),
            (line[3], study.data.train.mask(id)),
        ):
            np.testing.assert_allclose(shown(axis), overlay_mask(image, mask, 21))
            assert axis.collections  # the truth's outline


def test_no_photo_is_drawn_twice(study, labels):
    figure = gallery(study, ["a1", "a2", "a1"], {"photo": PHOTO, "label": labels})
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["a1", "a2"]


def test_the_iou_on_a_mask_is_that_of_its_photo(study, labels):
    figure = gallery(study, ["a1", "a2"], {"photo": PHOTO, "label": labels, "truth": TRUTH}, iou=True)
    for line, id in zip(np.array(figure.axes).reshape(2, 3), ("a1", "a2"), strict=True):
        truth = study.data.train.mask(id)
        counted = truth != 255
        found = load_mask(labels.file(f"{id}.png"))
        score = jaccard_score(truth[counted], found[counted], average="macro")
        assert [axis.texts[0].get_text() for axis in line] == ["", f"IoU {100 * score:.0f} %", ""]


def test_each_class_has_a_row_and_the_photo_stays_in_the_first(study, cams, labels):
    figure = gallery(study, ["a2"], {"photo": PHOTO, "CAM": cams, "label": labels}, of="each")
    axes = np.array(figure.axes[:6]).reshape(2, 3)
    assert [[len(axis.images) for axis in line] for line in axes] == [[1, 1, 1], [0, 1, 0]]
    assert [line[1].texts[0].get_text() for line in axes] == ["cat", "person"]
    assert [line[0].get_ylabel() for line in axes] == ["a2", ""]


def test_a_class_may_be_named_or_the_strongest(study, tmp_path):
    maps = score_maps(CAT, PERSON)
    maps.maps[1] += 0.4
    other = score_maps(CAT, PERSON)
    first = handmade.maps(tmp_path / "first", {"a2": maps}, setting=Setting.at("threshold", (0.3,), 0.3))
    second = handmade.maps(tmp_path / "second", {"a2": other}, setting=Setting.at("threshold", (0.3,), 0.3))
    columns = {"one": second, "other": first}
    for of, expected in (("strongest", "cat" if other.maps[0].mean() > other.maps[1].mean() else "person"),
                         ("person", "person"), ("first", "cat")):  # fmt: skip
        figure = gallery(study, ["a2"], columns, of=of)
        assert [axis.texts[0].get_text() for axis in figure.axes[:2]] == [expected, expected]
    (axis,) = gallery(study, ["a2"], {"CAM": first}, of="strongest").axes[:1]
    assert axis.texts[0].get_text() == "person"
    dark = gallery(study, ["a2"], {"photo": PHOTO, "CAM": first}, of="dog")  # without a map: nothing glows
    np.testing.assert_allclose(shown(dark.axes[1]), overlay_map(study.data.train.image("a2"), np.zeros(SIZE)))


def test_walked_maps_show_the_class_not_its_backgrounds(study, tmp_path):
    maps = score_maps(0, 0, DOG)
    walked = handmade.maps(tmp_path / "walked", {"a3": maps}, setting=Setting.at("alpha", (1.0, 2.0), 2.0))
    axis = gallery(study, ["a3"], {"walk": walked}).axes[0]
    response = maps.full()[2]
    expected = overlay_map(study.data.train.image("a3"), response / response.max())
    np.testing.assert_allclose(shown(axis), expected)


def test_marginals_and_probabilities_are_drawn_by_their_argmax_and_boundaries_dark(study, tmp_path):
    maps, image = score_maps(0, CAT, PERSON), study.data.train.image("a2")
    best = maps.classes[maps.full().argmax(0)]
    for kind in ("marginals", "probabilities"):
        made = handmade.maps(tmp_path / kind, {"a2": maps}, kind=kind)
        np.testing.assert_allclose(
            shown(gallery(study, ["a2"], {"mask": made}).axes[0]), overlay_mask(image, best, 21)
        )
    edges = handmade.maps(tmp_path / "edges", {"a2": score_maps(1)}, kind="boundaries")
    drawn = shown(gallery(study, ["a2"], {"boundary": edges}).axes[0])
    np.testing.assert_allclose(drawn, 1 - score_maps(1).full()[0][..., None].repeat(3, -1))


def test_what_is_at_hand_needs_no_artifact(study):
    mask = np.full(SIZE, DOG, np.uint8)
    picture = np.zeros((*SIZE, 3), np.uint8)
    columns = {"mask": {"a1": mask}, "picture": {"a1": picture}, "maps": {"a1": score_maps(1)}, "none": {}}
    axes = gallery(study, ["a1"], columns, notes={"a1": "a note"}).axes
    np.testing.assert_allclose(shown(axes[0]), overlay_mask(study.data.train.image("a1"), mask, 21))
    np.testing.assert_array_equal(shown(axes[1]), picture)
    assert axes[2].texts[0].get_text() == "cat"
    assert not axes[3].images
    assert axes[0].get_ylabel() == "a note"


def test_bad_pages_are_refused(study, cams, labels, tmp_path):
    with pytest.raises(ValueError, match="0 photos and 1 columns"):
        gallery(study, [], {"photo": PHOTO})
    with pytest.raises(ValueError, match="1 photos and 0 columns"):
        gallery(study, ["a1"], {})
    other = handmade.masks(tmp_path / "other", {"b1": np.zeros(SIZE, np.uint8)}, split="val")
    with pytest.raises(ValueError, match=r"photos of \['train', 'val'\]; give artifacts of one split"):
        gallery(study, ["b1"], {"a": labels, "b": other})
    with pytest.raises(ValueError, match="of='horses' names no class; choose first, strongest, each or one"):
        gallery(study, ["a1"], {"CAM": cams}, of="horses")
    network = Artifact(Path("net"), "key", "the network", "network", Origin("cam", 0))
    with pytest.raises(ValueError, match=r"'the network' holds no pictures \(network\); give maps or masks"):
        gallery(study, ["a1"], {"net": network})
