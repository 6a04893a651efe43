import hashlib
from pathlib import Path

import pytest

from lmjax.text import digests
from lmjax.text.errors import DataError


def test_many_files_each_its_own(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}" for i in range(50)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]) * (i * 9_973))
    found = digests.sha256(paths)
    assert found == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    assert list(found) == paths


def test_none_are_no_digests() -> None:
    assert digests.sha256([]) == {}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(b"whole")
    with pytest.raises(DataError, match=r"gone: cannot be read: No such file"):
        digests.sha256([tmp_path / "whole", tmp_path / "gone"])
    with pytest.raises(DataError, match=r"mem: cannot be read: Input/output error"):
        digests.sha256([tmp_path / "whole", Path("/proc/self/mem")])


def test_the_first_file_that_differs_is_named_with_both_digests(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    expected = digests.sha256([tmp_path / name for name in ("a", "b", "c")])
    digests.check(expected, "copy it again")
    (tmp_path / "b").write_text("B")
    was, now = expected[tmp_path / "b"], hashlib.sha256(b"B").hexdigest()
    with pytest.raises(DataError, match=f"b: expected SHA-256 {was}, found {now}; copy it again$"):
        digests.check(expected, "copy it again")
    (tmp_path / "b").unlink()
    with pytest.raises(DataError, match=r"b: cannot be read: No such file .*; copy it again$"):
        digests.check(expected, "copy it again")
