"""wsss_lib.study.results."""

import json

import pandas as pd
from matplotlib.figure import Figure

from wsss_lib.study.results import Results


def test_tables_and_figures_say_where_they_come_from(tmp_path):
    results = Results(tmp_path / "scenes" / "quick", {"preset": "quick", "seeds": [3]})
    table = pd.DataFrame({"class": ["cat"], "value": [1 / 3]})
    assert pd.read_csv(results.table(table, "02_rounds"))["value"].tolist() == [0.333333]
    assert results.figure(Figure(), "02_clusters").read_bytes().startswith(b"\x89PNG")
    for name in ("02_rounds", "02_clusters"):
        origin = json.loads((results.folder / "provenance" / f"{name}.json").read_text())
        assert (origin["preset"], origin["seeds"]) == ("quick", [3])
        assert {"commit", "libraries", "device", "finished"} <= origin.keys()
