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
