"""Readers of strangers' files refuse by their own errors whatever is done to good content."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.fuzz import TARGETS, check


@st.composite
def damaged(draw, seeds):
    """Good content with some bytes replaced, put in, taken out or doubled; or any bytes."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 8)))
        kept = bytes(content[start:stop])
        content[start:stop] = draw(st.binary(max_size=8) | st.just(kept * 2))
    return bytes(content)


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_reads_or_refuses(name, tmp_path):
    target = TARGETS[name]

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(damaged(target.seeds) | st.binary(max_size=200))
    def holds(content):
        check(target, folder, content)

    folder = tmp_path / "5"
    folder.mkdir()
    holds()


@pytest.mark.parametrize("name", ["shard", "safetensors", "journal", "config", "plan"])
def test_what_is_damaged_was_good(name, tmp_path):
    assert all(check(TARGETS[name], tmp_path, seed) for seed in TARGETS[name].seeds)
