"""Shards of three layouts read back as one stream; what cannot be used is refused by name."""

import gc
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lmjax.data import shards
from lmjax.data.shards import find_shards, open_shards
from lmjax.text.errors import DataError

IDS = np.random.default_rng(0).integers(0, 50257, 5000)


def write_headerless(path: Path, ids: np.ndarray, dtype: str = "uint16") -> Path:
    ids.astype(dtype).tofile(path)
    return path


def write_llm_c(
    path: Path,
    ids: np.ndarray,
    magic: int = 20240520,
    version: int = 1,
    count: int | None = None,
    dtype: str = "uint16",
) -> Path:
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(ids) if count is None else count
    path.write_bytes(header.tobytes() + ids.astype(dtype).tobytes())
    return path


def test_every_layout_reads_back_the_same_ids(tmp_path: Path) -> None:
    streams = [
        open_shards([write_headerless(tmp_path / "train.bin", IDS)]),
        open_shards([write_llm_c(tmp_path / "a.bin", IDS)]),
        open_shards([write_llm_c(tmp_path / "b.bin", IDS, 20240801, 7, dtype="uint32")]),
        open_shards([write_headerless(tmp_path / "c.bin", IDS)], "uint16"),
        open_shards([write_headerless(tmp_path / "d.bin", IDS, "uint32")], "uint32"),
    ]
    for tokens in streams:
        assert len(tokens) == len(IDS)
        np.testing.assert_array_equal(tokens.read(0, len(tokens)), IDS)


def test_a_manifest_dtype_wins_over_a_magic_number(tmp_path: Path) -> None:
    ids = np.concatenate([np.frombuffer(np.int32(20240520).tobytes(), np.uint16), IDS])
    tokens = open_shards([write_headerless(tmp_path / "train-00000.bin", ids)], "uint16")
    np.testing.assert_array_equal(tokens.read(0, len(tokens)), ids)


def test_slices_cross_borders(tmp_path: Path) -> None:
    paths = [
        write_llm_c(tmp_path / f"{i}.bin", part)
        for i, part in enumerate(np.split(IDS[:40], [1, 7, 8, 25]))
    ]
    tokens = open_shards(paths)
    for start in range(41):
        for stop in range(start, 41):
            np.testing.assert_array_equal(tokens.read(start, stop), IDS[start:stop])
    assert tokens.locate(7) == (paths[2], 0)
    assert tokens.locate(24) == (paths[3], 16)
    for start, stop in ((-1, 3), (0, 41), (5, 4)):
        with pytest.raises(IndexError, match=f"tokens {start} to {stop} of 40"):
            tokens.read(start, stop)


def test_a_stream_pickles_as_its_paths(tmp_path: Path) -> None:
    tokens = open_shards([write_headerless(tmp_path / "a.bin", IDS, "uint32")], "uint32")
    pickled = pickle.dumps(tokens)
    assert len(pickled) < 1000
    copy = pickle.loads(pickled)  # noqa: S301
    np.testing.assert_array_equal(copy.read(0, len(copy)), IDS)


def test_files_are_closed_with_their_stream(tmp_path: Path) -> None:
    path = write_headerless(tmp_path / "a.bin", IDS)

    def is_open() -> bool:
        links = Path("/proc/self/fd").iterdir()
        return any(os.path.realpath(link) == str(path) for link in links)

    tokens = open_shards([path])
    assert is_open()
    del tokens
    assert not is_open()
    with pytest.raises(DataError):  # one of several that cannot be used
        open_shards([path, tmp_path / "none.bin"])
    gc.collect()  # the error's traceback held it
    assert not is_open()


def test_a_file_cut_under_many_readers_is_named_and_ends_no_process(tmp_path: Path) -> None:
    ids = np.tile(IDS, 400)
    for _ in range(20):
        path = write_headerless(tmp_path / "a.bin", ids)
        tokens = open_shards([path])
        with ThreadPoolExecutor(4) as pool:
            readings = [pool.submit(tokens.read, 0, len(tokens)) for _ in range(8)]
            os.truncate(path, 1000)
            for reading in readings:
                if (error := reading.exception()) is None:
                    np.testing.assert_array_equal(reading.result(), ids)
                else:
                    found = f"expected {2 * len(ids)} bytes, found 1000; the file was cut"
                    assert isinstance(error, DataError) and found in str(error)
        with pytest.raises(DataError, match="the file was cut"):
            tokens.read(0, len(tokens))


def test_what_a_disk_cannot_give_is_named() -> None:
    # Address 0 of a process cannot be read: the kernel says EIO, as for a bad block.
    path = Path("/proc/self/mem")
    shard = shards._Shard(path, os.open(path, os.O_RDONLY), np.dtype("<u2"), 0, 8)
    with pytest.raises(DataError, match=r"/proc/self/mem: cannot be read at byte 4: .*; restore"):
        shards.Tokens([shard], None).read(2, 8)


@pytest.mark.parametrize("chunk", [1, 7, 2**24])
def test_document_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(shards, "CHUNK", chunk)
    ids = np.array([5, 1, 2, 1, 3, 4, 4, 1, 1, 9])
    paths = [
        write_headerless(tmp_path / f"{i}.bin", part) for i, part in enumerate(np.split(ids, [4]))
    ]
    tokens = open_shards(paths)
    assert tokens.document_starts(1).tolist() == [0, 1, 3, 7, 8]
    assert tokens.document_starts(5).tolist() == [0]
    assert tokens.document_starts(77).tolist() == [0]
    assert tokens.document_starts(None).tolist() == [0]
    assert tokens.document_starts(1).dtype == np.int64


def test_an_id_outside_the_vocabulary_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "CHUNK", 3)
    first = write_headerless(tmp_path / "a.bin", np.arange(5))
    second = write_headerless(tmp_path / "b.bin", np.array([1, 2, 300, 4]))
    tokens = open_shards([first, second])
    tokens.check_ids(301)
    with pytest.raises(DataError, match=r"b\.bin: expected ids below 300, found 300 at token 2; "):
        tokens.check_ids(300)


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    def refuse(path: Path, message: str, dtype: str | None = None) -> None:
        with pytest.raises(DataError) as error:
            open_shards([path], dtype)
        assert f"{path}: {message}" in str(error.value)
        assert ";" in str(error.value)

    empty = tmp_path / "empty.bin"
    empty.touch()
    odd = tmp_path / "odd.bin"
    odd.write_bytes(b"123")
    short = write_llm_c(tmp_path / "short.bin", IDS, count=len(IDS) + 1)
    cut = write_llm_c(tmp_path / "cut.bin", IDS)
    cut.write_bytes(cut.read_bytes()[:-1])
    refuse(tmp_path / "none.bin", "expected a token shard, found none")
    refuse(empty, "expected tokens, found an empty file")
    refuse(odd, "expected a multiple of 2 bytes (uint16), found 3")
    refuse(
        write_headerless(tmp_path / "half.bin", IDS[:3]),
        "expected a multiple of 4 bytes (uint32), found 6",
        "uint32",
    )
    refuse(short, "expected 5001 tokens by its header, found 5000")
    refuse(cut, "expected 5000 tokens by its header, found 4999.5")
    refuse(
        write_llm_c(tmp_path / "new.bin", IDS, version=2),
        "expected version 1 of the layout 20240520, found 2",
    )
    refuse(write_llm_c(tmp_path / "header.bin", IDS[:0]), "expected tokens, found a header alone")
    with pytest.raises(DataError, match="expected at least one token shard, found none"):
        open_shards([])


def test_a_file_cut_while_open_is_refused_instead_of_killing_the_process(tmp_path: Path) -> None:
    path = write_headerless(tmp_path / "a.bin", IDS)
    tokens = open_shards([path])
    os.truncate(path, 100)
    with pytest.raises(DataError, match=r"a\.bin: expected 10000 bytes, found 100; "):
        tokens.read(4000, 4001)


def test_shards_of_foreign_folders_are_found_by_name(tmp_path: Path) -> None:
    names = ["fineweb_train_000002.bin", "fineweb_train_000001.bin", "fineweb_val_000000.bin"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in find_shards(tmp_path, "train")] == [names[1], names[0]]
    assert [path.name for path in find_shards(tmp_path, "val")] == [names[2]]
    (tmp_path / "train.bin").touch()
    assert [path.name for path in find_shards(tmp_path, "train")] == ["train.bin"]
    with pytest.raises(DataError, match=r"expected manifest\.json, val\.bin or \*_val_\*\.bin"):
        find_shards(tmp_path / "nowhere", "val")
