"""Arrows between rooms run one way, and no two files import each other, not even inside functions."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "aurora_trl"
# From the bottom up: a room may import itself and what stands before it.
ROOMS = (
    "errors",
    "version",
    "environment",
    "foreign_warnings",
    "box_text",
    "prompts",
    "progress",
    "overlap",
    "disk",
    "locks",
    "shell_paths",
    "text_files",
    "journal",
    "data",
    "models",
    "generation",
    "tiny",
    "evaluation",
    "annotation",
    "training",
    "chain",
    "app",
    "cli",
)


def module_name(file: Path) -> str:
    parts = file.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(name: str) -> Iterator[tuple[str, int]]:
    """Modules of the package that a file imports when it is used, each with its line; annotations' alone not."""
    file = FILES[name]
    nodes: list[ast.AST] = [ast.parse(file.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.startswith("aurora_trl"))
        if not isinstance(node, ast.ImportFrom):
            continue
        base = node.module or ""
        if node.level:
            package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
            base = ".".join(package[: len(package) - node.level + 1] + ([node.module] if node.module else []))
        if base.split(".")[0] == "aurora_trl":
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in FILES else base, node.lineno


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("name", [name for name in FILES if room_of(name)])
def test_no_import_runs_up(name):
    own = ROOMS.index(room_of(name))
    for module, line in imported_modules(name):
        where = f"{FILES[name].relative_to(REPOSITORY)}:{line} imports {module}"
        assert room_of(module), f"{where}: name the file that has it"
        assert ROOMS.index(room_of(module)) <= own, f"{where}: {room_of(name)} stands below {room_of(module)}"


def test_no_two_files_import_each_other():
    imports = {name: {module for module, _ in imported_modules(name)} for name in FILES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for module in sorted(imports.get(name, ())):
                visit(module, (*path, name))
            done.add(name)

    for name in FILES:
        visit(name, ())


@pytest.mark.parametrize("room", [room for room in ROOMS if (PACKAGE / room).is_dir()])
def test_a_room_says_what_happens_in_it(room):
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    assert "It may import" in text, f"aurora_trl/{room}/__init__.py: say what the room is for and what it may import"


def test_the_test_sees_lines(tmp_path, monkeypatch):
    """An import inside a function counts, and is named by its line."""
    file = PACKAGE / "data" / "schema.py"
    broken = tmp_path / "schema.py"
    broken.write_text(file.read_text() + "\n\ndef late():\n    from ..models.modeling_aurora import AuroraModel\n")
    monkeypatch.setitem(FILES, "aurora_trl.data.schema", broken)
    last = len(broken.read_text().splitlines())
    assert ("aurora_trl.models.modeling_aurora", last) in list(imported_modules("aurora_trl.data.schema"))
