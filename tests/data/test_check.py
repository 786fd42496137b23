"""What is said of a folder before the first step."""

import os

import numpy as np
import pytest
from conftest import save_mask
from PIL import Image

from wsss_lib.crf import CRF_PARAMETERS, WIDEST, widest_side
from wsss_lib.data import check as checks
from wsss_lib.data.check import LONGEST_NAME, check, check_agreement, contradictions
from wsss_lib.data.folder import from_folder
from wsss_lib.data.voc import VOCDataset
from wsss_lib.runtime.files import save_atomically
from wsss_lib.score_maps import ScoreMaps


@pytest.fixture
def own(tmp_path):
    """Forty photos of 20 x 10, the even ones a cat, the odd ones a dog, laid out; none has a mask."""
    (tmp_path / "photos").mkdir()
    rows = "".join(f"p{i:02},{1 - i % 2},{i % 2}\n" for i in range(40))
    for i in range(40):
        Image.new("RGB", (20, 10), (i, 0, 0)).save(tmp_path / "photos" / f"p{i:02}.jpg")
    (tmp_path / "labels.csv").write_text("id,cat,dog\n" + rows)
    root = lay_out(tmp_path)
    (root / "SegmentationClass").mkdir()
    return tmp_path


def lay_out(folder):
    return from_folder(folder / "photos", folder / "labels.csv", folder / "mine")


def give_masks(folder, id_of, count=40):
    for i in range(count):
        mask = np.zeros((10, 20), np.uint8)
        mask[2:8, 4:12] = id_of(i)
        save_mask(mask, folder / "mine" / "SegmentationClass" / f"p{i:02}.png")


def said(folder, severity, of="mine", **options):
    table = check(folder / of, **options)
    return table.loc[table["severity"] == severity, "sentence"].tolist()


# --- masks against labels --------------------------------------------------------------------------------


def data_of(folder):
    return VOCDataset(folder / "mine", "train", labels=folder / "mine" / "labels.csv")


def test_masks_that_agree_and_unknown_labels_contradict_nothing(own):
    give_masks(own, lambda i: 1 + i % 2)
    data = data_of(own)
    assert list(contradictions(data, data.ids)) == []
    check_agreement(data, data.ids)
    unknown = VOCDataset(own / "mine", "train", labels="none")
    assert list(contradictions(unknown, unknown.ids)) == []
    assert said(own, "error") == said(own, "warning") == []


def test_ids_shifted_by_a_column_are_named_with_both_orders(own):
    """A column bird was put before the others while the masks kept their ids: cat 1, dog 2."""
    lines = (own / "labels.csv").read_text().splitlines()
    (own / "labels.csv").write_text(
        "\n".join(["id,bird,cat,dog", *(line.replace(",", ",0,", 1) for line in lines[1:])])
    )
    root = lay_out(own)
    give_masks(own, lambda i: 2 + i % 2 if i < 2 else 1 + i % 2)
    data = data_of(own)
    clauses = list(contradictions(data, data.ids))
    assert clauses[0] == "the mask of p02 shows bird, its label says cat"
    assert clauses[1] == "the mask of p03 shows cat, its label says dog"
    assert len(clauses) == 38
    sentence = (
        rf"In {root} the mask of p\d+ shows \w+, its label says \w+ \(in 38 of 40 photos with a mask\); "
        "correct the labels, or bring the classes into the order of the masks' ids, which are read as "
        "1 bird, 2 cat, 3 dog."
    )
    with pytest.raises(ValueError, match=sentence):
        check_agreement(data, data.ids)
    [error] = said(own, "error")
    assert "(in 38 of 40 photos with a mask)" in error


def test_a_single_contradiction_is_a_warning(own):
    give_masks(own, lambda i: 1 + i % 2 if i else 2)
    check_agreement(data_of(own), data_of(own).ids)
    assert said(own, "error") == []
    [warning] = said(own, "warning")
    assert "the mask of p00 shows dog, its label says cat (in 1 of 40 photos with a mask)" in warning


def test_at_most_so_many_masks_are_looked_at(own, monkeypatch):
    give_masks(own, lambda i: 2 - i % 2)
    monkeypatch.setattr(checks, "LOOKED_AT", 10)
    with pytest.raises(ValueError, match="in 10 of 10 photos"):
        check_agreement(data_of(own), data_of(own).ids)


def test_a_label_of_nothing_is_contradicted_by_any_mask(own):
    table = own / "labels.csv"
    table.write_text(table.read_text().replace("p00,1,0", "p00,0,0"))
    lay_out(own)
    give_masks(own, lambda i: 1)
    data = data_of(own)
    assert list(contradictions(data, ["p00"])) == ["the mask of p00 shows cat, its label says nothing"]


# --- preflight -------------------------------------------------------------------------------------------


def test_a_folder_in_order_is_described(own):
    table = check(own / "mine")
    assert table["severity"].tolist() == ["note"] * 3
    assert table["sentence"].tolist() == [
        "2 classes, by their ids: 1 cat, 2 dog.",
        "40 photos, from 20 x 10 to 20 x 10 pixels (width x height).",
        "40 photos, 20 cat, 20 dog, 0 with a mask.",
    ]


def test_what_is_no_dataset_is_said_in_the_table(own, tmp_path):
    [[severity, subject, sentence]] = check(tmp_path / "nowhere").to_numpy().tolist()
    assert (severity, subject) == ("error", "folder")
    assert sentence.endswith("give the folder of a dataset in VOC layout.")
    [_, bare] = said(own, "error", of="photos")
    assert (
        bare == f"{own / 'photos'} holds 40 photos as they are; lay them out by wsss_lib.from_folder first."
    )
    (own / "mine" / "classes.txt").write_text("cat\nbackground\n")
    assert any("names 'background' as a class" in sentence for sentence in said(own, "error"))


def test_photos_that_fail_hours_later_are_found_by_their_headers(own):
    photos = own / "mine" / "JPEGImages"

    def expect(severity, *parts, **options):
        sentences = said(own, severity, **options)
        assert any(all(part in sentence for part in parts) for sentence in sentences), sentences

    Image.new("L", (WIDEST + 1, 1)).save(photos / "wide.png")
    Image.new("L", (WIDEST, 1)).save(photos / "just.png")
    expect("error", "1 photos (the first: wide.png) have a side of more than 3600 pixels", "scale them down.")
    assert not any("CRF takes" in s for s in said(own, "error", widest=3 * WIDEST))
    expect("error", "2 photos (the first: just.png) have more than 2272 pixels", memory=220 * 2272)
    expect("error", "have more than 2272 pixels", memory=2 * 220 * 2272, processes=2)
    expect("error", "have more than 2272 pixels", memory=1000 * 2272, processes=2, bytes_a_pixel=1000)
    (photos / "broken.jpg").write_bytes((photos / "p00.jpg").read_bytes()[:20])
    expect("error", "broken.jpg is damaged")
    Image.new("F", (4, 4)).save(photos / "deep.png", format="TIFF")
    expect("error", "1 photos (the first: deep.png) hold numbers of unknown range")
    Image.new("L", (4, 4)).save(photos / "p01.png")
    expect("error", "2 photos (the first: p01.jpg) have the id of another")
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.new("RGB", (4, 4)).save(photos / "odd.jpg", exif=exif)
    expect("warning", "1 photos (the first: odd.jpg) have damaged metadata", "as they are stored.")
    Image.new("RGB", (4, 4)).save(photos / ("n" * (LONGEST_NAME + 1) + ".jpg"))
    Image.new("RGB", (4, 4)).save(photos / ("m" * LONGEST_NAME + ".jpg"))
    expect("error", "1 photos (the first: nnn", f"have a name of more than {LONGEST_NAME} bytes")
    (photos / "lost.jpg").symlink_to(own / "unplugged.jpg")
    expect("error", "lost.jpg")


def test_the_longest_name_is_that_of_a_file_which_can_still_be_written(tmp_path):
    maps = ScoreMaps(np.array([1]), np.zeros((1, 2, 2)), (2, 2), 1)
    save_atomically(maps.save, tmp_path / ("n" * LONGEST_NAME + ".npz"))
    with pytest.raises(OSError, match="name too long"):
        save_atomically(maps.save, tmp_path / ("n" * (LONGEST_NAME + 1) + ".npz"))


def test_the_width_is_that_of_the_narrowest_published_kernel():
    assert min(widest_side(name) for name in CRF_PARAMETERS) == WIDEST


def test_what_is_passed_over_is_counted_where_the_links_lead(own):
    for name in ("a.heic", "b.HEIC", "c.tif", "._p00.jpg", "notes.txt"):
        (own / "photos" / name).touch()
    [warning] = said(own, "warning")
    assert warning.startswith(f"{own / 'photos'} holds pictures that are not read (2 .heic, 1 .tif);")
    assert any("holds 1 dot-files, such as ._p00.jpg." in note for note in said(own, "note"))


def test_folders_and_masks_of_another_kind_are_passed_over(own):
    masks = own / "mine" / "SegmentationClass"
    (own / "photos" / "more").mkdir()
    (own / "photos" / ".thumbnails").mkdir()
    for name in ("p00.jpg", "p01.tif", "._p02.png"):
        (masks / name).touch()
    assert said(own, "warning") == [
        f"{own / 'photos'} holds 1 folders, such as more, which are not looked into; bring their files here "
        "to use them.",
        f"{masks} holds pictures that are not read (1 .jpg, 1 .tif); save them as .png to use them.",
    ]
    assert f"{masks} holds 1 dot-files, such as ._p02.png." in said(own, "note")


def test_lists_and_classes(own):
    root = own / "mine"
    lists = root / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("p00\n")
    [error] = said(own, "error")
    assert "train.txt and val.txt" in error
    (lists / "train.txt").write_text("p02\np04\n")
    assert said(own, "error") == []
    assert said(own, "warning") == ["No photo of train shows dog; nothing can learn it."]
    notes = said(own, "note")
    assert "37 photos (the first: p01) are in no list and not used." in notes
    assert "2 photos, 2 cat, 0 with a mask." in notes
    (lists / "train.txt").write_text("p02\nlost\n")
    [error] = said(own, "error")
    assert "does not hold, the first is 'lost'" in error
    (lists / "train.txt").unlink()
    assert any("has no list ImageSets/Segmentation/train.txt" in error for error in said(own, "error"))


def test_negatives_restrictions_and_stray_masks_are_counted(own):
    table = own / "labels.csv"
    table.write_text(table.read_text().replace("p00,1,0", "p00,0,0"))
    lay_out(own)
    give_masks(own, lambda i: 1 + i % 2, 4)
    (own / "mine" / "SegmentationClass" / "p00.png").rename(own / "mine" / "SegmentationClass" / "q.png")
    notes = said(own, "note", classes="cat")
    assert "20 photos, 19 cat, 1 without an object, 1 with a mask, 20 left out, of other classes." in notes
    [warning] = said(own, "warning")
    assert "1 masks have no photo of their name (the first: q.png)" in warning


def test_masks_that_cannot_be_read_are_counted(own):
    for i in range(3):
        Image.new("RGB", (20, 10)).save(own / "mine" / "SegmentationClass" / f"p{i:02}.png")
    [error] = said(own, "error")
    assert "is of mode RGB" in error
    assert "colours.csv (columns name, r, g, b) or CVAT's labelmap.txt" in error
    assert error.endswith("(and 2 of 3 masks more)")


def test_nothing_is_written(own):
    before = sorted((path, path.lstat().st_mtime_ns) for path in own.rglob("*"))
    check(own / "mine")
    assert sorted((path, path.lstat().st_mtime_ns) for path in own.rglob("*")) == before
    assert "mine" in os.listdir(own)


# --- photos without an object, further on ---------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 4])
def test_maps_of_no_class_are_saved_and_enlarged(tmp_path, stride):
    shape = (0, 6, 8) if stride == 4 else (0, 23, 30)
    ScoreMaps(np.array([], int), np.zeros(shape), (23, 30), stride).save(tmp_path / "none.npz")
    maps = ScoreMaps.load(tmp_path / "none.npz")
    assert maps.classes.shape == (0,)
    assert maps.full().shape == (0, 23, 30)
