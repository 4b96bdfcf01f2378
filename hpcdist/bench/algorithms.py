"""Each algorithm of ours beside the library's own all-reduce, on this machine and on virtual hosts.

On hosts there is raw TCP as well, the bar for them all, "auto", and what the price model foresees, fitted by the first
job.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from hpcdist.algorithms import SHARED, check
from hpcdist.bench import beside, options
from hpcdist.bench.beside import Beside
from hpcdist.bench.draft import Draft
from hpcdist.bench.network import CALLS, CASE_SECONDS, LEAST_ROUNDS
from hpcdist.bench.node import here
from hpcdist.bench.peers import MPIS, OPEN_MPI
from hpcdist.bench.record import ALGORITHMS, Part, part_of
from hpcdist.bench.rounds import Asked, Rounds
from hpcdist.bench.start import place_of
from hpcdist.bench.task import AUTO, LIBRARY, NAMES, RAW, Link, Samples, Task
from hpcdist.cluster import plan
from hpcdist.cluster.command import RATE
from hpcdist.cluster.plan import Network
from hpcdist.util.parameters import Listed

PART = ALGORITHMS
SIZES = "8,4KiB,64KiB,1MiB,16MiB"
SECONDS = 300.0
SAMPLES = Samples(3, 31, 50, 2)
LAYERED = "hierarchical"  # on hosts of one rank each only where they are in racks


def measure(
    draft: Draft[Part],
    asked: Beside,
    sizes: tuple[int, ...],
    names: tuple[str, ...],
    ranks: tuple[int, ...],
    hosts: tuple[int, ...],
    rates: tuple[int, ...],
    racks: int,
    rack_rate: int | None,
    rounds: int,
    seconds: float,
    name: str,
) -> None:
    """Every number of ranks of this machine on each MPI, then every cluster on Open MPI."""
    try:
        networks = [plan.network(count, rate, racks, rack_rate) for rate in rates for count in filter(None, hosts)]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    numbers = [number for number in ranks if number]
    if numbers:
        part, found = asked.begin(draft, PART, MPIS)
    for number in numbers:
        effort = Asked(PART, number, rounds, rounds, seconds, _pairs(names))
        here(draft, part, found, effort, sizes, SAMPLES, lambda peer: (LIBRARY, *names))
    for network in networks:
        _on_hosts(draft, asked, network, sizes, names, rounds, seconds, name)


def _on_hosts(
    draft: Draft[Part],
    asked: Beside,
    network: Network,
    sizes: tuple[int, ...],
    algorithms: Sequence[str],
    rounds: int,
    seconds: float,
    name: str,
) -> None:
    ranks = len(network.hosts)
    names = [each for each in algorithms if each != SHARED and (network.racks > 1 or each != LAYERED)]
    part, found = asked.begin(draft, part_of(PART, place_of(network), ranks), [OPEN_MPI])
    effort = Asked(PART, ranks, rounds, min(LEAST_ROUNDS, rounds), seconds, _pairs([*names, AUTO]))
    racks = tuple(host.rack for host in network.hosts) if network.racks > 1 else ()
    link = Link(network.hosts[0].rate)
    task = Task(sizes, (), "", CASE_SECONDS, 1, SAMPLES.most, CALLS, 0, 0, link, priced=True, racks=racks)
    cases = (RAW, LIBRARY, *names, AUTO)
    draft.on_hosts(
        part, network, name, lambda hosts: Rounds(draft, part, hosts, found, effort, task, lambda peer: cases).run()
    )


def _pairs(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, other) for name in names for other in (LIBRARY, RAW))


command = beside.verb(
    PART,
    "Each algorithm beside the library's own, here or on virtual hosts: with raw TCP, and what prices foresee.",
    measure,
    options.sizes(SIZES),
    click.option(
        "--algorithms",
        "names",
        type=Listed("names", check),
        default=",".join(NAMES),
        show_default=True,
        help="shared only on this machine, hierarchical on hosts only in racks.",
    ),
    options.numbers("--ranks", "2", "Of this machine; 0 for none.", none=True),
    options.numbers("--hosts", "0", "Virtual, on Open MPI alone; 0 for none.", none=True),
    options.RATES,
    click.option("--racks", type=click.IntRange(min=1), default=1, show_default=True, help="Spread hosts over racks."),
    click.option("--rack-rate", type=RATE, help="Of the link from each rack, where there are several."),
    options.rounds(11, "Of a size; on hosts fewer of those that take more than their part of the time."),
    options.seconds(SECONDS, "About so long for each number of ranks or hosts."),
    options.NAME,
)
