"""Worker processes: fresh Pythons at the other end of a pipe, without JAX and without pickle.

multiprocessing would import the caller's main module in each of them, or fork its threads.
"""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self, TypeVar

import lmjax
from lmjax.config import Config, ConfigError, TextConfig, to_json
from lmjax.text import frames
from lmjax.text.errors import DataError

Job = TypeVar("Job")


def cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """Processes that know the settings; a context manager that ends them."""

    def __init__(self, config: TextConfig, count: int) -> None:
        # The workers must find the package even where this process found it by other means.
        home = str(Path(lmjax.__path__[0]).parent)
        path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "lmjax.text.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
            )
            for _ in range(count)
        ]
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._threads = ThreadPoolExecutor(count)
        settings = to_json(Config(text=config)).encode()
        for process in self._processes:
            frames.write(_pipe(process.stdin), [settings])
            self._idle.put(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Killing first ends the threads that wait for an answer.
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()

    def map(
        self,
        jobs: Iterable[tuple[Job, list[bytes]]],
        place: Callable[[Job, int], str] = lambda job, index: str(index),
    ) -> Iterator[tuple[Job, list[bytes]]]:
        """Answer each request, in order, with few of them in memory at a time.

        A request starts with a JSON object that names a task of `worker`. Raises the DataError or
        ConfigError that the worker met; `place` names the document it met it in.
        """
        waiting: deque[tuple[Job, Future[list[bytes]]]] = deque()

        def first() -> tuple[Job, list[bytes]]:
            job, future = waiting.popleft()
            answer = future.result()
            match json.loads(answer[0]):
                case {"error": message, "index": index}:
                    raise DataError(f"{place(job, index)}: {message}")
                case {"error": message, "kind": "ConfigError"}:
                    raise ConfigError(message)
                case {"error": message}:
                    raise DataError(message)
            return job, answer

        for job, request in jobs:
            waiting.append((job, self._threads.submit(self._ask, request)))
            if len(waiting) > 2 * len(self._processes):
                yield first()
        while waiting:
            yield first()

    def _ask(self, request: list[bytes]) -> list[bytes]:
        process = self._idle.get()
        try:
            frames.write(_pipe(process.stdin), request)
            _pipe(process.stdin).flush()
            answer = frames.read(_pipe(process.stdout))
        except (OSError, EOFError):
            answer = None
        finally:
            self._idle.put(process)  # a dead one too: nobody waits for it
        if answer is None:
            code = process.wait()
            raise DataError(
                f"a worker process ended with code {code}"
                + (": out of memory? Ask for fewer text.processes" if code == -9 else "")
            )
        return answer


def request(task: str, **values: Any) -> bytes:
    """The first blob of a request."""
    return json.dumps({"task": task, **values}).encode()


def _pipe(stream: Any) -> Any:
    assert stream is not None  # for the type checker: every process has both pipes
    return stream
