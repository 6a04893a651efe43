"""What a run has used, written down five times a second: what a kill lost still counts.

A thread writes it, so that time spent compiling or saving is told as well.
"""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from lmjax.config import ConfigError
from lmjax.runtime import journal
from lmjax.runtime.ledger import Ledger

_NAME = "pulse.json"
_SECONDS = 0.2


@contextlib.contextmanager
def counted(run: Path, ledger: Ledger) -> Iterator[None]:
    """Add what earlier processes of a run have used, and keep `pulse.json` up to date inside.

    It goes with the end of the run, whose journal then holds the sum; a command that is refused
    (ConfigError) counts nothing. It stays in the folder that `run` was at first, whatever becomes
    of its name.
    """
    earlier = carried(run)
    ledger.carry(earlier)
    ended = threading.Event()
    folder = os.open(run, os.O_RDONLY | os.O_DIRECTORY)

    def beat() -> None:
        while not ended.wait(_SECONDS):
            _write(folder, ledger.seconds())

    thread = threading.Thread(target=beat, name="pulse", daemon=True)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join()

    try:
        yield
        stop()
        _remove(folder)
    except ConfigError:
        stop()
        if earlier:
            _write(folder, earlier)
        else:
            _remove(folder)
        raise
    except BaseException:
        stop()
        _write(folder, ledger.seconds())
        raise
    finally:
        os.close(folder)


def carried(run: Path) -> dict[str, float]:
    """What earlier processes of a run have used, as a ledger: work that was lost counts."""
    logged = journal.newest(run / "timing.jsonl", "ledger")
    ledgers = [logged["ledger"]] if logged else []
    with contextlib.suppress(FileNotFoundError, ValueError):
        ledgers.append(json.loads((run / _NAME).read_text()))
    return max(ledgers, key=lambda ledger: sum(ledger.values()), default={})


def _write(folder: int, seconds: dict[str, float]) -> None:
    # No fsync, and no complaint: a machine that dies costs a second's count, and a full disk is for
    # the next save to report.
    side = f".{_NAME}.tmp"
    with contextlib.suppress(OSError):
        with open(side, "w", opener=lambda name, flags: os.open(name, flags, dir_fd=folder)) as to:
            json.dump(seconds, to)
        os.replace(side, _NAME, src_dir_fd=folder, dst_dir_fd=folder)


def _remove(folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_NAME, dir_fd=folder)
