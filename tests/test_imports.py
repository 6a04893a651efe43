"""Imports go one way, and heavy libraries stay in their rooms: read from the source, not run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmjax

HOUSE = Path(lmjax.__file__).parent
ROOMS = ["config", "text", "data", "models", "learning", "runtime", "interop", "verbs"]
FILES = sorted(HOUSE.rglob("*.py"))
NAMES = [str(path.relative_to(HOUSE)) for path in FILES]


def imported(source: str) -> Iterator[str]:
    """Dotted names of all that a file imports, in functions and under TYPE_CHECKING as well."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "lmjax":
            yield f"lmjax.{node.attr}"


def room(dotted: str) -> str:
    """The room of `lmjax.room.file.name`; what lies beside the rooms are the verbs.

    The package itself, `import lmjax` for its `__path__`, costs no more than the config.
    """
    names = dotted.split(".")
    if len(names) == 1 or names[1] == "__path__":
        return "config"
    return names[1] if len(names) > 1 and names[1] in ROOMS else "verbs"


def room_of_file(path: Path) -> str:
    return room(".".join(["lmjax", *path.relative_to(HOUSE).with_suffix("").parts]))


def upstream(source: str, own: str) -> list[str]:
    """What a file of the room `own` imports from rooms to its right."""
    ours = [name for name in imported(source) if name.split(".")[0] == "lmjax"]
    return [name for name in ours if ROOMS.index(room(name)) > ROOMS.index(own)]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_room_imports_only_from_rooms_to_its_left(path):
    assert upstream(path.read_text(), room_of_file(path)) == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_libraries_stay_in_their_rooms(path):
    roots = {name.split(".")[0] for name in imported(path.read_text())}
    own = room_of_file(path)
    assert not roots & {"tools", "configs", "tests"}
    if own != "models":
        assert "flax" not in roots
    if own in ("config", "text"):
        assert not roots & {"jax", "jaxlib", "optax", "orbax", "grain"}
    if own in ("models", "learning"):  # pure functions: no files, no clock, no console
        assert not roots & {"os", "io", "pathlib", "sys", "time", "datetime", "random", "logging"}


def test_every_room_has_been_read():
    assert {room_of_file(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize(
    ("own", "source", "wrong"),
    [
        ("text", "from lmjax.data import shards", ["lmjax.data.shards"]),
        ("text", "def f():\n    import lmjax.models.attention", ["lmjax.models.attention"]),
        ("learning", "if TYPE_CHECKING:\n    from lmjax.train import fit", ["lmjax.train.fit"]),
        ("data", "from lmjax import runtime", ["lmjax.runtime"]),
        ("data", "from lmjax import fit", ["lmjax.fit"]),
        ("data", "import lmjax\nlmjax.fit(lmjax.__path__)", ["lmjax.fit"]),
        ("data", "from lmjax import config\nfrom lmjax.text import errors\nimport jax", []),
        ("runtime", "from lmjax.runtime import lock", []),
    ],
)
def test_a_wrong_direction_is_found_wherever_it_hides(own, source, wrong):
    assert upstream(source, own) == wrong
