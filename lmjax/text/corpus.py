"""From sources to a corpus folder: a tokenizer, shards of tokens, and a manifest.

Documents are read and cleaned once, into a spool file beside the shards; the tokenizer is trained
on a sample of the spool and encodes it. Whatever the number of processes, the bytes are the same.
"""

import dataclasses
import json
import platform
import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lmjax.config import TextConfig
from lmjax.text import cleaning, documents, frames, manifest, sources, tokenizer
from lmjax.text.cleaning import Count, Report
from lmjax.text.errors import DataError
from lmjax.text.manifest import (
    DType,
    File,
    Manifest,
    Split,
    TokenizerFacts,
    read_manifest,
    verify,
)
from lmjax.text.partial import partial, write
from lmjax.text.progress import say, stage
from lmjax.text.seen import Seen
from lmjax.text.shards import Shards
from lmjax.text.workers import Workers, cores, request

__all__ = ["prepare", "read_manifest", "verify"]

MODEL = "tokenizer.model"
JSON = "tokenizer.json"  # of the `tokenizers` library


def prepare(text: TextConfig, out: Path) -> Manifest:
    """Make the corpus folder `out`, or return at once if it is there and up to date.

    Raises DataError for text that cannot be used and for a folder made otherwise, ConfigError for
    settings that cannot work. Never touches an existing folder.
    """
    out = Path(out).absolute()
    found = sources.resolve(text.sources)
    settings, inputs = _identity(text, found)
    if out.is_dir() and any(out.iterdir()):
        return _up_to_date(out, settings, inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    _check_disk(found, out.parent)
    with partial(out) as folder:
        with Workers(text, text.processes or cores()) as workers:
            spool = folder / "spool"
            cleaned = _clean(workers, found, text, spool)
            _check_sides(cleaned, text)
            model = folder / (JSON if (text.tokenizer.file or "").endswith(".json") else MODEL)
            facts = _tokenizer(cleaned, text, spool, model)
            dtype: DType = "uint16" if facts.vocab_size <= 1 << 16 else "uint32"
            splits = _encode(workers, cleaned, text, spool, model, dtype)
        spool.unlink()
        made = Manifest(
            format=manifest.FORMAT,
            dtype=dtype,
            tokenizer=facts,
            train=splits[0],
            val=splits[1],
            cleaning={step: vars(count) for step, count in cleaned.report.items()},
            invalid_utf8=cleaned.invalid,
            inputs=inputs,
            settings=settings,
            versions=_versions("tokenizers" if model.name == JSON else "sentencepiece"),
        )
        content = manifest.to_json(made).encode()
        write(folder / manifest.FILE, content)
        write(folder / manifest.SEAL, manifest.seal(content))
    _tell(made, out)
    return made


def _versions(tokenizer: str) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("lmjax", tokenizer, "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"  # run from its source tree
    return versions


def _identity(text: TextConfig, found: list[sources.Source]) -> tuple[dict[str, Any], Any]:
    """What a corpus depends on: settings, and the files behind the sources as they are now."""
    settings = dataclasses.asdict(text)
    for name in ("sources", "processes"):  # the files are told apart; the number changes nothing
        del settings[name]
    inputs = sources.describe(found)
    if text.tokenizer.file is not None:
        path = Path(text.tokenizer.file).expanduser().resolve()
        tokenizer.load(path)  # an unfit file is told before any text is read
        inputs[str(path)] = (path.stat().st_size, path.stat().st_mtime_ns)
    return settings, inputs


def _up_to_date(out: Path, settings: dict[str, Any], inputs: Any) -> Manifest:
    if not (out / manifest.FILE).exists():
        raise DataError(f"{out}: expected a corpus or no folder, found a folder without manifest")
    made = read_manifest(out)
    old = {**_leaves(made.settings, "text."), **made.inputs}
    new = {**_leaves(settings, "text."), **inputs}
    differences = [
        f"  {key}: was {old.get(key, 'absent')}, now {new.get(key, 'absent')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]
    if not differences and list(made.inputs) != list(inputs):
        differences = ["  the order of the sources"]
    if differences:
        more = [f"  and {len(differences) - 10} more"] if len(differences) > 10 else []
        raise DataError(
            f"{out}: was prepared from something else:\n"
            + "\n".join([*differences[:10], *more])
            + "\nGive another --out (or data), or delete the folder to prepare it anew."
        )
    say(f"{out}: up to date")
    return made


def _leaves(tree: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _check_disk(found: list[sources.Source], parent: Path) -> None:
    # The spool takes as much as the text, and the shards rarely more: two bytes a token or four.
    need, free = 2 * sum(source.text_bytes for source in found), shutil.disk_usage(parent).free
    if need > free:
        raise DataError(
            f"{parent}: expected about {need / 1e9:,.1f} GB of free disk, found {free / 1e9:,.1f}; "
            "free some, or give an --out on a larger disk"
        )


@dataclass
class _Cleaned:
    """What the spool holds: frames of digests and texts."""

    report: Report
    offsets: list[int]
    end: int
    invalid: int
    train: Split
    val: Split


def _clean(
    workers: Workers, found: list[sources.Source], text: TextConfig, spool: Path
) -> _Cleaned:
    """Read, clean and spool every document; duplicates go here, where all pass by."""
    report: Report = {}
    duplicates, seen = Count(), Seen()
    offsets, end, invalid = [], 0, 0
    counts = {side: [0, 0] for side in (False, True)}
    threshold = np.uint64(_threshold(text))

    def requests() -> Iterator[tuple[documents.Chunk, list[bytes]]]:
        for chunk in documents.chunks(found, text):
            yield chunk, [request("clean", format=chunk.format), *chunk.documents]

    with stage("Cleaning", sum(source.size for source in found)) as advance, spool.open("wb") as to:
        for chunk, answer in workers.map(requests(), documents.Chunk.place):
            head = json.loads(answer[0])
            invalid += head["invalid"]
            cleaning.merge(report, {step: Count(**c) for step, c in head["report"].items()})
            digests = np.frombuffer(answer[1], np.uint64)
            lengths, texts = array("Q", answer[2]), answer[3:]
            new = seen.add(digests) if text.cleaning.duplicates else np.ones(len(digests), bool)
            for length, kept in zip(lengths, new, strict=True):
                duplicates.add(length, length if kept else None)
            kept_texts = [blob for blob, kept in zip(texts, new, strict=True) if kept]
            if kept_texts:
                offsets.append(end)
                end += frames.write(to, [digests[new].tobytes(), *kept_texts])
            for blob, validation in zip(kept_texts, digests[new] < threshold, strict=True):
                counts[bool(validation)][0] += 1
                counts[bool(validation)][1] += len(blob)
            advance(chunk.done)
    if text.cleaning.duplicates:
        report["duplicates"] = duplicates
    if sources.describe(found) != sources.describe(sources.resolve(text.sources)):
        raise DataError("text.sources: a file changed while it was read; run again")
    train, val = (Split(documents=n, tokens=0, bytes=b, shards=()) for n, b in counts.values())
    return _Cleaned(report, offsets, end, invalid, train, val)


def _threshold(text: TextConfig) -> int:
    """Documents whose digest is below are kept for validation."""
    return int(text.validation * 2**64)


def _check_sides(cleaned: _Cleaned, text: TextConfig) -> None:
    for line in cleaning.table(cleaned.report):
        say(line)
    if cleaned.invalid:
        say(f"invalid UTF-8 in {cleaned.invalid:,} documents ({text.invalid_utf8})")
    train, val = cleaned.train.documents, cleaned.val.documents
    if train + val == 0:
        raise DataError(
            "text.sources: expected text, found none that is left after cleaning; "
            "the table above tells which step dropped it"
        )
    if train == 0 or val == 0:
        raise DataError(
            f"text.validation: expected documents on both sides, found {train} to train on and "
            f"{val} to validate; give more text, cut it finer (text.document_chars is "
            f"{text.document_chars}), or change the share (it is {text.validation})"
        )


def _tokenizer(cleaned: _Cleaned, text: TextConfig, spool: Path, model: Path) -> TokenizerFacts:
    """Train the tokenizer on training documents, or adopt the one that is given."""
    if text.tokenizer.file is not None:
        trained, content = 0, tokenizer.adopt(Path(text.tokenizer.file).expanduser())
    else:
        say(f"Training a tokenizer of {text.tokenizer.vocab_size:,} pieces")
        order = request(
            "train", spool=str(spool), bytes=cleaned.train.bytes, threshold=_threshold(text)
        )
        with Workers(text, 1) as trainer:  # its memory goes with it
            ((_, (head, content)),) = trainer.map([(None, [order])])
        trained = json.loads(head)["bytes"]
        say(f"trained on {trained / 1e6:,.1f} of {cleaned.train.bytes / 1e6:,.1f} MB")
    write(model, content)
    made = tokenizer.load(model)
    file = File(name=model.name, size=len(content), sha256=sha256(content).hexdigest())
    return TokenizerFacts(
        file=file, vocab_size=made.vocab_size, bos=made.bos, trained_bytes=trained
    )


def _encode(
    workers: Workers, cleaned: _Cleaned, text: TextConfig, spool: Path, model: Path, dtype: DType
) -> tuple[Split, Split]:
    """Encode the spool frame by frame into the shards of both sides."""
    same = {
        "spool": str(spool),
        "model": str(model),
        "threshold": _threshold(text),
        "type": {"uint16": "H", "uint32": "I"}[dtype],
    }
    train, val = (Shards(spool.parent, side, dtype, text.shard_tokens) for side in ("train", "val"))
    ends = [*cleaned.offsets[1:], cleaned.end]
    jobs = (
        (end, [request("encode", offset=offset, **same)])
        for offset, end in zip(cleaned.offsets, ends, strict=True)
    )
    with stage("Encoding", cleaned.end) as advance:
        for end, (_, train_tokens, val_tokens) in workers.map(jobs):
            train.write(train_tokens)
            val.write(val_tokens)
            advance(end)
    return (
        dataclasses.replace(cleaned.train, shards=train.close(), tokens=train.tokens),
        dataclasses.replace(cleaned.val, shards=val.close(), tokens=val.tokens),
    )


def _tell(made: Manifest, out: Path) -> None:
    for name, side in (("train", made.train), ("val", made.val)):
        say(
            f"{name:<6}{side.documents:>10,} documents {side.tokens:>14,} tokens "
            f"{side.bytes / 1e6:>10,.1f} MB  {side.bytes / side.tokens:.2f} bytes a token"
        )
    say(f"{out}: done")
