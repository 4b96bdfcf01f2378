"""Which algorithms are measured on which paths."""

import pytest

from hpcdist.sweep.paths import ON_HOST, Paths
from hpcdist.sweep.record import LIBRARY


@pytest.mark.parametrize("name", ["ring", LIBRARY, "library:ring"])
def test_host_buffers_have_one_path(name):
    assert len(ON_HOST.of(name)) == 1


def test_ours_are_measured_on_every_path_that_can_be_taken():
    assert Paths({"staged": "staged", "peer": "peer"}, {"aware": "not known"}).of("ring") == ("staged", "peer")


@pytest.mark.parametrize(
    ("taken", "measured"),
    [
        ({"staged": "staged"}, ("staged",)),
        ({"peer": "peer"}, ("staged",)),
        ({"staged": "staged", "aware": "aware"}, ("staged", "aware")),
        ({"auto": "aware"}, ("staged", "aware")),
        ({"auto": "peer"}, ("staged",)),
    ],
)
def test_the_library_is_handed_device_memory_only_where_that_is_known_to_work(taken, measured):
    assert Paths(taken).of(LIBRARY) == measured


@pytest.mark.parametrize(
    ("taken", "asked"),
    [
        ({"staged": "staged"}, ()),
        ({"staged": "staged", "aware": "aware", "peer": "peer"}, ("peer",)),
        ({"auto": "peer"}, ("auto",)),
        ({"auto": "staged"}, ()),
    ],
)
@pytest.mark.parametrize("name", ["shared", "shared:ring"])
def test_shared_knows_the_path_peer_only(name, taken, asked):
    assert Paths(taken).of(name) == asked
