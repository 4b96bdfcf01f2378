"""Starting a job of a library, on this machine or on virtual hosts: its processes, and what became of them."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from hpcdist.bench.peers import GLOO, INTEL, MPICH, Peer
from hpcdist.bench.processes import Process, call
from hpcdist.bench.record import HERE
from hpcdist.cluster import hosts
from hpcdist.cluster.plan import Network, format_rate
from hpcdist.cluster.state import folder
from hpcdist.tuning.auto import ENVIRONMENT

CLI = ("-c", "from hpcdist.cli.main import main; main()")
GLOO_PROGRAM = Path(__file__).parent / "alone" / "gloo.py"
COMMIT_PROGRAM = Path(__file__).parent / "alone" / "commit_job.py"

# Who waits for a message is to leave the core to others, where there are more ranks than cores. For Open MPI and MPICH
# `hpcdist run` and `hpcdist cluster run` say so.
CROWDED = {INTEL: {"I_MPI_THREAD_YIELD": "2", "I_MPI_PIN": "0"}, MPICH: {"MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}}
# Between hosts there is TCP and nothing else.
TCP = {
    MPICH: {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "eth0", "FI_PROVIDER": "tcp"},
    INTEL: {"I_MPI_FABRICS": "ofi", "FI_PROVIDER": "tcp", "FI_TCP_IFACE": "eth0"},
}
# hydra's options for what it runs instead of ssh
AGENT_OPTIONS = {MPICH: ("-launcher", "-launcher-exec"), INTEL: ("-bootstrap", "-bootstrap-exec")}
# Hydra puts options of ssh before the host.
AGENT = """#!/bin/sh
while case $1 in -*) true ;; *) false ;; esac; do shift; done
exec sh {agent} "$@"
"""


class Place(Protocol):
    """Where jobs run."""

    name: str

    def ranks(self, peer: Peer, count: int, program: Sequence[str]) -> list[Process]:
        """Processes that start so many ranks of a program of an MPI's Python."""

    def gloo(self, peer: Peer, count: int, program: Sequence[str]) -> list[Process]:
        """Processes that are so many ranks of a program of torch's Python."""


class Here:
    """This machine."""

    name = HERE

    def ranks(self, peer: Peer, count: int, program: Sequence[str]) -> list[Process]:
        """By `hpcdist run` of that Python, which knows what its MPI wants."""
        crowded = count > len(os.sched_getaffinity(0))
        start = [str(peer.python), *CLI, "run", "-n", str(count), "--", str(peer.python), *program]
        return [Process(start, CROWDED.get(peer.name, {}) if crowded else {})]

    def gloo(self, peer: Peer, count: int, program: Sequence[str]) -> list[Process]:
        """Over the loopback, all that Gloo has inside a machine."""
        port = free_port()
        return [
            Process([str(peer.python), *program], rank_of(rank, count, "127.0.0.1", port, "lo"))
            for rank in range(count)
        ]


class Hosts:
    """A virtual cluster that is up, one rank on each of its first hosts; `agent` enters them for hydra."""

    def __init__(self, cluster: str, network: Network, name: str, agent: Path) -> None:
        self.cluster, self.network, self.name, self.agent = cluster, network, name, agent

    def ranks(self, peer: Peer, count: int, program: Sequence[str]) -> list[Process]:
        """By Open MPI's mpirun or by hydra, on the head."""
        command = [str(peer.python), *program]
        cluster = [str(peer.python), *CLI, "cluster"]
        if peer.name not in AGENT_OPTIONS:
            return [Process([*cluster, "run", "--name", self.cluster, "-n", str(count), "--", *command])]
        launcher, agent = AGENT_OPTIONS[peer.name]
        used = ",".join(host.name for host in self.network.hosts[:count])
        hydra = [str(peer.python.with_name("mpiexec.hydra")), launcher, "ssh", agent, str(self.agent)]
        placed = [*hydra, "-hosts", used, "-ppn", "1", "-n", str(count)]
        variables = {**CROWDED[peer.name], **TCP[peer.name], "OMP_NUM_THREADS": "1"}
        return [Process([*cluster, "exec", "--name", self.cluster, "--", *placed, *command], variables)]

    def gloo(self, peer: Peer, count: int, program: Sequence[str]) -> list[Process]:
        """A process entered into each host."""
        used = self.network.hosts[:count]
        port = free_port()
        enter = [sys.executable, *CLI, "cluster", "exec", "--name", self.cluster, "--host"]
        return [
            Process(
                [*enter, host.name, "--", str(peer.python), *program],
                rank_of(rank, count, used[0].address, port, "eth0"),
            )
            for rank, host in enumerate(used)
        ]


def rank_of(rank: int, size: int, address: str, port: int, interface: str) -> dict[str, str]:
    """Who a process is, in torch's words."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": interface,
        "OMP_NUM_THREADS": "1",
    }


def place_of(network: Network) -> str:
    """What reports call a cluster: the rate of its links, and its racks if there are several."""
    rate = format_rate(network.hosts[0].rate)
    return f"{rate}, {network.racks} racks, {format_rate(network.rack_rate)} to each" if network.rack_rate else rate


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@contextmanager
def cluster(name: str, network: Network) -> Iterator[Hosts]:
    """A virtual cluster that is taken down whatever comes.

    Raises: StateError if there is one of that name; NamespaceError if the machine does not allow it.
    """
    made = hosts.up(name, network)
    try:
        with tempfile.TemporaryDirectory(prefix="hpcdist-bench-") as temporary:
            agent = Path(temporary) / "agent"
            agent.write_text(AGENT.format(agent=folder(made.name) / "agent"))
            agent.chmod(0o755)
            yield Hosts(name, network, place_of(network), agent)
    finally:
        hosts.down(name)


def start(place: Place, peer: Peer, count: int, task: Path, table: Path | None, seconds: float) -> str:
    """Run a job; returns what went wrong, or nothing.

    Args:
        place: Where.
        peer: Whose library.
        count: Ranks.
        task: The file that says what to measure.
        table: What "auto" is to read.
        seconds: After which it is ended.
    """
    if peer.name == GLOO:
        return call(place.gloo(peer, count, ["-W", "ignore", str(GLOO_PROGRAM), str(task)]), seconds)
    variables = {ENVIRONMENT: str(table) if table else ""}
    program = [str(COMMIT_PROGRAM), str(peer.source)] if peer.source else ["-m", "hpcdist.bench.ranks"]
    return call(place.ranks(peer, count, [*program, str(task)]), seconds, variables)
