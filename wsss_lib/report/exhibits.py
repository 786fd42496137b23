"""Which tables and figures of the papers the notebooks reproduce, and how far: `make coverage`.

Nothing is kept by hand. papers/ says what there is. The code cell of a notebook that reproduces one carries
its name as a tag (`sc_cam/table-3.2`, `mixup_cam/figure-2.5`) and saves what it shows, with
`study.results.table(..., "02_rounds")` or `study.results.figure(...)`; `provenance.json` says under that name
where and when it was run.

A run may cover a part only. Of a table, those of its rows count whose method the library has: each must stand
in a table of `tables.beside` that the cell saved, with a value of ours. A curve has at least four points: a
further tag, `points:K` or `points:parameter:setting`, names the column of a saved table that holds them, and
before it the column that tells several curves apart. A figure of certain classes wants data that have them.
The preset smoke, whose numbers mean nothing, does not count.
"""

import argparse
import ast
import difflib
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wsss_lib.data.scenes.composition import CLASSES as SCENES_CLASSES
from wsss_lib.data.voc import VOC_CLASSES
from wsss_lib.methods import RECIPES
from wsss_lib.report.reproduce import ROOT, cells_of
from wsss_lib.report.tables import PAPERS
from wsss_lib.study.results import finished as dates
from wsss_lib.study.results import origin_of

COLUMNS = ["name", "shows", "why_not", "data", "notebook", "dataset", "preset", "finished", "missing"]
NOT_COUNTED = "smoke"
LEAST_POINTS = 4
KEYS = {"method", "stage", "split", "metric", "class", "round", "scales", "q", "block", "threshold"}
"""Columns of a paper's table that tell its rows apart; the others describe them."""


@dataclass(frozen=True)
class Tag:
    """A table or figure that a cell reproduces; saved: names of its results; points: columns of a curve."""

    name: str
    saved: tuple[str, ...]
    points: tuple[str, ...]


def exhibits() -> pd.DataFrame:
    """All tables and figures of papers/.

    Returns:
        Columns name, shows, why_not (empty where nothing is in the way) and data, what it was made on.
    """
    rows = []
    for path in sorted(PAPERS.glob("*/tables/*.csv")):
        table = pd.read_csv(path, keep_default_na=False)
        of = {key: ", ".join(table[key].unique()) for key in ("stage", "dataset", "split", "metric")}
        why_not = "only the benchmark's server scores test" if of["split"] == "test" else ""
        shows = f"{of['stage']}; {of['dataset']} {of['split']}; {of['metric']}"
        rows.append((f"{path.parents[1].name}/{path.stem}", shows, why_not, of["dataset"]))
    for path in sorted(PAPERS.glob("*/figures.csv")):
        for figure in pd.read_csv(path, keep_default_na=False).itertuples():
            data = "coco2014" if "COCO" in figure.shows else "voc2012"
            rows.append((f"{path.parent.name}/{figure.id}", figure.shows, figure.why_not, data))
    listed = pd.DataFrame(rows, columns=COLUMNS[:4])
    return listed.sort_values("name", key=lambda names: names.str.partition("/")[0], kind="stable")


def tags(notebook: Path) -> Iterator[Tag]:
    """Each tag that names a table or figure, with what its cell saves.

    Raises:
        ValueError: a tagged cell saves nothing.
    """
    for cell in cells_of(notebook):
        of_cell = cell["metadata"].get("tags", [])
        points = [tag.split(":")[1:] for tag in of_cell if tag.startswith("points:")]
        for tag in of_cell:
            if "/" in tag:
                saved = saved_names(cell["source"]) if cell["cell_type"] == "code" else []
                if not saved:
                    raise ValueError(
                        f"the cell tagged {tag!r} in {notebook.name} saves nothing; tag the code cell that "
                        'calls study.results.table(..., "name") or study.results.figure(..., "name")'
                    )
                yield Tag(tag, tuple(saved), tuple(points[0]) if points else ())


def saved_names(source: str) -> list[str]:
    """Names in the calls `<study>.results.table(..., "name")` and `.figure(..., "name")` of a cell."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        call.args[1].value
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in ("table", "figure")
        and isinstance(call.func.value, ast.Attribute)
        and call.func.value.attr == "results"
        and len(call.args) == 2
        and isinstance(call.args[1], ast.Constant)
    ]


def coverage(notebooks: Path = ROOT / "notebooks", results: Path = ROOT / "results") -> pd.DataFrame:
    """A row for each table and figure, for each notebook that reproduces it and each run of that cell.

    Returns:
        Columns name, shows, why_not, data, notebook, dataset, preset, finished (date and time of the newest
        of the cell's results; "" where it covers nothing) and missing, what the run leaves out ("" for
        nothing); empty where there is no notebook or no run.

    Raises:
        ValueError: a tag names no table or figure, or its cell saves nothing.
    """
    known, rows = exhibits(), []
    shows = dict(zip(known["name"], known["shows"], strict=True))
    for notebook in sorted(notebooks.glob("*.ipynb")):
        for tag in tags(notebook):
            if tag.name not in shows:
                near = difflib.get_close_matches(tag.name, known["name"], n=3)
                raise ValueError(
                    f"{notebook.name} has the tag {tag.name!r}, but papers/ has no such table or figure; "
                    f"near it: {', '.join(near) or 'none'}"
                )
            runs = [
                (run.parent.name, run.name, finished if some else "", lacks)
                for run in sorted(results.glob("*/*"))
                if run.name != NOT_COUNTED and (finished := newest(run, tag.saved))
                for some, lacks in [missing(tag, shows[tag.name], run)]
            ]
            rows += [(tag.name, notebook.stem, *run) for run in runs or [("", "", "", "")]]
    found = pd.DataFrame(rows, columns=["name", *COLUMNS[4:]])
    return known.merge(found, how="left", on="name").fillna("")


def newest(run: Path, saved: tuple[str, ...]) -> str:
    """When the newest of the results `saved` was made in the folder of a run; "" if none is there."""
    made = dates(run)
    return max((made[name] for name in saved if name in made), default="")


def missing(tag: Tag, shows: str, run: Path) -> tuple[bool, str]:
    """Whether a run covers anything of a table or figure, and what it leaves out ("" for nothing)."""
    csvs = [path for name in tag.saved if (path := run / "tables" / f"{name}.csv").is_file()]
    saved = [pd.read_csv(path) for path in csvs]
    paper, _, id = tag.name.partition("/")
    table = PAPERS / paper / "tables" / f"{id}.csv"
    if table.is_file():
        return missing_rows(pd.read_csv(table), saved, own_names(paper))
    named, classes = named_classes(shows), classes_of(run, tag.saved)
    absent = [name for name in named if name not in classes]
    found = [f"{run.parent.name} has no {', '.join(absent)}"] if absent else []
    if tag.points:
        found += missing_points(saved, tag.points)
    return not named or absent != named, "; ".join(found)


def own_names(paper: str) -> list[str]:
    """What a paper's tables call the library's methods, and parts of the one that is the paper's own."""
    parts = RECIPES[paper].parts if paper in RECIPES else ()
    return [*(recipe.paper_name for recipe in RECIPES.values()), *parts]


def missing_rows(paper: pd.DataFrame, saved: list[pd.DataFrame], names: list[str]) -> tuple[bool, str]:
    """Whether a saved comparison has a value of ours for any row of a paper's table, and the rows that none
    has: "2 of 4 rows: val CAM, val CAM+RW".

    Rows of methods that the library does not have (`names` are those it has, as in "SC-CAM (released)"), and
    of VOC's test, are not asked for, nor are printed gains, which are differences of other rows. Where a
    paper does not say whether with a CRF, ours without one will do.
    """
    rows = paper[(paper["split"] != "test") & ~paper["metric"].str.endswith(" gain")]
    rows = rows.assign(stage=rows["stage"].str.removesuffix(", CRF not stated"))
    own = rows["method"].map(lambda name: any(name == t or name.startswith(f"{t} (") for t in names))
    rows = rows[own] if own.any() else rows
    covered = pd.Series(False, rows.index)
    named = [column for column in rows if column in KEYS and rows[column].nunique() > 1]
    for table in saved:
        ours = [column for column in table if column.startswith("reproduced ")]
        keys = [column for column in rows if column in KEYS and column in table]
        if ours and keys:
            with_value = table.loc[table[ours].notna().any(axis=1), keys].astype(str)
            have = set(with_value.itertuples(index=False, name=None))
            of_paper = rows[keys].astype(str).itertuples(index=False, name=None)
            # of rows that the saved table does not tell apart only the first is the one it holds
            covered |= ~rows.duplicated(keys) & np.array([key in have for key in of_paper])
    if covered.all():
        return True, ""
    lacking = [" ".join(map(str, row)) for row in rows.loc[~covered, named].itertuples(index=False)]
    return bool(covered.any()), f"{len(lacking)} of {len(rows)} rows: {', '.join(lacking)}"


def missing_points(saved: list[pd.DataFrame], points: tuple[str, ...]) -> list[str]:
    """Curves with too few points: "K has 3 of 4 points"; points: columns that tell curves apart, then x."""
    *curves, x = points
    for table in saved:
        if set(points) <= set(table):
            counts = table.groupby(curves)[x].nunique() if curves else pd.Series({x: table[x].nunique()})
            return [
                f"{name} has {count} of {LEAST_POINTS} points"
                for name, count in counts.items()
                if count < LEAST_POINTS
            ]
    return [f"no table of the points {x}"]


def named_classes(shows: str) -> list[str]:
    """VOC's classes in a description; "train" is taken for the split."""
    return [name for name in VOC_CLASSES if name != "train" and re.search(rf"\b{name}\b", shows)]


def classes_of(run: Path, saved: tuple[str, ...]) -> tuple[str, ...]:
    """The classes of a run's data, by its provenance; VOC's where all of a data set's were kept."""
    for name in saved:
        if kept := origin_of(run, name).get("classes"):
            return tuple(kept)
    return SCENES_CLASSES if run.parent.name == "scenes" else VOC_CLASSES


def main(argv: list[str] | None = None) -> int:
    """Print the matrix; returns 0, or 1 where a tag is wrong."""
    parser = argparse.ArgumentParser("wsss exhibits", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="default: results")
    options = parser.parse_args(argv)
    try:
        table = coverage(results=options.results)
    except ValueError as error:
        print(f"coverage: {error}", file=sys.stderr)
        return 1
    lines = table[["name", "shows"]].assign(said=table.apply(status, axis=1))
    lines.loc[table["name"].duplicated(), ["name", "shows"]] = ""
    widths = [lines[column].str.len().max() for column in ("name", "said")]
    for name, shows, said in lines.itertuples(index=False):
        short = textwrap.shorten(shows, 60, placeholder=" ...")
        print(f"{name:<{widths[0]}}  {said:<{widths[1]}}  {short}".rstrip())
    print(summary(table))
    return 0


def summary(table: pd.DataFrame) -> str:
    """How many of the tables and figures of `coverage` have a notebook, have been run, and where."""
    run = table[table["finished"] != ""]
    whole = run[run["missing"] == ""]
    counts = [
        (table, "tables and figures"),
        (table[table["notebook"] != ""], "have a notebook"),
        (run, f"have been run on a preset other than {NOT_COUNTED}"),
        (whole, "of these in full"),
        (whole[whole["dataset"] == whole["data"]], "of these on the paper's own data"),
        (table[table["why_not"] != ""], "cannot have a notebook"),
    ]
    return "; ".join(f"{rows['name'].nunique()} {what}" for rows, what in counts)


def status(row: Mapping[str, str], width: int = 70) -> str:
    """How far one row of `coverage` is covered; width: most characters of what is missing."""
    run = f"{row['notebook']}: {row['dataset']}/{row['preset']}"
    lacks = textwrap.shorten(row["missing"], width, placeholder=" ...")
    if row["finished"]:
        other = "" if row["dataset"] == row["data"] else f", not {row['data']}"
        return f"{run}{other}, {row['finished']}" + (f", partial: {lacks}" if lacks else "")
    if lacks:
        return f"{run}: not covered: {lacks}"
    if row["notebook"]:
        return f"{row['notebook']}: not run yet"
    return row["why_not"] or "no notebook yet"


if __name__ == "__main__":
    sys.exit(main())
