"""Tables and figures on disk, each with where it comes from."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from wsss_lib.runtime.cache import environment
from wsss_lib.runtime.files import save_atomically, unwritable


class Results:
    """The folder results/<dataset>/<preset>.

    origin: what every number depends on (preset, dataset, seeds, configuration), stored beside the tables.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any]):
        self.folder, self.origin = folder, origin

    def table(self, table: pd.DataFrame, name: str) -> Path:
        """Write tables/<name>.csv and provenance/<name>.json."""
        return self._save(
            "tables", f"{name}.csv", lambda p: table.to_csv(p, index=False, float_format="%.6g")
        )

    def figure(self, figure: Figure, name: str) -> Path:
        """Write figures/<name>.png and provenance/<name>.json."""
        return self._save("figures", f"{name}.png", figure.savefig)

    def _save(self, kind: str, name: str, write: Callable[[Path], Any]) -> Path:
        path = self.folder / kind / name
        provenance = self.folder / "provenance" / f"{path.stem}.json"
        origin = json.dumps({**self.origin, **environment()}, indent=1)
        for file, content in ((path, write), (provenance, lambda p: p.write_text(origin))):
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(file.parent, error) from error
            save_atomically(content, file)
        return path
