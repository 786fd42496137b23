"""docs/errors.md says what is really raised: each of its rows is provoked here, and its remedy tried."""

import json
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from conftest import keep_apart, save_mask
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from tiny_study import OVERRIDES, run_all, tiny_study

from wsss_lib.data.check import check
from wsss_lib.data.folder import from_folder
from wsss_lib.data.masks import load_mask
from wsss_lib.data.splits import Splits
from wsss_lib.data.voc import VOCDataset
from wsss_lib.methods import load_config
from wsss_lib.refinement.masks import Background, write_marginals, write_mask
from wsss_lib.report import own_photos, reproduce, site
from wsss_lib.report.preflight import preflight
from wsss_lib.runtime.errors import is_sentence
from wsss_lib.score_maps import ScoreMaps
from wsss_lib.segmentation import segmentation_net
from wsss_lib.study.study import Study

pytestmark = pytest.mark.whole  # see pyproject.toml
REPOSITORY = Path(__file__).parents[2]
HERE = {"workers": 0}  # quicker for eight photos
CASES: dict[str, tuple[Callable[[Path], object], bool]] = {}


def case(situation: str, study: bool = False):
    """Register what provokes an error in a folder with VOC2012 and, if asked for, a finished tiny study."""

    def register(provoke):
        assert situation not in CASES
        CASES[situation] = provoke, study
        return provoke

    return register


def documented() -> dict[str, str]:
    """Situation -> sentence, of every table of docs/errors.md."""
    rows = re.findall(
        r"^\| (.+?) \| `(.+?)` \| .+ \|$", (REPOSITORY / "docs/errors.md").read_text(), flags=re.M
    )
    assert len(dict(rows)) == len(rows)
    return dict(rows)


DOCUMENTED = documented()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished tiny study."""
    folder = tmp_path_factory.mktemp("finished")
    run_all(tiny_study(folder, **HERE))
    return folder


def content(folder: Path) -> dict[Path, bytes]:
    """Files of a cache but locks and provenance."""
    files = (
        path for path in folder.glob("cache/*/*/**/*") if path.is_file() and path.name != "provenance.json"
    )
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_the_table_has_a_row_for_every_case_and_no_other():
    assert DOCUMENTED.keys() == CASES.keys()


@pytest.mark.parametrize("situation", DOCUMENTED)
def test_the_error_is_the_sentence_of_the_table_and_its_remedy_helps(
    situation, tiny_voc, tmp_path, request, monkeypatch, capsys
):
    provoke, needs_study = CASES[situation]
    if needs_study:
        finished = request.getfixturevalue("finished")
        shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("wsss_lib.runtime.files.uuid4", lambda: uuid.UUID(int=0))
    if situation.startswith("`make reproduce`"):
        assert provoke(tmp_path) in (1, 2)
        said = capsys.readouterr().err.strip().splitlines()[-1].removeprefix("reproduce: ")
    elif situation.startswith("`wsss check`"):
        said = provoke(tmp_path)
    else:
        with pytest.raises((ValueError, OSError, RuntimeError)) as caught:
            provoke(tmp_path)
        said = str(caught.value)
        assert is_sentence(caught.value)  # what a notebook shows alone
    shown = said.replace(str(tmp_path), "/data").replace(str(REPOSITORY), "/wsss")
    expected = re.sub(r"\\\.\\\.\\\.|KEY", ".+?", re.escape(DOCUMENTED[situation]))
    assert re.fullmatch(expected, shown), f"docs/errors.md: {DOCUMENTED[situation]}\nraised:         {shown}"

    deleted = re.match(r"(\S+) is .*; delete (its folder|it),", said)
    if deleted:
        path = Path(deleted[1])
        shutil.rmtree(path.parent) if deleted[2] == "its folder" else path.unlink()
    if deleted or (needs_study and "run again" in said):
        run_all(tiny_study(tmp_path, **HERE))
        assert content(finished).items() <= content(tmp_path).items()


# --- data sets -------------------------------------------------------------------------------------------


def photo(folder: Path, id: str = "a1") -> Path:
    return folder / "VOC2012" / "JPEGImages" / f"{id}.jpg"


def mask(folder: Path, id: str = "a1") -> Path:
    return folder / "VOC2012" / "SegmentationClass" / f"{id}.png"


def lists(folder: Path) -> Path:
    return folder / "VOC2012" / "ImageSets" / "Segmentation"


def cut(path: Path, keep: int = -300) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def read(folder: Path, **options) -> VOCDataset:
    return VOCDataset(folder / "VOC2012", "train", **options)


def voc_study(folder: Path, **overrides) -> Study:
    return Study(
        "smoke", "voc2012", keep_apart(folder / "VOC2012"), overrides=OVERRIDES | HERE | overrides,
        cache=folder / "cache", results=folder / "results",
    )  # fmt: skip


@case("The root does not exist, or is no data set")
def _(folder):
    VOCDataset(folder / "VOC2013", "train")


@case("A data set has no root")
def _(folder):
    Study("smoke", "voc2012")


@case("The list is missing")
def _(folder):
    VOCDataset(folder / "VOC2012", "tset")


@case("The list is empty")
def _(folder):
    (lists(folder) / "train.txt").write_text("\n")
    read(folder)


@case("The list names an id twice")
def _(folder):
    (lists(folder) / "train.txt").write_text("a1\na2\na1\n")
    read(folder)


@case("An id of the list has no photo")
def _(folder):
    photo(folder, "a3").unlink()
    read(folder)


@case("A photo is cut short")
def _(folder):
    cut(photo(folder))
    read(folder).image("a1")


@case("... found by a loader process in training")
def _(folder):
    cut(photo(folder))
    voc_study(folder, workers=1).classifier("cam", 0)


@case("... found by the CRF's processes", study=True)
def _(folder):
    shutil.rmtree(folder / "cache" / "masks")
    study = tiny_study(folder, workers=0, processes=2)
    walked = study.refine(study.response_maps("cam", 0))
    cut(study.data.train.image_path("train_00003"), 700)
    study.pseudo_labels(walked)


@case("A photo is no image")
def _(folder):
    photo(folder).write_text("not a photo")
    read(folder)


@case("A mask is cut short")
def _(folder):
    cut(mask(folder), 60)
    read(folder)


@case("A list shares photos with one of another use")
def _(folder):
    Splits(folder / "VOC2012", None, "masks", None)


@case("Two photos have one id")
def _(folder):
    shutil.copy(photo(folder), photo(folder).with_suffix(".png"))
    read(folder)


@case("A photo is too large to be opened")
def _(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        read(folder, labels="xml").image("a1")


@case("A folder that is not VOC's says nowhere what its classes are")
def _(folder):
    shutil.rmtree(folder / "VOC2012" / "Annotations")
    VOCDataset((folder / "VOC2012").rename(folder / "pets"), "train")


@case("A mask is saved in colours, and no file says what they mean")
def _(folder):
    own_folder(folder, "cat")
    Image.new("RGB", (32, 24)).save(mask(folder))
    read(folder)


@case("A mask holds another colour than VOC's")
def _(folder):
    Image.new("RGB", (32, 24), (1, 2, 3)).save(mask(folder))
    read(folder)


@case("A palette file is none")
def _(folder):
    own_folder(folder, "cat")
    (folder / "VOC2012" / "colours.csv").write_text("cat,red\n")
    read(folder)


@case("A mask is black and white, of one class")
def _(folder):
    own_folder(folder, "lesion")
    black_and_white(folder)
    read(folder)


@case("... of several classes, one of which the label says is there")
def _(folder):
    own_folder(folder, "cat", "dog")
    black_and_white(folder)
    label(folder, "cat,dog", "1,0")
    read(folder, labels=folder / "labels.csv").mask("a1")


@case("Masks contradict the labels")
def _(folder):
    keep_apart(folder / "VOC2012")
    own_folder(folder, "bird", "cat", "dog")
    label(folder, "bird,cat,dog", "0,1,0")
    for file in (folder / "VOC2012" / "SegmentationClass").iterdir():
        save_mask(np.ones((24, 32), np.uint8), file)
    Splits(folder / "VOC2012", None, folder / "labels.csv", None).scored("val")


def own_folder(folder: Path, *classes: str) -> None:
    """Make the folder one of other classes than VOC's."""
    (folder / "VOC2012" / "classes.txt").write_text("\n".join(classes))


def black_and_white(folder: Path) -> None:
    for id in ("a1", "a2", "a3", "b1", "b2"):
        Image.fromarray(np.eye(24, 32, dtype=np.uint8) * 255).save(mask(folder, id))


def label(folder: Path, classes: str, row: str) -> None:
    rows = "".join(f"{id},{row}\n" for id in ("a1", "a2", "a3", "b1", "b2"))
    (folder / "labels.csv").write_text(f"id,{classes}\n{rows}")


@case("A mask has another size than its photo")
def _(folder):
    save_mask(np.full((24, 31), 8, np.uint8), mask(folder))
    read(folder)


@case("A mask holds an id beyond the classes")
def _(folder):
    save_mask(np.full((24, 32), 21, np.uint8), mask(folder))
    read(folder)


@case("A photo is to be scored and has no mask")
def _(folder):
    mask(folder).unlink()
    read(folder, labels="xml").mask("a1")


@case("No photo shows one of the wanted classes")
def _(folder):
    read(folder, classes=["sofa"])


@case("A class name is mistyped")
def _(folder):
    read(folder, classes=["cats"])


@case("A label table holds a number other than 0 and 1")
def _(folder):
    (folder / "labels.csv").write_text(
        "id,cat\n" + "".join(f"{id},2\n" for id in ("a1", "a2", "a3", "b1", "b2"))
    )
    read(folder, classes=["cat"], labels=folder / "labels.csv")


@case("A table has a column for the background")
def _(folder):
    label(folder, "cat,_Background_", "1,0")
    read(folder, classes=["cat"], labels=folder / "labels.csv")


@case("A column is there twice")
def _(folder):
    label(folder, "cat,dog,Cat", "1,0,1")
    read(folder, classes=["cat"], labels=folder / "labels.csv")


@case("A column has no name")
def _(folder):
    label(folder, "cat,", "1,0")
    read(folder, classes=["cat"], labels=folder / "labels.csv")


@case("There are more classes than ids in a mask")
def _(folder):
    own_folder(folder, *(f"class {i}" for i in range(255)))
    read(folder)


@case("A label table lacks a photo of the list")
def _(folder):
    (folder / "labels.csv").write_text("id,cat\na1,1\na2,1\n")
    read(folder, classes=["cat"], labels=folder / "labels.csv")


@case("The label table is missing")
def _(folder):
    read(folder, labels=folder / "labels.csv")


@case("Own photos: the table names a photo that is not there")
def _(folder):
    (folder / "labels.csv").write_text("id,cat\na1,1\nzebra,0\n")
    from_folder(folder / "VOC2012" / "JPEGImages", folder / "labels.csv", folder / "own")


def lay_out(folder: Path, **options) -> Path:
    """Two labelled photos, laid out in /data/own."""
    (folder / "photos").mkdir(exist_ok=True)
    for id in ("a1", "a2"):
        shutil.copy(photo(folder, id), folder / "photos")
    if not (folder / "labels.csv").exists():
        (folder / "labels.csv").write_text("id,cat\na1,1\na2,0\n")
    return from_folder(folder / "photos", folder / "labels.csv", folder / "own", **options)


@case("Own photos: a link leads nowhere")
def _(folder):
    (folder / "photos").mkdir()
    (folder / "photos" / "a3.jpg").symlink_to(folder / "unplugged" / "a3.jpg")
    lay_out(folder)


@case("Own photos: the root holds other photos")
def _(folder):
    (folder / "own" / "JPEGImages").mkdir(parents=True)
    shutil.copy(photo(folder, "b1"), folder / "own" / "JPEGImages")
    lay_out(folder)


@case("Own photos: a file that was laid out was edited since")
def _(folder):
    (lay_out(folder) / "labels.csv").write_text("id,cat\na1,1\na2,1\n")
    lay_out(folder)


@case("Own photos: a new column changes what masks mean")
def _(folder):
    root = lay_out(folder)
    (root / "SegmentationClass").mkdir()
    save_mask(np.ones((24, 32), np.uint8), root / "SegmentationClass" / "a1.png")
    (folder / "labels.csv").write_text("id,bird,cat\na1,0,1\na2,0,0\n")
    lay_out(folder)


@case("Own photos: a list of yours names a photo that is not there")
def _(folder):
    (lay_out(folder) / "ImageSets" / "Segmentation" / "val.txt").write_text("a7\n")
    lay_out(folder)


@case("Own photos: your lists leave nothing to learn from")
def _(folder):
    lay_out(folder, val=2)


@case("Own photos: more are asked for val than there are")
def _(folder):
    lay_out(folder, val=3)


@case("Own photos: the call was killed over its work")
def _(folder):
    root = lay_out(folder)
    (root / ".from_folder.json").rename(root / ".from_folder.unfinished")
    VOCDataset(root, "train", labels=root / "labels.csv")


@case("Own photos: the photos named for tune have no label")
def _(folder):
    lay_out(folder, tune=["a1", "a9"])


def masks_of_own(folder: Path, labels: str = "id,cat\na1,1\na2,0\n", **options) -> None:
    lay_out(folder)
    shutil.rmtree(folder / "own")
    (folder / "labels.csv").write_text(labels)
    own_photos.lay_out(folder / "photos", folder / "labels.csv", folder / "own", **options)


@case("Own photos to masks: the folder to fill is another's")
def _(folder):
    lay_out(folder)
    own_photos.lay_out(folder / "photos", folder / "labels.csv", folder / "own")


@case("Own photos to masks: a mask was edited since")
def _(folder):
    masks_of_own(folder)
    (folder / "own" / "masks").mkdir()
    save_mask(np.ones((24, 32), np.uint8), folder / "own" / "masks" / "a1.png")
    (folder / "own" / own_photos.RECORD).write_text('{"a1.png": "another digest"}')
    own_photos.lay_out(folder / "photos", folder / "labels.csv", folder / "own")


def drawn_mask(folder: Path, id: str) -> Path:
    """Black and white, of the size of the photos."""
    (folder / "drawn").mkdir()
    Image.fromarray(np.eye(24, 32) > 0).save(folder / "drawn" / f"{id}.png")
    return folder / "drawn"


@case("Own photos to masks: there are no drawn masks")
def _(folder):
    (folder / "drawn").mkdir()
    masks_of_own(folder, drawn=folder / "drawn")


@case("Own photos to masks: a drawn mask has no label")
def _(folder):
    masks_of_own(folder, drawn=drawn_mask(folder, "b2"))


@case("Own photos to masks: a drawn mask is black and white, of two classes")
def _(folder):
    masks_of_own(folder, "id,cat,dog\na1,1,1\na2,0,1\n", drawn=drawn_mask(folder, "a1"))


@case("An annotation is no XML")
def _(folder):
    (folder / "VOC2012" / "Annotations" / "a1.xml").write_text("<annotation><object>")
    read(folder, labels="xml")


@case("Training is asked of a split without labels")
def _(folder):
    keep_apart(folder / "VOC2012")
    study = Study("smoke", "voc2012", folder / "VOC2012", labels="none", cache=folder / "cache")
    study.classifier("cam", 0)


# --- settings --------------------------------------------------------------------------------------------


@case("The preset is mistyped")
def _(folder):
    Study("qiuck")


@case("A preset key is mistyped")
def _(folder):
    Study("smoke", overrides={"classifier.epoch": 2})


@case("A preset value is out of range")
def _(folder):
    Study("smoke", overrides={"classifier.epochs": 0})


@case("A preset file is no YAML")
def _(folder):
    (folder / "own.yaml").write_text("classifier: {epochs: 2\nmaps: [")
    load_config(folder / "own.yaml")


@case("A method is mistyped")
def _(folder):
    voc_study(folder).classifier("cams", 0)


@case("The weights file is missing")
def _(folder):
    voc_study(folder, **{"backbone.weights": str(folder / "weights.pth")}).classifier("cam", 0)


@case("The weights file is damaged")
def _(folder):
    (folder / "weights.pth").write_bytes(b"PK\x03\x04 half a file")
    voc_study(folder, **{"backbone.weights": str(folder / "weights.pth")}).classifier("cam", 0)


@case("The loss is not finite")
def _(folder):
    voc_study(folder, **{"classifier.optimiser.lr": 1e30}).classifier("cam", 0)


@case("Seeds are no whole numbers")
def _(folder):
    tiny_study(folder).varied({"seeds": 0})  # one number is fine
    Study("smoke", seeds="all", cache=folder)


@case("Overrides are no keys and values")
def _(folder):
    Study("smoke", overrides="crf_scale=1", cache=folder)


@case("`make reproduce`: a notebook parameter is mistyped")
def _(folder):
    return reproduce.main(["--results", str(folder), "--parameters", "lables=xml"])


@case("`make reproduce`: a notebook is mistyped")
def _(folder):
    return reproduce.main(["--results", str(folder), "--notebooks", "baseline"])


def reproduce_one(folder: Path, *options: str, cells: tuple[str, ...] = ("preset = 'smoke'",)) -> int:
    """Run one notebook, whose first cell has its parameters, in a repository of its own."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / "01_photos.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        for name in reproduce.kernel_environment(folder, 1):
            patch.setenv(name, "")  # so that what is set is gone afterwards
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setattr(reproduce, "ROOT", folder)
        return reproduce.main(["--results", str(folder / "results"), "--jobs", "1", *options])


@case("`make reproduce`: the data set would let a step fail")
def _(folder):
    cut(photo(folder), 20)
    options = ("--preset", "smoke", "--dataset", "voc2012", "--root", str(folder / "VOC2012"))
    return reproduce_one(folder, *options, cells=("root = None",))


@case("`make reproduce`: a kernel does not start")
def _(folder):
    kernel = folder / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    spec = {"argv": [sys.executable, "-c", "exit()"], "display_name": "x", "language": "python"}
    kernel.write_text(json.dumps(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "prefix", str(folder))
        return reproduce_one(folder)


# --- before the first step -------------------------------------------------------------------------------


def found(folder: Path, part: str, **options) -> str:
    """The finding with `part` in it."""
    [sentence] = [s for s in check(folder / "VOC2012", **options)["sentence"] if part in s]
    return sentence


@case("`wsss check`: a photo is wider than the preset's CRF takes")
def _(folder):
    Image.new("RGB", (721, 2)).save(folder / "VOC2012" / "JPEGImages" / "wide.png")
    table = preflight(folder / "VOC2012", preset="smoke", cache=folder)
    return next(sentence for sentence in table["sentence"] if "wide.png" in sentence)


@case("`wsss check`: a photo is too large for the memory")
def _(folder):
    return found(folder, "memory", memory=940 * 100)  # 940 bytes a pixel for 20 classes


@case("`wsss check`: a name is too long for the file system")
def _(folder):
    Image.new("RGB", (4, 4)).save(folder / "VOC2012" / "JPEGImages" / f"{210 * 'n'}.jpg")
    return found(folder, "too long")


@case("`wsss check`: a photo's orientation is none")
def _(folder):
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.new("RGB", (4, 4)).save(folder / "VOC2012" / "JPEGImages" / "odd.jpg", exif=exif)
    return found(folder, "metadata")


@case("`wsss check`: photos of a format that is not read")
def _(folder):
    for name in ("a.heic", "b.HEIC", "c.tif"):
        (folder / "VOC2012" / "JPEGImages" / name).touch()
    return found(folder, "not read")


@case("`wsss check`: dot-files beside the photos")
def _(folder):
    (folder / "VOC2012" / "JPEGImages" / "._a1.jpg").touch()
    return found(folder, "dot-files")


@case("`wsss check`: folders beside the photos")
def _(folder):
    (folder / "VOC2012" / "JPEGImages" / "cats").mkdir()
    return found(folder, "looked into")


@case("`wsss check`: a class that no photo shows")
def _(folder):
    return found(folder, "No photo of train", classes=["cat", "sofa"])


@case("`wsss check`: photos that are not laid out")
def _(folder):
    table = check(folder / "VOC2012" / "JPEGImages")
    return table["sentence"].iloc[-1]


@case("`wsss check`: the disk is too small")
def _(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
        table = preflight(folder / "VOC2012", preset="smoke", cache=folder)
    return next(sentence for sentence in table["sentence"] if "room for" in sentence)


@case("A photo is wider than the CRF takes")
def _(folder):
    Image.new("RGB", (3601, 2)).save(photo(folder))
    ScoreMaps(np.array([8]), np.zeros((1, 2, 3601)), (2, 3601), 1).save(folder / "maps.npz")
    background = Background("threshold", 0.3)
    write_mask(photo(folder), folder / "maps.npz", background, "deeplab_v2", 1, folder / "mask.png")


@case("`make report` before any run")
def _(folder):
    site.build(folder / "results", folder / "site")


@case("`make report` would replace a folder that is no site")
def _(folder):
    own = folder / "results" / "site"
    own.mkdir(parents=True)
    (own / "thesis.html").touch()
    site.build(folder / "results", own)


# --- disks -----------------------------------------------------------------------------------------------


@case("The cache cannot be written")
def _(folder):
    (folder / "cache").write_text("in the way")
    voc_study(folder).classifier("cam", 0)


@case("Tables and figures cannot be written")
def _(folder):
    (folder / "results").write_text("in the way")
    voc_study(folder).results.table(None, "scores")


def fill_up(path: Path) -> None:
    """Let the next write to `path` meet a full device."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f".{path.name}.unfinished-{uuid.UUID(int=0).hex}{path.suffix}").symlink_to("/dev/full")


def reopen(stage: Path) -> Path:
    """Turn the one finished folder of a stage into unfinished work."""
    done = made(stage.parents[1], stage.name, "provenance.json").parent
    return done.rename(done.with_suffix(".partial"))


@case("The disk is full: a checkpoint", study=True)
def _(folder):
    partial = reopen(folder / "cache" / "classifier")
    (partial / "history.csv").unlink()
    fill_up(partial / "checkpoint.pt")
    tiny_study(folder, **HERE).classifier("cam", 0)


@case("The disk is full: a map", study=True)
def _(folder):
    partial = reopen(folder / "cache" / "response_maps")
    (partial / "train_00004.npz").unlink()
    fill_up(partial / "train_00004.npz")
    tiny_study(folder, **HERE).response_maps("cam", 0)


# --- a cache damaged by hand -----------------------------------------------------------------------------


def made(folder: Path, stage: str, file: str) -> Path:
    """A file of a stage; not of the photos that settings are chosen on."""
    found = folder.glob(f"cache/{stage}/*/{file}")
    return next(p for p in found if '"split": "tune"' not in (p.parent / "provenance.json").read_text())


def mask_cams(folder: Path) -> None:
    study = tiny_study(folder, **HERE)
    study.masks(study.response_maps("cam", 0), Background("threshold", 0.5), None)


@case("A map is cut short", study=True)
def _(folder):
    cut(made(folder, "response_maps", "train_00003.npz"), -60)
    mask_cams(folder)


@case("A map is missing", study=True)
def _(folder):
    made(folder, "response_maps", "train_00003.npz").unlink()
    mask_cams(folder)


def learn_masks(folder: Path) -> None:
    shutil.rmtree(folder / "cache" / "segmentation_net")
    study = tiny_study(folder, **HERE)
    segmentation_net(study, study.pseudo_labels(study.refine(study.response_maps("cam", 0))))


@case("A pseudo label is cut short", study=True)
def _(folder):
    cut(made(folder, "masks", "train_00003.png"), 850)  # the palette, and hardly any pixels
    learn_masks(folder)


@case("A pseudo label is missing", study=True)
def _(folder):
    made(folder, "masks", "train_00003.png").unlink()
    learn_masks(folder)


def use_classifier(folder: Path) -> None:
    shutil.rmtree(folder / "cache" / "response_maps")
    tiny_study(folder, **HERE).response_maps("cam", 0)


@case("Trained weights are missing", study=True)
def _(folder):
    made(folder, "classifier", "model.safetensors").unlink()
    use_classifier(folder)


@case("Trained weights are cut short", study=True)
def _(folder):
    cut(made(folder, "classifier", "model.safetensors"))
    use_classifier(folder)


@case("A checkpoint is cut short", study=True)
def _(folder):
    partial = reopen(folder / "cache" / "classifier")
    (partial / "history.csv").rename(partial / "checkpoint.pt")
    tiny_study(folder, **HERE).classifier("cam", 0)


@case("Stored scores are cut short", study=True)
def _(folder):
    cut(made(folder, "scores", "confusions.npz"), -60)
    run_all(tiny_study(folder, **HERE))


@case("provenance.json is cut short", study=True)
def _(folder):
    cut(made(folder, "response_maps", "provenance.json"))
    study = tiny_study(folder, **HERE)
    study.times([study.response_maps("cam", 0)])


# --- what reaches the user -------------------------------------------------------------------------------


def test_a_notebook_shows_the_sentence_and_tb_the_rest(tiny_voc, tmp_path, capsys):
    shell = InteractiveShell.instance()
    shell.user_ns |= {"voc_study": voc_study, "folder": tmp_path}
    try:
        shell.run_cell("study = voc_study(folder)")
        capsys.readouterr()
        shell.run_cell("study.classifier('cams', 0)")
        assert (
            capsys.readouterr().out.splitlines()[0].startswith("ValueError: Method 'cams' is unknown; choose")
        )
        shell.run_line_magic("tb", "")
        assert "Traceback" in capsys.readouterr().out
        shell.run_cell("1 / 0; study.classifier('cams', 0)")
        assert "Traceback" in capsys.readouterr().out
        shell.run_cell("study.data.train.labels.reshape(3, 7)")  # numpy's error, in the user's own line
        assert "Traceback" in capsys.readouterr().out
    finally:
        InteractiveShell.clear_instance()


def test_make_reproduce_prints_the_sentence_last(tiny_voc, tmp_path, capfd):
    cut(photo(tmp_path))
    cells = (
        "preset, folder = 'smoke', None",
        "from pathlib import Path\nfrom wsss_lib.data.voc import VOCDataset\n"
        "VOCDataset(Path(folder), 'train').image('a1')",
    )
    assert reproduce_one(tmp_path, "--parameters", "folder=VOC2012", cells=cells) == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(
        "reproduce: 01_photos failed in cell [3]: ValueError: VOC2012/JPEGImages/a1.jpg is damaged or"
    )
    assert last.endswith("01_photos.failed.ipynb)")


# --- what is no error ------------------------------------------------------------------------------------


def test_a_photo_of_one_pixel_passes_through_every_stage(tiny_voc, tmp_path):
    Image.new("RGB", (1, 1), (200, 30, 30)).save(photo(tmp_path))
    save_mask(np.full((1, 1), 8, np.uint8), mask(tmp_path))
    study = voc_study(tmp_path)
    table = run_all(study)
    assert len(table["stage"].unique()) == 4
    labels = study.pseudo_labels(study.refine(study.response_maps("cam", 0)))
    assert load_mask(labels.file("a1.png")).shape == (1, 1)


@pytest.mark.parametrize("background", [Background("threshold", 0.0), Background("power", 4)])
@pytest.mark.parametrize("crf", [None, "psa"])
def test_a_map_of_zeros_becomes_background(tiny_voc, tmp_path, background, crf):
    ScoreMaps(np.array([8, 15]), np.zeros((2, 6, 8)), (24, 32), 4).save(tmp_path / "a1.npz")
    write_mask(photo(tmp_path), tmp_path / "a1.npz", background, crf, 1, tmp_path / "a1.png")
    assert (load_mask(tmp_path / "a1.png") == 0).all()
    write_marginals(photo(tmp_path), tmp_path / "a1.npz", background, "psa", 1, tmp_path / "b1.npz")
    marginals = ScoreMaps.load(tmp_path / "b1.npz").full()
    np.testing.assert_allclose(marginals.sum(0), 1, atol=2e-3)


FULL = """
import os, sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
from PIL import Image

from wsss_lib.score_maps import ScoreMaps
from wsss_lib.refinement.masks import Background, over_processes, write_marginals


folder, inside = Path(sys.argv[1]), Path(sys.argv[2])
jobs = [
    (folder / "photo.png", folder / "maps.npz", Background("threshold", 0.3), "psa", 1, inside / f"{i}.npz")
    for i in range(8)
]
try:
    over_processes(write_marginals, jobs, 2, "marginals")
except OSError as error:
    print(error)
print(len(list(inside.glob("*.npz"))), len(list(inside.iterdir())))
os.system(f"mount -o remount,size=9m {inside}")
over_processes(write_marginals, jobs, 2, "marginals")
print(len({path.read_bytes() for path in inside.glob("*.npz")}), len(list(inside.iterdir())))
"""


def test_a_full_disk_keeps_what_is_finished(tmp_path):
    """A real one: a file system with room for three files, in a namespace of its own."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (150, 200, 3), np.uint8)).save(tmp_path / "photo.png")
    ScoreMaps(np.array([3]), rng.random((1, 150, 200)), (150, 200), 1).save(tmp_path / "maps.npz")
    (tmp_path / "inside").mkdir()
    write_marginals(
        *(tmp_path / name for name in ("photo.png", "maps.npz")),
        Background("threshold", 0.3),
        "psa",
        1,
        tmp_path / "one.npz",
    )
    size = (tmp_path / "one.npz").stat().st_size
    mount = f"mount -t tmpfs -o size={4 * size} none '{tmp_path}/inside'"
    if subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", mount], check=False).returncode:
        pytest.skip("no right to mount a small file system here")
    command = f"{mount} && '{sys.executable}' - '{tmp_path}' '{tmp_path}/inside'"
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", command],
        input=FULL, capture_output=True, text=True, check=True, cwd=REPOSITORY,
    )  # fmt: skip
    error, kept, *_, rest = done.stdout.splitlines()
    path, reason = error.split(" cannot be written ")
    assert path.startswith(str(tmp_path / "inside"))
    assert reason.startswith("(No space left on device); make room")
    finished, files = map(int, kept.split())
    assert 0 < finished == files < 8  # nothing half-written
    assert rest == "1 8"
