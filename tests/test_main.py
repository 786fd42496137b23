"""The command `wsss`, also `python -m wsss_lib`."""

import subprocess
import sys
import tomllib
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType

import pytest

from wsss_lib import __main__ as command
from wsss_lib.report import exhibits, reproduce


@pytest.fixture
def deliver(monkeypatch):
    """Calls of `wsss_lib.report.own_photos.deliver`, which does what the first of `does` does."""
    calls = []
    module = ModuleType("own_photos")

    def deliver(photos, labels, out, preset=None, drawn=None, seed=0):
        calls.append((photos, labels, out, preset, drawn, seed))
        if error := {"interrupted": KeyboardInterrupt(), "defect": TypeError("none")}.get(str(out)):
            raise error
        Path(photos).rmdir() if str(out) == "elsewhere" else None

    module.deliver = deliver
    monkeypatch.setitem(sys.modules, "wsss_lib.report.own_photos", module)
    return calls


def test_the_console_command_is_this_one():
    scripts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    assert resolve_name(scripts["wsss"]) is command.main


def test_help_is_quick_and_names_every_command():
    code = "import sys; from wsss_lib.__main__ import main; main(['--help'])"
    script = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    assert all(f"\n    {name}" in shown for name in ("check", "masks", "reproduce", "exhibits"))
    assert shown.endswith("False\n")


@pytest.mark.parametrize(("name", "module"), [("reproduce", reproduce), ("exhibits", exhibits)])
def test_two_commands_read_their_own_options(monkeypatch, name, module):
    given = []
    monkeypatch.setattr(module, "main", lambda argv: given.append(argv) or 7)
    assert command.main([name, "--results", "elsewhere", "-h"]) == 7
    assert given == [["--results", "elsewhere", "-h"]]


def test_masks_hands_on_what_was_said(deliver):
    assert command.main(["masks", "photos", "labels.csv", "out"]) == 0
    options = ["--preset", "quick", "--drawn", "mine", "--seed", "3"]
    assert command.main(["masks", "photos", "labels.csv", "out", *options]) == 0
    folder, table, out = Path("photos"), Path("labels.csv"), Path("out")
    assert deliver == [(folder, table, out, None, None, 0), (folder, table, out, "quick", Path("mine"), 3)]


def test_ctrl_c_ends_cleanly_and_a_defect_keeps_its_traceback(deliver, capsys):
    assert command.main(["masks", "photos", "labels.csv", "interrupted"]) == 130
    assert capsys.readouterr().err.strip() == ("wsss masks: interrupted; run the same command again to go on")
    with pytest.raises(TypeError):
        command.main(["masks", "photos", "labels.csv", "defect"])
    with pytest.raises(FileNotFoundError):  # of the system, not a sentence of the library
        command.main(["masks", "nowhere", "labels.csv", "elsewhere"])


@pytest.mark.parametrize("argv", [[], ["chekc", "x"], ["check"], ["masks", "photos"], ["check", "x", "--no"]])
def test_wrong_arguments_end_with_2(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(argv)
    assert "wsss" in capsys.readouterr().err


def test_check_tells_what_must_be_mended(tmp_path, capsys):
    assert command.main(["check", str(tmp_path)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"error folder {tmp_path} holds no JPEGImages" in said
