"""`hpcdist cluster`: virtual hosts on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from hpcdist.cluster import hosts, plan, slurm, state
from hpcdist.cluster.namespaces import NamespaceError
from hpcdist.cluster.state import Cluster, StateError
from hpcdist.util.parameters import Parsed, reported


def _host_rate(text: str) -> tuple[str, int]:
    host, equals, rate = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not HOST=RATE, as in n3=20mbit")
    return host, plan.parse_rate(rate)


RATE, HOST_RATE = Parsed("rate", plan.parse_rate), Parsed("host=rate", _host_rate)
NAME = click.option("--name", default="hpcdist", show_default=True, help="Which cluster, if there are several.")
_reported = reported(StateError, NamespaceError)


@click.group()
def cluster() -> None:
    """Virtual hosts on this machine, behind links of a chosen rate, with a Slurm if asked for.

        hpcdist cluster up --hosts 8 --rate 200mbit

        hpcdist cluster run -n 8 -- hpcdist sweep --min-bytes 1MiB

        hpcdist cluster down

    Every host has its own name, network and processes; ranks of different hosts have TCP and nothing else. As root,
    or as a user where the kernel lets users have namespaces.
    """


@cluster.command()
@click.option("--hosts", "count", type=click.IntRange(min=1), required=True, help="How many: n1, n2, ...")
@click.option("--rate", type=RATE, required=True, help="Of every host's link, each way, as 200mbit.")
@click.option("--racks", type=click.IntRange(min=1), default=1, show_default=True, help="Spread hosts over racks.")
@click.option("--rack-rate", type=RATE, help="Of the link between a rack and the core, each way.")
@click.option("--slow", type=HOST_RATE, multiple=True, metavar="HOST=RATE", help="A host with a rate of its own.")
@click.option("--slurm", "with_slurm", is_flag=True, help="Start a Slurm whose nodes are the hosts; wants root.")
@click.option("--cores", type=click.IntRange(min=1), help="That Slurm thinks each host has.  [default: 4]")
@click.option("--gpus", type=click.IntRange(min=0), help="That Slurm thinks each host has.  [default: 0]")
@NAME
@_reported
def up(
    count: int,
    rate: int,
    racks: int,
    rack_rate: int | None,
    slow: tuple[tuple[str, int], ...],
    with_slurm: bool,
    cores: int | None,
    gpus: int | None,
    name: str,
) -> None:
    """Make hosts and the network between them."""
    if not with_slurm and (cores or gpus):
        raise ValueError("--cores and --gpus are what Slurm is told; give --slurm, too")
    equipment = plan.Equipment(cores or 4, gpus or 0) if with_slurm else None
    network = plan.network(count, rate, racks, rack_rate, dict(slow))
    _show(hosts.up(name, network, equipment))


@cluster.command()
@click.option("--name", help="Only this cluster.")
@_reported
def status(name: str | None) -> None:
    """Show clusters and how their hosts are."""
    shown = [state.load(name)] if name else [found for each in state.names() if (found := state.find(each))]
    for each in shown:
        _show(each)
    if not shown:
        click.echo("no cluster is up")


def _show(each: Cluster) -> None:
    network = each.network
    between = f", {network.racks} racks, {plan.format_rate(network.rack_rate)} to each" if network.rack_rate else ""
    click.echo(f"cluster {each.name}: {len(network.hosts)} hosts{between}")
    column = "  slurm" if each.slurm else ""
    click.echo(f"  {'host':<6}{'address':<15}{'rack':>4}  {'link':<10}{'state':<7}processes{column}")
    nodes = _nodes(each) if each.slurm else {}
    for condition in hosts.conditions(each):
        host = condition.host
        where = f"{host.name:<6}{host.address:<15}{host.rack:>4}  {plan.format_rate(host.rate):<10}"
        click.echo(f"  {where}{condition.state:<7}{condition.processes:<9}  {nodes.get(host.name, '')}".rstrip())


def _nodes(each: Cluster) -> dict[str, str]:
    """What Slurm thinks of each host; if it does not answer, the hosts are shown without."""
    try:
        return slurm.states(each)
    except NamespaceError as error:
        click.echo(f"Error: Slurm does not answer: {error}", err=True)
        return {}


# What follows COMMAND is its own, as with `hpcdist run`.
@cluster.command(context_settings={"allow_interspersed_args": False})
@click.option("-n", "ranks", type=click.IntRange(min=1), required=True, help="How many ranks to start.")
@click.option("--ppn", type=click.IntRange(min=1), help="Ranks per host, filled in order.  [default: all hosts alike]")
@click.option("--mpirun", metavar="PATH", help="The Open MPI launcher to use instead of the one found.")
@NAME
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@_reported
def run(ranks: int, ppn: int | None, mpirun: str | None, name: str, command: tuple[str, ...]) -> None:
    """Start ranks of COMMAND on the hosts.

    The exit code is mpirun's, or 1 if a host died under the job, which mpirun may not say.
    """
    from hpcdist.cluster import launch  # here, as it looks for an MPI

    sys.exit(launch.run(state.load(name), ranks, ppn, mpirun, command))


@cluster.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("--host", help="Where: n1, n2, ...  [default: the head]")
@NAME
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@_reported
def execute(host: str | None, name: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on the head, or on a host: a shell, or a command of Slurm.

        hpcdist cluster exec -- sbatch --wait job.sbatch

    The exit code is the command's.
    """
    from hpcdist.cluster import launch  # here, as it looks for an MPI

    launch.become(state.load(name), host, command)


def _verb(act: Callable[[str, str], None], done: str, text: str) -> None:
    """A command that does something to a HOST."""

    @cluster.command(act.__name__, help=text)
    @click.argument("host")
    @NAME
    @_reported
    def command(host: str, name: str) -> None:
        act(name, host)
        click.echo(f"{host} {done}")


_verb(hosts.cut, "is cut off", "Take a HOST's link down; its processes go on, and nobody hears of it.")
_verb(hosts.heal, "is up", "Take a HOST's link up again, or start a dead host anew.")
_verb(
    hosts.kill,
    "is dead",
    "End all processes of a HOST. Cut it first for one that goes without a word, as when power fails.",
)


@cluster.command()
@NAME
@_reported
def down(name: str) -> None:
    """End a cluster and all that runs in it."""
    hosts.down(name)
    click.echo(f"cluster {name} is down")
