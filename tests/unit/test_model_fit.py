"""Who exchanges with whom when prices are fitted."""

import numpy as np
import pytest

pytest.importorskip("mpi4py")
from hpcdist.sweep import model


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7])
def test_neighbours_are_around_the_circle(size):
    assert model._neighbours(size).tolist() == [*range(1, size), 0]


@pytest.mark.parametrize(("size", "expected"), [(2, [1, 0]), (3, [1, 0, -1]), (4, [1, 0, 3, 2]), (1, [-1])])
def test_partners_send_to_each_other_and_a_last_one_to_nobody(size, expected):
    assert model._partners(size).tolist() == expected


@pytest.mark.parametrize("size", [2, 3, 5])
def test_one_message_goes_to_and_one_comes_fro(size):
    there, back = model._to_and_fro(size)
    assert np.flatnonzero(there >= 0).tolist() == [0]
    assert np.flatnonzero(back >= 0).tolist() == [1]
    assert (there[0], back[1], len(there), len(back)) == (1, 0, size, size)
