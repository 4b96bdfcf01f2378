"""Partner copies on real virtual hosts: each has a /dev/shm of its own, which is lost with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from virtual_hosts import missing

HPCDIST = [str(Path(sys.executable).with_name("hpcdist"))]
NAME = f"test-{os.getpid()}-partner"
MISSING = missing("--net")
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.limit(150),
]

# A run whose state is the same after as many steps on any number of ranks, bit for bit, as it is of whole numbers. Says
# what it starts from, and after every step of which copies are kept; ends at step `last`, or when it is killed.
RUN = """
import pathlib, sys
import numpy as np
from mpi4py import MPI
from hpcdist.checkpoint.partner import PartnerCopies, key_of

COMM, SHARE = MPI.COMM_WORLD, 30_000
log, last = pathlib.Path(sys.argv[1]), int(sys.argv[2])

def say(text):
    if COMM.rank == 0:
        with log.open("a") as file:
            print(text, file=file, flush=True)

def samples(step):
    return np.random.default_rng(step).integers(0, 1 << 62, (16, SHARE))

def advance(state, step, gradient):
    state["weights"] *= 3
    state["weights"] += gradient
    state["done"][...] = step

def replayed(step):
    state = {"weights": np.zeros(SHARE, np.int64), "done": np.array(0)}
    for done in range(1, step + 1):
        advance(state, done, samples(done).sum(axis=0))
    return state

copies = PartnerCopies(COMM, key_of(log.parent / "checkpoints"))
state = {"weights": np.zeros(SHARE, np.int64), "done": np.array(0)}
found = copies.newest()
for note in copies.notes:
    say(f"note {note}")
if found:
    copies.restore(found, state)
    expected = replayed(found.step)
    same = all(state[name].tobytes() == expected[name].tobytes() for name in expected)
    assert all(COMM.allgather(same)) and list(found.facts) == ["ranks"]
    say(f"restored {found.step} of {found.facts['ranks']} ranks on {COMM.size}, to {COMM.allreduce(int(same))}")
    copies.save(found.step, state, {"ranks": COMM.size})
else:
    say("from the beginning")
for step in range(int(state["done"]) + 1, last + 1):
    gradient = samples(step)[COMM.rank::COMM.size].sum(axis=0)
    COMM.Allreduce(MPI.IN_PLACE, gradient)
    advance(state, step, gradient)
    copies.save(step, state, {"ranks": COMM.size})
    say(f"kept {step}")
assert state["weights"].tobytes() == replayed(last)["weights"].tobytes()
copies.forget()
copies.close()
say("complete")
"""


def hpcdist(*arguments, check=True):
    verb, *rest = arguments
    argv = [*HPCDIST, "cluster", verb, "--name", NAME, *rest]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def four():
    """Four hosts; killing one ends its /dev/shm."""
    hpcdist("up", "--hosts", "4", "--rate", "200mbit")
    yield
    hpcdist("down")


def job(ranks, log, last):
    return [
        *HPCDIST,
        "cluster",
        "run",
        "--name",
        NAME,
        "-n",
        str(ranks),
        "--",
        "python",
        "-c",
        RUN,
        str(log),
        str(last),
    ]


def lines(log, word):
    text = log.read_text() if log.exists() else ""
    return [line for line in text.splitlines() if line.startswith(word)]


def kept(log):
    """Step of the newest state that the run has said to be kept."""
    found = lines(log, "kept")
    return int(found[-1].split()[1]) if found else 0


def run_until(log, ranks, step, *hosts):
    """Start a run, kill hosts under it after some step, and wait for its end; returns the last step it has said."""
    running = subprocess.Popen(job(ranks, log, 1_000_000), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    give_up = time.monotonic() + 60
    while kept(log) < step and running.poll() is None and time.monotonic() < give_up:
        time.sleep(0.02)
    assert kept(log) >= step, running.communicate()[0] if running.poll() is not None else "it is slow"
    for host in hosts:
        hpcdist("kill", host)
    end(running)
    return kept(log)


def end(running):
    """Some of a job's ranks may wait for ever for those that are dead."""
    try:
        running.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=30)
    assert running.returncode != 0


def finish(log, ranks, last):
    done = subprocess.run(job(ranks, log, last), capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines(log, "complete")


def memory_of(host):
    return hpcdist("exec", "--host", host, "--", "sh", "-c", "cd /dev/shm && find . -name 'hpcdist*'").stdout.split()


def test_the_state_survives_a_host_in_the_memory_of_the_others(four, tmp_path):
    log = tmp_path / "log"
    said = run_until(log, 8, 5, "n4")
    assert memory_of("n1") == ["./hpcdist-0"]
    finish(log, 3, said + 5)  # on n1 to n3
    restored = lines(log, "restored")
    assert len(restored) == 1
    step = int(restored[0].split()[1])
    assert said <= step <= said + 1
    assert restored[0] == f"restored {step} of 8 ranks on 3, to 3"
    assert [memory_of(host) for host in ("n1", "n2", "n3")] == [[], [], []]
    assert [path.name for path in tmp_path.iterdir()] == ["log"]  # no file system was needed


def test_hosts_are_lost_one_after_another(four, tmp_path):
    """Each is replaced by a fresh one, and its share is in two places again before the next is lost."""
    log = tmp_path / "log"
    said = 0
    for host in ("n2", "n4", "n1"):
        said = run_until(log, 4, said + 3, host)
        hpcdist("heal", host)
        assert memory_of(host) == []
    finish(log, 4, said + 3)
    assert len(lines(log, "restored")) == 3
    assert len(lines(log, "from the beginning")) == 1


def test_what_is_missing_is_said_when_partners_are_lost_together(four, tmp_path):
    log = tmp_path / "log"
    said = run_until(log, 4, 3, "n4", "n3")  # no partners
    hpcdist("heal", "n3")
    hpcdist("heal", "n4")
    said = run_until(log, 4, said + 3, "n1", "n3")
    assert len(lines(log, "restored")) == 1
    hpcdist("heal", "n1")
    hpcdist("heal", "n3")
    finish(log, 4, 3)
    assert len(lines(log, "from the beginning")) == 2
    notes = " ".join(lines(log, "note"))
    assert "2 of 4 shares: share-0000-of-0004, which rank 0 on n1 and rank 2 on n3 kept; share-0002-of-0004" in notes
    assert said > 3
