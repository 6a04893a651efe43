"""What a worker process does: answers frames on standard input with frames on standard output.

The first frame holds the settings. Each later one starts with a JSON object that names the task;
each answer starts with one that may hold an error. Run by `workers.Workers`, never by hand.
"""

import contextlib
import json
import os
import signal
import sys
from array import array
from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from lmjax.config import ConfigError, TextConfig, from_json
from lmjax.text import frames, tokenizer
from lmjax.text.cleaning import Cleaner, Count
from lmjax.text.documents import parse
from lmjax.text.errors import DataError


def main() -> None:
    """Answer until the parent closes the pipe or is gone."""
    # What a whole group is sent the parent gets too, and ends its workers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not fall among the frames
    settings = frames.read(requests)
    if settings is None:
        return
    config = from_json(settings[0].decode()).text
    while (request := frames.read(requests)) is not None:
        order = json.loads(request[0])
        try:
            answer = _TASKS[order["task"]](config, order, request[1:])
        except (DataError, ConfigError) as error:
            answer = [_json(error=str(error), kind=type(error).__name__)]
        frames.write(answers, answer)
        answers.flush()


def _json(**values: Any) -> bytes:
    return json.dumps(values).encode()


def _clean(config: TextConfig, order: dict[str, Any], documents: list[bytes]) -> list[bytes]:
    """Raw documents to clean ones: a report, then digests, lengths in characters, and texts."""
    cleaner = Cleaner(config.cleaning)
    utf8, report, invalid = Count(), cleaner.new_report(), 0
    digests, lengths, texts = array("Q"), array("Q"), []
    for index, document in enumerate(documents):
        try:
            parsed = list(parse(order["format"], document, config))
        except DataError as error:
            return [_json(error=str(error), kind="DataError", index=index)]
        for text, valid in parsed:
            invalid += not valid
            skipped = not valid and config.invalid_utf8 == "skip"
            utf8.add(len(text), None if skipped else len(text))
            cleaned = None if skipped else cleaner(text, report)
            if cleaned is not None:
                texts.append(cleaned.encode())
                lengths.append(len(cleaned))
                digests.append(int.from_bytes(blake2b(texts[-1], digest_size=8).digest(), "little"))
    counts = {step: vars(count) for step, count in {"utf8": utf8, **report}.items()}
    head = _json(report=counts, invalid=invalid)
    return [head, digests.tobytes(), lengths.tobytes(), *texts]


def _train(config: TextConfig, order: dict[str, Any], _: list[bytes]) -> list[bytes]:
    """A tokenizer from an even sample of the training documents; tells how many bytes it saw."""
    share = min(1.0, config.tokenizer.sample_bytes / order["bytes"])
    sample, owed = [], 0.5
    with Path(order["spool"]).open("rb") as spool:
        while (frame := frames.read(spool)) is not None:
            for text, validation in _documents(frame, order["threshold"]):
                for stretch in () if validation else tokenizer.stretches(text):
                    owed += share
                    if owed >= 1:
                        owed -= 1
                        sample.append(stretch)
    model = tokenizer.train(sample, config.tokenizer)
    return [_json(bytes=sum(len(stretch.encode()) for stretch in sample)), model]


def _encode(config: TextConfig, order: dict[str, Any], _: list[bytes]) -> list[bytes]:
    """The frame of the spool at an offset, as tokens of its training and validation documents."""
    encoder = _tokenizer(order["model"])
    with Path(order["spool"]).open("rb") as spool:
        spool.seek(order["offset"])
        documents = list(_documents(frames.read(spool) or [b""], order["threshold"]))
    tokens = array(order["type"]), array(order["type"])
    for (_text, validation), ids in zip(
        documents, encoder.encode_all([text for text, _ in documents]), strict=True
    ):
        tokens[validation].append(encoder.bos)
        tokens[validation].fromlist(ids)
    return [_json(), tokens[False].tobytes(), tokens[True].tobytes()]


_tokenizer = cache(tokenizer.load)


def _documents(frame: list[bytes], threshold: int) -> Iterator[tuple[str, bool]]:
    """The texts of a frame of the spool, each with whether it is kept for validation."""
    for digest, text in zip(array("Q", frame[0]), frame[1:], strict=True):
        yield text.decode(), digest < threshold


_TASKS = {"clean": _clean, "train": _train, "encode": _encode}

if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the parent was killed while it waited
        main()
