"""Nothing in lmjax can run what it reads: held from the source, over every file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmjax

HOUSE = Path(lmjax.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))

# Modules that run what they load, or hand it to a shell.
MODULES = {
    "pickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "code",
    "runpy",
}
NAMES = {"eval", "exec", "compile", "__import__", "execfile"}
CALLS = {
    "os.system",
    "os.popen",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "pandas.read_pickle",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "importlib.import_module",
}
TRUE = {"allow_pickle", "shell", "trust_remote_code"}

# A recipe is the user's own program, and named on the command line; nothing else is imported.
ALLOWED = {("config.py", "exec_module")}


def dangers(source: str) -> Iterator[str]:
    """What in a file could run data, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            dotted = {f"{module}.{a.name}" for a in node.names}
            if module.split(".")[0] in MODULES or dotted & CALLS:
                yield module
        elif isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            dotted_name = ast.unparse(node)
            if dotted_name in CALLS or node.attr == "exec_module":
                yield node.attr if node.attr == "exec_module" else dotted_name
        elif isinstance(node, ast.Call):
            keywords = {k.arg: k.value for k in node.keywords}
            for name in TRUE & keywords.keys():
                value = keywords[name]
                if not (isinstance(value, ast.Constant) and value.value is False):
                    yield f"{name}="
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if called in ("extractall", "extract", "unpack_archive"):
                told = keywords.get("filter")
                if not (isinstance(told, ast.Constant) and told.value == "data"):
                    yield called


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(HOUSE)) for path in FILES])
def test_no_file_can_run_what_it_reads(path):
    name = str(path.relative_to(HOUSE))
    assert [danger for danger in dangers(path.read_text()) if (name, danger) not in ALLOWED] == []


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("import pickle", "pickle"),
        ("def f():\n    from pickle import loads", "pickle"),
        ("eval('1')", "eval"),
        ("run = exec", "exec"),
        ("torch.load(path, weights_only=True)", "torch.load"),
        ("from torch import load", "torch"),
        ("yaml.load(text)", "yaml.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle="),
        ("np.load(path, allow_pickle=trusted)", "allow_pickle="),
        ("subprocess.run(words, shell=True)", "shell="),
        ("archive.extractall(folder)", "extractall"),
        ("archive.extractall(folder, filter='fully_trusted')", "extractall"),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", "trust_remote_code="),
        ("spec.loader.exec_module(module)", "exec_module"),
        ("os.system(line)", "os.system"),
    ],
)
def test_each_danger_is_seen(source, danger):
    assert danger in list(dangers(source))


def test_what_is_harmless_is_let_be():
    harmless = (
        "archive.extractall(folder, filter='data')\nnp.load(path, allow_pickle=False)\n"
        "model.eval()\nre.compile('a')\nstep.lower(a).compile()\nast.literal_eval(text)"
    )
    assert list(dangers(harmless)) == []
