"""Worker processes that die."""

import signal

import pytest

from lmjax.config import TextConfig
from lmjax.text.errors import DataError
from lmjax.text.workers import Workers, request


def test_where_all_have_died_each_further_job_is_told():
    job = [(0, [request("clean", format="text"), b"some words"])]
    with Workers(TextConfig(), 2) as workers:
        assert len(list(workers.map(job * 9))) == 9
        for process in workers._processes:
            process.send_signal(signal.SIGKILL)
        for _ in range(3):  # also once none is left that did not fail before
            with pytest.raises(DataError, match="ended with code -9: out of memory"):
                list(workers.map(job))
