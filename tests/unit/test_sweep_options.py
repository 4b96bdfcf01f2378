"""What a sweep is asked for: what makes no sense is refused, and what it takes of memory is known before it begins."""

from dataclasses import replace

import pytest
from click.testing import CliRunner
from sweep_cases import options

from hpcdist.algorithms import ALLREDUCE, SHARED
from hpcdist.sweep import memory
from hpcdist.sweep.command import sweep
from hpcdist.sweep.record import LIBRARY


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algorithms", "ring,rign"], "'rign'; choose from"),
        (["--dtype", "half"], "'half'; choose from"),
        (["--op", "mean"], "'mean'; choose from"),
        (["--max-bytes", "4MB"], "write 4MiB"),
        (["--min-bytes", "16", "--max-bytes", "8"], "--min-bytes must be"),
        (["--min-bytes", "0"], "--min-bytes must be"),
        (["--step-factor", "1"], "--step-factor"),
        (["--segment-bytes", "64KiB,1MB"], "write 1MiB"),
        (["--time-limit", "nan"], "nan is no number of seconds"),
        (["--time-limit", "inf"], "inf is no number of seconds"),
        (["--no-library", "--algorithms", LIBRARY], "nothing is left to measure"),
        (["--algorithms", LIBRARY, "--dtype", "bfloat16"], "nothing is left to measure"),
        (["--library-algorithms", "--no-library", "--algorithms", LIBRARY, "--dtype", "float16"], "nothing is left"),
        (["--path", "peer"], "--path is for device buffers: add --device cuda"),
        (["--device", "cuda", "--path", "stage"], "'stage'; choose from auto, staged, aware, peer"),
        (["--device", "tpu"], "--device"),
        (["--device", "cuda", "--library-algorithms"], "--library-algorithms is for host buffers"),
        (["--json", "a", "--tune", "./a"], "a is named for two outputs"),
        (["--figure", "a", "--csv", "a.svg"], "a.svg is named for two outputs"),
    ],
)
def test_bad_arguments_exit_with_2_and_say_what_is_allowed(arguments, message):
    result = CliRunner().invoke(sweep, arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_memory_needed_is_that_of_buffers_and_inboxes(size):
    asked = options(algorithms=("recursive_doubling",), max_bytes=1 << 20, check=False)
    buffers, inboxes = memory.needed(0, (0,) * size, asked)
    assert buffers == 2 << 20
    assert inboxes == {1: 0, 2: 2 << 20, 4: 4 << 20}[size]
    several = replace(asked, segment_bytes=(4096, 65536))
    assert memory.needed(0, (0,) * size, several) == (buffers, 2 * inboxes)


def test_hierarchical_is_left_out_where_it_is_another_algorithm_unless_it_is_asked_for():
    every = options(algorithms=(*ALLREDUCE, SHARED))
    one_node, one_rank_each, two_nodes = (0, 0, 0, 0), (0, 1, 2, 3), (0, 0, 1, 1)
    assert every.sensible(two_nodes) == every
    for topology in one_node, one_rank_each:
        assert set(every.sensible(topology).algorithms) == {*ALLREDUCE, SHARED} - {"hierarchical"}
    asked = options(algorithms=("ring", "hierarchical"))
    assert asked.sensible(one_node) == asked
