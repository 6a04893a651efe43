"""A set of 64-bit digests that grows to tens of millions in little memory."""

import numpy as np

_LARGEST_RUN = 8_000_000


class Seen:
    """Eight bytes a digest, in sorted runs; a Python set takes ten times that."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, digests: np.ndarray) -> np.ndarray:
        """Add digests; tells for each whether it is new, the first of equal ones counting."""
        new = np.zeros(len(digests), bool)
        new[np.unique(digests, return_index=True)[1]] = True
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, digests), len(run) - 1)
            new &= run[place] != digests
        if new.any():
            self._runs.append(np.sort(digests[new]))
        # Merging equals keeps the runs few, and the work for each digest logarithmic.
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            if len(self._runs[-2]) + len(self._runs[-1]) > _LARGEST_RUN:
                break
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate((self._runs[-1], last)))
        return new
