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

_SECONDS = 0.2


@contextlib.contextmanager
def counted(run: Path, ledger: Ledger) -> Iterator[None]:
    """Add what earlier processes of a run have used, and keep `pulse.json` up to date inside.

    It goes with the end of the run, whose journal then holds the sum; a command that is refused
    (ConfigError) counts nothing.
    """
    earlier = carried(run)
    ledger.carry(earlier)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_SECONDS):
            _write(run, ledger.seconds())

    thread = threading.Thread(target=beat, name="pulse", daemon=True)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join()

    try:
        yield
    except ConfigError:
        stop()
        if earlier:
            _write(run, earlier)
        else:
            _path(run).unlink(missing_ok=True)
        raise
    except BaseException:
        stop()
        _write(run, ledger.seconds())
        raise
    stop()
    _path(run).unlink(missing_ok=True)


def carried(run: Path) -> dict[str, float]:
    """What earlier processes of a run have used, as a ledger: work that was lost counts."""
    ledgers = [e["ledger"] for e in journal.read(run / "timing.jsonl") if "ledger" in e]
    with contextlib.suppress(FileNotFoundError, ValueError):
        ledgers.append(json.loads(_path(run).read_text()))
    return max(ledgers, key=lambda ledger: sum(ledger.values()), default={})


def _path(run: Path) -> Path:
    return run / "pulse.json"


def _write(run: Path, seconds: dict[str, float]) -> None:
    # No fsync, and no complaint: a machine that dies costs a second's count, and a full disk is for
    # the next save to report.
    side = run / ".pulse.json.tmp"
    with contextlib.suppress(OSError):
        side.write_text(json.dumps(seconds))
        os.replace(side, _path(run))
