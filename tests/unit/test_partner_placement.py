"""Who keeps whose share, and the key under which it is found again."""

from collections import Counter
from pathlib import Path

import pytest

from hpcdist.checkpoint.partner import key_of, memory
from hpcdist.checkpoint.partner.placement import partners


@pytest.mark.parametrize("topology", [[0, 1, 2, 3], [0, 0, 1, 1, 2], [0, 0, 0, 1], [5, 3, 5, 3], [0, 1, 1, 1, 1, 2, 2]])
def test_partners_are_on_other_nodes(topology: list[int]) -> None:
    found = partners(topology)
    assert all(topology[found[rank]] != topology[rank] for rank in range(len(topology)))
    for node in set(topology):  # and share the load
        load = Counter(found[rank] for rank in range(len(topology)) if topology[found[rank]] == node)
        assert max(load.values()) - min(load.get(r, 0) for r in range(len(topology)) if topology[r] == node) <= 1


def test_keys_tell_directories_and_histories_apart(tmp_path: Path) -> None:
    keys = [key_of(tmp_path / "a b"), key_of(tmp_path / "a-b"), key_of(tmp_path / "a b", "second")]
    assert len(set(keys)) == 3
    assert all(memory.KEY.fullmatch(key) for key in [*keys, key_of(Path("/"))])
    assert key_of(tmp_path / "x" / ".." / "a b") == keys[0]
