"""Jobs whose ranks wait in compiled code: signals, threads and the watchdog have their turn there."""

import os
import signal

import pytest
from test_no_hang import Job

pytest.importorskip("numba")

WAITING = """
import threading
plan = hpcdist.plan(comm, buffer, algorithm="recursive_doubling")
assert plan.executor == "compiled"
if comm.rank == 0:
    until_told()
"""


def test_an_interrupt_ends_a_wait(tmp_path):
    program = f"{WAITING}\nif comm.rank == 1:\n    print('pid', os.getpid(), flush=True)\nplan()\n"
    with Job(tmp_path, 2, program, HPCDIST_COMPILED="1", HPCDIST_TIMEOUT="0.4") as job:
        number = int(job.read_until("pid").split()[1])
        job.read_until("in recursive_doubling")  # on a busy machine, binding may be slow and reported first
        os.kill(number, signal.SIGINT)
        assert job.end() != 0
    assert "hpcdist: rank 1 ends the job:" in job.output
    assert "KeyboardInterrupt" in job.output


def test_threads_run_while_it_waits(tmp_path):
    program = f"""{WAITING}
def tell():
    time.sleep(0.2)
    open("go", "w").close()
    print("the thread ran", flush=True)
if comm.rank == 1:
    threading.Thread(target=tell).start()
plan()
"""
    with Job(tmp_path, 2, program, HPCDIST_COMPILED="1") as job:
        assert job.end() == 0
    assert "the thread ran" in job.output


def test_the_watchdog_says_which_rank_waits_in_which_step_for_what(tmp_path):
    with Job(tmp_path, 2, f"{WAITING}\nplan()\n", HPCDIST_COMPILED="1", HPCDIST_TIMEOUT="0.4") as job:
        line = job.read_until("in recursive_doubling")
        job.tell()
        assert job.end() == 0
    assert "rank 1 of 2 in recursive_doubling (sum, float64, 800 bytes, run 1), step 0 of 1: " in line
    assert "receive 800 bytes from rank 0" in line or "send 800 bytes to rank 0" in line


def test_the_watchdog_can_end_the_job(tmp_path):
    variables = {"HPCDIST_COMPILED": "1", "HPCDIST_TIMEOUT": "0.4", "HPCDIST_TIMEOUT_ACTION": "abort"}
    with Job(tmp_path, 2, f"{WAITING}\nplan()\n", **variables) as job:
        assert job.end() != 0
    assert "HPCDIST_TIMEOUT_ACTION=abort ends the job" in job.output
