"""The interactive page and the site of results in a real browser: headless Chromium, with its mouse."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import papermill
import pytest
import websocket  # of websocket-client, which Jupyter's server comes with
from test_explore import LIVELY
from test_site import tiny_results
from tiny_study import OVERRIDES, tiny_study

from wsss_lib.report import explore
from wsss_lib.report.site import build

REPOSITORY = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SECONDS = 60
pytestmark = pytest.mark.skipif(
    "WSSS_BROWSER" not in os.environ or CHROMIUM is None,
    reason="wants WSSS_BROWSER=1 (seven minutes) and chromium on the PATH (Debian's package chromium)",
)

LAB = {  # nothing is fetched from elsewhere
    "LabApp": {
        "expose_app_in_browser": True,
        "news_url": None,
        "check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
    },
    "IdentityProvider": {"token": ""},
}


class Browser:
    """One page of Chromium, driven through its debugging protocol."""

    def __init__(self, port: int):
        (page,) = (t for t in json.load(urlopen(f"http://127.0.0.1:{port}/json")) if t["type"] == "page")
        self._socket = websocket.create_connection(
            page["webSocketDebuggerUrl"], timeout=SECONDS, suppress_origin=True
        )
        self._calls = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._calls:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, script: str) -> Any:
        """Of a JavaScript expression; promises are awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = SECONDS) -> Any:
        """The value of an expression as soon as it is true."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := self.value(script):
                return found
            time.sleep(0.1)
        raise AssertionError(f"{script} stayed false; the page says {self.value('document.body.innerText')}")

    def click(self, element: str, across: float = 0.5) -> None:
        """An element (a JavaScript expression), at a share of its width."""
        box = self.value(f"{element}.scrollIntoView(), {element}.getBoundingClientRect().toJSON()")
        place = {"x": box["x"] + box["width"] * across, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def choose(self, select: str, index: int) -> None:
        """An option of a list; the list itself is drawn by the system, where no event of a page can click."""
        changed = "new Event('change', {bubbles: true})"
        self.value(f"{select}.selectedIndex = {index}, {select}.dispatchEvent({changed})")


@contextmanager
def running(command: list[str], **settings: Any) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **settings)
    try:
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)


def patiently(get: Any) -> Any:
    """What `get` returns once it raises no OSError: a program has started."""
    until = time.monotonic() + SECONDS
    while True:
        try:
            return get()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


@contextmanager
def chromium(profile: Path, *further: str) -> Iterator[Browser]:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "--window-size=1300,1400"]
    with running([CHROMIUM, *flags, *further, "about:blank"]):
        port = patiently((profile / "DevToolsActivePort").read_text).split()[0]
        yield Browser(int(port))


@pytest.fixture
def browser(tmp_path) -> Iterator[Browser]:
    with chromium(tmp_path / "chromium") as page:
        yield page


@pytest.fixture
def lab(tmp_path) -> Iterator[str]:
    """Address of a JupyterLab that serves `tmp_path`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "config"
    config.mkdir()
    (config / "jupyter_lab_config.json").write_text(json.dumps(LAB))
    own = {f"JUPYTER_{kind}_DIR": str(config) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")), "PYTHONPATH": str(REPOSITORY)}
    environment = {k: v for k, v in os.environ.items() if k != "WSSS_PROGRESS"} | own
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    with running([*command, f"--notebook-dir={tmp_path}"], env=environment):
        patiently(lambda: urlopen(f"http://127.0.0.1:{port}/api"))
        yield f"http://127.0.0.1:{port}/lab/tree"


IDLE = "fetch('/api/sessions').then(r => r.json()).then(s => s[0]?.kernel.execution_state == 'idle')"
IMAGE = "document.querySelector('img.widget-image')"
BYTES = f"fetch({IMAGE}.src).then(file => file.arrayBuffer()).then(b => [...new Uint8Array(b)].join())"
CHANGED = f"{BYTES}.then(bytes => bytes != window.before && (window.before = bytes))"
SCORE = "parseFloat(document.querySelector('.widget-html-content b').innerText)"


def control(label: str, inner: str) -> str:
    """JavaScript of the part `inner` of the control with this label."""
    labels = "[...document.querySelectorAll('label.widget-label')]"
    return f"{labels}.find(one => one.innerText == '{label}').parentElement.querySelector('{inner}')"


def test_each_control_changes_the_picture_in_a_browser(browser, lab, tmp_path):
    overrides = OVERRIDES | LIVELY
    study = tiny_study(tmp_path, **overrides)
    parameters = {"preset": "smoke", "overrides": overrides, "methods": ["cam", "mixup_cam"]}
    parameters |= {folder: str(tmp_path / folder) for folder in ("cache", "results")}
    papermill.execute_notebook(
        REPOSITORY / "notebooks" / "10_explore.ipynb", tmp_path / "page.ipynb", parameters,
        prepare_only=True, kernel_name="python3", language="python", progress_bar=False,
    )  # fmt: skip
    chosen = {"method": "cam", "id": study.data.train.ids[0]} | asdict(
        explore.Controls.of_preset(study.config)
    )

    def expect(**changes: Any) -> None:
        """Waits for another picture, and the score at the changed settings; keeps a screenshot."""
        chosen.update(changes)
        settings = {name: value for name, value in chosen.items() if name not in ("method", "id")}
        photo = explore.subject(study, chosen["method"], chosen["id"])
        view = explore.look(photo, explore.Controls(**settings), study.config, len(study.data.classes))
        browser.wait(CHANGED)
        browser.wait(f"Math.abs({SCORE} - {view.mean_iou}) < 0.2")
        shot = base64.b64decode(browser.call("Page.captureScreenshot")["data"])
        name = ", ".join(f"{key} {value}" for key, value in chosen.items())
        (tmp_path / f"{name}.png").write_bytes(shot)

    browser.call("Page.navigate", url=f"{lab}/page.ipynb")
    browser.wait(IDLE)
    browser.value("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    browser.wait(f"{IMAGE}?.naturalWidth > 0")
    expect()
    browser.choose(control("photo", "select"), 7)  # on which every control moves the mask
    expect(id=study.data.train.ids[7])
    browser.choose(control("method", "select"), 1)
    expect(method="mixup_cam")
    browser.click(control("walk steps", ".noUi-base"), 1 / len(explore.STEPS))
    expect(steps=1)
    browser.click("document.querySelector('.widget-checkbox input')")
    expect(crf=False)
    browser.click(control("alpha", ".noUi-base"), 0)
    expect(alpha=0.5)
    browser.click(control("walk steps", ".noUi-base"), 0)
    expect(steps=0)
    browser.click(control("threshold", ".noUi-base"), 0)
    expect(threshold=0)


def test_every_notebook_runs_in_jupyterlab(browser, lab, tmp_path):
    """Run All Cells in each of them, as a reader clicks it: every cell has run and none failed."""
    parameters = {"preset": "smoke"} | {name: str(tmp_path / name) for name in ("cache", "results")}
    for notebook in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        papermill.execute_notebook(
            notebook, tmp_path / notebook.name, parameters,
            prepare_only=True, kernel_name="python3", language="python", progress_bar=False,
        )  # fmt: skip
        browser.call("Page.navigate", url=f"{lab}/{notebook.name}?reset")
        page = f"[...jupyterapp.shell.widgets('main')].find(one => one.context?.path == '{notebook.name}')"
        browser.wait(f"window.jupyterapp && {page}?.content.model.cells.length > 0")
        browser.wait(IDLE)
        browser.value("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        code = f"{page}.content.model.toJSON().cells.filter(cell => cell.cell_type == 'code')"
        failed = f"{code}.some(cell => cell.outputs.some(out => out.output_type == 'error'))"
        browser.wait(f"{code}.at(-1).execution_count || {failed}", 10 * SECONDS)
        for cell in browser.value(code):
            assert cell["execution_count"], (notebook.name, cell["source"])
            assert not any(out["output_type"] == "error" for out in cell["outputs"]), (notebook.name, cell)
        shot = base64.b64decode(browser.call("Page.captureScreenshot")["data"])
        (tmp_path / f"{notebook.stem}.png").write_bytes(shot)
        browser.value("jupyterapp.serviceManager.sessions.shutdownAll()")


WATCH = """window.wrong = []
addEventListener('error', event => wrong.push(event.message ?? event.target.outerHTML), true)
for (const kind of ['error', 'warn']) console[kind] = (...said) => wrong.push(said.join(' '))"""
FETCHED = "[...document.querySelectorAll('[src], link[rel=stylesheet]')].map(one => one.src ?? one.href)"
MISSING = "[...document.images].filter(one => !one.naturalWidth).map(one => one.src)"
EQUATIONS = "[...document.querySelectorAll('math')].filter(one => !one.getBoundingClientRect().width).length"


def test_the_site_is_whole_without_a_network(tmp_path, monkeypatch):
    tiny_results(tmp_path, monkeypatch)
    site = tmp_path / "results" / "site"
    assert build(tmp_path / "results", site) == 0
    with chromium(tmp_path / "chromium", "--host-resolver-rules=MAP * ~NOTFOUND") as browser:
        browser.call("Page.enable")
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        for page in sorted(site.rglob("*.html")):
            browser.call("Page.navigate", url=page.as_uri())
            browser.wait(f"location.href == '{page.as_uri()}' && document.readyState == 'complete'")
            fetched = browser.value(FETCHED)
            assert fetched
            assert all(one.startswith("file:") for one in fetched)
            assert browser.value("wrong") == browser.value(MISSING) == []
            assert browser.value(EQUATIONS) == 0
        browser.call("Page.navigate", url=f"{site.as_uri()}/search.html?q=mixture")
        browser.wait("document.querySelectorAll('#search-results li a').length")
