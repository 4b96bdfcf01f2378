"""Two sweeps beside each other: what is faster or slower than the samples scatter."""

from dataclasses import replace

import pytest
from click.testing import CliRunner
from sweep_records import pair
from test_sweep_merge import swept

from hpcdist.cli.main import main
from hpcdist.sweep.compare import text, verdict


def compare(*arguments):
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def scattered(us, least):
    (record, _) = pair(us=(us, us))
    return replace(record, times=replace(record.times, time_us_min=least))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((10, 10), (10.4, 10.4), "even"),
        ((10, 10), (10.6, 10.6), "slower"),
        ((10, 10), (9.4, 9.4), "faster"),
        ((10, 8), (12.4, 12.4), "even"),  # the samples before scatter by a quarter
        ((10, 10), (12.4, 9.5), "even"),  # and those after by more
        ((10, 8), (12.6, 12.6), "slower"),
        ((10, 8), (7.9, 7.9), "faster"),
    ],
)
def test_a_case_is_slower_where_medians_are_further_apart_than_samples_scatter(before, after, said):
    assert verdict(scattered(*before), scattered(*after)) == said


def test_what_differs_is_told_and_each_algorithm_is_summed_up():
    before = [*pair("ring", 8, (10, 10)), *pair("tree", 8, (10, 10))]
    after = [*pair("ring", 8, (20, 10)), *pair("tree", 8, (5, 5))]
    lines = [*text(list(zip(before, after, strict=True)))]
    assert [line.split()[0] for line in lines[1:4]] == ["ring,", "tree,", "tree,"]
    assert "2.00  slower: 8 ranks, float32, sum, out_of_place" in lines[1]
    assert lines[4] == "ring: 1.414 of the time before, the geometric mean of 2 cases: 0 faster, 1 even, 1 slower"
    assert lines[5] == "tree: 0.500 of the time before, the geometric mean of 2 cases: 2 faster, 0 even, 0 slower"


def test_the_exit_code_says_whether_any_is_slower(tmp_path):
    for name, us in (("a", 10.0), ("b", 20.0)):
        swept(tmp_path / f"{name}.json", 4, us)
    assert compare(tmp_path / "a.json", tmp_path / "b.json").exit_code == 1
    assert compare(tmp_path / "b.json", tmp_path / "a.json").exit_code == 0
    assert "2 even" in compare(tmp_path / "a.json", tmp_path / "a.json").output


def test_cases_of_one_only_are_counted_and_nothing_in_common_is_said(tmp_path):
    a, b, c = (tmp_path / f"{name}.json" for name in "abc")
    swept(a, 4, 10.0)
    swept(b, 2, 10.0)
    done = compare(a, b)
    assert done.exit_code == 1
    assert "have no case in common" in done.output
    CliRunner().invoke(main, ["merge", str(a), str(b), "--json", str(c)])
    assert "2 cases are in one of the two only" in compare(a, c).output
