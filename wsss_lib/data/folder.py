"""Your own photos and a table of image labels as a dataset."""

import os
from pathlib import Path

import pandas as pd

from wsss_lib.data.layout import link_photo, list_path, write_lines
from wsss_lib.runtime.files import save_atomically

PHOTOS = (".jpg", ".jpeg", ".png")


def from_folder(photos: str | Path, labels: str | Path, root: str | Path) -> Path:
    """Lay photos out in VOC layout, as links: those in the table to learn from, the others to be segmented.

    Writes classes.txt, labels.csv, the list train (photos with a row in `labels`) and, if there are other
    photos, the list test. Calling it again after a change of photos or labels brings the folder up to date.

    Args:
        photos: folder of .jpg, .jpeg and .png files (not its subfolders).
        labels: CSV with a column id (name of the photo, with or without its ending) and one column of 0 and 1
            for each class.
        root: folder to write into; masks you have (<id>.png, see `VOCDataset`) go to its SegmentationClass.

    Returns:
        `root`, absolute, for `Study(..., root=root, labels=root / "labels.csv")`.

    Raises:
        FileNotFoundError: there is no such folder, photo or table.
        ValueError: no column id or no class, a repeated name, or `root` is another dataset.
    """
    photos, labels, root = Path(photos), Path(labels), Path(root)
    table = _read_table(labels)
    if not photos.is_dir():
        raise FileNotFoundError(f"There is no folder {photos}; name the folder of your photos.")
    found: dict[str, Path] = {}
    for path in sorted(path for path in photos.iterdir() if path.suffix.lower() in PHOTOS):
        if path.stem in found:
            raise ValueError(f"{photos} holds {found[path.stem].name} and {path.name}; rename one of them.")
        found[path.stem] = path
    if missing := sorted(set(table["id"]) - set(found)):
        raise FileNotFoundError(
            f"{labels} names {len(missing)} photos that {photos} does not hold as {', '.join(PHOTOS)}, "
            f"the first is {missing[0]!r}; add them or remove their rows."
        )
    old = list((root / "JPEGImages").glob("*"))
    if old and not ((root / "labels.csv").is_file() and all(path.is_symlink() for path in old)):
        raise ValueError(f"{root} holds photos of another dataset; give a folder of its own for `root`.")
    write_lines(table.columns.drop("id"), root / "classes.txt")
    save_atomically(lambda path: table.to_csv(path, index=False), root / "labels.csv")
    for path in old:  # links of this function's own
        path.unlink()
    for path in found.values():
        link_photo(path, root)
    write_lines(table["id"], list_path(root, "train"))
    if others := sorted(set(found) - set(table["id"])):
        write_lines(others, list_path(root, "test"))
    else:
        list_path(root, "test").unlink(missing_ok=True)
    return root.resolve()


def _read_table(path: Path) -> pd.DataFrame:
    """The label table with endings taken off its ids; its values are checked where labels are read."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no label table {path}; write one (columns id, then classes)."
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is no CSV ({error}); write one with columns id, then classes.") from error
    if "id" not in table or len(table.columns) < 2 or table.empty:
        raise ValueError(f"{path} needs a column 'id', a column for each class and a row for each photo.")
    table["id"] = [
        stem if suffix.lower() in PHOTOS else stem + suffix
        for stem, suffix in map(os.path.splitext, table["id"])
    ]
    if table["id"].duplicated().any():
        twice = table.loc[table["id"].duplicated(), "id"].iloc[0]
        raise ValueError(f"{path} has more than one row for {twice!r}; keep one.")
    return table
