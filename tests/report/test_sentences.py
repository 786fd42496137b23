"""Sentences say what their tables hold, no more."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from wsss_lib.report import sentences
from wsss_lib.report.trust import trust_of_counts


def comparison(*rows) -> pd.DataFrame:
    columns = ["system", "against", "rule", "difference", "95% low", "95% high", "verdict"]
    about = {"dataset": "scenes", "split": "train", "photos": 400, "seeds": 3}
    return pd.DataFrame(rows, columns=columns).assign(**about)


def test_differences_are_sorted_by_their_verdict_without_the_oracle():
    table = comparison(
        ("walk", "CAM", "fixed", 2.004, 0.9, 3.1, "improves"),
        ("walk", "CAM", "oracle", 9.0, 8.0, 10.0, "improves"),
        ("label", "walk", "none", -0.06, -0.5, 0.4, "no difference shown"),
        ("label", "CAM", "fixed", 1.5, 0.2, 2.9, "improves"),
    )
    assert sentences.of_differences(table).split("\n") == [
        "On train of scenes (400 photos, 3 seeds), difference of mIoU in points [95% over photos]:",
        "- improves: walk over CAM +2.00 [0.90, 3.10]; label over CAM +1.50 [0.20, 2.90].",
        "- no difference shown: label over walk -0.06 [-0.50, 0.40].",
    ]


def test_differences_may_be_named_by_columns_and_each_split_stands_alone():
    table = comparison(("a", "b", "fixed", 1.0, 0.0, 2.0, "one seed, not a verdict")).assign(seeds=1)
    table = pd.concat([table.assign(setting=0.5), table.assign(split="val", setting=1.0)])
    table["parameter"] = "alpha"
    assert sentences.of_differences(table, ["parameter", "setting"]).split("\n") == [
        "On train of scenes (400 photos, 1 seed), difference of mIoU in points [95% over photos]:",
        "- one seed, not a verdict: alpha, 0.5 +1.00 [0.00, 2.00].",
        "On val of scenes (400 photos, 1 seed), difference of mIoU in points [95% over photos]:",
        "- one seed, not a verdict: alpha, 1 +1.00 [0.00, 2.00].",
    ]
    assert sentences.of_differences(table[:0]) == ""


def test_about_holds_what_stands_beside_every_number():
    study = SimpleNamespace(dataset="scenes", preset="quick", seeds=(0, 1))
    assert sentences.about(study, K=10) == "scenes, preset quick, seeds (0, 1), K = 10"


@pytest.mark.parametrize(
    ("names", "text"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_lists_end_in_and(names, text):
    assert sentences.listed(names) == text


def test_extremes_and_signs_leave_out_what_is_absent():
    values = pd.Series({"cat": 40.0, "dog": np.nan, "cow": -2.0, "ox": 0.0})
    assert sentences.of_extremes(values, "IoU") == "IoU: highest cat 40.0, lowest cow -2.0, mean 12.7 of 3."
    assert sentences.of_signs(values, "Gain") == "Gain: 1 of 3 higher; most cat +40.0, least cow -2.0."
    assert sentences.of_extremes(values[1:2], "IoU") == "IoU: no values."
    assert sentences.of_signs(values[1:2], "Gain") == "Gain: no values."
    pairs = values.rename({"cat": ("size", 1)})
    assert sentences.of_extremes(pairs, "IoU").startswith("IoU: highest size, 1 40.0")


def test_a_papers_gain_is_said_to_be_its_own():
    index = pd.MultiIndex.from_tuples([("train", "CAM"), ("train", "Mixup")])
    table = pd.DataFrame(
        {"reported (voc2012)": [48.0, 50.1], "reproduced (scenes)": [40.0, 39.5], "seeds (scenes)": [1, 1]},
        index,
    )
    said = sentences.of_gains_beside(table, ("train", "CAM"), ("train", "Mixup"))
    assert said == (
        "train, Mixup less train, CAM: the paper has +2.1 points (voc2012) and this run -0.5 points (scenes)."
    )
    table.iloc[0, 0] = np.nan
    said = sentences.of_gains_beside(table, ("train", "CAM"), ("train", "Mixup"))
    assert "the paper has no such pair (voc2012)" in said


def test_others_gains_are_their_own_and_are_named_with_their_addresses():
    table = pd.DataFrame(
        {
            "reported (voc2012)": [48.0, 50.1], "others: mva (voc2012)": [45.0, 46.5],
            "others: half (voc2012)": [45.0, np.nan], "reproduced (scenes)": [40.0, 39.5],
            "note": ["a", "b"],
        },
        ["CAM", "Mixup"],
    )  # fmt: skip
    assert sentences.of_gains_beside(table, "CAM", "Mixup") == (
        "Mixup less CAM: the paper has +2.1 points (voc2012), mva has +1.5 points (voc2012) and this run "
        "-0.5 points (scenes)."
    )
    others = pd.DataFrame(
        [
            ("mva", "https://a", "one seed"),
            ("mva", "https://a", "one seed; one round"),
            ("b", "https://b", "c"),
        ],
        columns=["by", "source", "note"],
    )
    assert sentences.of_others(others).split("\n") == [
        "What others got:",
        "- mva, https://a: one seed; one round.",
        "- b, https://b: c.",
    ]
    assert sentences.of_others(others[:0]) == "Nobody else's numbers are known here."


def test_changes_have_signs_and_leave_out_what_is_absent():
    changes = pd.Series({"mIoU": 2.14, ("recall", 1): -1.0, "precision": np.nan})
    assert sentences.of_changes(changes, "A less B") == "A less B: mIoU +2.1, recall, 1 -1.0."
    assert sentences.of_changes(changes[2:], "A less B") == "A less B: no values."


def test_trainings_say_how_much_their_last_epoch_changed():
    histories = {
        "CAM": pd.DataFrame({"loss": [4.0, 2.0, 1.5]}),
        "net": pd.DataFrame({"loss": [1.0, 1.1]}),
        "short": pd.DataFrame({"loss": [1.0]}),
    }
    assert sentences.of_trainings(histories) == (
        "Loss of the last epoch against the one before: CAM -25 %, net +10 %, short had one epoch."
    )


def test_orders_are_compared():
    means = pd.DataFrame({"maps": [38.0, 40.0, 39.0], "net": [41.0, 43.0, 42.0]}, index=["CAM", "SC", "Mix"])
    said = sentences.of_orders(means, "maps", "net", seeds=1).split("\n")
    assert said[0] == "By maps: SC 40.0 > Mix 39.0 > CAM 38.0."
    assert said[-1] == "Of 3 methods, the two orders are the same (one seed, not a verdict)."
    means.loc["Mix", "net"] = 44.0
    assert "the first by maps is SC, by net Mix (means of 2 seeds" in sentences.of_orders(
        means, "maps", "net", 2
    )
    means["net"] = [42.0, 43.0, 41.0]
    assert "SC is first by both, the others change places" in sentences.of_orders(means, "maps", "net", 2)
    assert sentences.of_orders(means[:1], "maps", "net", 1).endswith("One method has no order.")
    assert sentences.of_orders(means, "maps", "maps", 1) == said[0]


def test_mistakes_name_only_the_intervals_that_exclude_0():
    columns = ["masks of", "method", "kind", "difference", "95% low", "95% high"]
    rows = [
        ("CAM", "Mix", "noise", 2.0, 0.5, 3.5), ("CAM", "Mix", "parts", 1.0, -1.0, 3.0),
        ("label", "Mix", "border", -1.0, -1.5, -0.5),
    ]  # fmt: skip
    said = sentences.of_mistakes(pd.DataFrame(rows, columns=columns))
    assert (
        "noise +2.00 [0.50, 3.50] in the CAM of Mix; border -1.00 [-1.50, -0.50] in the label of Mix" in said
    )
    assert "parts" not in said
    assert "every interval over photos includes 0" in sentences.of_mistakes(
        pd.DataFrame(rows[1:2], columns=columns)
    )


def test_trust_names_the_class_that_is_most_taught_as_background():
    counts = np.array([[80, 10, 0, 10], [20, 70, 0, 10], [60, 0, 30, 10]])
    said = sentences.of_trust(trust_of_counts(counts, ("background", "cat", "cow")))
    assert said == (
        "Trusted as foreground: 91 % right; as background: 50 % right. Of all foreground 10 % are undecided "
        "and 40 % taught as background; most of cow, 60 %."
    )


def test_settings_and_parts_are_those_of_the_sweep():
    sweep = pd.DataFrame(
        {"mIoU": [10.0, 12.0], "precision": [20.0, 18.0], "recall": [30.0, 25.0]},
        index=pd.Index([0.1, 0.38], name="threshold"),
    )
    assert sentences.of_settings(sweep, {"fixed": 0.38, "oracle": 0.1}) == (
        "fixed threshold 0.38: mIoU 12.0, precision 18.0, recall 25.0; "
        "oracle threshold 0.1: mIoU 10.0, precision 20.0, recall 30.0."
    )
    more = sentences.of_parts(pd.Series({"discriminative part": 94.2, "body": 60.4}))
    assert (
        "94 % of the discriminative parts' pixels and 60 % of the bodies': more of the telling part" in more
    )
    assert "(+34 points)" in more
    less = sentences.of_parts(pd.Series({"discriminative part": 20.0, "body": 23.0}))
    assert "no more of the telling part (-3 points)" in less
