"""A cluster's life: up, cut, heal, kill, down."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from hpcdist.cluster import namespaces, plan, slurm, state
from hpcdist.cluster.namespaces import Process
from hpcdist.cluster.plan import Equipment, Host, Network
from hpcdist.cluster.state import Cluster, StateError

# What mpirun runs instead of ssh: it is given a host's name and a command line for that host's shell.
AGENT = """#!/bin/sh
host=$1
shift
case $host in
{cases}
*) echo "there is no host $host in this cluster, or it is dead" >&2; exit 1 ;;
esac
exec nsenter --target "$first" --preserve-credentials {kinds} -- sh -c "$*"
"""


@dataclass(frozen=True)
class Condition:
    """How a host is: "up", "cut" or "dead"; how many processes it has beside its first."""

    host: Host
    state: str
    processes: int


def up(name: str, network: Network, equipment: Equipment | None = None) -> Cluster:
    """Make a cluster. If this fails, or its process ends half-way, the kernel clears away what was made.

    Args:
        name: by which other commands will know it.
        network: of its hosts.
        equipment: what a Slurm is to think that each host has; None for no Slurm.

    Raises: StateError if there is one of that name; NamespaceError if the machine does not allow it.
    """
    namespaces.check_tools()
    if equipment:
        slurm.check_tools()
    with state.lock():
        if state.find(name):
            raise StateError(f"cluster {name!r} is up already; end it with: hpcdist cluster down --name {name}")
        state.forget(name)
        try:
            return _build(name, network, equipment)
        except BaseException:
            state.forget(name)
            raise


def _build(name: str, network: Network, equipment: Equipment | None) -> Cluster:
    folder = state.folder(name)
    (folder / "tmp").mkdir(parents=True)
    (folder / "hosts").write_text(plan.hosts_file(network))
    switch, pipe = namespaces.start_switch(plan.HEAD, folder)
    try:
        for command in plan.switch_commands(network):
            namespaces.call(switch, command)
        cluster = Cluster(name, network, switch, {}, equipment)
        for host in network.hosts:
            cluster = _boot(cluster, host)
        if equipment:
            slurm.start(cluster, equipment)
        _save(cluster)
        pipe.write("stay\n")
    finally:
        pipe.close()
    return cluster


def _boot(cluster: Cluster, host: Host) -> Cluster:
    """Start a host and plug it in."""
    first = namespaces.start_host(cluster.switch, host.name, cluster.folder)
    for command in plan.port_commands(cluster.network, host, first.pid):
        namespaces.call(cluster.switch, command)
    for command in plan.host_commands(host):
        namespaces.call(first, command)
    return replace(cluster, hosts={**cluster.hosts, host.name: first})


def _save(cluster: Cluster) -> None:
    cases = "\n".join(f"{name}) first={first.pid} ;;" for name, first in cluster.hosts.items() if first.alive())
    (cluster.folder / "agent").write_text(AGENT.format(cases=cases, kinds=" ".join(namespaces.EVERY_KIND)))
    state.save(cluster)


def down(name: str) -> None:
    """End a cluster and everything that runs in it; return when it is gone. What a crash left is removed, too.

    Raises: StateError if there is nothing of that name.
    """
    with state.lock():
        cluster = state.find(name)
        if cluster is None and not state.folder(name).exists():
            state.load(name)  # raises
        if cluster:
            launchers = namespaces.inhabitants(cluster.switch, "net")
            for process in [*launchers, cluster.switch]:
                process.kill()
        state.forget(name)


def conditions(cluster: Cluster) -> list[Condition]:
    """How every host is."""
    lit = {link["ifname"] for link in _links(cluster) if "UP" in link["flags"]}
    return [_condition(host, cluster.hosts[host.name], host.port in lit) for host in cluster.network.hosts]


def _condition(host: Host, first: Process, lit: bool) -> Condition:
    if not first.alive():
        return Condition(host, "dead", 0)
    return Condition(host, "up" if lit else "cut", len(namespaces.inhabitants(first, "pid")))


def cut(name: str, host_name: str) -> None:
    """Pull a host's cable: nothing reaches it, and it reaches nobody, but its processes go on."""
    with state.lock():
        cluster = state.load(name)
        namespaces.call(cluster.switch, ("ip", "link", "set", living(cluster, host_name).port, "down"))


def heal(name: str, host_name: str) -> None:
    """Put a host's cable back, or start a dead host again, with none of its processes."""
    with state.lock():
        cluster = state.load(name)
        host = cluster.network.host(host_name)
        if cluster.hosts[host_name].alive():
            namespaces.call(cluster.switch, ("ip", "link", "set", host.port, "up"))
        else:
            _wait_until_unplugged(cluster, host)
            cluster = _boot(cluster, host)
            _save(cluster)
            if cluster.slurm:
                slurm.start_node(cluster, host_name)


def kill(name: str, host_name: str) -> None:
    """End all processes of a host at once. Its peers see their connections closed."""
    with state.lock():
        cluster = state.load(name)
        host = living(cluster, host_name)
        cluster.hosts[host_name].kill()
        _wait_until_unplugged(cluster, host)
        _save(cluster)


def living(cluster: Cluster, host_name: str) -> Host:
    """The host of that name.

    Raises: StateError if it is dead; ValueError if there is none.
    """
    host = cluster.network.host(host_name)
    if not cluster.hosts[host_name].alive():
        raise StateError(f"host {host_name} is dead; start it again with: hpcdist cluster heal {host_name}")
    return host


def _wait_until_unplugged(cluster: Cluster, host: Host) -> None:
    """Interfaces go some time after the last process of their namespace has ended."""
    namespaces.wait_until(
        lambda: host.port not in [link["ifname"] for link in _links(cluster)], f"the link of {host.name} is gone"
    )


def _links(cluster: Cluster) -> list[dict[str, Any]]:
    """The interfaces of the switch, as ip says them."""
    return json.loads(namespaces.call(cluster.switch, ("ip", "-json", "link", "show")))
