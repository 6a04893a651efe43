"""The first signal asks, the second ends."""

import signal
import subprocess
import sys
import threading

import pytest

from lmjax.runtime import signals

WAIT = """
import time
from lmjax.runtime import signals
with signals.listen() as stop:
    print("listening", flush=True)
    while stop.signal is None:
        time.sleep(0.01)
    print(stop.signal, flush=True)
    while True:
        time.sleep(0.01)
"""


def test_the_second_signal_ends_at_once():
    command = [sys.executable, "-c", WAIT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "listening\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "SIGTERM\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 128 + signal.SIGINT
        finally:
            process.kill()


# As where XLA compiles: Python calls no handler before this is over, in many minutes.
BUSY = """
import hashlib
from lmjax.runtime import signals
with signals.listen():
    print("listening", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def test_the_second_signal_ends_what_no_handler_can():
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "listening\n"
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        finally:
            process.kill()


def test_what_nothing_is_kept_of_is_broken_off():
    with pytest.raises(signals.Interrupted, match="stopped by SIGTERM while it waited"):
        with signals.listen() as stop, stop.at_once("it waited"):
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("it went on")
    with pytest.raises(signals.Interrupted), signals.listen() as stop:
        signal.raise_signal(signal.SIGINT)  # before it was begun
        with stop.at_once("it waited"):
            pytest.fail("it began")


def test_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with signals.listen() as stop:
        assert signal.getsignal(signal.SIGTERM) != before
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_thread_trains_without_handlers():
    found = []

    def listen():
        with signals.listen() as stop:
            found.append(stop.signal)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [None]
