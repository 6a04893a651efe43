"""The text every Python installation carries: its standard library, parsed and never imported."""

import ast
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from lmjax.text.errors import DataError

_FOREIGN = {"site-packages", "dist-packages", "__pycache__", "_bundled"}
_TESTS = {"test", "tests", "idle_test"}
_TOPICS = "pydoc_data/topics.py"


def root() -> Path:
    """The folder of the standard library. Raises DataError where Python keeps none on disk."""
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "os.py").is_file():
        raise DataError(f"python: expected the standard library's sources in {folder}, found none")
    return folder


def files(tests: bool) -> list[Path]:
    """The library's Python files in a fixed order, with or without its test suites."""
    folder, found = root(), []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        own = parts[0].removesuffix(".py") in sys.stdlib_module_names or parts[0] == "test"
        if own and _FOREIGN.isdisjoint(parts) and (tests or _TESTS.isdisjoint(parts)):
            found.append(path)
    return found


def prose(source: bytes) -> Iterator[str]:
    """What a module says in English: one text of all its docstrings under their names.

    pydoc's topics, a dictionary of help pages, give one text a page.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the library's own old escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # a template or a sample of broken code: no docstrings to find
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="topics")], value=ast.Dict(values=pages)):
                yield from (text for page in pages if (text := _text(page)))
    sections = list(_sections(tree, ""))
    if sections:
        yield "\n\n\n".join(sections)


def _text(node: ast.expr) -> str | None:
    constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return ast.literal_eval(node) if constant else None


def _sections(node: ast.AST, name: str) -> Iterator[str]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        if text and text.strip():
            yield f"{name}\n\n{inspect.cleandoc(text)}".lstrip("\n")
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _sections(child, f"{name}.{child.name}".lstrip("."))
