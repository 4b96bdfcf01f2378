"""How much of a matrix of cases is run: `make test` pairs what `make test-full` crosses.

`@pytest.mark.paired` above several `parametrize` keeps as few of their combinations as show every value of every axis,
`paired(times=3)` three times and, as far as there are, beside other values of the other axes. In the whole matrix,
HPCDIST_TEST_MATRIX=full, all combinations are run.

With HPCDIST_TEST_MATRIX=every_size only tests that are marked `every_size` are run, paired: those of several ranks for
which it matters how many there are.
"""

import os
from collections import Counter, defaultdict

MATRIX = os.environ.get("HPCDIST_TEST_MATRIX")
WHOLE = MATRIX == "full"
SELECTED = MATRIX == "every_size"


def pytest_collection_modifyitems(config, items):
    if WHOLE:
        return
    dropped = {item for item in items if SELECTED and not item.get_closest_marker("every_size")}
    combinations = defaultdict(list)
    for item in items:
        if item.get_closest_marker("paired"):
            combinations[item.nodeid.partition("[")[0]].append(item)
    dropped.update(item for cases in combinations.values() for item in set(cases) - _paired(cases))
    if dropped:
        config.hook.pytest_deselected(items=[item for item in items if item in dropped])
        items[:] = [item for item in items if item not in dropped]


def _paired(cases):
    """Of one test's combinations, each in turn that shows the most of what has been shown too seldom."""
    times = cases[0].get_closest_marker("paired").kwargs.get("times", 1)
    shows = {case: {(axis, id(value)) for axis, value in case.callspec.params.items()} for case in cases}
    available = Counter(value for values in shows.values() for value in values)
    missing = {value: min(times, count) for value, count in available.items()}
    left = list(cases)
    while any(missing.values()):
        best = max(left, key=lambda case: sum(missing[value] > 0 for value in shows[case]))
        left.remove(best)
        for value in shows[best]:
            missing[value] = max(0, missing[value] - 1)
    return set(cases) - set(left)
