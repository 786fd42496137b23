"""Files that appear whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def save_atomically(write: Callable[[Path], Any], path: Path) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers never see half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
