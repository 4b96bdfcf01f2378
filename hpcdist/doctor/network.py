"""Latency and bandwidth within each host and between hosts, and which link or host is slower than the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import median

from hpcdist.doctor import rounds
from hpcdist.doctor.finding import OK, SKIP, WARN, Finding, listing, plural
from hpcdist.doctor.job import Job
from hpcdist.doctor.pingpong import Link, format_rate, measure

SPARE = 2.0  # seconds of the budget that a round must have left to begin

Links = dict[tuple[str, str], Link]


def check(seconds: float) -> Callable[[Job], list[Finding]]:
    """The check within a budget of so many seconds."""
    return partial(_check, seconds)


def _check(seconds: float, job: Job) -> list[Finding]:
    give_up = time.monotonic() + seconds
    return [*_inside(job), *_between(job, give_up)]


def _inside(job: Job) -> list[Finding]:
    """Two ranks of every host that has two, all hosts at the same time."""
    answers = job.ask("exchange messages within the host", lambda: measure(job, _neighbour(job)))
    found = {name: link for name, link in job.by_host(answers).items() if link}
    return [judge_inside(found)]


def _neighbour(job: Job) -> int | None:
    """The other of the first two ranks of this node."""
    ranks = job.nodes[job.node[job.rank]][:2]
    return next((rank for rank in ranks if rank != job.rank), None) if job.rank in ranks and len(ranks) == 2 else None


def _between(job: Job, give_up: float) -> list[Finding]:
    """One rank per host, in rounds of pairs, as long as there is time."""
    hosts = len(job.names)
    if hosts == 1:
        return [Finding(SKIP, "between hosts", "one host only")]
    plan, words = rounds.plan(hosts)
    links: Links = {}
    for done, pairs in enumerate(plan):
        if done and not job.ask_rank_0("look at the clock", lambda: time.monotonic() + SPARE < give_up):
            words += f"; only {done} of {len(plan)} rounds, as the time was up (--network-seconds)"
            break
        links |= _round(job, pairs)
    return judge_between(links, words)


def _round(job: Job, pairs: Sequence[tuple[int, int]]) -> Links:
    other = rounds.partner(pairs, job.node[job.rank]) if job.is_head else None
    peer = None if other is None else job.heads[other]
    who = listing((f"{job.names[a]}-{job.names[b]}" for a, b in pairs), 8)
    answers = job.ask(f"exchange messages between hosts: {who}", lambda: measure(job, peer))
    by_host = [answers[head] for head in job.heads]
    return {(job.names[a], job.names[b]): link for a, b in pairs if (link := by_host[a])}


# --- judging ---


def judge_inside(links: Mapping[str, Link]) -> Finding:
    """Hosts against each other."""
    name = "inside hosts"
    if not links:
        return Finding(SKIP, name, "no host has two ranks")
    usual = median(link.bandwidth for link in links.values())
    slow = [f"{host} ({link})" for host, link in links.items() if link.bandwidth < usual / 2]
    text = _text(links.values())
    if slow:
        return Finding(
            WARN,
            name,
            f"{text}; slower than half of it: {listing(slow)}",
            "the slowest host sets the pace of all",
            "look for other jobs, a full /dev/shm, throttled cores (dmesg) or wrong binding on it, or leave it out: "
            "--exclude",
        )
    return Finding(OK, name, f"{text}{f' on {len(links)} hosts' if len(links) > 1 else ''}")


def judge_between(links: Links, words: str) -> list[Finding]:
    """Which hosts, and which links of the other hosts, are slower than half of what is usual."""
    culprits = slow_hosts(links)
    sound = {pair: link for pair, link in links.items() if not culprits & set(pair)}
    usual = median(link.bandwidth for link in (sound or links).values())
    slow = {pair: link for pair, link in sound.items() if link.bandwidth < usual / 2}
    text = f"{_text((sound or links).values())}; {plural(len(links), 'link')} measured: {words}"
    found = [_slow_host(host, _mine(links, host), usual) for host in sorted(culprits)]
    if slow:
        found.append(_slow_pairs(slow, usual))
    return [Finding(OK, "between hosts", text), *found]


def slow_hosts(links: Links) -> set[str]:
    """Hosts all of whose links are slow: the best of them is below half of what hosts' best links usually have."""
    best = {host: max(link.bandwidth for link in _mine(links, host).values()) for pair in links for host in pair}
    usual = median(best.values())
    return {host for host, bandwidth in best.items() if bandwidth < usual / 2}


def _mine(links: Links, host: str) -> Links:
    return {pair: link for pair, link in links.items() if host in pair}


def _slow_host(host: str, links: Links, usual: float) -> Finding:
    """A host whose own link, or whose network card, is the cause."""
    rates = sorted(link.bandwidth for link in links.values())
    return Finding(
        WARN,
        "slow host",
        f"{host}: {format_rate(rates[0])} to {format_rate(rates[-1])} on all of its {plural(len(rates), 'link')}, "
        f"others have {format_rate(usual)}",
        "every collective operation waits for its slowest rank, so this host sets the pace of the job",
        f"leave it out (--exclude={host}), and have its cable, its network card and its negotiated rate looked at "
        "(ethtool, ibstat)",
    )


def _slow_pairs(slow: Links, usual: float) -> Finding:
    worst = sorted(slow, key=lambda pair: slow[pair].bandwidth)
    return Finding(
        WARN,
        "slow links",
        listing(f"{a}-{b} ({slow[a, b]})" for a, b in worst) + f", others have {format_rate(usual)}",
        "these hosts are sound with others, so what is between them is slow: a switch, or racks that share a link. "
        "Rings and trees that cross it wait for it",
        "ask for hosts of one switch (--switches=1), or use the hierarchical algorithm; a shared network may just be "
        "busy: run the doctor again",
    )


def _text(links: Iterable[Link]) -> str:
    """The median, and the slowest."""
    known = list(links)
    middle = Link(median(link.latency for link in known), median(link.bandwidth for link in known))
    if len(known) == 1:
        return str(middle)
    worst = Link(max(link.latency for link in known), min(link.bandwidth for link in known))
    return f"{middle} in the median, {worst} at worst"
