"""Tensors of a Hugging Face folder: safetensors files, believed only as far as they are checked.

A header is read and held against the file's size before any tensor is: no number in it decides how
much memory is taken. Pickle files, which run code when they are opened, are refused.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.config import ConfigError
from lmjax.text import json_file
from lmjax.text.errors import DataError

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_LONGEST_HEADER = 1 << 22  # a tensor takes about 100 bytes of it
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_OTHER_BYTES = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1}
_SIZES = _ITEM_BYTES | _OTHER_BYTES | {"BOOL": 1}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class Weights(Mapping[str, np.ndarray]):
    """Names to float32 arrays, each read when it is asked for."""

    def __init__(self, places: dict[str, Path]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> np.ndarray:
        import ml_dtypes  # noqa: F401  numpy then knows bfloat16

        library, path = _library(), self._places[name]
        try:
            with library.safe_open(path, framework="np") as file:
                return np.asarray(file.get_tensor(name), np.float32)
        except library.SafetensorError as error:
            raise DataError(f"{path}: {name}: {error}; fetch the file again") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read(folder: Path) -> Weights:
    """The tensors of a folder, its headers checked. Raises DataError naming what is wrong."""
    if (folder / FILE).is_file():
        files: dict[Path, list[str] | None] = {folder / FILE: None}
    elif (folder / INDEX).is_file():
        files = _indexed(folder)
    else:
        raise DataError(_missing(folder))
    places = {}
    for path, names in files.items():
        header = read_header(path)
        for name in header if names is None else names:
            if name not in header:
                raise DataError(f"{path}: expected the tensor {name} of {INDEX}, found none")
            if header[name]["dtype"] in _ITEM_BYTES:
                places[name] = path
    return Weights(places)


def write(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """One file of float32 tensors. Raises ConfigError without the safetensors package."""
    _library()
    from safetensors.numpy import save_file

    whole = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
    save_file(whole, folder / FILE, metadata={"format": "pt"})


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """What a file says it holds: dtype, shape and data_offsets of each tensor, all of them checked.

    Raises DataError for a header that is too long, is not JSON, or does not fit the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_LONGEST_HEADER, size - 8):
            most = max(0, min(_LONGEST_HEADER, size - 8))
            raise DataError(
                f"{path}: expected a safetensors header of at most {most} bytes, found {length}; "
                "fetch the file again"
            )
        content = file.read(length)
    try:
        header = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected a header in JSON, {error}") from None
    if not isinstance(header, dict):
        raise DataError(f"{path}: expected a header with names, found {type(header).__name__}")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        problem = _problem(entry, size - 8 - length)
        if problem:
            raise DataError(f"{path}: {name}: {problem}; fetch the file again")
    return header


def _problem(entry: Any, room: int) -> str | None:
    """What is wrong with a tensor's entry in a file with `room` bytes of data."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, end]}:
            pass
        case _:
            return f"expected dtype, shape and two data_offsets, found {str(entry)[:100]}"
    if dtype not in _SIZES:
        return f"expected a dtype among {', '.join(_SIZES)}, found {dtype}"
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        return f"expected whole numbers, found shape {shape} and offsets {start}, {end}"
    if not start <= end <= room:
        return f"expected data within the file's {room} bytes, found offsets {start} to {end}"
    if end - start != math.prod(shape) * _SIZES[dtype]:
        return f"expected {math.prod(shape)} x {_SIZES[dtype]} bytes, found {end - start}"
    return None


def _indexed(folder: Path) -> dict[Path, list[str] | None]:
    """The files an index names, with the tensors it expects in each."""
    path = folder / INDEX
    try:
        places = dict(json_file.read(path, 16 << 20)["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected JSON with a weight_map: {error!r}") from None
    files: dict[Path, list[str] | None] = {}
    for name, file in places.items():
        plain = isinstance(file, str) and Path(file).name == file and "\\" not in file
        if not plain or not file.endswith(".safetensors"):
            raise DataError(
                f"{path}: {name}: expected the name of a .safetensors file in the same folder, "
                f"found {file!r}"
            )
        if not (folder / file).is_file():
            raise DataError(f"{folder / file}: named by {INDEX}, but not there; fetch it")
        names = files.setdefault(folder / file, [])
        assert names is not None
        names.append(name)
    return files


def _missing(folder: Path) -> str:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if not pickles:
        return f"{folder}: expected {FILE} or {INDEX}, found neither"
    return (
        f"{folder}: expected {FILE}, found {', '.join(pickles)}: a pickle, which runs code when it "
        f"is opened. If you trust it, convert it where that may happen:\n{_CONVERT} {folder}"
    )


_CONVERT = (
    '  python -c "import sys, transformers as t; f = sys.argv[1]; '
    "c = t.AutoConfig.from_pretrained(f); "
    'getattr(t, c.architectures[0]).from_pretrained(f).save_pretrained(f)"'
)


def _library() -> Any:
    try:
        import safetensors
    except ImportError:
        raise ConfigError(
            'expected the package safetensors, found none; pip install "lmjax[hf]"'
        ) from None
    return safetensors
