"""The report as Markdown: ratios over sizes, what was missed in bold, and all that is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hpcdist.bench import by_algorithm, cells, page
from hpcdist.bench.cells import Cell, Column
from hpcdist.bench.compare import LIMIT, SLOWER, Group, Point, groups
from hpcdist.bench.peers import NEW, OLD
from hpcdist.bench.ratios import TIE
from hpcdist.bench.record import ALGORITHMS, HERE, WRONG, Judgement, Part, Report, near
from hpcdist.bench.task import ADDRESSES, AUTO, CALL, CHOOSING, COPY, HALVES, NAMES, ORDINARY, REGISTERED
from hpcdist.sweep.report import prices
from hpcdist.util.sizes import format_bytes

ERROR = 0.15  # of the price model, at most
NEAR = 0.95  # of the sizes
RIGHT = "Every element of every result that was checked was right."

EXPLANATION = f"""\
- All figures are ratios, for the machine drifts: medians over n rounds, in brackets the range of the middle 80 %. In
  a round each library has a job of its own, in an order that is rotated and reversed; within a job cases take turns,
  sample by sample, on the same buffers, and a ratio of two of them is the median over samples.
- A sample is a number of calls back to back after a barrier, that of the slowest rank; sums of float32 in place, unless
  it says otherwise. Buffers are written before each sample with numbers that are neither zero nor ever infinite. Each
  case of each job was checked once, element by element: WRONG stands where any result of a case was.
- From 1/{TIE} to {TIE} it is a tie, below that ours is faster; **bold** is what was missed.
- "Ours" is a plan bound to an ordinary array, by `auto`; "registered" one on arrays of `hpcdist.empty`; "one line" is
  `hpcdist.allreduce`. Ours stands where it is best, beside whatever library is the fastest at this size; both were
  chosen by their medians, among those that took part in half of the rounds or more.
- Libraries choose their algorithms by their defaults, ours, where it says so above, by tables that sweeps made on the
  same ranks right before. Open MPI and MPICH can be tuned, too (`hpcdist export`); here they are not.
- A library is called through mpi4py, its arguments bound once; in C a call takes about 0.5 us less, which tells at 8 B.
- "memcpy" is a copy of the buffer, made by all ranks at the same time.
"""
OF_THE_NETWORK = """\
- The limit: 2(p-1)/p of the buffer over each link each way, at its rate. Raw TCP sends as much to one neighbour while
  as much comes from the other, without MPI.
- Refill: token buckets were emptied before each sample; what they held again when it began, as a part of what a link
  must carry. It flatters shares by as much: at 1 Gbit/s those of sizes up to 1 MiB.
- Cores: the part of all cores of the machine that was busy in the samples. Ranks of an MPI that wait look for messages
  all the time and keep cores busy; raw TCP does not. Where raw TCP itself keeps them busy, the cores are the limit.
"""
OF_ADDRESSES = f"""\
Ours over the best library at the same address, which is the offset of the buffer in its page [bytes]: both in the jobs
of that library, paired sample by sample, though ours may be faster on another MPI. In brackets the 95 % confidence
bounds of the median over rounds, each one-sided, by order statistics. **Bold**: the upper one is above
{cells.NEAR_BEST}, or {cells.NEAR_BEST_SMALL} below {format_bytes(cells.SMALL)}.
Worst / best: the slowest address of ours over the fastest; **bold**: the median is above {cells.APART}.
"""
OF_COMMITS = f"""\
New over old, in jobs that take turns; in brackets the 95 % confidence bounds of the median over rounds, one-sided, by
order statistics. **Bold**: the lower one is above {SLOWER}. Such sizes were measured once more, which counts.
"""
TABLES_OF_THE_NETWORK = "- Tables for `auto` were made by sweeps on Open MPI, the same for all MPIs."


def text(report: Report, figures: Mapping[str, str] | None = None) -> str:
    """The whole report; `figures` are the files to show, by the name of their group."""
    lines = [EXPLANATION]
    for group in groups(report.rows, "node"):
        lines += [*_picture(group, figures or {}), *_node(group)]
    algorithms = list(groups(report.rows, ALGORITHMS))
    for group in algorithms:
        lines += _algorithms(group) if group.place == HERE else []
    for group in groups(report.rows, "halves"):
        lines += _halves(group)
    for group in groups(report.rows, "addresses"):
        lines += _addresses(group)
    network = list(groups(report.rows, "network"))
    if network:
        lines += ["# Virtual hosts", "", OF_THE_NETWORK]
    if any(row.tuned for row in report.rows if row.part == "network"):
        lines[-1] += f"{TABLES_OF_THE_NETWORK}\n"
    for group in network:
        lines += [*_picture(group, figures or {}), *_network(group)]
    on_hosts = [group for group in algorithms if group.place != HERE]
    if on_hosts:
        lines += ["# Each algorithm on virtual hosts", "", by_algorithm.EXPLANATION]
    for group in on_hosts:
        lines += [*_picture(group, figures or {}), *by_algorithm.tables(group)]
    commits = list(groups(report.rows, "commits"))
    later = groups(report.rows, "commits again")
    again = {(group.place, group.ranks, point.nbytes): point for group in later for point in group.points}
    if commits:
        lines += ["# Two commits", "", OF_COMMITS]
    for group in commits:
        lines += [*_picture(group, {}), *_commits(group, again)]
    judgements = [part.judgement for part in report.parts.values() if part.judgement]
    versions = {peer: words for part in report.parts.values() for peer, words in part.peers.items()}
    body = [*(f"- {peer}: {words}" for peer, words in versions.items()), "", *lines, *_judged(judgements)]
    return page.page(
        "All-reduce beside MPI libraries and Gloo", report, body, RIGHT, lambda name: _tables(report.parts[name])
    )


def _tables(part: Part) -> str:
    """By what "auto" chose, as the rows of a part say; nothing if it had nothing to choose."""
    rows = [row for row in part.rows if not CHOOSING.isdisjoint(row.us)]
    without = dict.fromkeys(f"{row.ranks} ranks of {row.peer}" for row in rows if not row.tuned)
    if any(row.predicted for row in rows):
        return f"; `auto` by prices fitted in the first job: {prices(part.model)}"
    if not any(row.tuned for row in rows):
        return "; `auto` by default prices" if rows else ""
    return "; `auto` by tables tuned before the rounds" + (
        f", but by default prices on {', '.join(without)}" if without else ""
    )


def _picture(group: Group, figures: Mapping[str, str]) -> Iterator[str]:
    where = "one machine" if group.place == HERE else f"hosts behind links of {group.place}"
    yield from [f"## {group.ranks} ranks, {where}", ""]
    yield from page.picture(f"{group.ranks} ranks, {where}", figures.get(group.name))


# --- one machine ---


def _node(group: Group) -> Iterator[str]:
    yield from _verdict(group, AUTO, "ours")
    yield from _verdict(group, REGISTERED, "registered")
    yield ""
    columns: Sequence[Column] = (
        ("ours / best", lambda p: cells.ratio(p.beside_best(AUTO))),
        ("ours on", lambda p: cells.peer(p.home(AUTO))),
        ("best", lambda p: cells.peer(p.rival)),
        ("registered / best", lambda p: cells.ratio(p.beside_best(REGISTERED))),
        ("registered / memcpy", lambda p: cells.ratio(p.at_home(REGISTERED, COPY), None)),
        ("registered / ordinary", lambda p: cells.ratio(p.at_home(REGISTERED, AUTO), None)),
        ("one line / bound", lambda p: cells.ratio(p.at_home(CALL, AUTO), None)),
        ("rounds", lambda p: str(p.rounds)),
    )
    yield from cells.table(group, columns)
    yield from _beside_each(group)


def _beside_each(group: Group) -> Iterator[str]:
    """Ours over the library that it runs on, and what all of them took."""
    yield from ["Ours over the library in the same jobs; what the library took [us].", ""]
    columns: list[Column] = []
    for name in group.mpis:
        columns += [(f"ours / {name}", cells.over_own(name, AUTO)), (f"took on {name}", cells.chosen(name))]
    columns += [(f"{name} [us]", cells.took(name)) for name in group.libraries]
    yield from cells.table(group, columns)


def _verdict(group: Group, case: str, name: str) -> Iterator[str]:
    """At how many of all sizes ours is fast enough; sizes without a ratio are not."""
    found = [point.beside_best(case) for point in group.points]
    medians = [each.median for each in found if each and each is not WRONG]
    kept, faster = sum(median <= TIE for median in medians), sum(median < 1 / TIE for median in medians)
    told = [f"faster at {faster}", f"a tie at {kept - faster}"]
    told += [f"{what} at {found.count(each)}" for each, what in ((WRONG, "WRONG"), (None, "no ratio")) if each in found]
    between = f", from {min(medians):.2f} to {max(medians):.2f}" if medians else ""
    yield f"- {name} / best: at most {TIE} at {kept} of {len(found)} sizes ({', '.join(told)}){between}."


def _algorithms(group: Group) -> Iterator[str]:
    """A table for each MPI: each algorithm of ours over its own all-reduce."""
    for peer in group.mpis:
        yield from [f"## Each algorithm over {peer} in the same jobs, {group.ranks} ranks, one machine", ""]
        yield from cells.table(group, [(name, cells.over_own(peer, name)) for name in NAMES])


# --- half types ---


def _halves(group: Group) -> Iterator[str]:
    yield from [
        f"## Half types, {group.ranks} ranks, one machine",
        "",
        "Elements per second over those of float32: above 1, half types are faster. Sizes are those of float32.",
        "",
    ]
    columns = [
        (f"{half}, {kind}, {name}", cells.elements(name, half, kind))
        for name in group.mpis
        for half in HALVES
        for kind in (ORDINARY, REGISTERED)
    ]
    yield from cells.table(group, columns)


# --- addresses ---


def _addresses(group: Group) -> Iterator[str]:
    yield from [f"## Addresses, {group.ranks} ranks, one machine", "", OF_ADDRESSES]
    for where, in_place in (("In place", True), ("Out of place: offset of the buffer, and of the result", False)):
        names = [name for name, (_, target) in ADDRESSES.items() if (target is None) == in_place]
        columns: list[Column] = [(name, cells.at_address(name)) for name in names]
        columns += [("worst / best", cells.worst_over_best(names)), ("rounds", lambda p: str(p.rounds))]
        yield from [f"{where}.", ""]
        yield from cells.table(group, columns)


# --- virtual hosts ---


def _network(group: Group) -> Iterator[str]:
    yield from _verdict(group, AUTO, "ours")
    yield ""
    columns: list[Column] = [
        ("ours / best", lambda p: cells.ratio(p.beside_best(AUTO))),
        ("ours on", lambda p: cells.peer(p.home(AUTO))),
        ("took", lambda p: p.chosen(home.peer) if (home := p.home(AUTO)) else "-"),
        ("best", lambda p: cells.peer(p.rival)),
        ("ours / limit", lambda p: cells.share(p.share_at_home(AUTO))),
        ("raw TCP / limit", lambda p: cells.share(p.share(LIMIT))),
    ]
    columns += [(f"{name} / limit", cells.share_of(name)) for name in group.libraries]
    columns += [
        ("cores, raw TCP", lambda p: cells.percent(p.cores(LIMIT))),
        ("cores, ours", lambda p: cells.percent(p.cores(p.home(AUTO)))),
        ("cores, best", lambda p: cells.percent(p.cores(p.rival))),
        ("refill, ours", lambda p: cells.percent(p.refill(p.home(AUTO)))),
        ("refill, best", lambda p: cells.percent(p.refill(p.rival))),
        ("rounds", lambda p: str(p.rounds)),
    ]
    yield from cells.table(group, columns)
    yield from _which_limits(group)


def _which_limits(group: Group) -> Iterator[str]:
    """At the largest size: the links or the cores, by what raw TCP does."""
    share, cores = group.points[-1].share(LIMIT), group.points[-1].cores(LIMIT)
    if share is None or cores is None:
        return
    what = "the links" if share.median > 0.9 else "the cores" if cores > 0.9 else "neither links nor cores alone"
    size = format_bytes(group.points[-1].nbytes)
    used = f"{share.median:.0%} of the links and {cores:.0%} of the cores"
    yield f"At {size} raw TCP makes use of {used}: {what} limit it."
    yield ""


# --- two commits ---


def _commits(group: Group, again: Mapping[tuple[str, int, int], Point]) -> Iterator[str]:
    columns: list[Column] = []
    for case in group.points[0].rows[0].us:
        new_over_old = cells.new_over_old(case)
        columns += [(case, new_over_old), (f"{case}, once more", _once_more(group, again, new_over_old))]
    columns += [(f"took, {name}", cells.chosen(name)) for name in (OLD, NEW)]
    yield from cells.table(group, [*columns, ("rounds", lambda p: str(p.rounds))])


def _once_more(group: Group, again: Mapping[tuple[str, int, int], Point], cell: Cell) -> Cell:
    """The same cell of the second measurement, where there is one."""
    return lambda p: cell(found) if (found := again.get((group.place, group.ranks, p.nbytes))) else "-"


def _judged(judgements: Sequence[Judgement]) -> Iterator[str]:
    if not judgements:
        return
    yield from [
        "## Prices and tables",
        "",
        f"Model: the median of |predicted - measured| / measured, at most {ERROR:.0%}. Table: what `auto` takes was "
        f"within 5 % of the best of ours in a later sweep, at {NEAR:.0%} of the sizes of all clusters or more. Where "
        "it was not, the two were measured once more by themselves, which counts.",
        "",
    ]
    rows = [
        [
            f"{each.place}, {each.ranks} ranks",
            cells.bold(f"{each.model_error:.1%}", each.model_error > ERROR),
            "-" if each.near is None else f"{each.near:.0%}",
            ", ".join(f"{format_bytes(int(nbytes))}: {ratio:.2f}" for nbytes, ratio in each.worse.items()) or "-",
        ]
        for each in judgements
    ]
    overall = near(judgements)
    if overall is not None:
        told = cells.bold(f"{overall:.0%}", overall < NEAR)
        rows.append([f"all {sum(each.sizes for each in judgements)} sizes", "", told, ""])
    yield from page.rows(["cluster", "model", "table", "over the best elsewhere"], rows)
