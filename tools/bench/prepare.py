"""Preparing text: MB/s against the SentencePiece encoder alone, over processes, and its memory.

    python -m tools.bench.prepare --megabytes 100 --json

The text is the source of Python's library, over and over, each copy told apart by a number, so that
no document is a duplicate; the tokenizer is given, as for a corpus that is prepared again. The peer
encodes the same text with `sentencepiece` and nothing else, on one core.
"""

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Literal

import sentencepiece
import tyro
from rich.table import Table

from lmjax.config import TokenizerConfig
from lmjax.runtime import console
from lmjax.text import tokenizer


def write(path: Path, size: int) -> None:
    """JSON lines of Python's own source, `size` bytes of text or a little more."""
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    texts = [p.read_text("utf-8", errors="replace") for p in sources]
    with path.open("w") as to:
        written = copy = 0
        while written < size:
            for text in texts:
                to.write(json.dumps({"text": f"# {copy}\n{text}"}) + "\n")
                written += len(text)
                if written >= size:
                    break
            copy += 1


def ours(source: Path, model: Path, out: Path, processes: int) -> tuple[float, float]:
    """Seconds, and the MiB of the largest process, of `python -m lmjax.prepare`."""
    command = [sys.executable, "-m", "lmjax.prepare", "--input", str(source), "--out", str(out)]
    command += ["--tokenizer", str(model), "--text.processes", str(processes)]
    memory = 0.0
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, stderr=said)
        # What wait4() tells of a child's memory counts that of this process before the exec.
        while child.poll() is None:
            memory = max([memory, *map(peak, family(child.pid))])
            time.sleep(0.02)
        said.seek(0)
        if child.returncode:
            raise SystemExit(f"prepare ended with {child.returncode}: {said.read()[-500:]}")
    return time.perf_counter() - begun, memory


def family(process: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{process}/task/{process}/children")
    with contextlib.suppress(OSError):
        return [process, *map(int, children.read_text().split())]
    return []


def peak(process: int) -> float:
    """The most memory of a process so far, in MiB."""
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(), re.M)
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def theirs(source: Path, model: Path) -> float:
    """Seconds to encode the same texts, read beforehand."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model), num_threads=1)
    texts = [json.loads(line)["text"] for line in source.open()]
    begun = time.perf_counter()
    for text in texts:
        processor.encode(text)
    return time.perf_counter() - begun


def main(
    megabytes: tuple[int, ...] = (20, 100),
    peer: Literal["sentencepiece"] = "sentencepiece",
    repeats: int = 1,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Prepare so much text, with one process and with one a core."""
    cores = len(os.sched_getaffinity(0))
    table = Table("MB", "processes", "MB/s", "MB/s a core", "of the encoder alone", "MiB")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "tokenizer.model"
        texts = [p.read_text("utf-8") for p in sorted(Path(os.__file__).parent.glob("a*.py"))]
        model.write_bytes(tokenizer.train(texts, TokenizerConfig(vocab_size=4096)))
        for size in megabytes:
            source = folder / f"{size}.jsonl"
            write(source, size * 10**6)
            for processes in sorted({1, cores}):
                for repeat in range(repeats):
                    out = folder / f"{size}-{processes}-{repeat}"
                    seconds, memory = ours(source, model, out, processes)
                    alone = theirs(source, model)
                    rate = size / seconds
                    row = {"megabytes": size, "processes": processes, "seconds": seconds}
                    row |= {"memory_mib": memory, "ratio": rate / processes / (size / alone)}
                    rows.append(row)
                    table.add_row(
                        str(size),
                        str(processes),
                        f"{rate:.2f}",
                        f"{rate / processes:.2f}",
                        f"{row['ratio']:.2f}",
                        f"{memory:.0f}",
                    )
    console.terminal.print(table)
    if as_json:
        ratios = [row["ratio"] for row in rows if row["processes"] == 1]
        facts = {"peer": peer, "ratio": statistics.median(ratios), "ratios": ratios}
        print(json.dumps({**facts, "rows": rows}))


if __name__ == "__main__":
    tyro.cli(main)
