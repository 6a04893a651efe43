"""Files from strangers: nothing in a header is believed before it is checked."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.interop import weights
from lmjax.text.errors import DataError

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}


def store(folder, header, data=bytes(32)):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / weights.FILE).write_bytes(len(content).to_bytes(8, "little") + content + data)


def test_what_was_written_is_read(tmp_path):
    weights.write(tmp_path, ARRAYS)
    found = weights.read(tmp_path)
    assert set(found) == set(ARRAYS)
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, ARRAYS[name])


F32 = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": {**F32, "data_offsets": [0, 28]}}, "expected 6 x 4 bytes, found 28"),
        ({"a": {**F32, "data_offsets": [16, 40]}}, "within the file's 32 bytes"),
        ({"a": {**F32, "data_offsets": [24, 0]}}, "within the file's 32 bytes"),
        ({"a": {**F32, "shape": [2**62, 4]}}, "expected 18446744073709551616 x 4 bytes"),
        ({"a": {**F32, "shape": [-2, -3]}}, "expected whole numbers"),
        ({"a": {**F32, "shape": [2.0, 3]}}, "expected whole numbers"),
        ({"a": {**F32, "shape": [True, 6]}}, "expected whole numbers"),
        ({"a": {**F32, "shape": "23"}}, "expected dtype, shape and two"),
        ({"a": {**F32, "dtype": "F33"}}, "expected a dtype among F64"),
        ({"a": [1, 2]}, "expected dtype, shape and two"),
        ([1, 2], "expected a header with names, found list"),
        (b"{", "expected a header in JSON"),
        (b"[" * 100_000, "expected a header in JSON"),
    ],
)
def test_a_header_that_lies_is_named(tmp_path, header, message):
    store(tmp_path, header)
    with pytest.raises(DataError, match=f"model.safetensors.*{message}"):
        weights.read(tmp_path)


@pytest.mark.parametrize("length", [33, 2**40, 2**64 - 1])
def test_a_header_longer_than_the_file_is_not_read(tmp_path, length):
    (tmp_path / weights.FILE).write_bytes(length.to_bytes(8, "little") + bytes(32))
    with pytest.raises(DataError, match=f"header of at most 32 bytes, found {length}"):
        weights.read(tmp_path)


def test_a_huge_header_is_not_read_though_the_file_is_large(tmp_path):
    with (tmp_path / weights.FILE).open("wb") as file:
        file.write((2**30).to_bytes(8, "little"))
        file.truncate(2**31)  # a sparse file: no disk is taken
    with pytest.raises(DataError, match=f"at most {2**22} bytes, found {2**30}"):
        weights.read(tmp_path)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_file_is_refused_or_read_within_its_size(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    safetensors.numpy.save_file(ARRAYS, folder / weights.FILE)
    content = bytearray((folder / weights.FILE).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.sampled_from(b'0123456789{}[]",:-eF\x00\xff'))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    (folder / weights.FILE).write_bytes(content)
    try:
        found = dict(weights.read(folder))
    except DataError:
        return
    assert sum(array.size for array in found.values()) <= len(content)


# ---- Indices


def index(folder, places):
    (folder / weights.INDEX).write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "x.bin", "..", 7, None]
)
def test_no_path_in_an_index_leaves_the_folder(tmp_path, name):
    index(tmp_path, {"a": name})
    with pytest.raises(DataError, match=r"a: expected the name of a .safetensors file in the same"):
        weights.read(tmp_path)


def test_an_index_that_names_what_is_not_there(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "one.safetensors")
    index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    with pytest.raises(DataError, match=r"two.safetensors: named by .*, but not there"):
        weights.read(tmp_path)
    index(tmp_path, {"a": "one.safetensors", "c": "one.safetensors"})
    with pytest.raises(DataError, match="expected the tensor c of "):
        weights.read(tmp_path)
    (tmp_path / weights.INDEX).write_text("[]")
    with pytest.raises(DataError, match="expected JSON with a weight_map"):
        weights.read(tmp_path)


# ---- Pickles


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path, name):
    bomb = tmp_path / "opened"
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch " + os.fsencode(bomb) + b"'\ntR.")
    with pytest.raises(DataError, match=rf"found {name}: a pickle.*\n.*save_pretrained"):
        weights.read(tmp_path)
    assert not bomb.exists()


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=f"expected {weights.FILE} or .*, found neither"):
        weights.read(tmp_path)
