"""Run the notebooks with papermill: `python -m wsss_lib.report.reproduce`, which `make reproduce` calls.

Each notebook of notebooks/ leaves `<name>.ipynb` and `<name>.html`, executed, in
`<results>/<dataset>/<preset>/notebooks/`, with a stamp of all it was made from; one whose stamp still holds
is not run again. Heavy imports wait until a notebook runs, so a run with all up to date is over at once.
"""

import argparse
import ast
import difflib
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from joblib import delayed

from wsss_lib.config import load_config, read_preset
from wsss_lib.runtime.digest import content_fingerprint
from wsss_lib.runtime.errors import brief
from wsss_lib.runtime.files import locked, remove_leftovers, save_atomically, shipped, unwritable
from wsss_lib.runtime.workers import pool

ROOT = shipped()
Parameters = dict[str, Any]
WRITTEN = {"cache", "results", "root", "out"}
"""Parameters that name no file to be read; of the data set at `root` only what a study reads counts."""
SOURCES = ("wsss_lib/**/*.py", "wsss_lib/presets/*.yaml", "papers/**/*.csv")

LONG = ("04_pss", "06_acr")
"""Notebooks that take longest and share next to no stage with the first one."""


class NotebookError(RuntimeError):
    """A cell of a notebook raised, or its kernel died; the message says where and names what is left."""


def select(names: Iterable[str]) -> list[Path]:
    """Notebooks of notebooks/ in name order, those starting with one of `names`; all where `names` is empty.

    Raises:
        ValueError: a name fits no notebook, or there are none.
    """
    available = sorted((ROOT / "notebooks").glob("*.ipynb"))
    if not available:
        raise ValueError(f"{ROOT / 'notebooks'} holds no notebooks; run from a checkout of the repository")
    prefixes = [Path(name).name.removesuffix(".ipynb") for name in names]
    for prefix in prefixes:
        if not any(notebook.stem.startswith(prefix) for notebook in available):
            stems = ", ".join(notebook.stem for notebook in available)
            raise ValueError(f"no notebook starts with {prefix!r}; notebooks/ has: {stems}")
    return [notebook for notebook in available if not prefixes or notebook.stem.startswith(tuple(prefixes))]


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    """Cells of a notebook as nbformat 4 dictionaries, each `source` one string."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def declared_parameters(notebook: Path) -> set[str]:
    """Names assigned in the notebook's cell tagged `parameters`.

    Raises:
        ValueError: there is not exactly one such cell.
    """
    tagged = [cell for cell in cells_of(notebook) if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook.name} has {len(tagged)} cells tagged 'parameters'; tag exactly one cell")
    nodes = ast.walk(ast.parse(tagged[0]["source"], filename=notebook.name))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def parse_assignment(text: str) -> tuple[str, Any]:
    """`key=value` -> key and the YAML value (`lr=1e-3`, `classes=[cat, cow]`, `root=null`)."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"--parameters wants key=value, but got {text!r}")
    try:
        return key, json.loads(value)  # YAML 1.1 would read 1e-3 as text
    except json.JSONDecodeError:
        pass
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"the value of {text!r} is not YAML; quote it, for example {key}='[1, 2]'") from None


def assign(notebooks: list[Path], always: Parameters, asked: Parameters) -> dict[Path, Parameters]:
    """Parameters each notebook is run with: of `always` and `asked`, those it declares.

    Raises:
        ValueError: something in `asked` is declared by no notebook (papermill would only warn).
    """
    declared = {notebook: declared_parameters(notebook) for notebook in notebooks}
    known = set().union(*declared.values())
    for name in sorted(asked.keys() - known):
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"they declare: {', '.join(sorted(known))}"
        raise ValueError(f"no selected notebook declares the parameter {name!r}; {advice}")
    given = always | asked
    return {notebook: {k: v for k, v in given.items() if k in names} for notebook, names in declared.items()}


def side_by_side(notebooks: Iterable[Path]) -> list[Path]:
    """The order for several notebooks at once: the first one, those of `LONG`, then the others.

    In name order the second notebook would await each stage that the first one computes, and the last one
    would run alone.
    """
    first, *others = notebooks
    return [first, *sorted(others, key=lambda notebook: notebook.stem not in LONG)]


def fingerprint(notebook: Path, parameters: Parameters) -> str:
    """SHA-256 of all an executed notebook depends on, by content: its cells, parameters, the files of
    `SOURCES`, the data set, and every file that the parameters or the preset name.
    """
    cells = [[cell["cell_type"], cell["source"]] for cell in cells_of(notebook)]
    paths = sorted({path for pattern in SOURCES for path in ROOT.glob(pattern)})
    if root := parameters.get("root"):
        from wsss_lib.data.voc import content_paths  # pandas comes with it, which takes a while

        paths += content_paths(ROOT / root)
    preset = str(parameters.get("preset", "quick"))
    settings = [read_preset(ROOT / preset if preset.endswith(".yaml") else preset), parameters]
    read = {name: value for name, value in parameters.items() if name not in WRITTEN}
    paths += sorted({ROOT / text for text in _texts([settings[0], read]) if "/" in text or "." in text})
    content = [cells, settings, [_shown(path) for path in paths], content_fingerprint(paths)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _texts(tree: Any) -> Iterator[str]:
    """Every text in a tree of mappings and sequences."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        yield from _texts(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _texts(item)


def up_to_date(notebook: Path, stamp: str, folder: Path) -> bool:
    """Whether the notebook's outputs are in `folder` and were made under the fingerprint `stamp`."""
    outputs = [folder / (notebook.stem + end) for end in (".ipynb", ".html", ".stamp.json")]
    return all(path.is_file() for path in outputs) and f'"{stamp}"' in outputs[-1].read_text()


def execute(notebook: Path, parameters: Parameters, stamp: str, folder: Path) -> None:
    """Run one notebook from the repository root; its outputs appear in `folder` once it succeeded.

    Raises:
        NotebookError: it failed; `<name>.failed.ipynb` holds what was done, an earlier success is removed.
        OSError: `folder` cannot be written.
    """
    import nbconvert
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel

    running, failed, success, html, stamp_file = (
        folder / (notebook.stem + end)
        for end in (".running.ipynb", ".failed.ipynb", ".ipynb", ".html", ".stamp.json")
    )
    try:
        papermill.execute_notebook(
            notebook,
            running,
            parameters,
            kernel_name="python3",
            language="python",
            cwd=ROOT,
            progress_bar=False,
            start_timeout=600,  # seconds; on a machine under load a kernel takes more than papermill's 60
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
        page, _ = nbconvert.HTMLExporter().from_filename(str(running))
        stamp_file.unlink(missing_ok=True)  # first: killed from here on, the notebook counts as not run
        os.replace(running, success)
    except (papermill.PapermillExecutionError, RuntimeError, TimeoutError, NoSuchKernel) as error:
        for stale in (success, html, stamp_file):
            stale.unlink(missing_ok=True)
        os.replace(running, failed)
        if isinstance(error, papermill.PapermillExecutionError):
            what = error.evalue.strip().partition("\n")[0]
            reason = f" in cell [{error.exec_count}]: {error.ename}: {what}"
        else:
            reason = f": its kernel did not start, or died, as it does without memory ({brief(error)})"
        raise NotebookError(f"{notebook.stem} failed{reason} (see {_shown(failed)})") from error
    except OSError as error:
        raise unwritable(running, error) from error
    finally:
        running.unlink(missing_ok=True)
    save_atomically(lambda path: path.write_text(page, encoding="utf-8"), html)
    content = json.dumps({"sha256": stamp, "parameters": parameters}, indent=1)
    save_atomically(lambda path: path.write_text(content), stamp_file)
    failed.unlink(missing_ok=True)


def run(notebook: Path, parameters: Parameters, folder: Path, number: str, force: bool) -> Exception | None:
    """Execute a notebook unless it is up to date, and say so; returns the error of one that failed."""
    label, started = f"{number} {notebook.stem}", time.monotonic()
    stamp = fingerprint(notebook, parameters)  # taken before the run: an edit during it is a change
    try:
        with locked(folder / f".{notebook.stem}.lock", label):
            if not force and up_to_date(notebook, stamp, folder):
                print(f"{label}: up to date", flush=True)
                return None
            print(f"{label}: running", flush=True)
            execute(notebook, parameters, stamp, folder)
        print(f"{label}: done in {time.monotonic() - started:.0f} s", flush=True)
    except (NotebookError, OSError) as error:
        print(f"{label}: failed after {time.monotonic() - started:.0f} s", flush=True)
        return error
    return None


def _unfit(preset: str, parameters: Parameters) -> int:
    """Say what the data set of `root` holds; 1 if something in it would fail or mislead later on, else 0."""
    from wsss_lib.report.preflight import lines, preflight

    labels = parameters.get("labels", "masks")
    try:
        found = preflight(
            ROOT / parameters["root"],
            labels if labels in ("masks", "xml", "none") else ROOT / labels,
            parameters.get("classes"),
            preset,
            parameters.get("overrides"),
            ROOT / parameters.get("cache", "cache"),
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines(found)), flush=True)
    if errors := (found["severity"] == "error").sum():
        print(f"reproduce: nothing was run; mend the {errors} errors above first", file=sys.stderr)
    return int(errors > 0)


def kernel_environment(settings: Path, jobs: int) -> dict[str, str]:
    """What a notebook's kernel sees of the environment it is started in: its own settings, not the user's.

    Figures, numbers and texts are then the same whatever backend, resolution, locale or start-up script
    somebody likes. Threads are as many as OMP_NUM_THREADS says, by which clusters bound them, else a
    notebook's share of the cores.

    settings: an empty folder; jobs: notebooks side by side.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if not threads.isdecimal() or int(threads) == 0:
        threads = str(max(1, os.cpu_count() // jobs))
    matplotlib = Path(find_spec("matplotlib").origin).parent
    return {
        "WSSS_PROGRESS": "plain",
        "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")),  # so that python3 means this one
        "IPYTHONDIR": str(settings),
        "PYTHONSTARTUP": "",
        "PYTHONWARNINGS": "",
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "LC_ALL": "C.UTF-8",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # another one would show no figure
        "MATPLOTLIBRC": str(matplotlib / "mpl-data" / "matplotlibrc"),
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
    }


def main(argv: list[str] | None = None) -> int:
    """Command line.

    Returns:
        0; 1 where a notebook failed, or would fail on this data set; 2 for wrong arguments; 130 after Ctrl-C.
    """
    try:
        return _reproduce(_parser().parse_args(argv))
    except KeyboardInterrupt:
        print("\nreproduce: interrupted; run the same command again to go on", flush=True)
        return 130


def _reproduce(options: argparse.Namespace) -> int:
    preset = _shown(_path(options.preset)) if options.preset.endswith(".yaml") else options.preset
    always = {"preset": preset, "dataset": options.dataset, "results": _shown(options.results)}
    asked = {
        "root": options.root and _shown(options.root),
        "classes": options.classes,
        "seeds": options.seeds,
        "cache": options.cache and _shown(options.cache),
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    try:
        load_config(options.preset)  # a wrong preset stops here, not in every notebook
        # make passes all of PARAMETERS as one argument
        pairs = [pair for text in options.parameters for pair in re.split(r"\s+(?=\w+=)", text.strip())]
        further = dict(map(parse_assignment, pairs))
        for name in further.keys() & {*always, "root", "classes", "seeds", "cache"}:
            raise ValueError(f"give the parameter {name!r} as the option --{name}, not in --parameters")
        plan = assign(select(options.notebooks), always, asked | further)
        if options.root:
            from wsss_lib.data.voc import find_root

            find_root(options.root)
    except (ValueError, FileNotFoundError, SyntaxError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2

    study = options.results / options.dataset / Path(options.preset).stem
    folder, force = study / "notebooks", options.force
    remove_leftovers(study, untouched=60)
    stale = (force or not up_to_date(n, fingerprint(n, given), folder) for n, given in plan.items())
    if options.root and any(stale) and (status := _unfit(options.preset, asked | further)):
        return status
    jobs = max(1, min(options.jobs or os.cpu_count(), len(plan)))
    order = side_by_side(plan) if jobs > 1 else plan
    calls = (
        delayed(run)(notebook, plan[notebook], folder, f"[{number}/{len(plan)}]", force)
        for number, notebook in enumerate(order, start=1)
    )
    with TemporaryDirectory() as settings:
        os.environ |= kernel_environment(Path(settings), jobs)
        # a process each; what two of them need, one computes and the other awaits
        failures = [error for error in pool(jobs, return_as="generator")(calls) if error]
    for name, pattern in (("notebooks", "*.html"), ("tables", "*.csv"), ("figures", "*.png")):
        files = list((study / name).glob(f"[!.]{pattern}"))
        print(f"{name + ':':<10} {_shown(study / name)} ({len(files)} {pattern})")
    for error in failures:
        print(f"reproduce: {error}", file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("wsss reproduce", description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="quick", help="a preset's name or .yaml file (default: quick)")
    parser.add_argument("--dataset", default="scenes", help="scenes, voc2012, ... (default: scenes)")
    parser.add_argument("--root", type=_path, help="folder of the data set on disk")
    parser.add_argument("--classes", nargs="+", help="only these classes")
    parser.add_argument("--seeds", nargs="+", type=int, help="seeds instead of the preset's")
    parser.add_argument("--notebooks", nargs="+", default=[], help="names, or how they start (default: all)")
    parser.add_argument("--cache", type=_path, help="where finished stages are kept")
    parser.add_argument("--results", type=_path, default=ROOT / "results", help="default: results")
    parser.add_argument("--parameters", nargs="+", default=[], metavar="KEY=VALUE", help="values in YAML")
    parser.add_argument("--jobs", type=int, help="notebooks side by side (default: one a core)")
    parser.add_argument("--force", action="store_true", help="run also what is up to date")
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser().resolve()


def _shown(path: Path) -> str:
    """Path as told to reader and notebook: relative to the repository root, where they run, if inside it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
