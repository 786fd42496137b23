"""Errors of this library are one sentence, and a notebook shows them as that, without the way to them."""

import dis
import re
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

AGAIN = "delete its folder, and the next run computes it again."
"""The remedy for a damaged file of the cache."""
LIBRARY = str(Path(__file__).parents[1])


def show_sentences() -> None:
    """In IPython, show errors that this library raised on purpose as their sentence; `%tb` shows the rest.

    Errors from elsewhere, and outside IPython all of them, keep their traceback.
    """
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
        shell.set_custom_exc((ValueError, OSError, RuntimeError), _show)


def brief(error: BaseException) -> str:
    """The first line of an error of somebody else, for the brackets of a sentence."""
    return str(error).strip().partition("\n")[0]


def is_sentence(error: BaseException) -> bool:
    """Whether a `raise` of this library made the error, here or in a process of a pool: it is then a sentence
    for the user. An error that something else raised, called by the library, is none.
    """
    frames = error.__traceback__
    while frames.tb_next:
        frames = frames.tb_next
    code = frames.tb_frame.f_code
    if code.co_filename.startswith(LIBRARY):
        return code.co_code[frames.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    elsewhere = re.findall(
        r'File "(.*)", line \d+, in .*\n +(.*)', str(error.__cause__)
    )  # as a pool tells it
    return bool(elsewhere) and elsewhere[-1][0].startswith(LIBRARY) and elsewhere[-1][1].startswith("raise")


def _show(
    shell: Any, kind: type, error: BaseException, traceback: TracebackType, tb_offset: int | None = None
) -> None:
    if is_sentence(error):
        lines = [f"{kind.__name__}: {error}", "(%tb shows where it was raised)"]
        error._render_traceback_ = lambda: lines  # what IPython asks an error for
    shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)
    vars(error).pop("_render_traceback_", None)
