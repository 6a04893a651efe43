"""Files from strangers, read by a process with little memory to spare: refused, nothing executed.

A process of its own imports lmjax, is then given 512 MiB more than it has and no more, and reads
one hostile file after the other.
"""

import json
import os
import pickle
import struct
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from lmjax import config as configuration
from lmjax.config import Config, LSTMConfig

READ = """
import json, resource, sys
from pathlib import Path

import lmjax.interop.importing, lmjax.runtime.restoring, lmjax.runtime.run_folder
import sentencepiece, tokenizers, safetensors
from lmjax.config import ConfigError
from lmjax.data import corpus, shards
from lmjax.interop import importing, weights
from lmjax.runtime import checkpoint, journal, restoring, run_folder
from lmjax.text import manifest, tokenizer
from lmjax.text.errors import DataError

folder = Path(sys.argv[1])
import jax
jax.random.key(0).block_until_ready()  # what JAX starts with is not the files' doing
readers = {
    "weights": lambda p: weights.read(p),
    "model": lambda p: importing.read_folder(p),
    "manifest": lambda p: manifest.read_manifest(p),
    "config": lambda p: run_folder.read_config(p),
    "run": lambda p: restoring.restore(p),
    "plan": lambda p: run_folder.fixed(p),
    "seal": lambda p: checkpoint.verify(p),
    "journal": lambda p: journal.read(p / "events.jsonl"),
    "shard": lambda p: corpus.open_corpus(p),
    "tokenizer": lambda p: tokenizer.load(p / "tokenizer.model"),
    "json": lambda p: tokenizer.load(p / "tokenizer.json"),
}
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + (512 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for name in json.loads(sys.argv[2]):
    try:
        readers[name.split("-")[0]](folder / name)
        told = "read"
    except (ConfigError, DataError) as error:
        told = f"refused: {error}"
    except BaseException as error:
        told = f"{type(error).__name__}: {error}"
    print(json.dumps([name, told[:400]]), flush=True)
"""


class Canary:
    """Pickled, it leaves a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def safetensors(header: object, data: bytes = bytes(32), length: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def hostile(canary: Path) -> dict[str, dict[str, bytes]]:
    """Folders by name, the reader's first: what they hold."""
    poison = pickle.dumps(Canary(canary))
    lists = b'{"a": [' + b"[]," * (3 << 20) + b"[]]}"  # a GiB once parsed
    deep = b'{"a": ' + b"[" * 200_000
    recipe = f"import os\nos.system('touch {canary}')".encode()
    gpt2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 64}
    gpt2 |= {"n_positions": 8, "n_embd": 8, "n_head": 2, "n_layer": 1}
    auto = gpt2 | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "architectures": ["Model"]}
    tensor = {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}
    small = Config(model=LSTMConfig(vocab_size=64, length=8, depth=1, width=8))
    huge = json.loads(configuration.to_json(small))
    huge["model"] |= {"width": 10**9, "vocab_size": 10**9}
    vocabulary = {"model": {"type": "WordLevel", "vocab": {"<s>": 2**32 - 1}, "unk_token": "<s>"}}
    big = "model.safetensors"
    return {
        "weights-header-of-an-exabyte": {big: safetensors({}, length=2**60)},
        "weights-header-of-lists": {big: safetensors(lists)},
        "weights-header-deep": {big: safetensors(deep)},
        "weights-overflow": {big: safetensors({"a": tensor | {"shape": [2**32, 2**32]}})},
        "weights-beyond": {big: safetensors({"a": tensor | {"data_offsets": [0, 2**40]}})},
        "weights-pickle": {"pytorch_model.bin": poison},
        "weights-pickle-renamed": {big: poison},
        "weights-index-outside": {
            "model.safetensors.index.json": b'{"weight_map": {"a": "../a.safetensors"}}'
        },
        "weights-index-of-lists": {"model.safetensors.index.json": lists * 2},
        "model-remote-code": {"config.json": json.dumps(auto).encode(), "evil.py": recipe},
        "model-many-layers": {
            "config.json": json.dumps(gpt2 | {"n_layer": 10**9}).encode(),
            big: safetensors({"wte.weight": tensor}),
        },
        "model-wide": {
            "config.json": json.dumps(gpt2 | {"n_embd": 2**40, "vocab_size": 2**40}).encode(),
            big: safetensors({"wte.weight": tensor}),
        },
        "model-of-lists": {"config.json": lists},
        "manifest-of-lists": {"manifest.json": lists[: 10 << 20]},
        "manifest-deep": {"manifest.json": deep},
        "manifest-pickle": {"manifest.json": poison},
        "config-of-lists": {"config.json": lists},
        "config-deep": {"config.json": deep},
        "config-pickle": {"config.json": poison},
        "config-code": {"config.json": b"{\"seed\": \"__import__('os').system('true')\"}"},
        "config-huge-number": {"config.json": b'{"seed": ' + b"9" * 5000 + b"}"},
        "run-of-a-petabyte": {
            "config.json": json.dumps(huge).encode(),
            "checkpoints/1/numbers.json": b"{}",
            "checkpoints/1/seal.json": json.dumps(
                {"format": 1, "files": {"numbers.json": sha256(b"{}").hexdigest()}}
            ).encode(),
        },
        "plan-deep": {"plan.json": deep},
        "plan-of-lists": {"plan.json": lists},
        "seal-deep": {"seal.json": deep},
        "seal-of-lists": {"seal.json": lists},
        "seal-outside": {"seal.json": b'{"format": 1, "files": {"../../etc/passwd": "00"}}'},
        "seal-pickle": {"seal.json": poison},
        "journal-deep": {"events.jsonl": deep + b"\n"},
        "journal-pickle": {"events.jsonl": poison + b"\n"},
        "shard-of-a-lying-header": {
            f"{split}.bin": struct.pack("<3i", 20240520, 1, 2**31 - 1) + bytes(2000)
            for split in ("train", "val")
        },
        "tokenizer-pickle": {"tokenizer.model": poison},
        "tokenizer-noise": {"tokenizer.model": bytes(range(256)) * 4000},
        "tokenizer-of-a-lying-length": {
            "tokenizer.model": b"\x0a\xff\xff\xff\xff\x7f" + bytes(100)
        },
        "json-huge-id": {"tokenizer.json": json.dumps(vocabulary).encode()},
        "json-deep": {"tokenizer.json": deep},
        "json-pickle": {"tokenizer.json": poison},
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, str]:
    """What the process said of each."""
    folder = tmp_path_factory.mktemp("hostile")
    made = hostile(folder / "canary")
    for name, files in made.items():
        for file, content in files.items():
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    ended = subprocess.run(
        [sys.executable, "-c", READ, str(folder), json.dumps(list(made))],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    lines = dict(json.loads(line) for line in ended.stdout.splitlines())
    assert set(lines) == set(made), (list(lines), ended.stderr[-2000:])
    assert not (folder / "canary").exists()
    return lines


@pytest.mark.parametrize("name", hostile(Path("canary")))
def test_it_is_refused_within_its_memory(told, name):
    assert told[name].startswith("refused: "), told[name]


def test_the_process_would_have_seen_the_limit(tmp_path):
    """Without a bound on the header, the same memory does not do."""
    (tmp_path / "tokenizer").mkdir()
    begun = READ.replace("weights.read(p)", "bytearray(1 << 30)")
    command = [sys.executable, "-c", begun, str(tmp_path), '["weights-control"]']
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert "MemoryError" in ended.stdout, ended.stderr[-1000:]


def test_code_in_an_override_is_text(tmp_path):
    canary = tmp_path / "canary"
    word = f"__import__('os').system('touch {canary}')"
    for setting in ("--model.width", "--seed", "--run"):
        command = [sys.executable, "-m", "lmjax.train", setting, word, "--budget", "none"]
        ended = subprocess.run(command, capture_output=True, timeout=60, check=False, cwd=tmp_path)
        assert ended.returncode == 78, ended.stderr
    assert not canary.exists()
