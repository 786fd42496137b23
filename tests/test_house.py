"""The rooms of wsss_lib: imports point downwards, methods are strangers, the core names none of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsss_lib
from wsss_lib.methods import RECIPES
from wsss_lib.methods.base import BASELINE

PACKAGE = Path(wsss_lib.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
FLOORS = [
    {"runtime"},
    {"data", "crf", "resampling", "score_maps", "metrics", "statistics", "clustering", "config"},
    {"models", "losses", "random_walk"},
    {"artifacts", "training", "inference"},
    {"methods", "refinement", "segmentation"},
    {"study"},
    {"report"},
    {"__main__"},
]
"""From the ground up; rooms of one floor may use each other."""
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


OF_ONE_PAPER = {"report/sub_categories.py", "report/affinities.py", "report/reconstructions.py"}
"""They draw the figures of one paper, for its notebook alone, and may import its file."""


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imports(path: Path) -> Iterator[str]:
    """Modules of the package, "models.irn", that a file imports when it runs, not for its types alone."""
    tree = ast.parse(path.read_text())
    types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node not in types
            and (node.module or "").startswith("wsss_lib")
        ):
            module = node.module.removeprefix("wsss_lib").lstrip(".")
            if module:
                yield module
            yield from (f"{module}.{alias.name}".lstrip(".") for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        assert not list(imports(path))  # it loads its names when they are asked for
        return
    above = [module for module in imports(path) if FLOOR[module.partition(".")[0]] > FLOOR[own]]
    assert not above


@pytest.mark.parametrize("path", sorted((PACKAGE / "methods").glob("[a-z]*.py")), ids=name_of)
def test_methods_do_not_import_each_other(path):
    used = {module for module in imports(path) if module.startswith("methods")}
    assert all(module.startswith("methods.base") for module in used)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_outside_methods_names_a_method(path):
    """Neither by its name in a preset nor by its file."""
    if path.parent.name == "methods":
        return
    others = RECIPES.keys() - {BASELINE}
    constants = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    assert not {node.value for node in constants if isinstance(node.value, str)} & others
    if name_of(path) not in OF_ONE_PAPER:
        assert not set(imports(path)) & {f"methods.{name}" for name in RECIPES}


def test_every_room_has_its_floor():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert rooms == set(FLOOR)


def test_the_public_names_are_what_they_say():
    for name in wsss_lib.__all__:
        assert callable(getattr(wsss_lib, name)), name
    with pytest.raises(AttributeError, match="wsss_lib has no 'Studio'; it has: Method, "):
        wsss_lib.Studio  # noqa: B018
