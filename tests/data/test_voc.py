import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_VOC, save_mask
from PIL import Image

from wsss_lib.data.masks import voc_palette
from wsss_lib.data.voc import VOC_CLASSES, VOCDataset, content_paths, is_voc
from wsss_lib.runtime.digest import content_fingerprint

SUBSET = Path(
    os.environ.get("WSSS_VOC_ROOT")
    or Path(__file__).parents[3] / "shared" / "data" / "voc_subset" / "VOCdevkit" / "VOC2012"
)
SIX = ("cat", "cow", "dog", "horse", "person", "sheep")


def lists(root: Path, name: str) -> Path:
    return root / "ImageSets" / "Segmentation" / f"{name}.txt"


def write_csv(root: Path, rows: dict[str, tuple[int, ...]], classes=VOC_CLASSES) -> Path:
    lines = [f"id,{','.join(classes)}"]
    for id, present in rows.items():
        lines.append(f"{id},{','.join(str(int(VOC_CLASSES.index(c) + 1 in present)) for c in classes)}")
    path = root / "labels.csv"
    path.write_text("\n".join(lines))
    return path


def multi_hot(present, classes=VOC_CLASSES):
    return np.array([VOC_CLASSES.index(name) + 1 in present for name in classes], np.float32)


# --- reading ---------------------------------------------------------------------------------------------


def test_all_classes(tiny_voc):
    dataset = VOCDataset(tiny_voc, "train")
    assert dataset.ids == list(TINY_VOC)
    assert len(dataset) == 5
    assert dataset.classes == VOC_CLASSES
    assert dataset.skipped == []
    assert dataset.labels.dtype == np.float32
    np.testing.assert_array_equal(dataset.labels, [multi_hot(c) for c in TINY_VOC.values()])
    np.testing.assert_array_equal(dataset.label("a2"), multi_hot(TINY_VOC["a2"]))
    assert dataset.image("a1").shape == (24, 32, 3)
    assert dataset.image_size("a1") == (24, 32)
    assert dataset.image_path("a1") == tiny_voc / "JPEGImages" / "a1.jpg"
    assert dataset.mask_path("a1") == tiny_voc / "SegmentationClass" / "a1.png"
    mask = dataset.mask("a2")
    assert mask.dtype == np.uint8
    assert mask.shape == (24, 32)
    assert (mask[10, 5], mask[10, 20], mask[4, 5], mask[0, 0]) == (8, 15, 255, 0)


def test_restricted_classes_get_new_ids_and_the_others_become_void(tiny_voc):
    dataset = VOCDataset(tiny_voc, "train", classes=["person", "cat"])
    assert dataset.classes == ("person", "cat")
    assert dataset.ids == ["a1", "a2", "b2"]
    assert dataset.skipped == ["a3", "b1"]
    np.testing.assert_array_equal(dataset.labels, [[0, 1], [1, 1], [1, 0]])
    full = VOCDataset(tiny_voc, "train")
    for id in dataset.ids:
        expected = np.full((24, 32), 255)
        for new, old in ((0, 0), (1, 15), (2, 8)):
            expected[full.mask(id) == old] = new
        np.testing.assert_array_equal(dataset.mask(id), expected)


@pytest.mark.parametrize("inner", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_root_may_be_an_outer_folder(tiny_voc, tmp_path, inner):
    outer = tmp_path / "outer"
    (outer / inner).parent.mkdir(parents=True, exist_ok=True)
    tiny_voc.rename(outer / inner)
    assert VOCDataset(str(outer), "val").ids == ["b1", "b2"]


@pytest.mark.parametrize(("file", "asked"), [("train_aug", "trainaug"), ("trainaug", "train_aug")])
def test_trainaug_alias(tiny_voc, file, asked):
    lists(tiny_voc, "val").rename(lists(tiny_voc, file))
    assert VOCDataset(tiny_voc, asked).ids == ["b1", "b2"]
    lists(tiny_voc, asked).write_text("a1\n")  # the list of that very name comes first
    assert VOCDataset(tiny_voc, asked).ids == ["a1"]


def test_lists_with_windows_newlines_blanks_and_byte_order_mark(tiny_voc):
    lists(tiny_voc, "val").write_bytes(b"\xef\xbb\xbfb1 \r\n\r\n  b2\t\r\n\n")
    assert VOCDataset(tiny_voc, "val").ids == ["b1", "b2"]


def test_classes_txt_replaces_the_voc_classes(tiny_voc):
    names = tuple(f"thing{i}" for i in range(15))
    (tiny_voc / "classes.txt").write_text("\n".join(names) + "\n\n")
    assert VOCDataset(tiny_voc, "train").classes == names
    assert VOCDataset(tiny_voc, "train", ["thing7"]).ids == ["a1", "a2"]


def test_official_masks_are_preferred_over_augmented_ones(tiny_voc):
    (tiny_voc / "SegmentationClassAug").mkdir()
    shutil.move(tiny_voc / "SegmentationClass" / "a1.png", tiny_voc / "SegmentationClassAug" / "a1.png")
    Image.fromarray(np.full((24, 32), 1, np.uint8)).save(tiny_voc / "SegmentationClassAug" / "a2.png")
    dataset = VOCDataset(tiny_voc, "train")
    assert dataset.mask_path("a1").parent.name == "SegmentationClassAug"
    np.testing.assert_array_equal(dataset.labels, [multi_hot(c) for c in TINY_VOC.values()])


def test_grey_masks_are_indices_too(tiny_voc):
    expected = VOCDataset(tiny_voc, "train").mask("a2")
    Image.fromarray(expected).save(tiny_voc / "SegmentationClass" / "a2.png")
    np.testing.assert_array_equal(VOCDataset(tiny_voc, "train").mask("a2"), expected)


def test_a_larger_limit_contains_the_smaller(tiny_voc):
    every = VOCDataset(tiny_voc, "train", ["person", "aeroplane"]).ids
    assert every == ["a2", "b1", "b2"]
    for limit in (1, 2, 3, 4):
        dataset = VOCDataset(tiny_voc, "train", ["person", "aeroplane"], limit=limit)
        assert dataset.ids == every[:limit]
        assert len(dataset.labels) == len(dataset)


def test_photo_turned_by_exif_fits_its_upright_mask(tiny_voc):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (24, 32)).save(tiny_voc / "JPEGImages" / "a1.jpg", exif=exif)  # stored 32 high, 24 wide
    dataset = VOCDataset(tiny_voc, "train")
    assert dataset.image_size("a1") == (24, 32) == dataset.image("a1").shape[:2] == dataset.mask("a1").shape


def test_dataset_travels_to_worker_processes(tiny_voc):
    dataset = VOCDataset(tiny_voc, "train")
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy.mask("b2"), dataset.mask("b2"))


# --- label sources ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [None, ["dog", "cat"]])
def test_label_sources_agree(tiny_voc, classes):
    csv = write_csv(tiny_voc, dict(reversed(TINY_VOC.items())))
    npz = tiny_voc / "labels.npz"
    labels = np.array([multi_hot(c) for c in TINY_VOC.values()])[::-1, ::-1]
    np.savez(npz, ids=list(TINY_VOC)[::-1], classes=VOC_CLASSES[::-1], labels=labels)
    expected = VOCDataset(tiny_voc, "train", classes)
    for source in ("xml", csv, str(npz)):
        dataset = VOCDataset(tiny_voc, "train", classes, labels=source)
        assert dataset.ids == expected.ids
        assert dataset.skipped == expected.skipped
        np.testing.assert_array_equal(dataset.labels, expected.labels)
        assert dataset.fingerprint() == expected.fingerprint()


def test_xml_counts_difficult_objects(tiny_voc):
    (tiny_voc / "Annotations" / "b1.xml").write_text(
        "<annotation><object><name>sofa</name><difficult>1</difficult></object></annotation>"
    )
    assert VOCDataset(tiny_voc, "val", labels="xml").label("b1")[VOC_CLASSES.index("sofa")] == 1


def test_table_may_hold_only_the_wanted_classes_and_more_images(tiny_voc):
    csv = write_csv(tiny_voc, TINY_VOC, ("dog", "person"))
    dataset = VOCDataset(tiny_voc, "val", ["dog"], labels=csv)
    assert dataset.ids == ["b2"]
    with pytest.raises(ValueError, match=r"labels\.csv has no column for class 'cat'"):
        VOCDataset(tiny_voc, "train", ["dog", "cat"], labels=csv)


def test_split_without_masks(tiny_voc):
    csv = write_csv(tiny_voc, TINY_VOC)
    shutil.rmtree(tiny_voc / "SegmentationClass")
    labelled = VOCDataset(tiny_voc, "val", labels=csv)
    assert labelled.label("b1").sum() == 1
    unlabelled = VOCDataset(tiny_voc, "val", labels="none")
    assert np.isnan(unlabelled.labels).all()
    for dataset in (labelled, unlabelled):
        assert dataset.ids == ["b1", "b2"]
        assert dataset.image("b1").shape == (*dataset.image_size("b1"), 3)
        assert len(dataset.fingerprint()) == 64
        with pytest.raises(FileNotFoundError, match=r"SegmentationClass holds no mask b1\.png; .*'none'"):
            dataset.mask("b1")
    with pytest.raises(FileNotFoundError, match=r"no mask b1\.png"):
        VOCDataset(tiny_voc, "val")


# --- photos without an object, and folders that are not VOC's -------------------------------------------


@pytest.fixture
def own(tiny_voc, tmp_path):
    """A folder of another name, without Annotations and masks; five photos in the list train."""
    root = tiny_voc.rename(tmp_path / "lesions")
    shutil.rmtree(root / "Annotations")
    shutil.rmtree(root / "SegmentationClass")
    (root / "SegmentationClass").mkdir()
    return root


def table_of(root: Path, text: str) -> Path:
    (root / "labels.csv").write_text(text)
    return root / "labels.csv"


def test_photos_without_an_object_are_kept_and_their_truth_is_background(own):
    csv = table_of(own, "id,lesion\na1,1\na2,0\na3,1\nb1,0\nb2,0\n")
    save_mask(np.full((24, 32), 1, np.uint8), own / "SegmentationClass" / "a1.png")
    spotted = np.eye(24, 32, dtype=np.uint8) * 255
    save_mask(spotted, own / "SegmentationClass" / "b1.png")  # its own mask, with some void, comes first
    for classes in (None, ["lesion"], "lesion"):
        data = VOCDataset(own, "train", classes, csv)
        assert data.ids == ["a1", "a2", "a3", "b1", "b2"]
        np.testing.assert_array_equal(data.labels, [[1], [0], [1], [0], [0]])
        assert [data.has_mask(id) for id in data.ids] == [True, True, False, True, True]
        assert data.masked == ["a1", "b1"]
        np.testing.assert_array_equal(data.mask("a2"), np.zeros((24, 32)))
        assert data.mask("a2").dtype == np.uint8
        np.testing.assert_array_equal(data.mask("b1"), spotted)
        with pytest.raises(FileNotFoundError, match=r"no mask a3\.png"):
            data.mask("a3")
    before = data.truth_fingerprint()
    table_of(own, "id,lesion\na1,1\na2,1\na3,1\nb1,0\nb2,0\n")
    assert VOCDataset(own, "train", None, csv).truth_fingerprint() != before


def test_a_restriction_drops_photos_of_other_classes_and_keeps_those_without_any(own):
    csv = table_of(own, "id,cat,dog\na1,1,0\na2,0,1\na3,0,0\nb1,1,1\nb2,0,0\n")
    data = VOCDataset(own, "train", ["cat"], csv)
    assert (data.ids, data.skipped) == (["a1", "a3", "b1", "b2"], ["a2"])
    np.testing.assert_array_equal(data.labels, [[1], [0], [1], [0]])


def test_a_table_that_tells_of_some_classes_only_makes_no_negatives(own):
    (own / "classes.txt").write_text("cat\ndog\n")
    csv = table_of(own, "id,cat\na1,1\na2,0\na3,0\nb1,1\nb2,0\n")
    data = VOCDataset(own, "train", ["cat"], csv)
    assert (data.ids, data.skipped) == (["a1", "b1"], ["a2", "a3", "b2"])  # they may show a dog


def test_empty_masks_and_annotations_are_photos_without_an_object(tiny_voc):
    save_mask(np.zeros((24, 32), np.uint8), tiny_voc / "SegmentationClass" / "a1.png")
    (tiny_voc / "Annotations" / "a1.xml").write_text("<annotation></annotation>")
    for source in ("masks", "xml"):
        data = VOCDataset(tiny_voc, "train", labels=source)
        assert len(data) == 5
        assert not data.label("a1").any()


def test_photos_of_which_none_shows_an_object_are_refused(own):
    csv = table_of(own, "id,cat\na1,0\na2,0\na3,0\nb1,1\nb2,0\n")
    expect_error(ValueError, r"among the first 3 holds .*cat; .*raise the limit\.", own, labels=csv, limit=3)
    assert len(VOCDataset(own, "train", labels=csv, limit=4)) == 4
    table_of(own, "id,cat\na1,0\na2,0\na3,0\nb1,0\nb2,0\n")
    expect_error(ValueError, r"train\.txt holds one of the classes cat; name others\.", own, labels=csv)


def test_without_classes_txt_the_columns_are_the_classes_and_not_vocs(own):
    csv = table_of(own, "id,cat,dog\n" + "".join(f"{id},1,0\n" for id in TINY_VOC))
    save_mask(np.full((24, 32), 2, np.uint8), own / "SegmentationClass" / "a1.png")
    data = VOCDataset(own, "train", labels=csv)
    assert data.classes == ("cat", "dog")
    np.testing.assert_array_equal(data.mask("a1"), np.full((24, 32), 2))  # a dog, not a bicycle
    for source in ("masks", "none"):
        expect_error(ValueError, r"lesions has no classes\.txt and is not VOC 2012", own, labels=source)
    data = VOCDataset(own, "train", labels="none", names=["cat", "dog"])
    assert data.classes == ("cat", "dog")


def test_voc_is_known_by_its_name_or_its_annotations(tiny_voc, tmp_path):
    first = tiny_voc / "Annotations" / "a1.xml"
    for name, folder, expected in (
        ("VOC2012", "<folder>VOC2012</folder>", True),
        ("somewhere", "<folder>VOC2007</folder>", True),
        ("VOC2012", "", True),
        ("somewhere", "", False),
        ("somewhere", "<folder>photos</folder>", False),  # as a labelling tool writes it
        ("VOC2012", "<folder>JPEGImages</folder>", False),  # own photos in VOC's place
    ):
        first.write_text(f"<annotation>{folder}<object><name>cat</name></object></annotation>")
        moved = tiny_voc.rename(tmp_path / name)
        assert is_voc(moved) == expected, (name, folder)
        moved.rename(tiny_voc)
    shutil.rmtree(first.parent)
    assert is_voc(tiny_voc)
    (tiny_voc / "classes.txt").write_text("cat\n")
    assert not is_voc(tiny_voc)


def test_ids_of_photos_annotated_by_a_tool_are_not_vocs(tiny_voc, tmp_path):
    """Mask ids 1 and 2 of cats and dogs must not become aeroplanes; VOC has cats too."""
    own = tiny_voc.rename(tmp_path / "pets")
    for file in (own / "Annotations").iterdir():
        file.write_text("<annotation><folder>photos</folder><object><name>cat</name></object></annotation>")
    for file in (own / "SegmentationClass").iterdir():
        save_mask(np.full((24, 32), 1, np.uint8), file)
    expect_error(ValueError, r"pets has no classes\.txt and is not VOC 2012", own)


def test_a_black_and_white_mask_is_told_from_void(own):
    csv = table_of(own, "id,lesion\na1,1\na2,1\na3,0\nb1,1\nb2,1\n")
    white = np.zeros((24, 32), np.uint8)
    white[4:20, 6:30] = 255
    for id in ("a1", "a3"):
        Image.fromarray(white).save(own / "SegmentationClass" / f"{id}.png")
    data = VOCDataset(own, "train", labels=csv)
    remedy = r"a1\.png holds 255, which is void, and no class; .*lesion,255,255,255 as two lines into "
    with pytest.raises(ValueError, match=remedy):
        data.mask("a1")
    np.testing.assert_array_equal(data.mask("a3"), white)  # no object there: void is right
    (own / "classes.txt").write_text("lesion\n")
    (own / "colours.csv").write_text("name,r,g,b\nlesion,255,255,255\n")
    np.testing.assert_array_equal(VOCDataset(own, "train", labels=csv).mask("a1"), white // 255)


def test_a_black_and_white_mask_is_no_label_either(own):
    (own / "classes.txt").write_text("lesion\n")
    for id in TINY_VOC:
        Image.fromarray(np.eye(24, 32, dtype=np.uint8) * 255).save(own / "SegmentationClass" / f"{id}.png")
    for classes in (None, ["lesion"]):
        expect_error(ValueError, r"a1\.png holds 255, which is void", own, labels="masks", classes=classes)


# --- fingerprint -----------------------------------------------------------------------------------------


def test_fingerprint_does_not_depend_on_the_place(tiny_voc, tmp_path):
    before = VOCDataset(tiny_voc, "train").fingerprint()
    assert VOCDataset(shutil.copytree(tiny_voc, tmp_path / "b" / "VOC2012"), "train").fingerprint() == before


def test_fingerprint_changes_with_ids_classes_labels_and_files(tiny_voc):
    seen = {VOCDataset(tiny_voc, "train").fingerprint()}

    def expect_new(**options):
        new = VOCDataset(tiny_voc, options.pop("split", "train"), **options).fingerprint()
        assert new not in seen
        seen.add(new)

    expect_new(split="val")
    expect_new(limit=4)
    expect_new(classes=["person", "dog"])
    expect_new(classes=["dog", "person"])
    expect_new(labels=write_csv(tiny_voc, TINY_VOC | {"a1": (1,)}))
    replace_last_byte(tiny_voc / "JPEGImages" / "a1.jpg")  # of the same size
    expect_new()


def replace_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_masks_count_in_the_truth_alone_where_labels_come_from_elsewhere(tiny_voc):
    csv, masks = write_csv(tiny_voc, TINY_VOC), tiny_voc / "SegmentationClass"

    def both():
        data = VOCDataset(tiny_voc, "train", labels=csv)
        return data.fingerprint(), data.truth_fingerprint()

    learned, truth = both()
    seen = {truth}

    def expect_new_truth():
        assert both()[0] == learned
        new = both()[1]
        assert new not in seen
        seen.add(new)

    swap = [masks / "a1.png", masks / "a3.png"]  # one ids' bytes under the other's name
    contents = [path.read_bytes() for path in swap]
    for path, content in zip(swap, reversed(contents), strict=True):
        path.write_bytes(content)
    expect_new_truth()
    (masks / "b1.png").unlink()
    expect_new_truth()
    (tiny_voc / "SegmentationClassAug").mkdir()
    shutil.copy(masks / "a1.png", tiny_voc / "SegmentationClassAug" / "b1.png")
    expect_new_truth()
    assert VOCDataset(tiny_voc, "train", ["cat"], csv).truth_fingerprint() not in seen


def test_the_truth_depends_on_what_ids_and_colours_mean(tiny_voc):
    csv = write_csv(tiny_voc, {id: (8,) for id in TINY_VOC}, ("cat",))
    seen = set()
    names = [f"c{i}" for i in range(20)]
    for place in (7, 8):
        names_of = [*names[:place], "cat", *names[place:]]
        (tiny_voc / "classes.txt").write_text("\n".join(names_of))
        data = VOCDataset(tiny_voc, "train", ["cat"], csv)
        seen.add((data.fingerprint(), data.truth_fingerprint()))
    (tiny_voc / "colours.csv").write_text("name,r,g,b\ncat,1,2,3\n")
    data = VOCDataset(tiny_voc, "train", ["cat"], csv)
    seen.add((data.fingerprint(), data.truth_fingerprint()))
    assert len(seen) == 3
    assert len({learned for learned, _ in seen}) == 1


def test_all_that_is_read_counts_in_what_is_up_to_date(tiny_voc, tmp_path):
    (tiny_voc / "colours.csv").write_text("name,r,g,b\n")
    (tiny_voc / "Saliency").mkdir()
    (tiny_voc / "Saliency" / "a1.png").touch()
    seen = [content_fingerprint(content_paths(tiny_voc))]
    (tiny_voc / "notes.md").write_text("not read")
    assert content_fingerprint(content_paths(tiny_voc)) == seen[0]
    for file in (
        "JPEGImages/a1.jpg", "SegmentationClass/b1.png", "Annotations/a3.xml", "Saliency/a1.png",
        "ImageSets/Segmentation/val.txt", "colours.csv", "classes.txt", "SegmentationClassAug/b1.png",
    ):  # fmt: skip
        (tiny_voc / file).parent.mkdir(exist_ok=True)
        with open(tiny_voc / file, "ab") as stream:
            stream.write(b"x")
        seen.append(content_fingerprint(content_paths(tiny_voc)))
    assert len(set(seen)) == len(seen) == 9
    outer = tmp_path / "data" / "VOCdevkit"
    outer.mkdir(parents=True)
    tiny_voc.rename(outer / "VOC2012")
    assert content_fingerprint(content_paths(tmp_path / "data")) == seen[-1]


# --- errors ----------------------------------------------------------------------------------------------


def expect_error(kind, pattern, root, split="train", **options):
    with pytest.raises(kind, match=pattern) as caught:
        VOCDataset(root, split, **options)
    assert re.search(r"\.\Z", str(caught.value)), "an error is one sentence"


def test_missing_root_and_list(tiny_voc, tmp_path):
    expect_error(FileNotFoundError, r"nowhere holds no JPEGImages.*give the folder", tmp_path / "nowhere")
    expect_error(FileNotFoundError, r"no list .*tset\.txt; .*one of: train, val", tiny_voc, "tset")


def test_empty_list_and_repeated_id(tiny_voc):
    lists(tiny_voc, "empty").write_text("\n \n")
    expect_error(ValueError, r"empty\.txt is empty", tiny_voc, "empty")
    lists(tiny_voc, "twice").write_text("a1\na2\na1\n")
    expect_error(ValueError, r"twice\.txt names 'a1' more than once", tiny_voc, "twice")


def test_missing_image(tiny_voc):
    (tiny_voc / "JPEGImages" / "a3.jpg").unlink()
    expect_error(FileNotFoundError, r"train\.txt lists 1 images .*JPEGImages does not hold.*'a3'", tiny_voc)


def test_id_of_another_split(tiny_voc):
    dataset = VOCDataset(tiny_voc, "val")
    with pytest.raises(FileNotFoundError, match="'a1' is not in split 'val'"):
        dataset.image("a1")
    with pytest.raises(KeyError, match="'a1' is not in split 'val'"):
        dataset.label("a1")


def test_truncated_photo(tiny_voc):
    path = tiny_voc / "JPEGImages" / "a1.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    dataset = VOCDataset(tiny_voc, "train")
    with pytest.raises(ValueError, match=r"a1\.jpg is damaged .*truncated"):
        dataset.image("a1")


@pytest.mark.parametrize("keep", [20, 60, -40])
def test_truncated_mask(tiny_voc, keep):
    path = tiny_voc / "SegmentationClass" / "a1.png"
    path.write_bytes(path.read_bytes()[:keep])
    expect_error(ValueError, r"a1\.png is damaged", tiny_voc)


@pytest.mark.parametrize("mode", ["1", "I;16"])
def test_mask_that_is_no_index_image(tiny_voc, mode):
    Image.new(mode, (32, 24)).save(tiny_voc / "SegmentationClass" / "a1.png")
    expect_error(ValueError, rf"a1\.png is of mode {mode}, .*palette", tiny_voc)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_masks_of_voc_are_read_by_its_colours(tiny_voc, mode):
    expected = VOCDataset(tiny_voc, "train").mask("a2")
    image = Image.fromarray(expected)
    colours = np.array(voc_palette(), np.uint8)
    colours[3 * 255 :] = 224, 224, 192
    image.putpalette(colours.tobytes())
    image.convert(mode).save(tiny_voc / "SegmentationClass" / "a2.png")
    np.testing.assert_array_equal(VOCDataset(tiny_voc, "train").mask("a2"), expected)
    Image.new(mode, (32, 24), (1, 2, 3)).save(tiny_voc / "SegmentationClass" / "a2.png")
    expect_error(ValueError, r"a2\.png holds 768 pixels of 1 colours that VOC's .* 1,2,3;", tiny_voc)


def test_mask_of_another_size(tiny_voc):
    save_mask(np.full((24, 31), 8, np.uint8), tiny_voc / "SegmentationClass" / "a1.png")
    expect_error(ValueError, r"a1\.png is \(24, 31\) .*photo is \(24, 32\)", tiny_voc)
    dataset = VOCDataset(tiny_voc, "train", labels="xml")  # reads no mask yet
    with pytest.raises(ValueError, match=r"a1\.png is \(24, 31\) .*photo is \(24, 32\)"):
        dataset.mask("a1")


@pytest.mark.parametrize("classes", [None, ["dog"]])
def test_mask_id_beyond_the_classes(tiny_voc, classes):
    save_mask(np.full((24, 32), 21, np.uint8), tiny_voc / "SegmentationClass" / "a1.png")
    expect_error(ValueError, r"a1\.png holds id 21, but there are 20 classes", tiny_voc, classes=classes)


def test_image_without_any_class(tiny_voc):
    save_mask(np.full((24, 32), 255, np.uint8), tiny_voc / "SegmentationClass" / "a1.png")
    expect_error(ValueError, r"a1\.png holds 255, which is void, and no class; .*the id of", tiny_voc)
    assert VOCDataset(tiny_voc, "train", VOC_CLASSES).skipped == ["a1"]
    expect_error(ValueError, r"No image .* classes sofa", tiny_voc, classes=["sofa"])


def test_wrong_class_names(tiny_voc):
    expect_error(ValueError, r"classes names the unknown class 'cats'; .*: cat", tiny_voc, classes=["cats"])
    expect_error(ValueError, r"unknown class 'tv'; .*tvmonitor", tiny_voc, classes=["tv"])
    expect_error(ValueError, r"'cat' more than once", tiny_voc, classes=["cat", "cat"])
    expect_error(ValueError, r"classes is empty", tiny_voc, classes=[])
    assert VOCDataset(tiny_voc, "train", "cat").classes == ("cat",)  # one class as people write it
    for spelling in ("background", "_background_", "BG", "Back ground"):
        (tiny_voc / "classes.txt").write_text(f"{spelling}\ncat\n")
        expect_error(ValueError, rf"classes\.txt names '{spelling}' as a class.*always id 0", tiny_voc)
    (tiny_voc / "classes.txt").write_text("cat\nCat\n")
    expect_error(ValueError, r"classes\.txt names class 'cat' more than once, also as 'Cat'", tiny_voc)
    (tiny_voc / "classes.txt").write_text("".join(f"c{i}\n" for i in range(255)))
    expect_error(ValueError, r"names 255 classes, but a mask has ids for 254", tiny_voc)
    (tiny_voc / "classes.txt").write_text("cat\ncat\n")
    expect_error(ValueError, r"classes\.txt names class 'cat' more than once", tiny_voc)


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_that_keeps_nothing(tiny_voc, limit):
    expect_error(ValueError, rf"limit is {limit};", tiny_voc, limit=limit)


def test_bad_xml(tiny_voc):
    path = tiny_voc / "Annotations" / "a1.xml"
    path.write_text("<annotation><object><name>kat</name></object></annotation>")
    expect_error(ValueError, r"a1\.xml names the unknown class 'kat'; .*cat", tiny_voc, labels="xml")
    path.write_text("<annotation><object>")
    expect_error(ValueError, r"a1\.xml is no valid XML", tiny_voc, labels="xml")
    path.unlink()
    expect_error(FileNotFoundError, r"no .*a1\.xml", tiny_voc, labels="xml")


def test_bad_label_tables(tiny_voc):
    def expect(pattern, rows=TINY_VOC, text=None, kind=ValueError, path=None):
        path = path or write_csv(tiny_voc, rows)
        if text is not None:
            path.write_text(text)
        expect_error(kind, pattern, tiny_voc, labels=path)

    header = f"id,{','.join(VOC_CLASSES)}\n"
    zeros = ",0" * 20
    expect(r"no row for 1 images .*'b2'", {id: TINY_VOC[id] for id in list(TINY_VOC)[:-1]})
    expect(r"rows for 1 ids without photo.*'z9'", TINY_VOC | {"z9": (1,)})
    expect(r"labels\.csv names the unknown class 'katze'", text="id,katze\na1,1\n")
    expect(r"more than one row for 'a1'", text=f"{header}a1{zeros}\na1{zeros}\n")
    expect(r"other than 0 and 1 in the row of 'a2'", text=f"{header}a1{zeros}\na2,2{',0' * 19}\n")
    expect(r"other than 0 and 1 in the row of 'a2'", text=f"{header}a1{zeros}\na2,{',0' * 19}\n")
    expect(r"other than 0 and 1 in the row of 'a2'", text=f"{header}a1{zeros}\na2,x{',0' * 19}\n")
    expect(r"labels\.csv is no label file .*make a CSV", text="name,cat\na1,1\n")
    expect(r"labels\.csv is no label file", text="")
    expect(r"no label file .*lost\.csv", path=tiny_voc / "lost.csv", kind=FileNotFoundError)
    npz = tiny_voc / "labels.npz"
    np.savez(npz, ids=["a1"])
    expect(r"labels\.npz is no label file", path=npz)
    np.savez(npz, ids=["a1"], classes=VOC_CLASSES, labels=np.zeros((1, 19)))
    expect(r"labels\.npz is no label file", path=npz)
    np.savez(npz, ids=np.array(["a1"], object), classes=VOC_CLASSES, labels=np.zeros((1, 20)))
    expect(r"labels\.npz is no label file .*pickle", path=npz)


# --- real photos -----------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not SUBSET.is_dir(), reason=f"no VOC subset at {SUBSET}; set WSSS_VOC_ROOT to have it tested"
)
def test_real_subset():
    for split, listed, held in (("train_aug", 3159, 3139), ("train", 464, 445), ("val", 300, 282)):
        dataset = VOCDataset(SUBSET, split, classes=SIX)
        assert len(dataset) + len(dataset.skipped) == listed
        assert len(dataset) == held
        assert ((dataset.labels == 0) | (dataset.labels == 1)).all()
    for id in dataset.ids[:20]:
        mask = dataset.mask(id)
        assert dataset.image(id).shape == (*mask.shape, 3)
        np.testing.assert_array_equal(
            dataset.label(id), [(mask == c).any() for c in range(1, 1 + len(dataset.classes))]
        )
