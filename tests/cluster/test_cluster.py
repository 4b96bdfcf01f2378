"""Real virtual hosts: needs root, or a kernel that lets users have namespaces, and iproute2."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from virtual_hosts import missing

from hpcdist.cluster import namespaces, state

HPCDIST = [str(Path(sys.executable).with_name("hpcdist"))]
NAME = f"test-{os.getpid()}"  # of the cluster that most tests share; other people's are left alone
OWN = f"{NAME}-own"


MISSING = missing("--net")
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.limit(90),
]


def hpcdist(*arguments, name=NAME, check=True, timeout=60):
    """Run `hpcdist cluster ...` on our cluster."""
    verb, *rest = arguments
    done = subprocess.run(
        [*HPCDIST, "cluster", verb, "--name", name, *rest], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def python(ranks, program, *options):
    """What `ranks` ranks of a Python program print, as a sorted list of lines."""
    return sorted(hpcdist("run", "-n", str(ranks), *options, "--", "python", "-c", program).stdout.splitlines())


def members(name=NAME):
    """All processes of a cluster: those started with its folder on their command line, and what came of them."""
    folder = str(state.folder(name))
    roots = [p for p in psutil.process_iter(["cmdline"]) if folder in (p.info["cmdline"] or [])]
    return {p for root in roots for p in (root, *_children(root))}


def _children(process):
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def living(processes):
    return [p for p in processes if p.is_running() and _status(p) not in (None, psutil.STATUS_ZOMBIE)]


def _status(process):
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return None


def eventually(condition, seconds=30):
    give_up = time.monotonic() + seconds
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.05)
    return condition()


def states(name=NAME):
    """Host -> its state, as `status` prints it."""
    lines = hpcdist("status", name=name).stdout.splitlines()[2:]
    return {line.split()[0]: line.split()[4] for line in lines}


def processes():
    """Host -> how many processes it has, as `status` prints it."""
    return {line.split()[0]: int(line.split()[5]) for line in hpcdist("status").stdout.splitlines()[2:]}


@pytest.fixture
def own():
    """The name of a cluster that the test makes for itself."""
    yield OWN
    hpcdist("down", name=OWN, check=False)
    assert not living(members(OWN))


@pytest.fixture(scope="module")
def four():
    """Four hosts with 20 Mbit/s each, in two racks with 10 Mbit/s between them; n2 has half of that."""
    racks = ["--racks", "2", "--rack-rate", "10mbit"]
    hpcdist("up", "--hosts", "4", "--rate", "20mbit", "--slow", "n2=5mbit", *racks)
    yield
    hpcdist("down")
    assert not living(members())


WHERE = """
import socket
from mpi4py import MPI
from hpcdist.mpi.world import topology_of
print(MPI.COMM_WORLD.rank, socket.gethostname(), *topology_of(MPI.COMM_WORLD))
"""


def test_every_rank_has_a_host_of_its_own(four):
    assert python(4, WHERE) == [f"{rank} n{rank + 1} 0 1 2 3" for rank in range(4)]


def test_ranks_share_the_memory_of_their_host_only(four):
    assert python(5, WHERE, "--ppn", "2") == [f"{rank} n{rank // 2 + 1} 0 0 1 1 2" for rank in range(5)]


SENT = """
from mpi4py import MPI
import numpy as np
def sent():
    line = next(line for line in open("/proc/net/dev") if line.strip().startswith("eth0:"))
    return int(line.split(":")[1].split()[8])
world, before = MPI.COMM_WORLD, sent()
world.Sendrecv(np.zeros(10**6, np.uint8), 1 - world.rank, recvbuf=np.empty(10**6, np.uint8))
world.Barrier()  # until the other has received all, some may wait in this host
print(world.rank, sent() - before >= 10**6)
"""


def test_what_ranks_of_different_hosts_send_crosses_their_links(four):
    assert python(2, SENT) == ["0 True", "1 True"]


# Raw TCP from rank 0 to the last rank, timed by the receiver from before the first byte is sent.
RAW = """
import socket, time
from mpi4py import MPI
world, nbytes = MPI.COMM_WORLD, {nbytes}
last = world.size - 1
if world.rank == last:
    server = socket.create_server((socket.gethostbyname(socket.gethostname()), 0))
    world.send(server.getsockname(), 0)
    start, left = time.monotonic(), nbytes
    connection = server.accept()[0]
    while left:
        left -= len(connection.recv(1 << 20))
    print(time.monotonic() - start)
if world.rank == 0:
    socket.create_connection(world.recv(source=last)).sendall(bytes(nbytes))
world.Barrier()
"""


def seconds(ranks, nbytes, name=NAME):
    options = ["-n", str(ranks), "--", "python", "-c", RAW.format(nbytes=nbytes)]
    return float(hpcdist("run", *options, name=name).stdout)


def test_a_link_is_no_faster_than_its_rate(own):
    hpcdist("up", "--hosts", "2", "--rate", "20mbit", name=own)
    assert seconds(2, 4_000_000, own) >= 0.8 * 4_000_000 / (20e6 / 8)


def test_a_slow_host_is_slow(four):
    assert seconds(2, 2_000_000) >= 0.8 * 2_000_000 / (5e6 / 8)


def test_racks_are_joined_by_links_of_their_own_rate(four):
    assert seconds(4, 3_000_000) >= 0.8 * 3_000_000 / (10e6 / 8)


def reaches(host, other):
    """Whether a TCP connection request of one host is answered by the other: refused means answered."""
    cluster = state.load(NAME)
    address = cluster.network.host(other).address
    program = f"""
import socket
try:
    socket.create_connection(("{address}", 9), timeout=1)
except ConnectionRefusedError:
    print("answered")
except OSError:
    print("silence")
"""
    return namespaces.call(cluster.hosts[host], (sys.executable, "-c", program)).strip() == "answered"


def test_a_host_that_is_cut_off_is_unreachable_until_it_is_healed(four):
    assert reaches("n1", "n3")
    hpcdist("cut", "n3")
    assert states() == {"n1": "up", "n2": "up", "n3": "cut", "n4": "up"}
    assert not reaches("n1", "n3")
    assert not reaches("n3", "n1")
    assert reaches("n1", "n4")
    refused = hpcdist("run", "-n", "4", "--", "true", check=False)
    assert refused.returncode == 1
    assert "n3 is cut" in refused.stderr
    hpcdist("heal", "n3")
    assert reaches("n1", "n3")


def started(ranks, *command, name=NAME):
    """A job that goes on until it is ended, once all its ranks are there."""
    argv = [*HPCDIST, "cluster", "run", "--name", name, "-n", str(ranks), "--", *command]
    job = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    everywhere = {f"n{i + 1}" for i in range(ranks)}

    def there():
        ranks = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == list(command)]
        return {_host_of(rank, name) for rank in ranks} == everywhere

    assert eventually(there), "the ranks did not start"
    return job


def _host_of(process, name):
    """The host whose process namespace a process is in, or None."""
    cluster = state.load(name)
    here = {os.readlink(f"/proc/{first.pid}/ns/pid"): name for name, first in cluster.hosts.items() if first.alive()}
    try:
        return here.get(os.readlink(f"/proc/{process.pid}/ns/pid"))
    except OSError:
        return None


def test_a_host_that_is_killed_ends_the_job_and_can_be_started_again(four):
    job = started(4, "sleep", "1001")
    hpcdist("kill", "n2")
    errors = job.communicate(timeout=30)[1]
    assert job.returncode == 1
    assert "n2 died during the job" in errors
    assert states()["n2"] == "dead"
    refused = hpcdist("run", "-n", "4", "--", "true", check=False)
    assert refused.returncode == 1
    assert "n2 is dead" in refused.stderr
    assert reaches("n1", "n3")
    assert not reaches("n1", "n2")
    hpcdist("heal", "n2")
    assert reaches("n1", "n2")
    assert python(4, WHERE)[1].startswith("1 n2 ")


def test_the_exit_code_of_a_job_is_that_of_its_ranks(four):
    assert hpcdist("run", "-n", "2", "--", "sh", "-c", "exit 3", check=False).returncode == 3


def test_a_job_whose_launcher_is_killed_leaves_nothing_on_the_hosts(four):
    job = started(4, "sleep", "1002")
    assert all(processes().values())
    job.kill()
    job.communicate()
    assert eventually(lambda: not any(processes().values())), processes()


def test_a_job_that_is_asked_to_end_does(four):
    job = started(2, "sleep", "1003")
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=30)
    assert job.returncode != 0
    assert eventually(lambda: not any(processes().values())), processes()


def ours(listing):
    """Names in a listing that only a cluster of ours would have put there."""
    return [word for word in listing.split() if word.startswith(("port-", "rack", "core", "up1", "down1", "n1@"))]


def test_nothing_is_left_after_down_even_if_a_job_runs(own):
    hpcdist("up", "--hosts", "3", "--rate", "100mbit", name=own)
    job = started(3, "sleep", "1004", name=own)
    there = members(own) | {psutil.Process(job.pid), *_children(psutil.Process(job.pid))}
    assert len(living(there)) > 6
    hpcdist("down", name=own)
    job.communicate(timeout=30)
    assert job.returncode != 0
    assert eventually(lambda: not living(there)), living(there)
    assert not state.folder(own).exists()
    for command in (["ip", "netns", "list"], ["ip", "-brief", "link"]):
        assert not ours(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    gone = hpcdist("status", name=own, check=False)
    assert gone.returncode == 1
    assert "no cluster" in gone.stderr


def test_nothing_is_left_when_up_is_killed_half_way(own):
    argv = [*HPCDIST, "cluster", "up", "--name", own, "--hosts", "200", "--rate", "100mbit"]
    building = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert eventually(lambda: len(living(members(own))) > 12), "no host started"
    assert building.poll() is None
    there = members(own)
    building.kill()
    building.wait()
    assert eventually(lambda: not living(there | members(own))), living(there)
    hpcdist("up", "--hosts", "2", "--rate", "100mbit", name=own)  # the name is free again
    assert states(own) == {"n1": "up", "n2": "up"}


def test_up_refuses_a_name_that_is_taken(four):
    refused = hpcdist("up", "--hosts", "2", "--rate", "1mbit", check=False)
    assert refused.returncode == 1
    assert "up already" in refused.stderr
    assert len(states()) == 4


def test_two_clusters_do_not_know_of_each_other(four, own):
    hpcdist("up", "--hosts", "2", "--rate", "100mbit", name=own)
    job = started(4, "sleep", "1005")
    done = hpcdist("run", "-n", "2", "--", "python", "-c", WHERE, name=own)
    assert sorted(done.stdout.splitlines()) == ["0 n1 0 1", "1 n2 0 1"]
    hpcdist("down", name=own)
    assert job.poll() is None
    assert all(processes().values())
    job.terminate()
    job.communicate(timeout=30)
    assert set(states().values()) == {"up"}
