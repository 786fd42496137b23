"""A method with parts of it switched off or its parameters moved: rows of a table, points of a curve."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wsss_lib.artifacts import Artifact
from wsss_lib.report.chains import compared
from wsss_lib.report.tables import means
from wsss_lib.study.study import Study


@dataclass(frozen=True)
class Row:
    """A method as the preset has it, but for `overrides` (dotted preset keys)."""

    study: Study
    method: str
    overrides: Mapping[str, float | str] | None = None

    @property
    def varied(self) -> Study:
        """The study of this row alone, on the same cache."""
        return self.study.varied(self.overrides) if self.overrides else self.study

    def classifier(self, seed: int) -> Artifact:
        """The trained network."""
        return self.varied.classifier(self.method, seed)

    def maps(self, split: str = "train") -> list[Artifact]:
        """Response maps, one a seed. What comes after them depends on no method: the plain study makes it."""
        return [self.varied.response_maps(self.method, seed, split) for seed in self.study.seeds]


Made = Mapping[str, Sequence[Artifact]]
"""Title of a row -> its artifacts, one a seed."""


def row_scores(study: Study, stages: Iterable[Made]) -> pd.DataFrame:
    """`Study.scores` stage by stage, the column method holding the rows' titles."""
    return pd.concat([study.scores(of).assign(method=title) for made in stages for title, of in made.items()])


def row_gains(
    study: Study, stages: Mapping[str, Made], bases: Mapping[str, Sequence[str]], printed: pd.DataFrame
) -> pd.DataFrame:
    """Rows against the row that each is to be better than, with the gain that the paper prints.

    Args:
        stages: name -> its rows; one that is missing at a stage is left out there.
        bases: title of a baseline -> titles that are compared with it.
        printed: rows of `reported`, at most one for each stage and method.

    Returns:
        Columns of `Study.compare` and stage, method, base, "paper's gain (<data set>)" (NaN where the paper
        lacks one of the two).
    """
    values = printed.set_index(["stage", "method"])["value"]
    (dataset,) = printed["dataset"].unique()
    pairs = []
    for base, better in bases.items():
        for stage, made in stages.items():
            for title in better:
                if {title, base} <= made.keys():
                    gain = values.get((stage, title), np.nan) - values.get((stage, base), np.nan)
                    about = {"stage": stage, "method": title, "base": base, f"paper's gain ({dataset})": gain}
                    pairs.append((made[title], made[base], about))
    return compared(study, pairs)


def with_gains(scores: pd.DataFrame, base: str) -> pd.DataFrame:
    """Rows of `Study.scores` and below them what each has over the row `base`: metric "mIoU gain", ...

    Of the same stage, rule, seed and metric, each with one row a method.
    """
    keys = ["stage", "rule", "seed", "metric"]
    of_base = scores[scores["method"] == base].set_index(keys)["value"]
    others = scores[scores["method"] != base]
    over = others["value"] - of_base.loc[list(map(tuple, others[keys].to_numpy()))].to_numpy()
    return pd.concat([scores, others.assign(value=over, metric=others["metric"] + " gain")])


def parts_at_headline(study: Study, made: Mapping[tuple, Artifact], names: Sequence[str]) -> pd.DataFrame:
    """Summary metrics in % of maps at their headline setting; with the recall of each part, if it is known.

    Args:
        made: key -> maps; names: of the keys' levels.
    """
    rows = {key: study.sweep(maps).iloc[study.headline(maps)] for key, maps in made.items()}
    return pd.DataFrame(rows).T.rename_axis(list(names)).drop(columns="pixel accuracy")


def curve_points(
    study: Study, method: str, known: Mapping[str, Mapping[float, Sequence[Artifact]]], further: Mapping
) -> dict[tuple[str, float], Sequence[Artifact]]:
    """(parameter, setting) -> maps, one a seed: those at hand and those still to be trained.

    Args:
        known: parameter -> {setting: maps}.
        further: parameter -> (settings, overrides that hold for all of them).
    """
    points = {(name, x): maps for name, curve in known.items() for x, maps in curve.items()}
    for name, (settings, overrides) in further.items():
        for x in settings:
            points[name, x] = Row(study, method, {**overrides, f"{method}.{name}": x}).maps()
    return points


def curve_scores(study: Study, points: Mapping[tuple[str, float], Sequence[Artifact]]) -> pd.DataFrame:
    """mIoU at each point: rows of `Study.scores`, setting holding the point's, and the column parameter."""
    tables = [study.scores(maps).assign(parameter=name, setting=x) for (name, x), maps in points.items()]
    return means(pd.concat(tables)).sort_values(["parameter", "setting"])


def curve_gains(study: Study, points: Mapping[tuple[str, float], Sequence[Artifact]]) -> pd.DataFrame:
    """Each setting above 0 of a parameter against its 0: columns of `Study.compare`, parameter, setting."""
    return compared(
        study,
        [
            (maps, points[name, 0], {"parameter": name, "setting": x})
            for (name, x), maps in sorted(points.items())
            if x > 0
        ],
    )


def entropy_bounds(classes: int) -> tuple[float, float]:
    """Greatest and least entropy (nats) of a softmax over `classes` values that lie in [0, 1].

    The least lies at a corner of the cube of values: some are 1, the others 0.
    """
    high = np.arange(1, max(classes, 2))  # how many are 1
    total = high * np.e + classes - high
    return float(np.log(classes)), float((np.log(total) - high * np.e / total).min())
