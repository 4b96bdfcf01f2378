"""Who talks to whom, when: every host with every other one, or, of many hosts, with some."""

from __future__ import annotations

import random
from collections.abc import Sequence

ALL_PAIRS = 16  # hosts; with more, not every pair is measured

Round = tuple[tuple[int, int], ...]


def tournament(count: int) -> list[Round]:
    """All pairs of `count` players in rounds in which nobody plays twice: the circle method, count - 1 rounds.

    With an odd number there is one round more, and one player rests in each.
    """
    players: list[int | None] = [*range(count), *([None] if count % 2 else [])]
    rounds = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = zip(players[:half], reversed(players[half:]), strict=True)
        rounds.append(tuple((min(a, b), max(a, b)) for a, b in pairs if a is not None and b is not None))
        players = [players[0], players[-1], *players[1:-1]]
    return rounds


def sample(count: int, rounds: int, seed: int = 0) -> list[Round]:
    """A ring of neighbours in two rounds (three, if odd), then random pairings, which meet other switches."""
    ring = [(i, (i + 1) % count) for i in range(count)]
    even, odd = ring[0 : count - count % 2 : 2], ring[1 : count - count % 2 : 2]
    first = [tuple(each) for each in (even, odd, ring[count - 1 :] if count % 2 else ()) if each]
    draw = random.Random(seed)  # the same on all ranks
    return [*first, *(_pairing(count, draw) for _ in range(rounds - len(first)))]


def _pairing(count: int, draw: random.Random) -> Round:
    order = draw.sample(range(count), count)
    return tuple((min(a, b), max(a, b)) for a, b in zip(order[::2], order[1::2], strict=False))


def plan(count: int) -> tuple[list[Round], str]:
    """The rounds for so many hosts, and in words what they are."""
    if count <= ALL_PAIRS:
        return tournament(count), "all pairs"
    return sample(count, ALL_PAIRS - 1), f"a ring and random pairs, as there are more than {ALL_PAIRS} hosts"


def partner(pairs: Sequence[tuple[int, int]], player: int) -> int | None:
    """Whom `player` meets in a round, or None if it rests."""
    return next((b if a == player else a for a, b in pairs if player in (a, b)), None)
