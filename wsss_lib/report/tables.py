"""The papers' numbers (papers/<paper>/tables/*.csv) and ours, side by side."""

from pathlib import Path

import pandas as pd

from wsss_lib.runtime.files import shipped
from wsss_lib.statistics import over_seeds

PAPERS = shipped() / "papers"


def reported(name: str) -> pd.DataFrame:
    """A table of a paper as tidy rows, for example `reported("sc_cam/table-3.2")`.

    Returns:
        Columns method, stage, backbone, supervision, dataset, split, metric, class ("all" for a mean), the
        table's own keys (round, scales, q, ...), value (in %, gains in points) and note (the source's table).

    Raises:
        FileNotFoundError: there is no such table.
    """
    path = PAPERS / Path(name).parent / "tables" / f"{Path(name).name}.csv"
    if not path.is_file():
        existing = sorted(f"{table.parents[1].name}/{table.stem}" for table in PAPERS.glob("*/tables/*.csv"))
        raise FileNotFoundError(
            f"{PAPERS} has no table {name!r}; choose one of: {', '.join(existing) or 'none'}"
        )
    return pd.read_csv(path)


def beside(ours: pd.DataFrame, papers: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    """Reported and reproduced values in columns of their own, each named with its data set.

    Args:
        ours: tidy rows with the columns `on`, `dataset` and `value`, in the unit of `papers` (%); rows that
            have a column `seed` are averaged over it.
        papers: rows of `reported`.
        on: columns that tell the rows of a column, and of a seed, apart.

    Returns:
        Index `on`; columns "reported (voc2012)", "reproduced (scenes)" and, of rows with seeds,
        "std (scenes)" (missing if there is one seed) and "seeds (scenes)"; NaN where a side has no value.
        `readable` makes it short.

    Raises:
        ValueError: two rows of a column agree in all of `on`.
    """
    sides = [papers.assign(column="reported"), ours.assign(column="reproduced")]
    if "seed" in ours:
        means = over_seeds(ours, ["dataset", *on])
        columns = {"reproduced": "value", "std": "std", "seeds": "seeds"}
        sides[1:] = [means.assign(column=name, value=means[of]) for name, of in columns.items()]
    rows = pd.concat(sides)
    rows["column"] += " (" + rows["dataset"] + ")"
    if (twice := rows.duplicated([*on, "column"])).any():
        raise ValueError(
            f"{on} do not tell these rows apart: {rows.loc[twice, on].iloc[0].to_dict()}; add a column"
        )
    return rows.pivot_table(index=on, columns="column", values="value", sort=False).rename_axis(columns=None)


def readable(comparison: pd.DataFrame, decimals: int = 1) -> pd.DataFrame:
    """A table of `beside` for reading: "38.1 ± 0.4" under "reproduced (scenes), mean ± std of 3 seeds".

    One seed has no standard deviation, and its column says so.
    """
    table = comparison.drop(columns=[name for name in comparison if name.startswith(("std ", "seeds "))])
    spread, names = {}, {}
    for column in table.filter(like="reproduced "):
        dataset = column.removeprefix("reproduced ")
        if f"seeds {dataset}" in comparison:
            spread[column] = comparison.get(f"std {dataset}")
            counts = "-".join(f"{n:g}" for n in sorted(comparison[f"seeds {dataset}"].dropna().unique()))
            names[column] = f"{column}, " + (
                "1 seed, no std" if counts == "1" else f"mean ± std of {counts} seeds"
            )
    return plus_minus(table, pd.DataFrame(spread, index=table.index), decimals).rename(columns=names)


def plus_minus(means: pd.DataFrame, stds: pd.DataFrame, decimals: int = 1) -> pd.DataFrame:
    """Both as text, "38.1 ± 0.4"; "38.1" where there is no standard deviation, "" where there is no mean."""
    texts = means.map(lambda mean: "" if pd.isna(mean) else f"{mean:.{decimals}f}")
    spread = stds.reindex_like(means).map(lambda std: "" if pd.isna(std) else f" ± {std:.{decimals}f}")
    return texts + spread
