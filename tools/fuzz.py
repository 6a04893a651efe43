"""Fuzz the readers of files that strangers may have made: `python -m tools.fuzz --minutes 30`.

Every target reads bytes as one kind of file: it may refuse them (DataError, ConfigError), and any
other error is a fault. Needs atheris (pip install atheris), which looks for bytes that reach new
lines of lmjax; the tests put simpler changes to the same targets. The time is shared among targets,
each in a process of its own, which may take 2 GiB.
"""

import json
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tyro

from lmjax.config import ConfigError
from lmjax.text.errors import DataError


class Target(NamedTuple):
    """A reader of a file in a folder, and contents to begin with."""

    file: str
    read: Callable[[Path], object]
    seeds: list[bytes]


def _manifest(path: Path) -> None:
    from lmjax.text import manifest

    manifest.read_manifest(path.parent)


def _shard(path: Path) -> None:
    from lmjax.data import shards

    for dtype in (None, "uint16", "uint32"):
        try:
            tokens = shards.open_shards([path], dtype)
            tokens.read(0, len(tokens))
            tokens.document_starts(0)
            tokens.check_ids(100)
        except DataError:
            continue


def _safetensors(path: Path) -> None:
    from lmjax.interop import weights

    for array in weights.read(path.parent).values():
        array.sum()


def _index(path: Path) -> None:
    from lmjax.interop import weights

    weights.read(path.parent)


def _journal(path: Path) -> None:
    from lmjax.runtime import journal

    journal.Journal(path).close()
    journal.read(path)


def _config(path: Path) -> None:
    from lmjax.runtime import run_folder

    run_folder.read_config(path.parent)


def _plan(path: Path) -> None:
    from lmjax.runtime import run_folder

    run_folder.fixed(path.parent)


def _seal(path: Path) -> None:
    from lmjax.runtime import checkpoint

    checkpoint.verify(path.parent)


def _tokenizer(path: Path) -> None:
    from lmjax.text import tokenizer

    tokenizer.load(path)


def _file(name: str) -> dict[str, object]:
    return {"name": name, "size": 8, "sha256": "0" * 64}


_SPLIT = {"documents": 1, "tokens": 4, "bytes": 9, "shards": [_file("train-00000.bin")]}
_MANIFEST = {
    "format": 1,
    "dtype": "uint16",
    "tokenizer": {"file": _file("a.model"), "vocab_size": 300, "bos": 0, "trained_bytes": 1},
    "train": _SPLIT,
    "val": _SPLIT,
    "cleaning": {"controls": {"documents": -1}},
    "invalid_utf8": 0,
    "inputs": {"a.txt": [1, 2]},
    "settings": {"vocab_size": 300},
    "versions": {"python": "3.11"},
}
_TENSORS = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [2], "data_offsets": [16, 20]},
    "__metadata__": {"format": "pt"},
}
_HEADER = json.dumps(_TENSORS).encode()


def _encoded(value: object) -> bytes:
    return json.dumps(value).encode()


TARGETS = {
    "manifest": Target("manifest.json", _manifest, [_encoded(_MANIFEST)]),
    "shard": Target(
        "train.bin",
        _shard,
        [
            struct.pack("<256i", 20240520, 1, 4, *[0] * 253) + bytes(range(8)),
            struct.pack("<256i", 20240801, 7, 2, *[0] * 253) + bytes(8),
            bytes(range(64)),
        ],
    ),
    "safetensors": Target(
        "model.safetensors",
        _safetensors,
        [struct.pack("<Q", len(_HEADER)) + _HEADER + bytes(20)],
    ),
    "index": Target(
        "model.safetensors.index.json",
        _index,
        [_encoded({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})],
    ),
    "journal": Target(
        "events.jsonl",
        _journal,
        [b'{"step": 1, "loss": 0.5, "event": "start"}\n{"step": 2, "val_loss": null}\n{"st'],
    ),
    "config": Target(
        "config.json",
        _config,
        [
            _encoded({"seed": 1, "budget": "20m", "model": {"kind": "lstm", "width": 8}}),
            _encoded({"model": {"depth": 2}, "batch": {"rows": 4}, "ramp": {"rows": [[0.3, 2]]}}),
        ],
    ),
    "plan": Target("plan.json", _plan, [_encoded({"format": 1, "fixed": {"corpus": "00"}})]),
    "seal": Target("seal.json", _seal, [_encoded({"format": 1, "files": {"a": "00"}})]),
    "tokenizer": Target("tokenizer.model", _tokenizer, [b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02"]),
}


def check(target: Target, folder: Path, content: bytes) -> bool:
    """Whether a target accepts the content; any error but the two it may raise comes through."""
    path = folder / target.file
    path.write_bytes(content)
    try:
        target.read(path)
    except (DataError, ConfigError):
        return False
    return True


def _fuzz(name: str, seconds: int) -> None:
    import atheris

    target = TARGETS[name]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        folder, corpus = Path(place) / "5", Path(place) / "corpus"  # a step's name
        folder.mkdir()
        corpus.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(seed)
        with atheris.instrument_imports(include=["lmjax"]):
            check(target, folder, target.seeds[0])
        options = [f"-max_total_time={seconds}", "-max_len=8192", "-rss_limit_mb=2048"]
        options += ["-print_final_stats=1", "-artifact_prefix=fuzz-"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], lambda b: check(target, folder, b))
        atheris.Fuzz()


def main(minutes: float = 30.0, only: str | None = None, seconds: int = 0) -> None:
    """Fuzz all targets; with `only`, one of them in this process for so many seconds."""
    if only is not None:
        _fuzz(only, seconds)
        return
    share = max(1, round(60 * minutes / len(TARGETS)))
    failed = False
    print("| reader | seconds | inputs | outcome |\n| --- | ---: | ---: | --- |")
    for name in TARGETS:
        words = ["-m", "tools.fuzz", "--only", name, "--seconds", str(share)]
        ended = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False
        )
        said = ended.stdout + ended.stderr
        runs = re.search(r"number_of_executed_units:\s*(\d+)", said)
        outcome = "no fault" if ended.returncode == 0 and runs else said.strip()[-1500:]
        failed |= outcome != "no fault"
        print(f"| {name} | {share} | {int(runs[1]) if runs else 0:,} | {outcome} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    tyro.cli(main)
