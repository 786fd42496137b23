"""wsss_lib.report.site: a tiny folder of results becomes a site, which is read with another library."""

import re
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from wsss_lib.report import exhibits, reproduce, site
from wsss_lib.study.results import Results

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PAPER = """method,stage,dataset,split,metric,class,value
Tiny,CAM,voc2012,train,mIoU,all,48.00
Tiny,CAM+RW,voc2012,train,mIoU,all,58.10
"""
FRAME = "<style scoped>\n  th {top: 0}\n\n  td {top: 0}\n</style><table><tr><td>four</td></tr></table>"
RUNS = ["scenes/quick", "voc2012/mine"]


def tiny_notebook(executed: bool) -> nbformat.NotebookNode:
    picture = new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"})
    frame = new_output("execute_result", {"text/html": FRAME, "text/plain": "four"}, execution_count=1)
    outputs = [[], [frame], [picture], [new_output("stream", text="said")]]
    sources = [
        "preset = 1",
        'study.results.table(scores, "01_beside")',
        'study.results.figure(gallery(study), "01_cam")',
        'study.results.figure(again, "01_cam")',
    ]
    tags = [["parameters"], ["tiny/table-1"], ["tiny/figure-2"], []]
    code = [
        new_code_cell(source, metadata={"tags": tag}, outputs=output if executed else [])
        for source, tag, output in zip(sources, tags, outputs, strict=True)
    ]
    prose = [
        "# 1 · Tiny: what is it?\n\nA mixture $x^2$.",
        "## Where, and `how`?",
        "## Is it *so*?\n$$y = 1$$",
    ]
    texts = [new_markdown_cell(text) for text in prose]
    return new_notebook(cells=[texts[0], code[0], texts[1], *code[1:3], texts[2], code[3]])


def tiny_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository in small: one notebook, paper and guide, and two runs, one with the executed notebook."""
    for module, name, value in (
        (site, "ROOT", folder),
        (reproduce, "ROOT", folder),
        (site, "PAPERS", folder / "papers"),
        (exhibits, "PAPERS", folder / "papers"),
    ):
        monkeypatch.setattr(module, name, value)
    for name in ("notebooks", "papers/tiny/tables", "docs", "results/scenes/quick/notebooks"):
        (folder / name).mkdir(parents=True)
    nbformat.write(tiny_notebook(False), folder / "notebooks/01_tiny.ipynb")
    nbformat.write(tiny_notebook(True), folder / "results/scenes/quick/notebooks/01_tiny.ipynb")
    (folder / "docs/guide.md").write_text("# A guide\n\nHow to mix.\n")
    tiny = folder / "papers/tiny"
    (tiny / "card.md").write_text("# Tiny\n\nOf [@first2020]: $\\frac12 \\lVert \\hat A^k_i \\rVert_1$.\n")
    (tiny / "tables/table-1.csv").write_text(PAPER)
    (tiny / "figures.csv").write_text("id,kind,shows,why_not\nfigure-2,maps,maps of $10,\n")
    (folder / "papers/references.bib").write_text("@book{first2020,\n  title = {A {B}}\n}\n")
    for run in RUNS:
        results = Results(folder / "results" / run, {"seeds": [0, 1], "note": "a <b> & c"})
        beside = {"split": "train", "stage": ["CAM", "CAM+RW"], "reported (voc2012)": [48.0, 58.1]}
        beside |= {"reproduced (x)": [45.123, None], "std (x)": [0.26, None], "seeds (x)": [2, None]}
        results.table(pd.DataFrame(beside), "01_beside")
        results.table(pd.DataFrame({"a_b": ["x|y", "<i>"], "v": [0.5, 0.25]}), "01_unspelled")
        results.table(pd.DataFrame({"v": range(500)}), "mine")
        figure = Figure()
        figure.subplots().set(title="photo", xlabel="threshold $t$", ylabel="mIoU (%)")
        results.figure(figure, "01_cam")
    (folder / "results/voc2012/mine/figures/01_cam.png").write_bytes(b64decode(PIXEL))  # has no description


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny_results(folder, monkeypatch)
        assert site.main(["--results", str(folder / "results")]) == 0
        yield folder / "results" / "site"


def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(), "html.parser")


def section(page: BeautifulSoup, name: str) -> BeautifulSoup:
    return next(heading.parent for heading in page.find_all("h3") if heading.find(string=True) == name)


def test_every_result_is_shown_and_linked_to_where_it_comes_from(made):
    for run in RUNS:
        page, folder = soup(made / "runs" / run / "01_tiny.html"), made.parent / run
        assert page.h1.find(string=True) == "1 · Tiny: what is it?"
        assert [heading.find(string=True) for heading in page.find_all("h3")] == [
            "01_beside",
            "01_cam",
            "01_unspelled",
        ]  # fmt: skip
        for name in ("01_beside", "01_unspelled"):
            csv = section(page, name).find("a", string="CSV")["href"]
            assert (made / "runs" / run / csv).read_bytes() == (folder / f"tables/{name}.csv").read_bytes()
        picture = section(page, "01_cam").img
        assert (made / "runs" / run / picture["src"]).read_bytes() == (
            folder / "figures/01_cam.png"
        ).read_bytes()
        links = [link["href"] for link in section(page, "01_cam").find_all("a")]
        notebook = "executed/01_tiny.html" if run == "scenes/quick" else "../../../notebooks/01_tiny.html"
        assert f"{notebook}#where-and-how" in links
        assert "../../../papers/tiny.html#figure-2" in links
        assert "provenance.html#run-1" in links
        assert "note: a <b> & c" in soup(made / "runs" / run / "provenance.html").text
        assert len(soup(made / "runs" / run / "others.html").select("#mine tbody tr")) == 500


def test_numbers_are_those_of_the_tables(made):
    beside = section(soup(made / "runs/scenes/quick/01_tiny.html"), "01_beside")
    cells = [[cell.text for cell in row.find_all(["th", "td"])] for row in beside.find_all("tr")]
    heads = ["stage", "reported (voc2012)", "reproduced (x), mean ± std of 2 seeds"]
    assert cells == [heads, ["CAM", "48.0", "45.1 ± 0.3"], ["CAM+RW", "58.1", ""]]
    assert beside.p.text == "split: train"
    unspelled = section(soup(made / "runs/scenes/quick/01_tiny.html"), "01_unspelled")
    assert [cell.text for cell in unspelled.find_all("td")] == ["x|y", "0.50", "<i>", "0.25"]
    paper = section(soup(made / "papers/tiny.html"), "table-1")
    assert "45.1 ± 0.3" in paper.text
    assert "48.00" in paper.text  # as it was printed


def test_the_matrix_leads_to_papers_and_runs(made):
    rows = soup(made / "coverage.html").select("tbody tr")
    found = [[link["href"] for link in row.find_all("a")] for row in rows]
    runs = [f"runs/{run}/01_tiny.html" for run in RUNS]
    tables = [["papers/tiny.html#table-1", f"{run}#beside"] for run in runs]
    assert found == [*tables, *(["papers/tiny.html#figure-2", f"{run}#cam"] for run in runs)]


def test_every_link_leads_somewhere_and_nothing_is_fetched(made):
    assert not [
        sheet for sheet in made.rglob("*.css") if re.search(r"@import|url\(.?(http|//)", sheet.read_text())
    ]
    pages = {page: soup(page) for page in made.rglob("*.html")}
    for page, content in pages.items():
        fetched = [tag.get("src") or tag.get("href") for tag in content.select("[src], link[href]")]
        links = [link["href"] for link in content.select("a[href]")]
        assert not [address for address in fetched if urlparse(address).netloc]
        for address in [*fetched, *links]:
            path, fragment = urldefrag(address)
            if not urlparse(path).scheme:
                target = (page.parent / unquote(path.partition("?")[0])).resolve() if path else page
                assert target.is_file(), (page, address)
                if fragment and target in pages:
                    assert pages[target].find(id=unquote(fragment)), (page, address)


def test_pictures_have_a_text_and_equations_are_drawn(made):
    page = soup(made / "runs/scenes/quick/executed/01_tiny.html")
    described = "photo; mIoU (%); threshold $t$"
    assert [picture["alt"] for picture in page.select("article img")] == [described]
    assert section(soup(made / "runs/scenes/quick/01_tiny.html"), "01_cam").img["alt"] == described
    bare = section(soup(made / "runs/voc2012/mine/01_tiny.html"), "01_cam").img["alt"]
    assert bare == "Where, and `how`?: 01_cam"
    assert [cell.text for cell in page.select("article td")] == ["four"]
    for path, equations in (("runs/scenes/quick/executed/01_tiny", 2), ("papers/tiny", 1)):
        article = soup(made / f"{path}.html").article
        assert len(article.find_all("math")) == equations
        assert not [text for text in article.find_all(string=True) if "$$" in text or "\\frac" in text]
    numerator, denominator = soup(made / "papers/tiny.html").find("mfrac").find_all("mn")
    assert (numerator.text, denominator.text) == ("1", "2")


def test_an_equation_that_cannot_be_drawn_is_named(tmp_path, monkeypatch, capsys):
    tiny_results(tmp_path, monkeypatch)
    (tmp_path / "docs/guide.md").write_text("# A guide\n\nSee $\\nosuch{x}$ and [that](there.md).\n")
    assert site.main(["--results", str(tmp_path / "results")]) == 1
    said = capsys.readouterr().err
    assert "guide.md" in said
    assert "\\nosuch" in said
    assert "there.md" in said
    assert (tmp_path / "results/site/index.html").is_file()


def test_a_second_site_replaces_the_first_and_nothing_else(tmp_path, monkeypatch, capsys):
    tiny_results(tmp_path, monkeypatch)
    results, page = tmp_path / "results", tmp_path / "results/site/runs/scenes/quick/others.html"
    page.parent.mkdir(parents=True)
    page.write_text("somebody's")
    assert site.main(["--results", str(results)]) == 1
    assert capsys.readouterr().err.endswith("site holds something other than a site; move it away.\n")
    assert page.read_text() == "somebody's"

    (results / "site/.buildinfo").touch()  # as Sphinx marks what it made
    (results / "scenes/quick/tables/mine.csv").unlink()
    assert site.main(["--results", str(results)]) == 0
    assert not page.exists()
    assert (results / "site/runs/voc2012/mine/others.html").is_file()
    assert sorted(path.name for path in results.iterdir()) == ["scenes", "site", "voc2012"]


def test_without_results_it_says_so(tmp_path, capsys):
    assert site.main(["--results", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"report: {tmp_path} holds no tables or figures; run make reproduce first.\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([48.04, 5.0], ["48.0", "5.0"]),
        ([-0.365, 1.0], ["-0.36", "1.00"]),
        ([0.0002, 0.6, 0.0], ["0.0002", "0.6", "0"]),
        ([1.0, 2.0], ["1", "2"]),
    ],
)
def test_numbers_are_rounded_for_reading(values, texts):
    assert site.rounded(pd.Series(values)).tolist() == texts
