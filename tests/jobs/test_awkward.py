"""The program for awkward numbers of ranks, on real ranks; what it measures here says nothing."""

import subprocess
import sys

from hpcdist.bench.awkward.measure import AUTO, FLAT
from hpcdist.bench.awkward.record import Run
from hpcdist.sweep.record import LIBRARY

HPCDIST = [sys.executable, "-m", "hpcdist"]
PROGRAM = [sys.executable, "-m", "hpcdist.bench.awkward"]


def on(ranks, *options):
    command = [*HPCDIST, "run", "-n", str(ranks), "--", *PROGRAM, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_all_algorithms_are_checked_timed_and_priced(tmp_path):
    path = tmp_path / "new" / "3.json"
    path.parent.mkdir()
    done = on(3, "--sizes", "8,64KiB", "--seconds", "0", "--out", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run.read(path)
    assert run.topology == [0, 0, 0]
    assert [(record.nbytes, record.case) for record in run.results] == [
        (nbytes, case) for nbytes in (8, 65536) for case in (LIBRARY, *FLAT, AUTO)
    ]
    for record in run.results:
        assert record.wrong == 0
        assert 0 < record.time_us_p10 <= record.time_us_p50 <= record.time_us_p90
        assert (record.predicted_us is None) == (record.case == LIBRARY)
    assert all(record.algorithm == record.case for record in run.results if record.case in FLAT)
    assert "every result was checked" in done.stdout


def test_what_makes_no_measurement_is_refused():
    for ranks, options, said in (
        (1, (), "a lone rank sends nothing"),
        (2, ("--racks", "2"), "2 ranks on 1 hosts; with --racks each needs a host of its own"),
    ):
        done = on(ranks, "--sizes", "8", *options)
        assert done.returncode == 1
        assert done.stderr.count(said) == 1


def test_sizes_that_are_none_are_a_usage_error():
    done = subprocess.run([*PROGRAM, "--sizes", "8,x"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--sizes" in done.stderr
