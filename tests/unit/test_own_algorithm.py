"""Algorithms of users: from a file, registered, or given as schedules; wrong ones are refused with the reason."""

from pathlib import Path

import pytest
from click.testing import CliRunner

import hpcdist
from hpcdist import algorithms
from hpcdist.algorithms import own
from hpcdist.cli.main import main
from hpcdist.errors import ScheduleError
from hpcdist.schedule.verify import verify

FILE = Path(__file__).parents[2] / "jobscripts" / "own_algorithm.py"
STAR, STARS, FORGETFUL = (f"{FILE}:{name}" for name in ("star", "stars", "forgetful"))


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(own, "_registered", {})
    monkeypatch.setattr(own, "_kept", {})


@pytest.fixture
def written(tmp_path):
    def write(text):
        (tmp_path / "own.py").write_text(text)
        return f"{tmp_path / 'own.py'}:mine"

    return write


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("name", [STAR, STARS])
def test_a_function_in_a_file_is_an_algorithm(name, size):
    schedule = algorithms.allreduce(name, size)
    verify(schedule)
    assert (schedule.name, schedule.size) == (name, size)
    assert algorithms.check(name) == name


def test_a_registered_function_is_an_algorithm_and_may_take_nodes():
    seen = []

    def mine(size, topology):
        seen.append(topology)
        return algorithms.ring(size)

    hpcdist.register("mine", mine)
    assert algorithms.allreduce("mine", 3, [0, 0, 1]).name == "mine"
    assert seen == [[0, 0, 1]]


@pytest.mark.parametrize("name", ["ring", "auto", "shared", "one_shot", "two_shot"])
def test_names_that_are_taken_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is an algorithm of hpcdist"):
        hpcdist.register(name, algorithms.ring)


def test_what_can_be_no_name_or_no_function_is_refused():
    with pytest.raises(ValueError, match="'a:b' cannot be the name"):
        hpcdist.register("a:b", algorithms.ring)
    with pytest.raises(TypeError, match="not 3"):
        hpcdist.register("three", 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mine = 1", "has no function 'mine'"),
        ("import nothing_of_that_name", "own.py, line 1: ModuleNotFoundError"),
        ("\n\n1 / 0", "own.py, line 3: ZeroDivisionError"),
        ("def mine(", "SyntaxError"),
    ],
)
def test_a_file_that_holds_no_such_function_says_why(written, text, said):
    with pytest.raises(ValueError, match=said):
        algorithms.check(written(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def mine(size):\n    return size", "is to be a Schedule, and is 4"),
        ("def mine(size):\n    return [][size]", "for 4 ranks: .*own.py, line 2: IndexError"),
        (
            "from hpcdist import algorithms\ndef mine(size):\n    return algorithms.ring(3)",
            "for 3 ranks, and here are 4",
        ),
        (
            "from hpcdist import algorithms\ndef mine(size):\n    return algorithms.SCATTER_REDUCE['ring'](size)",
            "is a schedule of reduce_scatter, and here an all-reduce",
        ),
    ],
)
def test_a_function_that_makes_no_all_reduce_says_why(written, text, said):
    name = written(text)
    with pytest.raises(ValueError, match=said):
        algorithms.allreduce(name, 4)
    settled = algorithms.settled(name, 4, None)
    with pytest.raises(ValueError, match=said):
        algorithms.allreduce(settled, 4)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"none.py cannot be read: No such file"):
        algorithms.check("none.py:mine")


def test_a_file_that_was_changed_is_read_anew(written):
    ring = "from hpcdist.algorithms import ring as mine\n"
    name = written(ring)
    before = algorithms.settled(name, 4, None)
    written(ring.replace("ring", "tree"))
    Path(name.rpartition(":")[0]).touch()
    assert algorithms.settled(name, 4, None) != before
    own._kept.clear()
    with pytest.raises(ValueError, match="is not the algorithm that was meant"):
        algorithms.allreduce(before, 4)


def test_ranks_agree_on_a_name_with_the_digest_of_all_transfers():
    assert algorithms.settled("ring", 4, None) == "ring"
    mine = algorithms.settled(algorithms.ring(4), 4, None)
    assert mine == algorithms.settled(algorithms.ring(4), 4, None)
    assert mine.startswith("ring@")
    assert mine != algorithms.settled(algorithms.tree(4), 4, None).replace("tree", "ring")
    assert algorithms.allreduce(mine, 4) is not None
    stars = algorithms.settled(STARS, 4, None)
    own._kept.clear()  # as in another process, which goes on with a checkpoint
    assert algorithms.allreduce(stars, 4).size == 4


def test_a_wrong_schedule_is_refused_with_the_guilty_step():
    settled = algorithms.settled(FORGETFUL, 4, None)
    with pytest.raises(ScheduleError, match="<-- here"):
        algorithms.allreduce(settled, 4)


def called(*words):
    return CliRunner().invoke(main, [*map(str, words)])


def test_the_verbs_take_it():
    assert "proven for 6 sizes (1-6)" in called("verify", STAR, STARS, "-n", "1-6").output
    assert "0<-" not in called("show", STAR, "-n", "3").output
    assert "2 steps" in called("show", STAR, "-n", "3").output
    told = called("predict", STAR, STARS, "ring", "-n", "8", "--nbytes", "1MiB").output
    assert [name in told for name in ("stars", "ring", "tree")] == [True, True, False]
    refused = called("verify", FORGETFUL, "-n", "4")
    assert refused.exit_code == 1
    assert "<-- here" in refused.output
