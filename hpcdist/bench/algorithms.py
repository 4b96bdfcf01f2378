"""Each algorithm of ours beside the library's own all-reduce, on this machine and on virtual hosts.

On hosts there is raw TCP as well, the bar for them all, "auto", and what the price model foresees, fitted by the first
job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpcdist.algorithms import SHARED
from hpcdist.bench.network import CALLS, CASE_SECONDS, LEAST_ROUNDS
from hpcdist.bench.node import fitting
from hpcdist.bench.peers import MPIS, OPEN_MPI
from hpcdist.bench.record import ALGORITHMS, part_of
from hpcdist.bench.rounds import Asked, Rounds, case_seconds
from hpcdist.bench.settings import Draft
from hpcdist.bench.start import Here, Hosts, place_of
from hpcdist.bench.task import AUTO, LIBRARY, RAW, Link, Task
from hpcdist.cluster import plan
from hpcdist.cluster.plan import Network

PART = ALGORITHMS
SIZES = "8,4KiB,64KiB,1MiB,16MiB"
LEAST, MOST, ITERATIONS, WARMUP = 3, 31, 50, 2
LAYERED = "hierarchical"  # on hosts of one rank each only where they are in racks


@dataclass(frozen=True)
class Options:
    """What to measure, where, and for how long; one field per option.

    Raises: ValueError if hosts cannot be spread over the racks.
    """

    sizes: tuple[int, ...]
    algorithms: tuple[str, ...]
    numbers: tuple[int, ...]
    hosts: tuple[int, ...]
    rates: tuple[int, ...]
    racks: int
    rack_rate: int | None
    rounds: int
    seconds: float
    name: str

    def __post_init__(self) -> None:
        self.networks()

    def networks(self) -> list[Network]:
        """The virtual clusters."""
        numbers = [number for number in self.hosts if number]
        return [plan.network(number, rate, self.racks, self.rack_rate) for rate in self.rates for number in numbers]


def measure(draft: Draft, options: Options) -> None:
    """Every number of ranks of this machine on each MPI, then every cluster on Open MPI."""
    if numbers := [number for number in options.numbers if number]:
        _here(draft, options, numbers)
    for network in options.networks():
        _on_hosts(draft, options, network)


def _here(draft: Draft, options: Options, numbers: Sequence[int]) -> None:
    part, found = draft.begin(PART, MPIS, vars(options))
    cases = (LIBRARY, *options.algorithms)
    for ranks in numbers:
        asked = _asked(options, ranks, options.rounds, options.algorithms)
        sizes = fitting(part, options.sizes, ranks)
        seconds = case_seconds(asked, len(found), len(sizes), len(cases))
        task = Task(sizes, (), "", seconds, LEAST, MOST, ITERATIONS, WARMUP, 0)
        Rounds(draft.report, part, draft.write, Here(), found, asked, task, lambda peer: cases).run()


def _on_hosts(draft: Draft, options: Options, network: Network) -> None:
    ranks = len(network.hosts)
    names = [each for each in options.algorithms if each != SHARED and (network.racks > 1 or each != LAYERED)]
    part, found = draft.begin(part_of(PART, place_of(network), ranks), [OPEN_MPI], vars(options))
    asked = _asked(options, ranks, min(LEAST_ROUNDS, options.rounds), [*names, AUTO])
    racks = tuple(host.rack for host in network.hosts) if network.racks > 1 else ()
    link = Link(network.hosts[0].rate)
    task = Task(options.sizes, (), "", CASE_SECONDS, 1, MOST, CALLS, 0, 0, link, priced=True, racks=racks)

    def rounds(hosts: Hosts) -> None:
        cases = (RAW, LIBRARY, *names, AUTO)
        Rounds(draft.report, part, draft.write, hosts, found, asked, task, lambda peer: cases).run()

    draft.on_hosts(part, network, options.name, rounds)


def _asked(options: Options, ranks: int, least: int, names: Sequence[str]) -> Asked:
    pairs = tuple((name, other) for name in names for other in (LIBRARY, RAW))
    return Asked(PART, ranks, options.rounds, least, options.seconds, pairs)
