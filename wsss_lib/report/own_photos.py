"""Own photos and a table of image labels to masks: `wsss masks`, and notebook 08 step by step.

All that is written lies in one folder of its own; photos, table and drawn masks are only read, on this
machine, and nothing is fetched. Whatever was computed is kept, so that a second call goes on where the first
ended and, after a change of photos, labels or drawn masks, does again what depends on it.

    out/masks/<id>.png      palette PNG of the photo's size: 0 background, 1..C the columns of the table
    out/photos.csv          one row a photo: where its mask comes from, its confidence, what it shows
    out/review.html         the least certain first, with pictures
    out/coco_rle.json, out/coco_polygons.json, out/cvat.zip, out/label_studio.json and .xml
    out/dataset, out/working, out/cache    links, scaled photos, finished stages; delete them when all is done
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import delayed

from wsss_lib.artifacts import Artifact
from wsss_lib.data.check import check
from wsss_lib.data.export import write_coco, write_cvat, write_label_studio
from wsss_lib.data.folder import from_folder
from wsss_lib.data.labels import read_label_table
from wsss_lib.data.layout import write_text
from wsss_lib.data.masks import load_mask, save_mask
from wsss_lib.data.palette import ids_by_colour, ids_of_colours, palette_file, voc_ids_by_colour
from wsss_lib.data.photos import by_id, open_image, photo_files
from wsss_lib.data.scaled import scale_down, write_full_size
from wsss_lib.data.scenes.dataset import generate_scenes
from wsss_lib.data.voc import VOCDataset
from wsss_lib.methods import load_config
from wsss_lib.methods.base import BASELINE
from wsss_lib.refinement.confidence import confidences
from wsss_lib.refinement.masks import Background, background_of
from wsss_lib.report.review import write_review
from wsss_lib.runtime.digest import file_digests
from wsss_lib.runtime.files import save_atomically, under_root
from wsss_lib.runtime.progress import report
from wsss_lib.runtime.workers import pool
from wsss_lib.study.study import Study

PRESET, PHOTOS_OF_PRESET, MOST_REPEATS = "standard", 3139, 5
ENOUGH = 100
"""Labelled photos from which a segmentation network is trained for those without a row; fewer teach it too
little. A rule of thumb: with 800, VOC's six animals reached a mIoU of 51 (README)."""
RECORD = ".wsss-masks.json"
"""Digests of the masks that were written: an edited one is never overwritten."""


# --- data ------------------------------------------------------------------------------------------------


def example(folder: str | Path, labelled: int = 24, size: tuple[int, int] = (96, 128)) -> tuple[Path, ...]:
    """Drawn scenes as somebody's photos: folders and table for the first three arguments of `lay_out`.

    Returns:
        photos (some of which have no row), labels and drawn, masks of the first four.
    """
    folder = under_root(folder)
    scenes, drawn = folder / "scenes", folder / "drawn"
    generate_scenes(scenes, {"train": labelled, "test": 2}, size)
    table = pd.read_csv(scenes / "labels.csv", dtype={"id": str}).set_index("id")
    table = table.loc[[id for id in table.index if id.startswith("train")]]
    write_text(table.to_csv(lineterminator="\n"), folder / "labels.csv")
    drawn.mkdir(exist_ok=True)
    for id in table.index[:4]:
        mask = scenes / "SegmentationClass" / f"{id}.png"
        save_atomically(lambda path, mask=mask: shutil.copy(mask, path), drawn / mask.name)
    return scenes / "JPEGImages", folder / "labels.csv", drawn


def lay_out(photos: str | Path, labels: str | Path, out: str | Path, drawn: str | Path | None = None) -> Path:
    """The photos, as links, with their labels and the masks that the user drew, as a data set in `out`.

    Args:
        photos, labels: as of `from_folder`.
        out: a folder for all that is made; one of its own.
        drawn: folder of <id>.png, masks of some labelled photos: palette or grey values 1..C in the order of
            the table's columns, colours (see `wsss_lib.data.palette`), or black and white where the label
            names one class. Settings are chosen on them, and nothing is learned from these photos.

    Returns:
        The data set's folder, `out`/dataset.

    Raises:
        ValueError: `out` holds something else, or a mask that was edited since; a drawn mask that cannot be
            read or has no row; and as of `from_folder`.
        FileNotFoundError: as of `from_folder`; `drawn` holds no masks.
    """
    photos, labels, out = Path(photos), Path(labels), Path(out)
    _check_own(out)
    root, masks = out / "dataset", {}
    if drawn is not None:
        found = by_id(photo_files(photos), photos) if photos.is_dir() else {}
        masks = dict(read_drawn(Path(drawn), read_label_table(labels, found)))
    if not (out / RECORD).is_file():
        write_text("{}", out / RECORD)
    folder = root / "SegmentationClass"
    for path in folder.glob("*.png"):
        path.unlink()  # of an earlier call: this folder is ours alone
    from_folder(photos, labels, root, tune=masks)
    folder.mkdir(exist_ok=True)
    for id, mask in masks.items():
        save_atomically(lambda path, mask=mask: save_mask(mask, path), folder / f"{id}.png")
    return root.resolve()


def _check_own(out: Path) -> None:
    record = out / RECORD
    if not record.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} holds other files; name a new folder, which is filled with masks.")
        return
    written = {out / "masks" / name: digest for name, digest in json.loads(record.read_text()).items()}
    there = [path for path in written if path.is_file()]
    if edited := [path for path, digest in file_digests(there).items() if digest != written[path]]:
        raise ValueError(
            f"{len(edited)} masks were edited since they were written, the first is {min(edited)}; move them "
            "into a folder of drawn masks and name that too, or they would be overwritten."
        )


def read_drawn(folder: Path, table: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    """Ids and masks (H, W) uint8 of class ids from a folder that `lay_out` describes.

    table: the label table, ids as index.

    Raises:
        FileNotFoundError: there are none.
        ValueError: one has no row, or cannot be read.
    """
    names = list(table.columns)
    files = sorted(path for path in folder.glob("*.[pP][nN][gG]") if not path.name.startswith("."))
    if not files:
        raise FileNotFoundError(f"{folder} holds no masks; save each as <name of its photo>.png there.")
    palette = palette_file(folder)
    colours = ids_by_colour(folder, names) or voc_ids_by_colour(len(names))
    for path in files:
        if path.stem not in table.index:
            raise ValueError(f"{path} is the mask of no labelled photo; add its row, or rename it.")
        with open_image(path) as image:
            rgb = np.asarray(image.convert("RGB"))
            values = np.asarray(image) if image.mode in ("P", "L") and not palette else None
        white = (rgb == 255).all(-1)
        if white.any() and (white | (rgb == 0).all(-1)).all():  # an editor's black and white
            named = np.flatnonzero(table.loc[path.stem]) + 1
            if len(named) != 1:
                shown = ", ".join(names[c - 1] for c in named) or "no class"
                raise ValueError(
                    f"{path} is black and white, but the label of its photo names {shown}; draw each class "
                    f"in its id or colour, as {', '.join(f'{c} {n}' for c, n in enumerate(names, 1))}."
                )
            yield path.stem, np.where(white, named[0], 0).astype(np.uint8)
        elif values is not None:
            yield path.stem, values
        else:
            yield path.stem, ids_of_colours(rgb, colours, path, palette or "VOC's palette")


def checked(root: Path) -> pd.DataFrame:
    """`data.check.check` of the data set of `lay_out`, whose photos may be as large as they like."""
    return check(root, widest=2**31, memory=2**63)  # they are scaled down


def refuse_errors(findings: pd.DataFrame) -> None:
    """Stop before the first step where a check found errors.

    Raises:
        ValueError: it did.
    """
    errors = findings.loc[findings["severity"] == "error", "sentence"]
    if len(errors):
        more = f" (and {len(errors) - 1} more, see the check)" if len(errors) > 1 else ""
        raise ValueError(errors.iloc[0] + more)


# --- settings --------------------------------------------------------------------------------------------


def chosen_settings(labelled: int, cores: int, gpu: bool) -> dict[str, Any]:
    """What is changed of `PRESET`, which was chosen on photos, for a number of labelled photos and a machine.

    Networks take as many steps as on the `PHOTOS_OF_PRESET` photos that the preset was chosen on: more epochs
    where there are fewer photos, at most `MOST_REPEATS` times as many, and at least one. (On 40 VOC photos
    the classifier's loss was 0.011 after 13 epochs: what labels teach is learned by then.) A core each for
    per-photo work, and all but one, at most four, load photos in training; bf16 on a GPU.
    """
    config, repeats = load_config(PRESET), min(MOST_REPEATS, PHOTOS_OF_PRESET / labelled)
    epochs = {
        f"{network}.epochs": max(1, round(getattr(config, network).epochs * repeats))
        for network in ("classifier", "affinity", "segmentation")
    }
    return {
        **epochs,
        "processes": cores,
        "workers": min(cores - 1, 4),
        "precision": "bf16" if gpu else "no",
    }


def study_of(
    root: Path,
    out: str | Path,
    preset: str | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    results: str | Path | None = None,
) -> Study:
    """The study of a data set of `lay_out`, its photos scaled down to the longest side the preset learns at.

    Args:
        preset: taken as it is; None: `chosen_settings`.
        cache, results: as of `Study`; None: in `out`.
    """
    out = Path(out)
    overrides = {}
    if preset is None:
        labelled, cores = len(VOCDataset(root, "train", labels=root / "labels.csv")), os.cpu_count() or 1
        overrides = chosen_settings(labelled, cores, torch.cuda.is_available())
    config = load_config(preset or PRESET, overrides)
    working = scale_down(root, config.classifier.long_side[1], out / "working", config.processes)
    return Study(
        preset or PRESET,
        dataset="own",
        root=working.resolve(),
        labels=working.resolve() / "labels.csv",
        seeds=[seed],
        overrides=overrides,
        cache=cache or (out / "cache").resolve(),
        results=results or (out / "results").resolve(),
    )


# --- masks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Masks:
    """Masks of a split's photos, and what decides them: maps, background and CRF."""

    masks: Artifact
    maps: Artifact
    background: Background
    crf: str


def masks_of(study: Study) -> dict[str, Masks]:
    """Masks by split: train and, where masks were drawn, tune from the labels; test by a network.

    The network is trained where at least `ENOUGH` photos have labels; where there are fewer, photos without a
    row get no mask, and it is said.
    """
    maps = study.response_maps(BASELINE, study.seeds[0])
    walked = study.refine(maps)
    found = {"train": walked} | ({} if study.data.tune is None else {"tune": walked.on("tune")})
    index = study.calibrated(walked)
    made = {
        split: Masks(study.pseudo_labels(one), one, background_of(one, index), study.config.refine_crf)
        for split, one in found.items()
    }
    unlabelled, labelled = _unlabelled(study), len(study.data.train)
    if unlabelled and labelled >= ENOUGH:
        answers, crf = study.segment(made["train"].masks, "test"), study.config.segmentation.crf
        background = Background("included")
        made["test"] = Masks(study.masks(answers, background, crf), answers, background, crf)
    elif unlabelled:
        print(
            f"{unlabelled} photos have no row in the table and get no mask: a segmentation network wants at "
            f"least {ENOUGH} labelled photos, and there are {labelled}. Add rows for them."
        )
    return made


def _unlabelled(study: Study) -> int:
    listed = study.data.root / "ImageSets" / "Segmentation" / "test.txt"
    return len(study.data.test) if listed.is_file() else 0


def photo_table(study: Study, made: Mapping[str, Masks]) -> pd.DataFrame:
    """One row a photo with a mask, the least certain first, those drawn by the user last.

    Returns:
        Columns id, mask from ("label", "network" or "drawn"), confidence (see `confidence`; NaN of drawn
        ones), shows (classes and their share of the photo in %) and missing (named by the label, not shown).
    """
    tables = []
    for split, one in made.items():
        data = study.data.dataset(split)
        table = pd.DataFrame({"id": data.ids})
        table["mask from"] = {"train": "label", "tune": "drawn", "test": "network"}[split]
        sure = None if split == "tune" else confidences(study, one.maps, one.background, one.crf)
        table["confidence"] = np.nan if sure is None else sure.loc[data.ids].to_numpy()
        shown = [_shown(_mask(study, split, one, id), study.data.classes) for id in data.ids]
        table["shows"] = ["; ".join(f"{name} {share:.1f} %" for name, share in s.items()) for s in shown]
        named = [[n for n, known in zip(data.classes, row, strict=True) if known == 1] for row in data.labels]
        table["missing"] = [
            "; ".join(n for n in ns if n not in s) for ns, s in zip(named, shown, strict=True)
        ]
        tables.append(table)
    return pd.concat(tables).sort_values("confidence", kind="stable", ignore_index=True)


def extremes(table: pd.DataFrame, count: int) -> tuple[dict[str, str], dict[str, str]]:
    """The least and the most certain photos whose label names a class: id and what is said of it."""
    rows = table[(table["mask from"] == "label") & ((table["shows"] != "") | (table["missing"] != ""))]
    said = {row.id: f"{row.id}\nconfidence {row.confidence:.2f}" for row in rows.itertuples()}
    return dict(list(said.items())[:count]), dict(list(said.items())[-count:])


def _mask(study: Study, split: str, one: Masks, id: str) -> np.ndarray:
    """At the size worked at; the user's own where there is one."""
    return study.data.tune.mask(id) if split == "tune" else load_mask(one.masks.file(f"{id}.png"))


def _shown(mask: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    counts = np.bincount(mask.ravel(), minlength=256)
    return {name: 100 * counts[c] / mask.size for c, name in enumerate(classes) if c and counts[c]}


# --- handing on ------------------------------------------------------------------------------------------


def write_masks(study: Study, made: Mapping[str, Masks], root: Path, out: str | Path) -> dict[str, Path]:
    """out/masks/<id>.png at the photos' own size, from masks at the size worked at.

    Returns:
        Name of each photo's file -> its mask.
    """
    photos = {path.stem: path for path in photo_files(root / "JPEGImages")}
    folder = Path(out) / "masks"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (
            root / "SegmentationClass" / f"{id}.png" if split == "tune" else one.masks.file(f"{id}.png"),
            photos[id],
            folder / f"{id}.png",
        )
        for split, one in made.items()
        for id in study.data.dataset(split).ids
    ]
    calls = (delayed(write_full_size)(*job) for job in jobs)
    digests = pool(study.config.processes, return_as="generator")(calls)
    written = {}
    for (_, _, file), digest in zip(
        jobs, report(digests, "masks", unit="photo", total=len(jobs)), strict=True
    ):
        written[file.name] = digest
    before = json.loads((Path(out) / RECORD).read_text())
    for name in before.keys() - written.keys():
        # of a photo that is gone; `lay_out` saw that it is as we wrote it
        (folder / name).unlink(missing_ok=True)
    write_text(json.dumps(written, indent=0), Path(out) / RECORD)
    return {photo.name: file for _, photo, file in sorted(jobs, key=lambda job: job[1].name)}


def hand_on(
    study: Study, made: Mapping[str, Masks], table: pd.DataFrame, root: Path, out: str | Path
) -> list[Path]:
    """Write masks, photos.csv, review.html and the files for labelling tools (see `wsss_lib.data.export`).

    Returns:
        What a user may want to open.
    """
    out, classes, processes = Path(out), study.data.classes, study.config.processes
    masks = write_masks(study, made, root, out)
    save_atomically(lambda path: table.to_csv(path, index=False, float_format="%.4f"), out / "photos.csv")
    split_of = {id: split for split in made for id in study.data.dataset(split).ids}

    def pictures(id: str) -> tuple[np.ndarray, np.ndarray]:
        split = split_of[id]
        return study.data.dataset(split).image(id), _mask(study, split, made[split], id)

    write_review(table, pictures, classes, out / "review.html")
    write_coco(masks, classes, out / "coco_rle.json", "rle", processes)
    write_coco(masks, classes, out / "coco_polygons.json", "polygons", processes)
    write_cvat(masks, classes, out / "cvat.zip")
    sure = table.dropna(subset="confidence").set_index("id")["confidence"].round(4).to_dict()
    write_label_studio(
        masks, classes, out / "label_studio.json", lambda name: sure.get(Path(name).stem), processes
    )
    names = ("masks", "photos.csv", "review.html", "coco_rle.json", "coco_polygons.json", "cvat.zip")
    return [out / name for name in (*names, "label_studio.json")]


@dataclass(frozen=True)
class Delivery:
    """What `deliver` made: its study, the table of photos, and the files to open."""

    study: Study
    table: pd.DataFrame
    files: list[Path]


def deliver(
    photos: str | Path,
    labels: str | Path,
    out: str | Path,
    preset: str | None = None,
    drawn: str | Path | None = None,
    seed: int = 0,
) -> Delivery:
    """Own photos and image labels to masks, with a check before and a review sheet after; see the module.

    Args:
        photos, labels, out, drawn: as of `lay_out`.
        preset: "standard" or another, or a .yaml file; None: by number of photos and machine, see
            `chosen_settings`.
        seed: of the networks.

    Raises:
        ValueError, FileNotFoundError: as of `lay_out`, or the check found errors.
    """
    root = lay_out(photos, labels, out, drawn)
    findings = checked(root)
    for finding in findings.itertuples():
        print(f"{finding.severity}: {finding.subject}: {finding.sentence}")
    refuse_errors(findings)
    study = study_of(root, out, preset, seed)
    print(f"preset {study.preset}, changed: {study.results.origin['overrides'] or 'nothing'}")
    made = masks_of(study)
    table = photo_table(study, made)
    files = hand_on(study, made, table, root, out)
    print("\n".join(["to open:", *(f"  {file}" for file in files)]))
    return Delivery(study, table, files)
