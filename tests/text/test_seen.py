"""The set of digests agrees with a Python set."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lmjax.text.seen import Seen


@given(st.lists(st.lists(st.integers(0, 40) | st.integers(2**64 - 3, 2**64 - 1), max_size=30)))
def test_the_first_of_equals_is_new(batches):
    seen, known = Seen(), set()
    for batch in batches:
        expected = []
        for digest in batch:
            expected.append(digest not in known)
            known.add(digest)
        assert seen.add(np.array(batch, np.uint64)).tolist() == expected


def test_runs_stay_few():
    seen = Seen()
    digests = np.random.default_rng(0).integers(0, 2**63, 20_000).astype(np.uint64)
    for batch in digests.reshape(1000, 20):
        seen.add(batch)
    assert len(seen._runs) < 20
    assert not seen.add(digests).any()
