"""A static site of all that results/ holds: `make report`.

This module writes Markdown: a page for each notebook of each run with its tables and figures, the run's
provenance, the executed notebooks, the papers with our numbers beside theirs, the matrix of coverage, and the
guides of docs/. Sphinx with MyST makes pages of it that need no network; equations become MathML.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import pandas as pd
import yaml
from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from jinja2 import DictLoader
from nbconvert import MarkdownExporter
from PIL import Image
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace
from sphinx.util.logging import getLogger

from wsss_lib.report import exhibits
from wsss_lib.report.reproduce import ROOT, cells_of
from wsss_lib.report.tables import PAPERS, readable
from wsss_lib.study.results import PROVENANCE, finished, provenance

KINDS = {"tables": "csv", "figures": "png"}
SETTINGS = {
    "project": "wsss_lib: results",
    "extensions": ["myst_parser", __name__],
    "myst_enable_extensions": ["dollarmath"],
    "myst_heading_anchors": 3,
    "myst_heading_slug_func": f"{__name__}.slug",
    "suppress_warnings": ["myst.header"],  # prose may skip a level of headings
    "html_math_renderer": "mathml",
    "html_theme": "furo",
    "html_title": "wsss_lib: results",
    "html_static_path": [str(Path(__file__).with_name("site.css"))],
    "html_css_files": ["site.css"],
    "html_copy_source": False,
    "html_show_copyright": False,
}
NOTEBOOK = """{% extends 'markdown/index.md.j2' %}
{% block data_png %}
![{{ cell.metadata.alt }}]({{ output.metadata.filenames['image/png'] | path2url }})
{% endblock %}"""
START = """# Results

What the runs of the notebooks left, each number with its data set, split, supervision, rule of its
threshold, weights and seeds, and with where it comes from. Numbers of different data sets must not be
compared; the order of methods and what one stage adds to another can be. Those of the preset `{smoke}` mean
nothing: it shows that everything runs.

{runs}

[Which table and figure of the papers has been reproduced](coverage.md): {coverage}.
"""


@dataclass(frozen=True)
class Run:
    """The folder results/<dataset>/<preset>."""

    folder: Path

    @property
    def title(self) -> str:
        return f"{self.folder.parent.name}, preset {self.folder.name}"

    @property
    def place(self) -> str:
        """Of its pages in the site."""
        return f"runs/{self.folder.parent.name}/{self.folder.name}"

    def files(self, name: str) -> list[Path]:
        """Of a result: its table, its figure, or both."""
        paths = [self.folder / kind / f"{name}.{ending}" for kind, ending in KINDS.items()]
        return [path for path in paths if path.is_file()]

    def names(self) -> list[str]:
        """Of all results that are there."""
        paths = [
            path for kind, ending in KINDS.items() for path in self.folder.glob(f"{kind}/[!.]*.{ending}")
        ]
        return sorted({path.stem for path in paths})

    def notebook(self, stem: str) -> Path:
        """The notebook as this run executed it; without outputs where the run kept none."""
        return (self.folder if self.keeps(stem) else ROOT) / "notebooks" / f"{stem}.ipynb"

    def keeps(self, stem: str) -> bool:
        """Whether the run has the notebook with its outputs."""
        return (self.folder / "notebooks" / f"{stem}.ipynb").is_file()

    def page(self, stem: str) -> str:
        """Where the site has `notebook(stem)`."""
        return f"/{self.place}/executed/{stem}.md" if self.keeps(stem) else f"/notebooks/{stem}.md"


@dataclass(frozen=True)
class Section:
    """A cell of a notebook that saves results: the heading above it, their names, and its exhibits."""

    heading: str
    names: tuple[str, ...]
    exhibits: tuple[str, ...]


def slug(heading: str) -> str:
    """The anchor of a heading, for our links and for MyST alike."""
    return re.sub(r"[^\w]+", "-", heading.lower()).strip("-")


def plain(text: Any) -> str:
    """A text of the data, safe in Markdown and in the cells of its tables."""
    return re.sub(r"([\\`*_{}\[\]<>$|#~])", r"\\\1", str(text)).replace("\n", " ")


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown texts."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def html_table(table: pd.DataFrame) -> str:
    """A table for reading, in a box that scrolls; what all its rows share stands above it."""
    if any(name.startswith("reproduced ") for name in table):
        sides = ("reported ", "reproduced ", "std ", "seeds ")
        keys = [name for name in table if not name.startswith(sides)]
        table = readable(table.set_index(keys)).reset_index()
    table = table.apply(rounded).astype(object).fillna("").astype(str)
    shared = [name for name in table if len(table) > 1 and table[name].nunique() == 1]
    said = "; ".join(f"{plain(name)}: {plain(table[name].iloc[0])}" for name in shared if table[name].iloc[0])
    html = table.drop(columns=shared).to_html(index=False, border=0)
    box = f'<div class="box" tabindex="0" role="region" aria-label="table">\n{html}\n</div>'
    return f"{said}\n\n{box}" if said else box


def rounded(column: pd.Series) -> pd.Series:
    """Fractions as texts: one decimal where some reach 10, else two, and more only where some are minute."""
    if not pd.api.types.is_float_dtype(column):
        return column
    sizes = column[column != 0].abs()
    minute = "{:.3g}" if sizes.min() < 0.005 else "{:.2f}"
    form = "{:.0f}" if (sizes.dropna() % 1 == 0).all() else "{:.1f}" if sizes.max() >= 10 else minute
    return column.map(form.format, na_action="ignore")


def described(figure: Path, else_said: str) -> str:
    """What a figure shows, in words, as it was saved; `else_said` of one that was saved without."""
    with Image.open(figure) as image:
        return plain(image.info.get("Description") or else_said)


def title_of(notebook: Path) -> str:
    """The notebook's first heading."""
    return next(m[1] for cell in cells_of(notebook) if (m := re.match(r"# (.*)", cell["source"])))


def sections(notebook: Path) -> Iterator[Section]:
    """The cells that save something, in order."""
    heading = title_of(notebook)
    for cell in cells_of(notebook):
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^##+ (.*)", cell["source"], flags=re.M) or [heading])[-1]
        elif names := exhibits.saved_names(cell["source"]):
            tags = (tag for tag in cell["metadata"].get("tags", []) if "/" in tag)
            yield Section(heading, tuple(names), tuple(tags))


def notebook_page(notebook: Path, page: Path, run: Run | None = None) -> None:
    """A notebook as Markdown, with its pictures beside it; run: whose results its pictures are."""
    cells, heading = nbformat.read(notebook, nbformat.NO_CONVERT), ""
    for cell in cells.cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+ (.*)", cell.source, flags=re.M) or [heading])[-1]
            continue
        names = exhibits.saved_names(cell.source) if run else []
        figures = [path for name in names for path in run.files(name) if path.suffix == ".png"]
        cell.metadata.alt = described(figures[0], heading) if figures else plain(heading)
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):  # a blank line in it would end the block of HTML
                text = re.sub(r"<style.*?</style>|\n\s*(?=\n)", "", output.data["text/html"], flags=re.S)
                output.data["text/html"] = f'<div class="box" tabindex="0">{text}</div>'
    exporter = MarkdownExporter(
        extra_loaders=[DictLoader({"page.md.j2": NOTEBOOK})], template_file="page.md.j2"
    )
    resources = {"unique_key": page.stem, "output_files_dir": f"{page.stem}_files"}
    text, made = exporter.from_notebook_node(cells, resources)
    for name, content in made["outputs"].items():
        write(page.parent / name, content)
    write(page, text)


def result(run: Run, name: str, stem: str = "", section: Section | None = None) -> str:
    """A result under its name: table, figure, and links to where it comes from."""
    known, parts, links = provenance(run.folder), [f"### {plain(name)}"], []
    heading = section.heading if section else name
    for path in run.files(name):
        if path.suffix == ".png":
            parts.append(f"![{described(path, f'{heading}: {name}')}](figures/{path.name})")
        else:
            parts.append(html_table(pd.read_csv(path)))
            links.append(f"[CSV](tables/{path.name})")
    if section:
        links.insert(0, f"notebook: [{section.heading}]({run.page(stem)}#{slug(section.heading)})")
        links += [f"reproduces [{plain(of)}]({exhibit_page(of)})" for of in section.exhibits]
    if name in known["results"]:
        number, when = known["results"][name]["run"], known["results"][name]["finished"]
        links.append(f"made {when} by [run {number}](provenance.md#run-{number})")
    return "\n\n".join([*parts, "; ".join(links)])


def exhibit_page(name: str) -> str:
    """Where the site has a table or figure of a paper."""
    paper, _, id = name.partition("/")
    return f"/papers/{paper}.md#{slug(id)}"


def results_pages(run: Run, source: Path) -> list[str]:
    """Pages of a run: one for each notebook that left results, and one for what belongs to no notebook.

    Returns:
        Their places.
    """
    left, pages = run.names(), {}
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        stem = notebook.stem
        parts = []
        for section in sections(run.notebook(stem)):
            own = [name for name in dict.fromkeys(section.names) if name in left]
            if own and f"## {section.heading}" not in parts:
                parts.append(f"## {section.heading}")
            parts += [result(run, name, stem, section) for name in own]
            left = [name for name in left if name not in own]
        if others := [name for name in left if name.startswith(stem.partition("_")[0] + "_")]:
            parts += ["## Under a name that no cell spells out", *(result(run, name) for name in others)]
            left = [name for name in left if name not in others]
        if parts:
            kept = "as executed" if run.keeps(stem) else "without its outputs, which this run did not keep"
            about = f"{plain(run.title)}; [the notebook]({run.page(stem)}), {kept}"
            pages[stem] = [f"# {title_of(run.notebook(stem))}", about, *parts]
    if left:
        pages["others"] = ["# Of no notebook", plain(run.title), *(result(run, name) for name in left)]
    for stem, parts in pages.items():
        write(source / run.place / f"{stem}.md", "\n\n".join(parts))
    return list(pages)


def provenance_page(run: Run) -> str:
    """What each run of the folder was made from, and which results are its."""
    known, there = provenance(run.folder), run.names()
    parts = ["# Provenance", f"{plain(run.title)}: [as JSON]({PROVENANCE})"]
    for number, of in known["runs"].items():
        made = [name for name, result in known["results"].items() if result["run"] == number]
        absent = [name for name in made if name not in there]
        parts += [f"## Run {number}", "Made: " + ", ".join(f"`{name}`" for name in made if name in there)]
        if absent:
            parts.append("Not in this folder: " + ", ".join(f"`{name}`" for name in absent))
        parts.append(f"```yaml\n{yaml.safe_dump(of, sort_keys=False, allow_unicode=True)}```")
    return "\n\n".join(parts)


def paper_page(paper: Path, covered: pd.DataFrame, results: Path) -> str:
    """A paper's card, then each of its tables and figures as reported, and ours beside it.

    covered: rows of `exhibits.coverage`.
    """
    parts = [cited((paper / "card.md").read_text()), "## Reported and reproduced"]
    for name, rows in covered[covered["name"].str.startswith(f"{paper.name}/")].groupby("name", sort=False):
        id = name.partition("/")[2]
        parts += [f"### {id}", plain(rows["shows"].iloc[0])]
        for row in rows.to_dict("records"):
            parts.append(f"*{linked_status(row, results)}*")
            tables = [pd.read_csv(path) for path in saved_by(row, results) if path.suffix == ".csv"]
            parts += [html_table(table) for table in tables if table.filter(like="reproduced ").size]
        csv = paper / "tables" / f"{id}.csv"
        if csv.is_file():  # as text: the digits that were printed
            parts += ["As reported:", html_table(pd.read_csv(csv, dtype=str, keep_default_na=False))]
    return "\n\n".join(parts)


def coverage_page(covered: pd.DataFrame, results: Path) -> str:
    """The matrix of `make coverage`, with links."""
    rows = [
        (f"[{row['name']}]({exhibit_page(row['name'])})", plain(row["shows"]), linked_status(row, results))
        for row in covered.to_dict("records")
    ]
    table = grid(["table or figure", "shows", "where it has been reproduced"], rows)
    return f"# Coverage\n\n{exhibits.summary(covered)}.\n\n{table}"


def saved_by(row: dict[str, str], results: Path) -> list[Path]:
    """Files of the run of a row of `exhibits.coverage` that its notebook's cell saved."""
    if not row["preset"]:
        return []
    run = Run(results / row["dataset"] / row["preset"])
    tags = exhibits.tags(ROOT / "notebooks" / f"{row['notebook']}.ipynb")
    names = dict.fromkeys(name for tag in tags if tag.name == row["name"] for name in tag.saved)
    return [path for name in names for path in run.files(name)]


def linked_status(row: dict[str, str], results: Path) -> str:
    """How far a row of `exhibits.coverage` is covered, its notebook a link to the run's results."""
    notebook, said = plain(row["notebook"]), plain(exhibits.status(row, width=400))
    place = f"/notebooks/{row['notebook']}.md"
    if files := saved_by(row, results):
        place = f"/runs/{row['dataset']}/{row['preset']}/{row['notebook']}.md#{slug(files[0].stem)}"
    return said.replace(notebook, f"[{notebook}]({place})", 1) if notebook else said


def cited(text: str) -> str:
    """Citations, "[@ahn2019irn]", as links to the page of references."""
    return re.sub(r"\[@(\w+)\]", r"[[\1](/papers/references.md#\1)]", text)


def references_page(bibliography: str) -> str:
    """An entry of BibTeX under each key."""
    entries = re.findall(r"^(@\w+\{(\w+),.*?^\})", bibliography, flags=re.M | re.S)
    return "\n\n".join(["# References", *(f"## {key}\n\n```bibtex\n{text}\n```" for text, key in entries)])


def start_page(runs: Sequence[Run], covered: pd.DataFrame, contents: dict[str, list[str]]) -> str:
    """What there is, and the contents: caption -> places of pages."""
    rows = []
    for run in runs:
        known, names = provenance(run.folder), run.names()
        seeds = sorted({seed for of in known["runs"].values() for seed in of.get("seeds", [])})
        counts = [str(len(list(run.folder.glob(f"{kind}/[!.]*.{end}")))) for kind, end in KINDS.items()]
        newest = max(
            (finished(run.folder)[name] for name in names if name in finished(run.folder)), default=""
        )
        link = f"[{plain(run.title)}](/{run.place}/index.md)"
        rows.append((link, ", ".join(map(str, seeds)), *counts, newest))
    said = START.format(
        smoke=exhibits.NOT_COUNTED,
        runs=grid(["run", "seeds", "tables", "figures", "newest"], rows),
        coverage=exhibits.summary(covered),
    )
    return "\n\n".join([said, *(toctree(places, caption) for caption, places in contents.items())])


def toctree(places: Iterable[str], caption: str = "") -> str:
    """Pages for the side bar."""
    options = f":caption: {caption}\n:hidden:\n" if caption else ""
    return "\n".join(["```{toctree}", f":maxdepth: 1\n{options}", *places, "```"])


def write_sources(results: Path, source: Path) -> None:
    """Everything that Sphinx reads, into the folder `source`.

    Raises:
        ValueError: there is no result.
    """
    runs = [run for run in map(Run, sorted(results.glob("*/*"))) if run.names()]
    if not runs:
        raise ValueError(f"{results} holds no tables or figures; run make reproduce first.")
    covered = exhibits.coverage(ROOT / "notebooks", results)
    contents = {"Results": ["coverage"], "Papers": [], "Notebooks": [], "Guides": []}
    for run in runs:
        here, pages = source / run.place, results_pages(run, source)
        for name in (*KINDS, PROVENANCE):
            if (run.folder / name).exists():
                write(here / name, run.folder / name)
        executed = [
            path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if run.keeps(path.stem)
        ]
        for stem in executed:
            notebook_page(run.notebook(stem), here / "executed" / f"{stem}.md", run)
        if executed:
            write(here / "executed" / "index.md", f"# Notebooks as executed\n\n{toctree(executed)}")
            pages.append("executed/index")
        write(here / "provenance.md", provenance_page(run))
        write(here / "index.md", f"# {plain(run.title)}\n\n{toctree([*pages, 'provenance'])}")
        contents["Results"].append(f"{run.place}/index")
    for paper in sorted(path.parent for path in PAPERS.glob("*/card.md")):
        write(source / "papers" / f"{paper.name}.md", paper_page(paper, covered, results))
        contents["Papers"].append(f"papers/{paper.name}")
    write(source / "papers" / "references.md", references_page((PAPERS / "references.bib").read_text()))
    contents["Papers"].append("papers/references")
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook_page(notebook, source / "notebooks" / f"{notebook.stem}.md")
        contents["Notebooks"].append(f"notebooks/{notebook.stem}")
    for guide in [*sorted((ROOT / "docs").glob("*.md")), *results.glob("*.md")]:
        write(source / "docs" / guide.name, guide.read_text())  # copied: links to other guides stay here
        contents["Guides"].append(f"docs/{guide.stem}")
    write(source / "coverage.md", coverage_page(covered, results))
    write(source / "index.md", start_page(runs, covered, contents))


def write(path: Path, content: str | bytes | Path) -> None:
    """A file of the sources; a Path is linked to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        path.symlink_to(content.resolve())
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def build(results: Path, site: Path) -> int:
    """Make the site anew in the folder `site`; returns 1 where Sphinx had a warning, such as a broken link.

    Raises:
        ValueError: there is no result, or `site` holds something else.
    """
    if site.is_dir() and any(site.iterdir()) and not (site / ".buildinfo").is_file():
        raise ValueError(f"{site} holds something other than a site; move it away.")
    results.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix=".site-", dir=results) as folder, docutils_namespace():
        source, made = Path(folder, "source"), Path(folder, "made")
        write_sources(results, source)
        app = Sphinx(
            source,
            None,
            made,
            Path(folder, "doctrees"),
            "html",
            SETTINGS,
            None,
            sys.stderr,
            warningiserror=True,
        )
        app.build()
        shutil.rmtree(site, ignore_errors=True)
        made.rename(site)
    return app.statuscode


def setup(app: Any) -> None:
    """What Sphinx asks an extension for: equations as MathML, which browsers draw themselves."""
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))


def inline_math(writer: Any, node: Any) -> None:
    writer.body.append(mathml(node))
    raise SkipNode


def display_math(writer: Any, node: Any) -> None:
    writer.body.append(f'<div class="box">{mathml(node, as_block=True)}</div>')
    raise SkipNode


def mathml(node: Any, **how: bool) -> str:
    """An equation for the page; as it was written, with a warning, where docutils does not know a command."""
    digits = re.compile(r"(\\frac)(\d)(\d)")  # of \frac12, docutils takes 12 for the numerator
    try:
        return tex2mathml(digits.sub(r"\1{\2}{\3}", node.astext()), **how)
    except MathError as error:
        getLogger(__name__).warning("%s in the equation %s", error, node.astext(), location=node)
        return f"<code>{escape(node.astext())}</code>"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 0, or 1 where there is nothing to show or a link is broken."""
    parser = argparse.ArgumentParser("python -m wsss_lib.report.site", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="default: results")
    options = parser.parse_args(argv)
    site = options.results / "site"
    try:
        status = build(options.results, site)
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print(f"site: {site / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
