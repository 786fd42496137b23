"""A folder of photos and a table of labels as a dataset."""

import numpy as np
import pytest
from PIL import Image

from wsss_lib.data.folder import from_folder
from wsss_lib.data.splits import Splits
from wsss_lib.data.voc import VOCDataset


@pytest.fixture
def own(tmp_path):
    """Four photos of which three are labelled, by names with and without ending."""
    (tmp_path / "photos").mkdir()
    for name in ("beach.jpg", "my cat.PNG", "zoo.v2.jpeg", "attic.jpg"):
        Image.new("RGB", (20, 10), (len(name), 0, 0)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").touch()
    (tmp_path / "labels.csv").write_text("id,cat,palm tree\nzoo.v2,1,0\nbeach.jpg,0,1\nmy cat.PNG,1,0\n")
    return tmp_path


def lay_out(own, root="mine"):
    return from_folder(own / "photos", own / "labels.csv", own / root)


def test_labelled_photos_are_learned_from_and_the_others_segmented(own):
    root = lay_out(own)
    data = Splits(root, None, root / "labels.csv", None)
    assert data.classes == ("background", "cat", "palm tree")
    assert data.train.ids == ["zoo.v2", "beach", "my cat"]
    np.testing.assert_array_equal(data.train.labels, [[1, 0], [0, 1], [1, 0]])
    assert data.test.ids == ["attic"]
    assert data.train.image("my cat").shape == (10, 20, 3)
    assert data.train.image("my cat")[0, 0, 0] == len("my cat.PNG")
    assert not data.train.has_mask("beach")


def test_laying_out_again_follows_the_photos_and_labels(own):
    before = VOCDataset(lay_out(own), "train", labels=own / "mine" / "labels.csv").fingerprint()
    after = VOCDataset(lay_out(own), "train", labels=own / "mine" / "labels.csv").fingerprint()
    assert after == before
    table = own / "labels.csv"
    table.write_text(table.read_text() + "attic,1,1\n")
    (own / "photos" / "beach.jpg").rename(own / "photos" / "beach.png")
    table.write_text(table.read_text().replace("beach.jpg", "beach"))
    root = lay_out(own)
    data = VOCDataset(root, "train", labels=root / "labels.csv")
    assert data.ids == ["zoo.v2", "beach", "my cat", "attic"]
    assert data.image_path("beach").name == "beach.png"
    assert data.image("beach").shape == (10, 20, 3)
    assert not (root / "ImageSets" / "Segmentation" / "test.txt").exists()  # none is left over


def test_masks_of_ones_own_are_scored(own):
    root = lay_out(own)
    (root / "SegmentationClass").mkdir()
    Image.fromarray(np.full((10, 20), 2, np.uint8)).save(root / "SegmentationClass" / "beach.png")
    assert Splits(root, None, root / "labels.csv", None).scored("train") == ["beach"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,cat\nbeach,1\nlost.jpg,1\n", r"names 1 photos .* the first is 'lost'"),
        ("name,cat\nbeach,1\n", r"needs a column 'id'"),
        ("id\nbeach\n", r"a column for each class"),
        ("id,cat\n", r"a row for each photo"),
        ("id,cat\nbeach,1\nbeach.jpg,0\n", r"more than one row for 'beach'"),
        ("", r"is no CSV"),
    ],
)
def test_a_wrong_table_is_named(own, text, message):
    (own / "labels.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"labels\.csv.*{message}"):
        lay_out(own)
    assert not (own / "mine").exists()


def test_missing_folder_and_table(own):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        from_folder(own / "nowhere", own / "labels.csv", own / "mine")
    with pytest.raises(FileNotFoundError, match=r"no label table .*lost\.csv"):
        from_folder(own / "photos", own / "lost.csv", own / "mine")


def test_two_photos_of_one_name_are_refused(own):
    Image.new("RGB", (20, 10)).save(own / "photos" / "beach.png")
    with pytest.raises(ValueError, match=r"beach\.jpg and beach\.png; rename"):
        lay_out(own)


def test_another_dataset_is_not_written_over(own, tiny_voc):
    linked = own / "linked"  # as COCO's layout
    (linked / "JPEGImages").mkdir(parents=True)
    (linked / "JPEGImages" / "a.jpg").symlink_to(tiny_voc / "JPEGImages" / "a1.jpg")
    for root in (tiny_voc, linked):
        before = sorted(root.rglob("*"))
        with pytest.raises(ValueError, match="photos of another dataset"):
            lay_out(own, root)
        assert sorted(root.rglob("*")) == before
