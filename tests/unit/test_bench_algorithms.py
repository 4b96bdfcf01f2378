"""Each algorithm on virtual hosts, as the report tells of it: who wins, what prices foresaw, what auto was worth."""

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hpcdist.bench import algorithms, by_algorithm, figure, table
from hpcdist.bench.compare import groups
from hpcdist.bench.peers import OPEN_MPI
from hpcdist.bench.record import ALGORITHMS, Part, Report, Row, part_of
from hpcdist.bench.start import place_of
from hpcdist.bench.task import AUTO, LIBRARY, RAW
from hpcdist.cli.main import main
from hpcdist.cluster import plan

MIB = 1 << 20
TIMES = {"ring": 1000, "halving_doubling": 2000, "binary_blocks": 900, "recursive_doubling": 3000, "circulant": 800}
OURS = tuple(TIMES)
MACHINE = {"cores_per_host": 2, "cpu": "a processor"}
MODEL = {"alpha": 5e-5, "beta": 4e-8, "gamma": 1e-11}
RACKS = "200mbit, 2 racks, 100mbit to each"


def row(nbytes=MIB, round=0, place="200mbit", predicted=1000.0, wrong=None, **times):
    us = {RAW: 500.0, LIBRARY: 1600.0, **TIMES, AUTO: 1200.0, **times}
    known = {name: predicted for name in us if name not in (RAW, LIBRARY)}
    return Row(
        ALGORITHMS, place, 6, round, OPEN_MPI, nbytes, 5, us, {}, wrong or {}, predicted=known, chosen="ring/whole"
    )


def report(*rows):
    found = Report({})
    for each in rows:
        part = Part(["python"], "2026-01-31", seconds=1.0, machine=MACHINE, model=MODEL)
        found.parts.setdefault(part_of(each.part, each.place, each.ranks), part).rows.append(each)
    return found


def told(*rows):
    """The text, and the cells of its last table by the names of their columns."""
    text = table.text(report(*rows))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    start = max(number for number, line in enumerate(lines) if line.startswith("| size |"))
    return text, dict(zip(*([cell.strip() for cell in lines[n].split("|")] for n in (start, start + 2)), strict=True))


@pytest.mark.parametrize(
    ("ours", "verdict"), [(94, "wins"), (96, "even"), (100, "even"), (104, "even"), (106, "loses"), (1000, "loses")]
)
def test_a_small_difference_is_none(ours, verdict):
    assert by_algorithm.verdict(ours, [300, 100]) == verdict


def test_binary_blocks_may_win_against_the_classics_and_lose_against_all_of_ours():
    _, cells = told(row())
    verdicts = [
        cells[f"binary_blocks, {among}, {kind}"] for among in ("classics", "all") for kind in ("measured", "foreseen")
    ]
    assert verdicts == ["wins", "even", "loses", "even"]


def test_the_library_raw_tcp_and_auto_are_none_of_the_others():
    fast = {RAW: 1.0, LIBRARY: 1.0, AUTO: 1.0}
    _, cells = told(row(**fast))
    assert cells["binary_blocks, all, measured"] == "loses"  # against circulant, not against these
    _, cells = told(row(circulant=5000.0, **fast))
    assert cells["binary_blocks, all, measured"] == "wins"


def test_the_choice_of_auto_is_beside_the_fastest_and_the_library():
    _, cells = told(row())
    assert cells["auto took"] == "ring/whole"
    assert cells["auto / fastest of ours"] == "1.50 of circulant"
    assert cells[f"auto / {OPEN_MPI}"].startswith("0.75 ")


def test_times_stand_beside_what_was_foreseen():
    text, _ = told(row())
    assert "| 1 MiB | 500 | 1600 | 1000 x1.00 | 2000 x2.00 | 900 x0.90 | 3000 x3.00 | 800 x0.80 | 1200 x1.20 |" in text
    assert "`auto` by prices fitted in the first job: alpha 50 us/message, beta 40 ns/B" in text


def test_the_error_is_the_median_of_what_is_off_either_way():
    points = next(groups([row(8, ring=500.0), row(64, ring=1100.0), row(512, ring=4000.0)], ALGORITHMS)).points
    assert by_algorithm.error(points, ["ring"]) == pytest.approx(0.5)
    assert by_algorithm.error(points, [LIBRARY]) is None
    text, _ = told(row())
    assert "Median of |time / foreseen - 1|: 20%; ring 0%, halving_doubling 100%, binary_blocks 10%" in text


def test_shares_are_those_of_the_links_rate_also_in_racks():
    bits = 2 * 5 / 6 * MIB * 8
    for place in ("200mbit", RACKS):
        text, _ = told(row(place=place, ring=2 * bits / 200))
        assert "| 1 MiB | >100% | >100% | 50% |" in text


def test_a_wrong_result_is_said_and_does_not_count():
    text, cells = told(row(wrong={"circulant": 3}))
    assert (
        f"- algorithms, 200mbit, 6 ranks: 200mbit, 6 ranks, {OPEN_MPI}, circulant, 1 MiB, round 1: 3 elements" in text
    )
    assert text.count("**WRONG**") == 2  # its share and its time
    assert cells["auto / fastest of ours"] == "1.33 of binary_blocks"


def test_each_cluster_is_a_part_by_itself_and_has_a_figure(tmp_path):
    found = report(row(), row(place=RACKS))
    assert list(found.parts) == ["algorithms, 200mbit, 6 ranks", f"algorithms, {RACKS}, 6 ranks"]
    text = table.text(found, {"algorithms-200mbit-2-racks-100mbit-to-each-6": "racks.png"})
    assert f"## 6 ranks, hosts behind links of {RACKS}" in text
    assert text.count("# Each algorithm on virtual hosts") == 1
    assert "(racks.png)" in text
    files = figure.write(tmp_path, found)
    assert [path.name for path in files] == [
        "algorithms-200mbit-6.png",
        "algorithms-200mbit-2-racks-100mbit-to-each-6.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


def test_a_figure_has_a_line_for_each_case_and_raw_tcp_is_dashed_in_black():
    (axes,) = figure.algorithms(next(groups([row(), row(8 * MIB)], ALGORITHMS))).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert {RAW, LIBRARY, *OURS, AUTO} <= set(lines)
    assert (lines[RAW].get_color(), lines[RAW].get_linestyle()) == ("black", "--")


def test_the_place_says_the_racks():
    assert place_of(plan.network(5, 200_000_000)) == "200mbit"
    assert place_of(plan.network(6, 200_000_000, 2, 100_000_000)) == RACKS


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--algorithms", "ring,rings"], "no all-reduce algorithm called 'rings'"),
        (["--hosts", "3", "--racks", "4", "--rack-rate", "1mbit"], "3 hosts cannot be spread over 4 racks"),
        (["--hosts", "3", "--racks", "2"], "several racks need a rate"),
        (["--hosts", "1"], "no number of ranks"),
    ],
)
def test_what_makes_no_measurement_is_refused(tmp_path, words, said):
    done = CliRunner().invoke(main, ["bench", "algorithms", "--out", str(tmp_path / "out"), *words])
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", "").split())
    assert not (tmp_path / "out").exists()


def test_hierarchical_is_measured_only_in_racks_and_shared_never_on_hosts(monkeypatch):
    asked = []

    draft = SimpleNamespace(on_hosts=lambda part, network, name, measure: measure(network))
    beside = SimpleNamespace(begin=lambda draft, name, names: (Part(), names))

    def rounds(draft, part, place, peers, effort, task, cases):
        asked.append((cases(OPEN_MPI), task.racks))
        return SimpleNamespace(run=lambda: None)

    monkeypatch.setattr(algorithms, "Rounds", rounds)
    names = ("ring", "hierarchical", "shared")
    for racks, rate in ((1, None), (2, 10**6)):
        algorithms.measure(draft, beside, (8,), names, (0,), (3,), (10**6,), racks, rate, 1, 1.0, "x")
    assert asked == [
        ((RAW, LIBRARY, "ring", AUTO), ()),
        ((RAW, LIBRARY, "ring", "hierarchical", AUTO), (1, 1, 2)),
    ]
