"""The verbs that need no MPI: show an algorithm, prove it, price it."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hpcdist import algorithms
from hpcdist.errors import ScheduleError
from hpcdist.schedule.ir import Schedule
from hpcdist.schedule.verify import verify
from hpcdist.simulate import cost
from hpcdist.simulate.interleavings import rehearse_ways
from hpcdist.tuning.auto import ENVIRONMENT, choose_by_price, resolve
from hpcdist.tuning.table import Selection
from hpcdist.util.sizes import BYTES, format_bytes

WIDEST_GRID = 24  # ranks; a wider table helps nobody
MOST_RANKS = 2**17  # to prove for; more than any machine has processors that all-reduce over MPI
REHEARSED = 8  # ranks up to which programs are played
FIGURES = (".png", ".svg", ".pdf")


def _topology(size: int, ranks_per_node: int | None, topology: str | None) -> tuple[int, ...] | None:
    """The node of each rank from the options, of which at most one may be given."""
    if topology is not None and ranks_per_node is not None:
        raise click.UsageError("--topology and --ranks-per-node both place the ranks: give one of them")
    if topology is not None:
        try:
            nodes = tuple(int(node) for node in topology.split(","))
        except ValueError:
            raise click.BadParameter(f"{topology!r} is no list of node numbers such as 0,0,1,1") from None
        if len(nodes) != size:
            raise click.BadParameter(f"the topology names the nodes of {len(nodes)} ranks, but -n is {size}")
        return nodes
    return None if ranks_per_node is None else tuple(rank // ranks_per_node for rank in range(size))


def _make(name: str, size: int, topology: tuple[int, ...] | None) -> Schedule:
    """The all-reduce of that name, or the phase "NAME:scatter_reduce" or "NAME:all_gather"."""
    family, _, phase = name.partition(":")
    tables = {"scatter_reduce": algorithms.SCATTER_REDUCE, "all_gather": algorithms.ALL_GATHER}
    try:
        if phase in tables:
            if family not in tables[phase]:
                raise ValueError(f"{family} has no {phase} phase; these have: {', '.join(tables[phase])}")
            return tables[phase][family](size)
        return algorithms.allreduce(name, size, topology)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _drawable(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """A path whose ending says how to draw."""
    if path is not None and path.suffix not in FIGURES:
        raise click.BadParameter(f"{path} must end in {', '.join(FIGURES[:-1])} or {FIGURES[-1]}", ctx, param)
    return path


_ranks = click.option("-n", "--ranks", type=click.IntRange(1), required=True, help="Number of ranks.")
_per_node = click.option(
    "--ranks-per-node", type=click.IntRange(1), help="Ranks are placed on nodes in blocks of this."
)
_nodes = click.option("--topology", help="The node of each rank, such as 0,0,1,1.")


@click.command()
@click.argument("algorithm")
@_ranks
@_per_node
@_nodes
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_drawable,
    help="Draw it to this .png, .svg or .pdf file.",
)
def show(algorithm: str, ranks: int, ranks_per_node: int | None, topology: str | None, figure: Path | None) -> None:
    """Print the steps of ALGORITHM, what each rank receives in them, and draw them.

    ALGORITHM is a name such as ring, one of its phases such as ring:scatter_reduce, hierarchical:tree+ring, or
    FILE.py:FUNCTION, which gets the number of ranks and returns a Schedule.
    """
    from hpcdist.schedule.plot import draw, grid

    nodes = _topology(ranks, ranks_per_node, topology)
    schedule = _make(algorithm, ranks, nodes)
    click.echo(schedule)
    counts = cost.count(schedule)
    most = counts.sent.max() / schedule.chunks
    click.echo(f"\n{counts.steps} steps; a rank sends at most {counts.messages.max()} messages and {most:.4g} x nbytes")
    if ranks <= WIDEST_GRID:
        click.echo("\nreceived: +c2<0 adds chunk 2 from rank 0, =c2<0 overwrites it")
        click.echo(grid(schedule))
    if figure is not None:
        try:
            draw(schedule, figure, nodes)
        except (OSError, ValueError) as error:
            raise click.ClickException(str(error)) from None
        click.echo(f"\ndrawn to {figure}")


@click.command("verify")
@click.argument("names", nargs=-1, metavar="[ALGORITHM]...")
@click.option("-n", "--ranks", default="1-33", show_default=True, help="Numbers of ranks, such as 6 or 1-33,600.")
@_per_node
def verify_(names: tuple[str, ...], ranks: str, ranks_per_node: int | None) -> None:
    """Prove that each ALGORITHM (all if none is named) adds every rank's contribution exactly once, everywhere.

    On few ranks, what is made of it for them is also played in random orders that the rules allow: messages, staged
    messages, and memory that ranks reach.
    """
    sizes = _sizes(ranks)
    for name in names or (*algorithms.ALLREDUCE, algorithms.SHARED, "one_shot", "two_shot:3"):
        begun, played = time.perf_counter(), 0
        for size in sizes:
            topology = _topology(size, ranks_per_node, None)
            schedule = _bearable(_make(name, size, topology))
            try:
                verify(schedule)
                played += rehearse_ways(schedule, topology or [0] * size) if size <= REHEARSED else 0
            except ScheduleError as error:
                raise click.ClickException(str(error)) from None
        took = time.perf_counter() - begun
        click.echo(f"{name}: proven for {len(sizes)} sizes ({ranks}), {played} orders played, in {took:.1f} s")


def _bearable(schedule: Schedule) -> Schedule:
    """The schedule, unless to look at all its transfers takes minutes."""
    try:
        transfers = cost.count(schedule).messages.sum()
    except ValueError as error:  # count has lost patience itself
        raise click.UsageError(str(error)) from None
    if transfers > cost.PATIENCE:
        raise click.UsageError(
            f"{schedule.name} on {schedule.size} ranks has {transfers:.1e} transfers, and at most {cost.PATIENCE:.0e} "
            "are looked at: prove it for fewer ranks"
        )
    return schedule


def _sizes(text: str) -> list[int]:
    """Numbers of ranks written as "6", "1-33" or "4,8,16-20"."""
    sizes: list[int] = []
    for part in text.split(","):
        written = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", part)
        if not written:
            raise click.BadParameter(f"{text!r} is no list of numbers of ranks such as 6 or 1-33,600")
        first, last = int(written[1]), int(written[2] or written[1])
        if not 1 <= first <= last <= MOST_RANKS:
            raise click.BadParameter(f"{part!r}: ranks are numbers from 1 to {MOST_RANKS}, the smaller one first")
        sizes.extend(range(first, last + 1))
    return sizes


@click.command()
@click.argument("names", nargs=-1, metavar="[ALGORITHM]...")
@_ranks
@click.option("--nbytes", type=BYTES, default="64MiB", show_default=True, help="Bytes of the buffer, such as 64MiB.")
@_per_node
@_nodes
@click.option("--alpha", type=float, help="Seconds for a message between nodes.")
@click.option("--beta", type=float, help="Seconds for a byte between nodes.")
@click.option("--pair-beta", type=float, help="The same for two nodes that send to each other (--beta if not given).")
@click.option("--lone-alpha", type=float, help="Of a message while no other is on its way (--alpha if not given).")
@click.option("--gap", type=float, help="Of each further message of a rank in the same step (--alpha if not given).")
@click.option("--burst", type=float, help="Bytes that an idle link lets through at once (none if not given).")
@click.option("--burst-beta", type=float, help="Seconds for a byte of a burst (0 if not given).")
@click.option("--gamma", type=float, help="Seconds to reduce a byte.")
@click.option("--node-alpha", type=float, help="Seconds for a message inside a node (--alpha if not given).")
@click.option("--node-beta", type=float, help="Seconds for a byte inside a node (--beta if not given).")
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="JSON of a sweep, for its fitted prices.")
@click.option("--explain", is_flag=True, help='Say what algorithm="auto" would choose here, and why.')
def predict(
    names: tuple[str, ...],
    ranks: int,
    nbytes: int,
    ranks_per_node: int | None,
    topology: str | None,
    model: Path | None,
    explain: bool,
    **prices: float | None,
) -> None:
    """Price each ALGORITHM (all if none is named): alpha per message, beta per byte, gamma per byte reduced."""
    nodes = _topology(ranks, ranks_per_node, topology)
    given = model is not None or any(price is not None for price in prices.values())
    path = os.environ.get(ENVIRONMENT) if explain and not given else None
    try:
        table = Selection.load(path) if path else None
        base = _model_in(model) if model else (table and table.model) or cost.DEFAULT
        asked = {name: price for name, price in prices.items() if price is not None}
        # what goes with a price that is given is not taken from the model's, which is of another network
        others = {"alpha": ("lone_alpha", "gap"), "beta": ("pair_beta", "burst", "burst_beta")}
        fresh = {other: getattr(cost.DEFAULT, other) for name in asked for other in others.get(name, ())}
        fitted = cost.Model.from_dict({**base.as_dict(), **fresh, **asked})
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(_prices_in_words(fitted))
    if table is not None:
        click.echo(f"these are the prices of {table.path}" if table.model else f"{table.path} has no prices: defaults")
    grid = Table("algorithm")
    for head in ("steps", "messages", "sent [x nbytes]", "time [us]", "busbw [GB/s]"):
        grid.add_column(escape(head), justify="right")  # or rich would take a unit for its markup
    rows, skipped = [], []
    for name in names or algorithms.ALLREDUCE:
        if name == "hierarchical" and nodes is None:
            skipped.append("hierarchical: not priced: it needs the ranks' nodes, by --ranks-per-node or --topology")
            continue
        try:
            schedule = algorithms.allreduce(name, ranks, nodes)
            counts = cost.count(schedule)
            seconds = cost.predict(schedule, nbytes, fitted, nodes, counts)
            rows.append((seconds, name, counts, schedule.chunks))
        except ValueError as error:
            skipped.append(f"{name}: not priced: {error}")
    for seconds, name, counts, chunks in sorted(rows, key=lambda row: row[0]):
        busbw = nbytes / seconds * 2 * (ranks - 1) / ranks / 1e9 if seconds else 0.0
        sent = counts.sent.max() / chunks
        grid.add_row(
            name,
            f"{counts.steps}",
            f"{counts.messages.max()}",
            f"{sent:.3f}",
            f"{seconds * 1e6:.1f}",
            f"{busbw:.3f}",
        )
    Console(width=90 + max((len(name) for _, name, _, _ in rows), default=20)).print(grid)  # no name is cut
    for line in skipped:
        click.echo(line)
    click.echo(f"{ranks} ranks, {format_bytes(nbytes)}; messages and bytes are those of the rank that sends most")
    if explain:
        _explain(ranks, nbytes, nodes or tuple(range(ranks)), table, fitted)


def _model_in(path: Path) -> cost.Model:
    """The fitted prices in the JSON of a sweep, or in a selection table."""
    try:
        return cost.Model.from_dict(json.loads(path.read_text())["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no price model under 'model': {error}") from None


def _prices_in_words(model: cost.Model) -> str:
    inside, pair_beta = model.inside(), model.beta + model.pair_surcharge
    gap = "" if model.gap is None else f", further ones {model.gap * 1e6:.3g} us each"
    burst = f", {format_bytes(int(model.burst))} saved up at {model.burst_beta * 1e12:.3g} ps/B" if model.burst else ""
    return (
        f"alpha {model.alpha * 1e6:.3g} us, alone {model.alpha_beside(0) * 1e6:.3g} us{gap}, "
        f"beta {model.beta * 1e12:.3g} ps/B, between two that send to each other {pair_beta * 1e12:.3g} ps/B{burst}, "
        f"gamma {model.gamma * 1e12:.3g} ps/B; "
        f"inside a node alpha {inside.alpha * 1e6:.3g} us, beta {inside.beta * 1e12:.3g} ps/B"
    )


def _explain(ranks: int, nbytes: int, nodes: tuple[int, ...], table: Selection | None, model: cost.Model) -> None:
    """What auto would choose: by the table in HPCDIST_SELECTION, or by these prices where they were given."""
    if table is None:
        choice = choose_by_price(ranks, nodes, nbytes, model)
    else:
        choice = resolve(table, ranks, nodes, "float32", nbytes)
    ignored = table is None and ENVIRONMENT in os.environ
    asked = table.path if table else "not asked, as prices were given" if ignored else "none"
    click.echo(f"auto: {choice.algorithm}, because {choice.why} (table: {asked})")
    if len(set(nodes)) == 1 < ranks:
        click.echo("where Numba is installed, auto is shared on one node, unless a table says otherwise")
