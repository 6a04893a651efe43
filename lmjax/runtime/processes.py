"""The processes of one run on several machines: how they meet, what the first decides for all.

Each computes on devices of its own and reads rows of its own. The first alone writes: it holds the
lock, the journals and the console. What a clock, a signal or a file says it decides for all, since
all must run the same programs in the same order.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from lmjax.config import ProcessesConfig
from lmjax.runtime import console
from lmjax.runtime.journal import Journal, Unwritten

_HEARTBEAT = 30
"""Seconds after which a process that says nothing is taken to be gone."""
_PATIENCE = 60_000
"""Milliseconds of one request to wait for the first; it is made again for as long as that lives."""
_KEPT = 100
"""Decisions that are kept; a process lags behind by one or two."""


class Peers:
    """This process and the others of its run; alone, it decides for itself."""

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count
        self._decided = 0
        self._told = False

    @property
    def first(self) -> bool:
        return self.index == 0

    def journal(self, path: Path) -> Journal:
        """A journal of the run: the first process's own, which the others do not write."""
        return Journal(path) if self.first else Unwritten(path)

    def agree(self, decide: Callable[[], Any]) -> Any:
        """What `decide` returns to the first process, for all; what JSON holds, tuples as lists.

        Each process must ask for the same decisions in the same order.
        """
        if self.count == 1:
            return decide()
        client, key = _client(), f"lmjax/decided/{self._decided}"
        self._decided += 1
        if self.first:
            found = json.dumps(decide())
            client.key_value_set(key, found)
            if self._decided > _KEPT:
                client.key_value_delete(f"lmjax/decided/{self._decided - 1 - _KEPT}")
            return json.loads(found)
        while True:
            try:
                return json.loads(client.blocking_key_value_get(key, _PATIENCE))
            except Exception as error:  # whatever JAX makes of gRPC's codes
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    def asked(self, signal: str | None) -> str | None:
        """The signal that asked any of the processes to stop; it counts once the first knows it."""
        if self.count == 1:
            return signal
        key = "lmjax/asked"
        if not self.first:
            if signal is not None and not self._told:
                _client().key_value_set(key, signal, allow_overwrite=True)
                self._told = True
            return None
        try:
            return signal or str(_client().key_value_try_get(key))
        except Exception as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None


@contextlib.contextmanager
def joined(config: ProcessesConfig) -> Iterator[Peers]:
    """Meet the other processes of the run, if there are to be any, and leave together.

    Where one of several is lost, this process ends with code 75 at once or after `_HEARTBEAT`
    seconds; where this one fails, the others do. Exits with 78 where they cannot meet.
    """
    if config.count == 1:
        yield Peers()
        return
    peers = _meet(config)
    console.terminal.quiet = not peers.first
    try:
        yield peers
        meet("done")
    except SystemExit as stop:
        _leave(stop.code if isinstance(stop.code, int) else 1)
    except Exception as error:
        traceback.print_exc()
        if type(error).__module__.partition(".")[0] != "lmjax":
            # A collective broke off: most likely the other side is gone, which JAX then finds out.
            time.sleep(_HEARTBEAT + 10)
        _leave(1)
    import jax

    jax.distributed.shutdown()


def _meet(config: ProcessesConfig) -> Peers:
    import jax

    _end_with_75_where_jax_aborts()
    # It would take SIGTERM for itself, which lmjax.runtime.signals listens to.
    jax.config.update("jax_enable_preemption_service", False)
    alone: dict[str, Any] = {}
    if config.count != "auto":
        alone = {
            "coordinator_address": config.coordinator,
            "num_processes": config.count,
            "process_id": config.index,
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(
            **alone, heartbeat_timeout_seconds=_HEARTBEAT, shutdown_timeout_seconds=_HEARTBEAT
        )
    except (ValueError, RuntimeError) as error:
        console.fail(
            f"processes.count {config.count}: expected to be started by SLURM, Open MPI or "
            f"Kubernetes where it is auto, or by hand with --processes.index and "
            f"--processes.coordinator, found: {error}"
        )
        sys.exit(78)
    return Peers(jax.process_index(), jax.process_count())


def meet(place: str) -> None:
    """Wait until all processes have come here; `place` is another each time.

    For a day at most: where one is lost, JAX ends the others.
    """
    import jax

    if jax.process_count() > 1:
        _client().wait_at_barrier(f"lmjax/{place}", 24 * 3600 * 1000)


def _client() -> Any:
    """JAX's line to the service that the first process runs."""
    from orbax.checkpoint import multihost

    return multihost.get_jax_distributed_client()


def _leave(code: int) -> NoReturn:
    """Not by way of Python's exit: JAX would wait there for processes that go on."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(number: int) -> None:
    told = (
        "lmjax: another process of this run is gone, or JAX failed; see above, and what the others "
        "printed. What was saved is whole: run all of them again\n"
    )
    os.write(2, told.encode())
    os._exit(75)


def _end_with_75_where_jax_aborts() -> None:
    """Where another process is lost JAX calls abort(), and no Python handler would see it."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, type(_aborted)]
    libc.signal(signal.SIGABRT, _aborted)
