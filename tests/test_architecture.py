"""The map in docs/architecture.md is true: packages, their order, and who imports whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = ("stages", "cascade", "tools")
LARGEST = 16  # modules a folder
LONGEST = 450  # lines a module
LIGHT = (  # imported before anything heavy, and so that it may not be
    "cascade", "cascade.commands", "cascade.commands.shared", "cascade.commands.shared.interrupt"
)  # fmt: skip


@cache
def first_cells() -> tuple[str, ...]:
    """Of each row of the map, lowest first."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.search(r"^\| package \| knows \| never knows \|\n\|[-|]+\n((?:\|.*\n)+)", page, re.M)
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table[1].splitlines()]
    assert all(len(row) == 3 and all(row) for row in rows)
    return tuple(first for first, _, _ in rows)


@cache
def packages() -> tuple[str, ...]:
    """The map's packages, lowest first."""
    return tuple(re.match(r"`([a-z_.]+)`", first)[1] for first in first_cells())


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
MODULES = {module_name(file): file for file in FILES}


def package_of(module: str) -> str:
    """The nearest package of the map; `cascade` itself has root modules, and no packages."""
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    found = next(name for name in names if name in packages())
    root = MODULES[module].parent == ROOT / "cascade"
    return found if found != "cascade" or root else f"{module}, which the map does not name"


@cache
def imported(module: str) -> frozenset[str]:
    """The modules of this repository that a module imports, wherever in it."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return frozenset(name for node in ast.walk(tree) for name in named(node, module))


def named(node: ast.AST, module: str) -> Iterator[str]:
    """What an import statement imports of this repository."""
    if isinstance(node, ast.Import):
        found = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, f"{module} imports by a relative name"
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        found = [name if name in MODULES else node.module for name in inner]
    else:
        return
    for name in found:
        if name.split(".")[0] in FOLDERS:
            assert name in MODULES, f"{module} imports {name}, which is not there"
            yield name


def test_the_map_names_every_package_and_no_other():
    assert len(packages()) == len(set(packages()))
    found = {package_of(module) for module in MODULES}
    assert found == set(packages())
    (root,) = (re.findall(r"`(\w+)`", cell) for cell in first_cells() if cell[:9] == "`cascade`")
    assert {f"cascade.{name}" for name in root[1:]} == {
        module for module, file in MODULES.items() if file.parent == ROOT / "cascade"
    } - {"cascade"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_the_map(module):
    order = packages()
    own = order.index(package_of(module))
    up = [name for name in imported(module) if order.index(package_of(name)) > own]
    assert not up, f"{module} is in {order[own]} and imports {', '.join(sorted(up))}"


def test_no_module_imports_itself_by_way_of_others():
    """But for the command line, which its package imports when it is run."""
    done: set[str] = set()

    def follow(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for name in sorted(imported(module)):
                follow(name, (*way, module))
            done.add(module)

    for module in MODULES:
        follow(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_imported_by_a_name_without_its_package(module):
    """A module that has moved would be missed only when the line is reached."""
    bare = {name.rpartition(".")[2] for name in MODULES if "." in name} - sys.stdlib_module_names
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert not bare & {name.split(".")[0] for name in names}, ast.unparse(node)


@pytest.mark.parametrize("module", LIGHT)
def test_what_is_imported_first_imports_nothing_heavy(module):
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names = names or [alias.name for alias in node.names]
            light = (
                name in LIGHT or name.split(".")[0] in sys.stdlib_module_names for name in names
            )
            assert all(light), names
    heavy = "[name for name in ('torch', 'numpy', 'rich') if name in sys.modules]"
    code = f"import sys, {module}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("folder", sorted({str(file.parent.relative_to(ROOT)) for file in FILES}))
def test_a_folder_can_be_overlooked(folder):
    entries = ("__init__", "__main__")
    modules = [file for file in (ROOT / folder).glob("*.py") if file.stem not in entries]
    assert len(modules) <= LARGEST, f"{folder} holds {len(modules)} modules"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_overlooked(module):
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{module} has {lines} lines"


@cache
def text_of_tests() -> str:
    """All tests but this one, and the modules that their imports name, in words."""
    files = [file for file in (ROOT / "tests").rglob("*.py") if file != Path(__file__)]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    imports = re.findall(r"^\s*from ([\w.]+) import (\([^)]*\)|.*)$", text, re.M)
    inner = [f"{home}.{name}" for home, names in imports for name in re.findall(r"\w+", names)]
    return "\n".join([text, *inner])


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("tools")])
def test_some_test_names_the_module(module):
    assert re.search(rf"(?<![\w.]){re.escape(module)}(?![\w])", text_of_tests())
