"""Every second is in one section, and the sections sum to the wall clock."""

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmjax.runtime.ledger import SECTIONS, Ledger


class Hand:
    """A clock moved by hand."""

    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


def test_a_second_goes_to_the_innermost_section():
    now = Hand()
    ledger = Ledger(now)
    now.time += 4
    ledger.carry({"step": 5.0, "save": 1.0})
    with ledger.section("step"):
        now.time += 2
        with ledger.section("data"):
            now.time += 4
        now.time += 8
    now.time += 16
    expected = {"other": 20.0, "step": 15.0, "data": 4.0, "save": 1.0}
    assert ledger.seconds() == {**dict.fromkeys(SECTIONS, 0.0), **expected}
    assert ledger.elapsed() == 40.0


def test_an_error_leaves_its_section():
    now = Hand()
    ledger = Ledger(now)
    with pytest.raises(OSError), ledger.section("save"):
        now.time += 1
        raise OSError
    now.time += 2
    assert (ledger.seconds()["save"], ledger.seconds()["other"]) == (1.0, 2.0)


@given(st.lists(st.tuples(st.sampled_from(SECTIONS), st.floats(0, 1e5))))
def test_sections_sum_to_the_time_that_passed(visits):
    now = Hand()
    ledger = Ledger(now)
    for section, seconds in visits:
        with ledger.section(section):
            now.time += seconds
    assert ledger.elapsed() == pytest.approx(now.time - 100.0, abs=1e-6)


def test_a_process_knows_when_it_began():
    program = "import time; time.sleep(0.5); from lmjax.runtime.ledger import process_began as b; "
    before = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", program + "print(b(), time.monotonic())"],
        capture_output=True,
        text=True,
        check=True,
    )
    began, now = map(float, ended.stdout.split())
    assert before - 0.02 <= began <= now - 0.5  # the system's ticks are hundredths
