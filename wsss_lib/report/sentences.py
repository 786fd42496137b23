"""Sentences made from tables, so that no text of a notebook can contradict its numbers.

What a table shows is said here; what a paper claims is said to be the paper's.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from wsss_lib.report.tables import at_headline
from wsss_lib.statistics import LEVEL
from wsss_lib.study.study import Study

LOW, HIGH = f"{LEVEL:.0%} low", f"{LEVEL:.0%} high"


def about(study: Study, **further: object) -> str:
    """What stands beside every number of a study: "scenes, preset quick, seeds (0,), K = 10"."""
    more = [f"{name} = {value}" for name, value in further.items()]
    return ", ".join([study.dataset, f"preset {study.preset}", f"seeds {study.seeds}", *more])


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def of_differences(compared: pd.DataFrame, names: Sequence[str] = ()) -> str:
    """What a table of `Study.compare` shows at the headline's settings: a line a verdict.

    Args:
        names: columns that name a row; system and against if there are none.

    Example:
        "On train of scenes (400 photos, 3 seeds), difference of mIoU in points [95% over photos]:
        - improves: cam: CAM+RW over cam: CAM +1.97 [0.92, 3.09]."
    """
    rows, lines = at_headline(compared), []
    for where, of_split in rows.groupby(["dataset", "split", "photos", "seeds"], sort=False):
        dataset, split, photos, seeds = where
        made = f"{photos} photos, {seeds} seed{'s' * (seeds > 1)}"
        lines.append(
            f"On {split} of {dataset} ({made}), difference of mIoU in points [{LEVEL:.0%} over photos]:"
        )
        for verdict, alike in of_split.groupby("verdict", sort=False):
            parts = [f"{_name(row, names)} {_difference(row)}" for _, row in alike.iterrows()]
            lines.append(f"- {verdict}: {'; '.join(parts)}.")
    return "\n".join(lines)


def _name(row: pd.Series, names: Sequence[str]) -> str:
    if not names:
        return f"{row['system']} over {row['against']}"
    values = [row[name] for name in names]
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _difference(row: pd.Series) -> str:
    return f"{row['difference']:+.2f} [{row[LOW]:.2f}, {row[HIGH]:.2f}]"


def of_extremes(values: pd.Series, what: str) -> str:
    """ "IoU (%): highest fancrest 62.1, lowest curlhorn 30.0, mean 41.0 of 7." """
    known = values.dropna()
    if known.empty:
        return f"{what}: no values."
    ends = [
        f"{word} {_label(place)} {known[place]:.1f}"
        for word, place in (("highest", known.idxmax()), ("lowest", known.idxmin()))
    ]
    return f"{what}: {', '.join(ends)}, mean {known.mean():.1f} of {len(known)}."


def of_signs(gains: pd.Series, what: str) -> str:
    """ "SC-CAM over AffinityNet: 4 of 7 higher; most curlhorn +6.1, least forkhorn -2.0." """
    known = gains.dropna()
    if known.empty:
        return f"{what}: no values."
    ends = [
        f"{word} {_label(place)} {known[place]:+.1f}"
        for word, place in (("most", known.idxmax()), ("least", known.idxmin()))
    ]
    return f"{what}: {(known > 0).sum()} of {len(known)} higher; {', '.join(ends)}."


def of_changes(changes: pd.Series, what: str) -> str:
    """ "PSS less baseline, points: mIoU +2.1, precision +3.0, recall -1.0."; NaN is left out."""
    parts = [f"{_label(name)} {value:+.1f}" for name, value in changes.dropna().items()]
    return f"{what}: {', '.join(parts) or 'no values'}."


def of_trainings(histories: Mapping[str, pd.DataFrame]) -> str:
    """Whether losses still fall: "Loss of the last epoch against the one before: CAM -12 %, ...".

    histories: of `chains.histories`.
    """
    parts = []
    for title, history in histories.items():
        *_, before, last = [None, *history["loss"]]
        change = "had one epoch" if before is None else f"{100 * (last / before - 1):+.0f} %"
        parts.append(f"{title} {change}")
    return f"Loss of the last epoch against the one before: {', '.join(parts)}."


def _label(index: object) -> str:
    return ", ".join(map(str, index)) if isinstance(index, tuple) else str(index)


def of_gains_beside(comparison: pd.DataFrame, base: object, better: object) -> str:
    """The gain of one row of `beside` over another in each of its columns, the paper's marked as its own.

    base, better: labels of the index.

    Example:
        "Mixup-CAM less AffinityNet: the paper has +2.1 points (voc2012) and this run +0.4 points (scenes)."
    """
    said = []
    for column in comparison:
        kind, _, dataset = column.rpartition(" ")
        if kind not in ("reported", "reproduced") and not kind.startswith("others: "):
            continue
        gain = comparison.loc[better, column] - comparison.loc[base, column]
        if kind in ("reported", "reproduced"):
            who = "the paper has" if kind == "reported" else "this run"
            said.append(f"{who} {'no such pair' if pd.isna(gain) else f'{gain:+.1f} points'} {dataset}")
        elif not pd.isna(gain):
            said.append(f"{kind.removeprefix('others: ')} has {gain:+.1f} points {dataset}")
    return f"{_label(better)} less {_label(base)}: {listed(said)}."


def of_others(others: pd.DataFrame) -> str:
    """Who the others of `tables.by_others` are: a line for each, with its address and what differs there."""
    lines = []
    for (by, source), rows in others.groupby(["by", "source"], sort=False):
        notes = _each_once(rows["note"])
        lines.append(f"- {by}, {source}: {notes}.")
    return "\n".join(["What others got:", *lines]) if lines else "Nobody else's numbers are known here."


def _each_once(notes: Iterable[str]) -> str:
    """The parts of notes ("a; b"), each once, in their order."""
    return "; ".join(dict.fromkeys(part for note in notes for part in note.split("; ")))


def of_orders(means: pd.DataFrame, first: str, then: str, seeds: int) -> str:
    """Does the order by one column foretell the order by another? Both orders, and the answer.

    Args:
        means: a row a method, columns `first` and `then`; where these are one, there is only its order.
    """
    orders = {column: means[column].sort_values(ascending=False, kind="stable") for column in (first, then)}
    lines = [
        f"By {column}: {' > '.join(f'{name} {value:.1f}' for name, value in order.items())}."
        for column, order in orders.items()
    ]
    if len(means) < 2:
        return "\n".join([*lines, "One method has no order."])
    if first == then:
        return lines[0]
    before, after = (list(order.index) for order in orders.values())
    answer = "the two orders are the same"
    if before[0] != after[0]:
        answer = f"the first by {first} is {before[0]}, by {then} {after[0]}"
    elif before != after:
        answer = f"{before[0]} is first by both, the others change places"
    caution = "one seed, not a verdict" if seeds < 2 else f"means of {seeds} seeds; see the intervals"
    return "\n".join([*lines, f"Of {len(means)} methods, {answer} ({caution})."])


def of_mistakes(table: pd.DataFrame) -> str:
    """What `mistakes_compared` shows: the kinds whose interval excludes 0; the masks are one seed's."""
    clear = table[(table[LOW] > 0) | (table[HIGH] < 0)]
    if clear.empty:
        return "No kind of mistake became rarer or more frequent: every interval over photos includes 0."
    parts = [
        f"{row['kind']} {_difference(row)} in the {row['masks of']} of {row['method']}"
        for _, row in clear.iterrows()
    ]
    return (
        f"In points of a photo's pixels, intervals that exclude 0: {'; '.join(parts)}. "
        "One seed: they speak of other photos, not of other trainings."
    )


def of_trust(table: pd.DataFrame) -> str:
    """What `trust_by_class` shows: how right trusted labels are, and the class that suffers most."""
    background, foreground = table.iloc[0], table.loc["all foreground"]
    lost = table["as background"].iloc[1:].drop("all foreground").dropna()
    return (
        f"Trusted as foreground: {foreground['precision']:.0f} % right; as background: "
        f"{background['precision']:.0f} % right. Of all foreground {foreground['undecided']:.0f} % "
        f"are undecided and {foreground['as background']:.0f} % taught as background; most of "
        f"{lost.idxmax()}, {lost.max():.0f} %."
    )


def of_settings(sweep: pd.DataFrame, marks: Mapping[str, float]) -> str:
    """ "fixed threshold 0.38: mIoU 37.6, precision 50.1, recall 60.2; oracle threshold 0.35: ..."."""
    parts = []
    for rule, setting in marks.items():
        shown = [f"{metric} {sweep.loc[setting, metric]:.1f}" for metric in ("mIoU", "precision", "recall")]
        parts.append(f"{rule} {sweep.index.name} {setting:g}: {', '.join(shown)}")
    return "; ".join(parts) + "."


def of_parts(parts: pd.Series) -> str:
    """How much of the objects' telling parts and of the rest is found; parts: a row of `Study.sweep`."""
    head, body = parts["discriminative part"], parts["body"]
    more = "more of the telling part than of the rest" if head > body else "no more of the telling part"
    return (
        f"Found are {head:.0f} % of the discriminative parts' pixels and {body:.0f} % of the bodies': {more} "
        f"({head - body:+.0f} points)."
    )
