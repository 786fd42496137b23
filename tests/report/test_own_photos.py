"""From a folder of photos and a table to masks: what is refused, what is chosen, what is written."""

import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsss_lib.data.masks import load_mask, save_mask
from wsss_lib.report import own_photos
from wsss_lib.report.own_photos import chosen_settings, deliver, example, lay_out, read_drawn
from wsss_lib.report.review import write_review

CLASSES = ["cat", "dog"]
TABLE = pd.DataFrame([[1, 0], [0, 1], [1, 1], [0, 0]], index=["a", "b", "both", "none"], columns=CLASSES)


def drawn(folder, name, pixels, mode=None):
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(folder / f"{name}.png")
    return folder


# --- masks that a user drew --------------------------------------------------------------------------------


def test_a_black_and_white_mask_is_of_the_photos_only_class(tmp_path):
    for name, mode in (("a", None), ("b", "1")):
        Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert(mode).save(tmp_path / f"{name}.png")
    Image.new("RGBA", (3, 2), "black").save(tmp_path / "none.png")
    found = dict(read_drawn(tmp_path, TABLE))
    assert {id: mask.tolist() for id, mask in found.items()} == {
        "a": [[0, 1], [1, 0]],
        "b": [[0, 2], [2, 0]],
        "none": [[0, 0, 0], [0, 0, 0]],
    }


def test_masks_of_ids_and_of_colours_are_read(tmp_path):
    ids = np.array([[0, 1, 2, 255]], np.uint8)
    save_mask(ids, tmp_path / "both.png")
    drawn(tmp_path, "a", [[1, 0]])  # grey
    drawn(tmp_path, "b", [[[0, 128, 0], [0, 0, 0]]])  # VOC's second colour
    found = dict(read_drawn(tmp_path, TABLE))
    assert [found[id].tolist() for id in ("both", "a", "b")] == [ids.tolist(), [[1, 0]], [[2, 0]]]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "colours.csv").write_text("name,r,g,b\ndog,255,255,0\ncat,1,2,3\n")
    drawn(tmp_path / "own", "both", [[[1, 2, 3], [255, 255, 0], [0, 0, 0]]])
    assert dict(read_drawn(tmp_path / "own", TABLE))["both"].tolist() == [[1, 2, 0]]


def test_drawn_masks_that_mean_nothing_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no masks; save each as <name of its photo>"):
        dict(read_drawn(tmp_path, TABLE))
    folder = drawn(tmp_path / "one", "both", [[0, 255]])
    with pytest.raises(
        ValueError, match="names cat, dog; draw each class in its id or colour, as 1 cat, 2 d"
    ):
        dict(read_drawn(folder, TABLE))
    folder = drawn(tmp_path / "two", "none", [[0, 255]])
    with pytest.raises(ValueError, match="names no class; draw"):
        dict(read_drawn(folder, TABLE))
    folder = drawn(tmp_path / "three", "zebra", [[0, 255]])
    with pytest.raises(ValueError, match=r"zebra.png is the mask of no labelled photo; add its row"):
        dict(read_drawn(folder, TABLE))
    folder = drawn(tmp_path / "four", "a", [[[9, 9, 9]]])
    with pytest.raises(ValueError, match="VOC's palette does not name, most of them 9,9,9"):
        dict(read_drawn(folder, TABLE))


# --- laying out --------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, id in enumerate([*TABLE.index, "unlabelled"]):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{id}.jpg")
    TABLE.to_csv(tmp_path / "labels.csv", index_label="id")
    return tmp_path


def lay(own, masks=None):
    return lay_out(own / "photos", own / "labels.csv", own / "out", masks)


def test_drawn_masks_are_tuned_on_and_not_learned_from(own):
    folder = drawn(own / "drawn", "a", np.eye(48, 64) * 255)
    root = lay(own, folder)
    lists = {path.stem: path.read_text().split() for path in (root / "ImageSets/Segmentation").glob("*.txt")}
    assert lists == {"train": ["b", "both", "none"], "tune": ["a"], "test": ["unlabelled"]}
    np.testing.assert_array_equal(load_mask(root / "SegmentationClass" / "a.png"), np.eye(48, 64))
    assert not (own_photos.checked(root)["severity"] == "error").any()
    root = lay(own)  # taken back
    assert (root / "ImageSets/Segmentation/train.txt").read_text().split() == list(TABLE.index)
    assert not list((root / "SegmentationClass").iterdir())
    assert not (root / "ImageSets/Segmentation/tune.txt").exists()


def test_a_folder_with_other_files_is_not_filled(own):
    (own / "out").mkdir()
    (own / "out" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="out holds other files; name a new folder"):
        lay(own)
    assert [path.name for path in (own / "out").iterdir()] == ["thesis.txt"]


def test_an_edited_mask_is_not_overwritten(own):
    lay(own)
    (own / "out" / "masks").mkdir()
    save_mask(np.zeros((2, 2)), own / "out" / "masks" / "a.png")
    (own / "out" / own_photos.RECORD).write_text(json.dumps({"a.png": "as it was", "gone.png": "x"}))
    with pytest.raises(
        ValueError, match=r"1 masks were edited since .* the first is .*a.png; move them into"
    ):
        lay(own)
    (own / "out" / "masks" / "a.png").unlink()
    lay(own)


def test_errors_of_the_check_stop_before_the_first_step(own):
    drawn(own / "drawn", "a", np.ones((5, 5)))  # of another size
    with pytest.raises(ValueError, match=r"a.png is \(5, 5\) \(H, W\) while its photo is \(48, 64\)"):
        deliver(own / "photos", own / "labels.csv", own / "out", "smoke", own / "drawn")
    assert not (own / "out" / "cache").exists()


# --- settings ----------------------------------------------------------------------------------------------


def test_few_photos_are_seen_more_often_and_a_machine_is_used():
    few, as_chosen, many = (chosen_settings(count, 8, False) for count in (40, 3139, 20_000))
    names = ("classifier.epochs", "affinity.epochs", "segmentation.epochs")
    assert [few[name] for name in names] == [15, 10, 10]
    assert [as_chosen[name] for name in names] == [3, 2, 2]
    assert [many[name] for name in names] == [1, 1, 1]
    assert (few["processes"], few["workers"], few["precision"]) == (8, 4, "no")
    assert chosen_settings(40, 1, True)["workers"] == 0
    assert chosen_settings(40, 1, True)["precision"] == "bf16"


# --- the review sheet --------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_the_sheet_shows_the_least_certain_first_and_fetches_nothing(tmp_path):
    table = pd.DataFrame(
        {
            "id": ["worst", 'a "quoted" <id>', "third", "mine"],
            "mask from": ["label", "network", "label", "drawn"],
            "confidence": [0.0, 0.25, 0.5, np.nan],
            "shows": ["", "cat 5.0 %", "dog & co 1.0 %", "cat 9.0 %"],
            "missing": ["dog", "", "", ""],
        }
    )
    photo = np.full((40, 60, 3), 90, np.uint8)
    asked = []

    def pictures(id):
        asked.append(id)
        return photo, np.eye(40, 60, dtype=np.uint8)

    write_review(table, pictures, ("background", "cat", "dog & co"), tmp_path / "review.html", shown=2)
    text = (tmp_path / "review.html").read_text("utf-8")
    assert asked == ["worst", 'a "quoted" <id>']
    tags = Tags(text).found
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert [image["alt"] for image in images] == [
        "photo worst",
        "mask of worst: background alone",
        'photo a "quoted" <id>',
        'mask of a "quoted" <id>: cat 5.0 %',
    ]
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert "http" not in text
    assert "The 2 least certain of 3 photos" in text
    assert "no pixel of dog" in text
    assert "dog &amp; co" in text


# --- the whole -------------------------------------------------------------------------------------------


@pytest.mark.whole
def test_photos_become_masks_and_a_second_call_computes_nothing_again(tmp_path, monkeypatch, capsys):
    photos, labels, masks = example(tmp_path / "example", 12, (48, 96))
    before = {path: path.read_bytes() for path in (tmp_path / "example").rglob("*") if path.is_file()}
    preset = tmp_path / "tiny.yaml"
    preset.write_text(
        "extends: smoke\nbackbone: {weights: random}\nprocesses: 1\nwalk: {steps: 8}\n"
        "classifier: {long_side: [48, 64], crop: 48}\naffinity: {crop: 48}\nsegmentation: {crop: 48}\n"
    )
    first = deliver(photos, labels, tmp_path / "out", str(preset), masks)
    said = capsys.readouterr().out
    assert "2 photos have no row in the table and get no mask" in said
    assert sorted(first.table["mask from"]) == ["drawn"] * 4 + ["label"] * 8
    assert first.table["confidence"][:8].is_monotonic_increasing
    assert first.table["confidence"][:8].between(0, 1).all()
    for path in masks.glob("*.png"):
        np.testing.assert_array_equal(load_mask(tmp_path / "out" / "masks" / path.name), load_mask(path))
    for row in first.table.itertuples():
        full = load_mask(tmp_path / "out" / "masks" / f"{row.id}.png")
        assert full.shape == (48, 96)
    assert all(path.exists() for path in first.files)
    assert {path: path.read_bytes() for path in before} == before
    stages = {path for path in (tmp_path / "out" / "cache").glob("*/*/provenance.json")}
    digests = {path.name: path.read_bytes() for path in first.files if path.suffix in (".json", ".csv")}

    again = deliver(photos, labels, tmp_path / "out", str(preset), masks)
    pd.testing.assert_frame_equal(again.table, first.table)
    assert {path for path in (tmp_path / "out" / "cache").glob("*/*/provenance.json")} == stages
    assert {path.name: path.read_bytes() for path in again.files if path.name in digests} == digests

    monkeypatch.setattr(own_photos, "ENOUGH", 8)
    with_network = deliver(photos, labels, tmp_path / "out", str(preset), masks)
    assert (with_network.table["mask from"] == "network").sum() == 2
    assert len(list((tmp_path / "out" / "masks").glob("*.png"))) == 14
