"""The papers' numbers (papers/<paper>/tables/*.csv) and ours, side by side."""

from pathlib import Path

import pandas as pd

PAPERS = Path(__file__).resolve().parents[1] / "papers"


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
        ours: tidy rows with the columns `on`, `dataset` and `value`, in the unit of `papers` (%).
        papers: rows of `reported`.
        on: columns that tell the rows of a column apart; average over seeds beforehand.

    Returns:
        Index `on`; columns "reported (voc2012)", "reproduced (scenes)", ...; NaN where a side has no value.

    Raises:
        ValueError: two rows of a column agree in all of `on`.
    """
    sides = {"reported": papers, "reproduced": ours}
    rows = pd.concat(side.assign(column=f"{who} (" + side["dataset"] + ")") for who, side in sides.items())
    if (twice := rows.duplicated([*on, "column"])).any():
        raise ValueError(
            f"{on} do not tell these rows apart: {rows.loc[twice, on].iloc[0].to_dict()}; add a column"
        )
    return rows.pivot_table(index=on, columns="column", values="value", sort=False).rename_axis(columns=None)
