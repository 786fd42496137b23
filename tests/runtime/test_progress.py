"""Progress: items pass through unchanged, and logs get plain lines."""

import sys
from types import SimpleNamespace

import pytest

from wsss_lib.runtime import progress
from wsss_lib.runtime.progress import report


@pytest.fixture
def clock(monkeypatch):
    """A clock that the items move."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


def test_a_log_gets_a_line_every_15_seconds_and_one_at_the_end(clock, monkeypatch, capsys):
    monkeypatch.setenv("WSSS_PROGRESS", "plain")

    def items():
        for i in range(7):
            clock.now += 10
            yield i

    assert list(report(items(), "maps", unit="photo", total=10, initial=3)) == list(range(7))
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"maps: {done}/10 photos, {seconds} s" for done, seconds in ((5, 20), (7, 40), (9, 60), (10, 70))
    ]
    assert captured.err == ""


def test_quick_work_says_only_that_it_is_done(clock, capsys):
    assert list(report(range(3), "masks", unit="photo", total=3)) == [0, 1, 2]
    assert capsys.readouterr().out == "masks: 3/3 photos, 0 s\n"


def test_nothing_to_do_says_nothing(capsys):
    assert list(report([], "masks", unit="photo", total=3, initial=3)) == []
    assert capsys.readouterr().out == ""


def test_a_notebook_or_terminal_gets_a_bar_unless_plain_is_asked_for(monkeypatch, capsys):
    bars = []
    monkeypatch.setattr(progress, "tqdm", lambda items, **settings: bars.append(settings) or items)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.delenv("WSSS_PROGRESS", raising=False)
    assert list(report(range(3), "maps", unit="photo", total=5, initial=2)) == [0, 1, 2]
    assert bars == [{"desc": "maps", "unit": "photo", "total": 5, "initial": 2}]
    monkeypatch.setenv("WSSS_PROGRESS", "plain")
    assert list(report(range(3), "maps", unit="photo", total=3)) == [0, 1, 2]
    assert len(bars) == 1


def test_errors_of_the_work_pass_through():
    def failing():
        yield 1
        raise ValueError("photo 2")

    with pytest.raises(ValueError, match="photo 2"):
        list(report(failing(), "maps", unit="photo", total=2))


def test_a_notebook_is_watched_unless_reproduce_runs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    monkeypatch.delenv("WSSS_PROGRESS", raising=False)
    assert not progress.watched()
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert progress.watched()
    monkeypatch.setenv("WSSS_PROGRESS", "plain")
    assert not progress.watched()
