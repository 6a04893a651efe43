"""Every fault of the soak, done for real: told as promised, and the run exact after it.

The full matrix, some minutes: `pytest -m faults`.
"""

import json

import pytest

from tools import faults
from tools.soak import KINDS, Soak, table

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

OF_FILE_SYSTEM = (
    faults.fill_disk,
    faults.take_inodes,
    faults.read_only,
    faults.read_only_start,
)


@pytest.fixture(scope="module")
def soak(tmp_path_factory):
    return Soak(tmp_path_factory.mktemp("soak"), seed=7, steps=300)


@pytest.mark.parametrize("kind", KINDS)
def test_kills_at_twelve_random_instants(soak, kind, capsys):
    before = len(soak.verdicts)
    while len(soak.verdicts) - before < 12:
        soak.begin(kind, small=False)
        while len(soak.pending) + len(soak.verdicts) - before < 12 and soak.strike(faults.kill):
            pass
        soak.close()
    lines = capsys.readouterr().out
    assert all(verdict.exact for verdict in soak.verdicts[before:]), lines


@pytest.mark.parametrize("do", faults.OTHERS, ids=lambda do: do.__name__)
def test_each_fault_is_told_and_the_run_exact(soak, do, capsys):
    kind = list(KINDS)[faults.OTHERS.index(do) % len(KINDS)]
    before = len(soak.verdicts)
    for _ in range(10):  # a run may be over before the fault can be done
        if not soak.begin(kind, small=do in OF_FILE_SYSTEM):
            soak.close()
            pytest.skip("no file system can be mounted here")
        soak.take_steps()
        soak.strike(do)
        soak.close()
        if len(soak.verdicts) > before:
            break
    verdicts = soak.verdicts[before:]
    mine = [verdict for verdict in verdicts if verdict.kind == do.__name__]
    lines = capsys.readouterr().out
    assert mine and all(verdict.exact and not verdict.silent for verdict in verdicts), lines
    assert all("exact" in json.loads(line) for line in lines.splitlines())
    assert f"| {do.__name__.replace('_', ' ')} |" in table(verdicts)
