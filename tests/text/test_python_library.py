"""The standard library as text: docstrings and help pages, without code and without importing."""

from lmjax.text import python_library
from lmjax.text.python_library import prose


def test_prose_holds_docstrings_with_their_names_and_no_code():
    source = (
        b'"""Top."""\nclass A:\n  """Of A.\n\n    More.\n  And.\n  """\n  def f(x): "Of f."; x()\n'
    )
    assert list(prose(source)) == ["Top.\n\n\nA\n\nOf A.\n\n  More.\nAnd.\n\n\nA.f\n\nOf f."]
    assert list(prose(b"topics = {'if': 'The if statement', 'n': 3}")) == ["The if statement"]
    assert list(prose(b"x = (")) == []


def test_the_library_is_found_without_tests_or_packages():
    files = [p.relative_to(python_library.root()).as_posix() for p in python_library.files(False)]
    assert "argparse.py" in files
    assert files == sorted(set(files), key=lambda name: name.split("/"))
    assert not [f for f in files if "site-packages" in f or "/test/" in f or f.startswith("test/")]
    pages = python_library.root() / "pydoc_data" / "topics.py"
    assert sum(map(len, prose(pages.read_bytes()))) > 100_000
