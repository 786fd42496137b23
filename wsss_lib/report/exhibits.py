"""Which tables and figures of the papers the notebooks reproduce: `make coverage`.

Nothing is kept by hand. papers/ says what there is. The code cell of a notebook that reproduces one carries
its name as a tag (`sc_cam/table-3.2`, `mixup_cam/figure-2.5`) and saves what it shows, with
`study.results.table(..., "02_rounds")` or `study.results.figure(...)`; `provenance.json` says under that name
where and when it was run.
"""

import argparse
import ast
import difflib
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from wsss_lib.report.reproduce import ROOT, cells_of
from wsss_lib.report.tables import PAPERS
from wsss_lib.study.results import finished as dates

COLUMNS = ["name", "shows", "why_not", "notebook", "dataset", "preset", "finished"]


def exhibits() -> pd.DataFrame:
    """All tables and figures of papers/: name, shows, why_not (empty where nothing is in the way)."""
    rows = []
    for path in sorted(PAPERS.glob("*/tables/*.csv")):
        table = pd.read_csv(path, keep_default_na=False)
        of = {key: ", ".join(table[key].unique()) for key in ("stage", "dataset", "split", "metric")}
        why_not = "only the benchmark's server scores test" if of["split"] == "test" else ""
        shows = f"{of['stage']}; {of['dataset']} {of['split']}; {of['metric']}"
        rows.append((f"{path.parents[1].name}/{path.stem}", shows, why_not))
    for path in sorted(PAPERS.glob("*/figures.csv")):
        figures = pd.read_csv(path, keep_default_na=False)
        names = path.parent.name + "/" + figures["id"]
        rows += zip(names, figures["shows"], figures["why_not"], strict=True)
    listed = pd.DataFrame(rows, columns=COLUMNS[:3])
    return listed.sort_values("name", key=lambda names: names.str.partition("/")[0], kind="stable")


def tags(notebook: Path) -> Iterator[tuple[str, list[str]]]:
    """Each tag that names a table or figure, with the names under which its cell saves results.

    Raises:
        ValueError: a tagged cell saves nothing.
    """
    for cell in cells_of(notebook):
        for tag in cell["metadata"].get("tags", []):
            if "/" in tag:
                saved = saved_names(cell["source"]) if cell["cell_type"] == "code" else []
                if not saved:
                    raise ValueError(
                        f"the cell tagged {tag!r} in {notebook.name} saves nothing; tag the code cell that "
                        'calls study.results.table(..., "name") or study.results.figure(..., "name")'
                    )
                yield tag, saved


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
        Columns name, shows, why_not, notebook, dataset, preset, finished (date and time of the newest of the
        cell's results); empty where there is no notebook or no run.

    Raises:
        ValueError: a tag names no table or figure, or its cell saves nothing.
    """
    known, rows = exhibits(), []
    for notebook in sorted(notebooks.glob("*.ipynb")):
        for tag, saved in tags(notebook):
            if tag not in set(known["name"]):
                near = difflib.get_close_matches(tag, known["name"], n=3)
                raise ValueError(
                    f"{notebook.name} has the tag {tag!r}, but papers/ has no such table or figure; "
                    f"near it: {', '.join(near) or 'none'}"
                )
            finished = {}
            for name in saved:
                for run in results.glob("*/*"):
                    if date := dates(run).get(name):
                        finished[run.parts[-2:]] = max(date, finished.get(run.parts[-2:], ""))
            runs = sorted(finished.items()) or [(("", ""), "")]
            rows += [(tag, notebook.stem, *run, date) for run, date in runs]
    found = pd.DataFrame(rows, columns=["name", *COLUMNS[3:]])
    return known.merge(found, how="left", on="name").fillna("")


def main(argv: list[str] | None = None) -> int:
    """Print the matrix; returns 0, or 1 where a tag is wrong."""
    parser = argparse.ArgumentParser(
        "python -m wsss_lib.report.exhibits", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="default: results")
    options = parser.parse_args(argv)
    try:
        table = coverage(results=options.results)
    except ValueError as error:
        print(f"coverage: {error}", file=sys.stderr)
        return 1
    lines = table[["name", "shows"]].assign(status=table.apply(_status, axis=1))
    lines.loc[table["name"].duplicated(), ["name", "shows"]] = ""
    widths = [lines[column].str.len().max() for column in ("name", "status")]
    for name, shows, status in lines.itertuples(index=False):
        short = textwrap.shorten(shows, 60, placeholder=" ...")
        print(f"{name:<{widths[0]}}  {status:<{widths[1]}}  {short}".rstrip())
    count, noted = table["name"].nunique(), table[table["notebook"] != ""]
    print(
        f"{count} tables and figures: {noted['name'].nunique()} have a notebook, "
        f"{noted[noted['finished'] != '']['name'].nunique()} of these have been run; "
        f"{table[table['why_not'] != '']['name'].nunique()} cannot have one"
    )
    return 0


def _status(row: pd.Series) -> str:
    if row["finished"]:
        return f"{row['notebook']}: {row['dataset']}/{row['preset']}, {row['finished']}"
    if row["notebook"]:
        return f"{row['notebook']}: not run yet"
    return row["why_not"] or "no notebook yet"


if __name__ == "__main__":
    sys.exit(main())
