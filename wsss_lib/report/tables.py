"""The papers' numbers (papers/<paper>/tables/*.csv), ours, and what others got (reproductions.csv)."""

from pathlib import Path

import pandas as pd

from wsss_lib.artifacts import Artifact
from wsss_lib.runtime.files import shipped
from wsss_lib.statistics import over_seeds
from wsss_lib.study.study import Study

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


def by_others(paper: str) -> pd.DataFrame:
    """What others measured who ran a paper's method independently, for example `by_others("sc_cam")`.

    Returns:
        Columns of `reported` without keys of single tables, by (a short name of who), source (its address)
        and note (how it differs from the paper); no rows where nothing public is known.
    """
    path = PAPERS / paper / "reproductions.csv"
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["by", "source", "note"])


def beside(
    ours: pd.DataFrame, papers: pd.DataFrame, on: list[str], others: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Reported and reproduced values in columns of their own, each named with its data set.

    Args:
        ours: tidy rows with the columns `on`, `dataset` and `value`, in the unit of `papers` (%); rows that
            have a column `seed` are averaged over it.
        papers: rows of `reported`.
        on: columns that tell the rows of a column, and of a seed, apart.
        others: rows of `by_others` with the columns `on`.

    Returns:
        Index `on`; columns "reported (voc2012)", "others: irn#4 (voc2012)" for each of `others`,
        "reproduced (scenes)" and, of rows with seeds, "std (scenes)" (missing if there is one seed) and
        "seeds (scenes)"; NaN where a side has no value. `readable` makes it short.

    Raises:
        ValueError: two rows of a column agree in all of `on`.
    """
    sides = [papers.assign(column="reported")]
    if others is not None:
        sides.append(others.assign(column="others: " + others["by"]))
    if "seed" in ours:
        means = over_seeds(ours, ["dataset", *on])
        columns = {"reproduced": "value", "std": "std", "seeds": "seeds"}
        sides += [means.assign(column=name, value=means[of]) for name, of in columns.items()]
    else:
        sides.append(ours.assign(column="reproduced"))
    rows = pd.concat(sides)
    rows["column"] += " (" + rows["dataset"] + ")"
    if (twice := rows.duplicated([*on, "column"])).any():
        raise ValueError(
            f"{on} do not tell these rows apart: {rows.loc[twice, on].iloc[0].to_dict()}; add a column"
        )
    return rows.pivot_table(index=on, columns="column", values="value", sort=False).rename_axis(columns=None)


def readable(comparison: pd.DataFrame) -> pd.DataFrame:
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
    return plus_minus(table, pd.DataFrame(spread, index=table.index)).rename(columns=names)


def means(scores: pd.DataFrame, *metrics: str) -> pd.DataFrame:
    """The rows of `Study.scores` with means over the classes; metrics: mIoU if none is named."""
    return scores[(scores["class"] == "all") & scores["metric"].isin(metrics or ("mIoU",))]


def headline(scores: pd.DataFrame, *metrics: str) -> pd.DataFrame:
    """The rows of `means` that may be concluded from: no oracle's setting."""
    return means(at_headline(scores), *metrics)


def headline_rule(scores: pd.DataFrame) -> str:
    """The rule of settings that may be concluded from: "calibrated" where it is known, else "fixed"."""
    return "calibrated" if "calibrated" in set(scores["rule"]) else "fixed"


def at_headline(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of `Study.scores` at each artifact's headline setting: calibrated or, where nothing can be
    calibrated, the preset's; never the oracle's.
    """
    return scores[scores["rule"].isin([headline_rule(scores), "none"])]


def class_iou(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of `at_headline` with each class's IoU; class "all" has the mIoU."""
    found = at_headline(scores)
    return found[found["metric"].isin(["mIoU", "IoU"])]


def mean_and_std(
    rows: pd.DataFrame, index: list[str], columns: str | list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables of the column value over the seeds, mean and standard deviation (NaN of a single seed)."""
    names = [columns] if isinstance(columns, str) else columns
    averaged = over_seeds(rows, [*index, *names])
    mean, std = (
        averaged.pivot_table(index=index, columns=columns, values=of, sort=False) for of in ("value", "std")
    )
    return mean, std


def stage_summary(scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row for each split, stage and rule: to be saved, with "mIoU (std)" beside "mIoU", and to be read.

    scores: as of `Study.scores`, of one method.
    """
    means, index = scores[scores["class"] == "all"], ["split", "stage", "rule"]
    settings = means.groupby(index, sort=False)["setting"].unique().map(", ".join).to_frame()
    mean, std = mean_and_std(means, index, "metric")
    saved = settings.join(mean).join(std.add_suffix(" (std)")).reset_index()
    return saved, settings.join(plus_minus(mean, std))


def by_class(scores: pd.DataFrame, columns: str | list[str]) -> pd.DataFrame:
    """IoU in % of each class, mean over seeds: a row a class, a column for each value of `columns`.

    Several columns are named "CAM (train)".
    """
    rows = class_iou(scores)
    table = rows[rows["class"] != "all"].pivot_table(
        index="class", columns=columns, values="value", sort=False
    )
    if not isinstance(columns, str):
        table.columns = [f"{first} ({', '.join(rest)})" for first, *rest in table.columns]
    return table


def described(study: Study) -> pd.DataFrame:
    """One row: how many photos teach and score, and how many labels they have."""
    labels = study.data.train.labels.sum(1)
    return pd.DataFrame(
        {
            "photos to learn from": [len(labels)],
            "scored (train)": [len(study.data.scored("train"))],
            "scored (val)": [len(study.data.scored("val"))],
            "classes": [len(study.data.classes) - 1],
            "labels per photo": [round(float(labels.mean()), 2)],
            "with several labels (%)": [round(100 * float((labels > 1).mean()), 1)],
        }
    )


def marked_settings(study: Study, sweep: pd.DataFrame, artifact: Artifact) -> dict[str, float]:
    """The settings that tables name ("calibrated", "fixed", "oracle"), in a table of `Study.sweep`."""
    setting, index = artifact.setting, study.calibrated(artifact)
    headline = {} if index is None else {"calibrated": setting.values[index]}
    return headline | {"fixed": setting.values[setting.fixed], "oracle": float(sweep["mIoU"].idxmax())}


def one_a_column(comparison: pd.DataFrame, columns: list[str]) -> dict[str, pd.DataFrame]:
    """A table of `beside` whose index has the level class, as one table for each of its columns.

    Returns:
        Name of the column -> a row a class, the mean "all" last, and a column for each value of `columns`,
        levels of the index; "" where there is no value.
    """
    order = [*comparison.index.unique("class").drop("all"), "all"]
    return {
        name: values[values != ""].unstack(columns).reindex(order).dropna(how="all").fillna("")
        for name, values in readable(comparison).items()
    }


def plus_minus(means: pd.DataFrame, stds: pd.DataFrame, decimals: int = 1) -> pd.DataFrame:
    """Both as text, "38.1 ± 0.4"; "38.1" where there is no standard deviation, "" where there is no mean."""
    texts = means.map(lambda mean: "" if pd.isna(mean) else f"{mean:.{decimals}f}")
    spread = stds.reindex_like(means).map(lambda std: "" if pd.isna(std) else f" ± {std:.{decimals}f}")
    return texts + spread
