"""From photos with image labels to masks: the command `wsss`, also `python -m wsss_lib`.

Heavy imports wait until they are needed, so that help and mistyped options are answered at once.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from wsss_lib.runtime.errors import is_sentence

HANDED_OVER = {"reproduce": "wsss_lib.report.reproduce", "exhibits": "wsss_lib.report.exhibits"}
"""Commands that read their own options."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line.

    Returns:
        0; 1 where something failed or has to be mended; 2 for wrong arguments; 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv else ""
    try:
        if command in HANDED_OVER:
            return import_module(HANDED_OVER[command]).main(argv[1:])
        options = vars(_parser().parse_args(argv))
        return options.pop("run")(**options)
    except KeyboardInterrupt:
        print(f"\nwsss {command}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if not is_sentence(error):  # a defect, whose traceback is wanted
            raise
        print(f"wsss {command}: {error}", file=sys.stderr)
        return 1


def _check(root: Path, labels: str | None, preset: str) -> int:
    from wsss_lib.report.preflight import lines, preflight

    table = preflight(root, labels, preset=preset)
    print("\n".join(lines(table)))
    return int((table["severity"] == "error").any())


def _masks(photos: Path, labels: Path, out: Path, preset: str | None, drawn: Path | None, seed: int) -> int:
    from wsss_lib.report.own_photos import deliver

    deliver(photos, labels, out, preset=preset, drawn=drawn, seed=seed)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("wsss", description=__doc__.partition(":")[0] + ".")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = commands.add_parser("check", help="say what a data set holds and what would fail later on")
    check.add_argument("root", type=Path, metavar="ROOT", help="folder in VOC layout")
    check.add_argument("--labels", help="masks, xml, none, a .csv or a .npz (default: what the folder has)")
    check.add_argument("--preset", default="quick", help="a preset's name or .yaml file (default: quick)")
    check.set_defaults(run=_check)

    masks = commands.add_parser("masks", help="make masks from photos and a table of their image labels")
    masks.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of photos")
    masks.add_argument("labels", type=Path, metavar="LABELS", help="CSV: column id, one of 0 and 1 a class")
    masks.add_argument("out", type=Path, metavar="OUT", help="folder to write into")
    masks.add_argument("--preset", help="a preset's name or .yaml file (default: by photos and machine)")
    masks.add_argument("--drawn", type=Path, metavar="FOLDER", help="masks you drew, to set thresholds by")
    masks.add_argument("--seed", type=int, default=0, help="default: 0")
    masks.set_defaults(run=_masks)

    commands.add_parser("reproduce", help="run the notebooks; tables and figures of the papers")
    commands.add_parser("exhibits", help="show which table and figure each notebook reproduces")
    return parser


if __name__ == "__main__":
    sys.exit(main())
