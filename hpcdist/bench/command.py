"""The command line: each part by itself, or all of them, and the report of what there is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from hpcdist.algorithms import check
from hpcdist.bench import addresses, algorithms, commits, halves, network, node
from hpcdist.bench.jobs import float32s
from hpcdist.bench.peers import NAMES
from hpcdist.bench.settings import Draft, Settings
from hpcdist.bench.task import NAMES as ALGORITHMS
from hpcdist.cluster import plan
from hpcdist.cluster.command import RATE
from hpcdist.util.parameters import Listed, options
from hpcdist.util.signals import endings_as_exceptions
from hpcdist.util.sizes import BYTES

# The last for each rate and number of ranks.
SECONDS = {node.PART: 1500.0, algorithms.PART: 300.0, halves.PART: 300.0, addresses.PART: 1800.0, network.PART: 600.0}


def _number(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= plan.MOST_HOSTS:
        raise ValueError(f"{text!r} is no number of ranks from 2 to {plan.MOST_HOSTS}")
    return int(text)


def _number_or_none(text: str) -> int:
    return 0 if text == "0" else _number(text)


def _name(text: str) -> str:
    if text not in NAMES:
        raise ValueError(f"there is no library {text!r}; choose from {', '.join(NAMES)}")
    return text


def _sizes(default: str) -> Callable:
    return click.option(
        "--sizes", type=Listed("sizes", float32s), default=default, show_default=True, help="Of buffers."
    )


def _rounds(default: int, words: str) -> Callable:
    return click.option(
        "--rounds", type=click.IntRange(min=1, max=1000), default=default, show_default=True, help=words
    )


def _seconds(default: float, words: str) -> Callable:
    return click.option(
        "--seconds", type=click.FloatRange(min=0, max=86400), default=default, show_default=True, help=words
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="results/bench",
    show_default=True,
    help="Folder for bench.json, bench.md and figures.",
)
@click.option(
    "--environments",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=".venv-bench",
    show_default=True,
    help="Folder with the environments openmpi, mpich and impi, as `make bench` makes them.",
)
@click.option(
    "--torch",
    type=click.Path(path_type=Path),
    default=".venv-torch/bin/python",
    show_default=True,
    help="A Python that has torch.",
)
@click.option(
    "--peers",
    "names",
    type=Listed("names", _name),
    default=",".join(NAMES),
    show_default=True,
    help="Libraries to stand beside; those that are not there are named in the report.",
)
@click.pass_context
def main(context: click.Context, **given: Any) -> None:
    """Measure all-reduces beside those of MPI libraries and of Gloo, as ratios.

    Parts are kept: one that is measured again replaces what the report had of it, of the network at that rate and
    number of ranks. Ctrl-C keeps what was measured. A command exits with 1 if anything is missing or wrong, or if
    a commit is slower.
    """
    context.obj = Settings(**given)


def _measured(settings: Settings, parts: Sequence[Callable[[Draft], None]]) -> None:
    """Measure parts, and write the report, also if we are told to end."""
    try:
        draft = Draft(settings)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    try:
        with endings_as_exceptions():
            for measure in parts:
                measure(draft)
    except KeyboardInterrupt:
        draft.interrupted()
    draft.draw()
    failed = draft.report.wrong or commits.slower(draft.report)
    sys.exit(int(bool(failed or any(part.missing for part in draft.report.parts.values()))))


_NAME = click.option("--name", default="bench", show_default=True, help="Of the cluster that is made, and ended.")
_RATES = click.option(
    "--rates", type=Listed("rates", plan.parse_rate), default="200mbit,1gbit", show_default=True, help="Of links."
)


def _numbers(name: str, field: str, default: str, words: str) -> Callable:
    return click.option(
        name, field, type=Listed("numbers", _number_or_none), default=default, show_default=True, help=words
    )


_AT_LEAST = _rounds(
    11, f"Of a size; fewer of those that take more than their part of the time, but {addresses.LEAST_ROUNDS}."
)


def _part(part: Any, words: str, *given: Callable) -> click.Command:
    """The command that measures a part."""

    def run(settings: Settings, **asked: Any) -> None:
        try:
            chosen = part.Options(**asked)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        _measured(settings, [lambda draft: part.measure(draft, chosen)])

    return main.command(part.PART, help=words)(options(*given)(click.pass_obj(run)))


node_ = _part(
    node,
    "Ranks of this machine: ordinary and registered arrays, the libraries, a copy.",
    _sizes(node.SIZES),
    click.option("--ranks", "numbers", type=Listed("numbers", _number), default="2,4", show_default=True),
    _rounds(11, "For the first number of ranks; half as many for others."),
    _seconds(SECONDS[node.PART], "About so long, half of it for the first number of ranks."),
    click.option("--tune/--no-tune", default=True, show_default=True, help="Make a selection table for auto before."),
)
algorithms_ = _part(
    algorithms,
    "Each algorithm beside the library's own, here or on virtual hosts: with raw TCP, and what prices foresee.",
    _sizes(algorithms.SIZES),
    click.option(
        "--algorithms",
        type=Listed("names", check),
        default=",".join(ALGORITHMS),
        show_default=True,
        help="shared only on this machine, hierarchical on hosts only in racks.",
    ),
    _numbers("--ranks", "numbers", "2", "Of this machine; 0 for none."),
    _numbers("--hosts", "hosts", "0", "Virtual, on Open MPI alone; 0 for none."),
    _RATES,
    click.option("--racks", type=click.IntRange(min=1), default=1, show_default=True, help="Spread hosts over racks."),
    click.option("--rack-rate", type=RATE, help="Of the link from each rack, where there are several."),
    _rounds(11, "Of a size; on hosts fewer of those that take more than their part of the time."),
    _seconds(SECONDS[algorithms.PART], "About so long for each number of ranks or hosts."),
    _NAME,
)
halves_ = _part(
    halves,
    "Half types beside float32 on 2 ranks of this machine.",
    _sizes(halves.SIZES),
    _rounds(11, "So many."),
    _seconds(SECONDS[halves.PART], "About so long."),
)
addresses_ = _part(
    addresses,
    "Ours beside the libraries at each address within a page, on 2 ranks of this machine.",
    _sizes(addresses.SIZES),
    _AT_LEAST,
    _seconds(SECONDS[addresses.PART], "About so long."),
)
network_ = _part(
    network,
    "Virtual hosts, which are made and ended: shares of the links' rate; wants root or user namespaces.",
    _sizes(network.SIZES),
    _RATES,
    click.option("--ranks", "numbers", type=Listed("numbers", _number), default="5,6,7,8", show_default=True),
    _rounds(11, "Of a size; fewer of those that take more than their part of the time."),
    _seconds(SECONDS[network.PART], "About so long for each rate and number of ranks, beside the sweeps."),
    click.option("--tune-bytes", type=BYTES, default="2MiB", show_default=True, help="Largest size of the sweeps."),
    _NAME,
)
_part(
    commits,
    "Two commits of this package in turn, on this machine and on virtual hosts, whose sizes end at 16 MiB.",
    click.option("--old", required=True, help="The commit to stand beside; the new one is the code at hand."),
    _sizes(addresses.SIZES),
    _numbers("--ranks", "numbers", "2,4", "Of this machine; 0 for none."),
    _numbers("--hosts", "hosts", "5,8", "Virtual; 0 for none."),
    click.option("--rate", type=RATE, default="200mbit", show_default=True, help="Of their links."),
    _AT_LEAST,
    _seconds(commits.SECONDS, "About so long for each number of ranks or hosts, and again for sizes that are slower."),
    _NAME,
)
ALL = {node: node_, algorithms: algorithms_, halves: halves_, addresses: addresses_, network: network_}


@main.command("all")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, max=10 * 86400),
    help="About so long for all, beside sweeps and starting jobs; shared out as the defaults of the parts are.",
)
@click.pass_context
def all_(context: click.Context, seconds: float | None) -> None:
    """All parts but commits, with the defaults of each."""
    defaults = {part: command.make_context(command.name, [], parent=context).params for part, command in ALL.items()}
    points = len(defaults[network]["rates"]) * len(defaults[network]["numbers"])
    scale = 1.0 if seconds is None else seconds / (sum(SECONDS.values()) + (points - 1) * SECONDS[network.PART])
    for each in defaults.values():
        each["seconds"] *= scale
    _measured(context.obj, [partial(part.measure, options=part.Options(**each)) for part, each in defaults.items()])


@main.command()
@click.pass_obj
def table(settings: Settings) -> None:
    """Write text and figures anew from the numbers that there are."""
    if not (settings.out / "bench.json").exists():
        raise click.ClickException(f"there is no {settings.out / 'bench.json'}; measure a part first")
    _measured(settings, [])
