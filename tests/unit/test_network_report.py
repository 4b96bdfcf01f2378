"""The report on a network: its numbers, its files, its tables, its figure."""

import csv
import json

import click
import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from hpcdist.bench.links import figure, table
from hpcdist.bench.links import report as command
from hpcdist.bench.links.options import Settings, settings
from hpcdist.bench.links.record import RAW, WHOLE, Record, Report, link_bytes, paired, share
from hpcdist.cluster import plan
from hpcdist.sweep.record import LIBRARY

SIZES = (8, 1024, 65536, 1 << 20, 1 << 24)
NAMES = (RAW, LIBRARY, "ring", WHOLE, "halving_doubling")


def record(case="ring", ranks=8, nbytes=1 << 20, rate=200_000_000, **fields):
    """A record whose numbers are made up, but for the share of the link, which grows with the size."""
    made = {
        "segment_nbytes": 65536,
        "samples": 5,
        "time_us_p50": 2000.0,
        "time_us_p10": 1900.0,
        "time_us_p90": 2100.0,
        "busbw": 1.0,
        "share": nbytes / (1 << 24),
        "to_raw": 1.25,
        "to_library": 0.5,
        "predicted_us": 1000.0,
        "cores_busy": 0.25,
        "refill": 2048.0,
        "wrong": 0,
    }
    if case in (RAW, LIBRARY):
        made |= {"segment_nbytes": None, "predicted_us": None}
    return Record(rate=rate, ranks=ranks, nbytes=nbytes, case=case, **{**made, **fields})


def report(numbers=(5, 8), rates=(200_000_000,), **fields):
    results = [
        record(name, ranks, nbytes, rate) for rate in rates for ranks in numbers for nbytes in SIZES for name in NAMES
    ]
    machine = {"mpi": "Open MPI v5.0.0", "cpu": "a processor", "cores_per_host": 2, "tcp": "cubic"}
    return Report(["hpcdist", "cluster", "report"], "2025-01-01T00:00:00+00:00", {}, machine, [], results, **fields)


# --- numbers ---


def test_a_link_carries_2_p_minus_1_over_p_of_the_buffer():
    assert link_bytes(2, 1000) == 1000
    assert link_bytes(8, 1000) == 1750


def test_the_share_is_1_when_the_least_bytes_take_what_they_take_at_the_links_rate():
    assert share(8, 1000, 1750 * 8 / 1e6, 1e6) == pytest.approx(1)
    assert share(8, 1000, 2 * 1750 * 8 / 1e6, 1e6) == pytest.approx(0.5)


def test_ratios_are_paired_by_round_before_the_median_is_taken():
    ours, theirs = np.array([1.0, 20.0, 300.0]), np.array([2.0, 10.0, 100.0])
    assert paired(ours, theirs) == 2.0
    assert paired(np.array([1.0, 2.0, 9.0]), np.array([2.0, 9.0, 1.0])) == 0.5  # the ratio of the medians is 1


def test_rounds_that_only_one_took_part_in_are_left_out_of_a_ratio():
    assert paired(np.array([1.0, 1.0]), np.array([4.0, 4.0, 1.0, 1.0, 1.0])) == 0.25
    assert paired(np.array([4.0, 4.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.0])) == 4.0


# --- options ---


def parsed(*arguments):
    """(exit code, Settings or what was said) of a command with our options."""
    found = []

    @click.command()
    @settings
    def probe(**options):
        found.append(Settings(**options))

    done = CliRunner().invoke(probe, arguments)
    return (done.exit_code, found[0] if found else done.output)


def test_flags_say_the_same_settings_again():
    _, asked = parsed("--sizes", "8,1MiB", "--algorithms", "tree,ring", "--segment-bytes", "0", "--seconds", "1.5")
    assert asked.sizes == (8, 1 << 20)
    assert asked.segment_bytes == 0
    assert parsed(*asked.flags()) == (0, asked)


def test_the_default_is_all_algorithms_but_hierarchical():
    _, asked = parsed()
    assert " ".join(asked.algorithms) == (
        "ring halving_doubling binary_blocks circulant recursive_doubling double_binary_trees direct tree"
    )


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--sizes", "8,6", "'6' is no whole number of float32"),
        ("--sizes", "0", "'0' is no whole number of float32"),
        ("--sizes", "8,,16", "'' is no size in bytes"),
        ("--algorithms", "ring,rings", "no all-reduce algorithm called 'rings'"),
    ],
)
def test_bad_lists_are_refused_with_what_is_wrong(option, value, said):
    code, output = parsed(option, value)
    assert code == 2
    assert said in " ".join(output.split())


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--ranks", "4,1", "'1' is no number of ranks"), ("--ranks", "x", "'x' is no"), ("--rates", "fast", "'fast' is")],
)
def test_the_command_refuses_what_makes_no_cluster(option, value, said, tmp_path):
    done = CliRunner().invoke(command.main, ["--out", str(tmp_path / "out"), option, value])
    assert done.exit_code == 2
    assert said in done.output
    assert not (tmp_path / "out").exists()


def test_the_buckets_are_as_deep_as_tc_is_told():
    burst = plan.SHAPE[plan.SHAPE.index("burst") + 1]
    assert burst == f"{command.BUCKET // 1024}kb"


# --- files ---


def test_a_report_is_read_as_it_was_written(tmp_path):
    written = report(missing=["1 Gbit/s, 5 ranks: not begun"])
    written.write_json(tmp_path / "network.json")
    assert Report.read(tmp_path / "network.json") == written


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 2, "results": []}'])
def test_another_file_is_refused_by_name(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other\.json"):
        Report.read(tmp_path / "other.json")


def test_the_csv_has_a_row_per_record(tmp_path):
    report().write_csv(tmp_path / "network.csv")
    rows = list(csv.DictReader((tmp_path / "network.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(SIZES) * len(NAMES)
    assert (rows[3]["case"], rows[3]["ranks"], rows[3]["to_library"]) == (WHOLE, "5", "0.5")
    assert rows[0]["predicted_us"] == ""


# --- tables ---


def lines_of(made, title):
    """The lines of one table of the text, as lists of words, below its title and its two lines of names."""
    lines = table.text(made).splitlines()
    start = lines.index(title) + 3
    return [line.split() for line in lines[start : lines.index("", start)]]


def test_every_rate_and_number_of_ranks_has_a_table_with_a_line_per_size():
    made = report(rates=(200_000_000, 1_000_000_000))
    for rate in ("200 Mbit/s", "1 Gbit/s"):
        for ranks in (5, 8):
            lines = lines_of(made, f"{rate}, {ranks} ranks: share of the link [%]")
            assert [" ".join(line[:2]) for line in lines] == ["8 B", "1 KiB", "64 KiB", "1 MiB", "16 MiB"]


def test_a_line_holds_shares_then_rounds_and_what_raw_tcp_took():
    made = report()
    made.results = [replace(r, share=0.5) if r.case == LIBRARY else r for r in made.results]
    *_, last = lines_of(made, "200 Mbit/s, 8 ranks: share of the link [%]")
    assert last == ["16", "MiB", "100.0", "50.0", "100.0", "100.0", "100.0", "5", "2.00", "2", "25"]


def test_columns_are_named_above_their_numbers():
    lines = table.text(report()).splitlines()
    above, below, first = lines[lines.index("200 Mbit/s, 5 ranks: share of the link [%]") + 1 :][:3]
    assert above.split() == ["raw", "MPI_", "ring,", "halving_", "raw", "refill", "cores"]
    assert below.split() == [
        "size",
        "TCP",
        "Allreduce",
        "ring",
        "whole",
        "messages",
        "doubling",
        "rounds",
        "ms",
        "KiB",
        "%",
    ]
    assert len(below) == len(first)


def test_ratios_are_those_of_the_largest_size_and_leave_out_the_other_itself():
    made = report()
    made.results = [replace(r, to_raw=3.0) if r.nbytes == 1 << 24 and r.ranks == 5 else r for r in made.results]
    five, eight = lines_of(made, "16 MiB, time / that of raw TCP")
    assert five == ["200", "Mbit/s,", "5", "ranks", *["3.00"] * 4]
    assert eight == ["200", "Mbit/s,", "8", "ranks", *["1.25"] * 4]
    assert lines_of(made, "16 MiB, time / that of MPI_Allreduce")[0][4:] == ["0.50"] * 4
    assert lines_of(made, "16 MiB, time / predicted from the link's rate")[0][4:] == ["2.00"] * 3


def test_a_case_that_was_not_measured_there_is_a_dash():
    made = report()
    made.results = [r for r in made.results if (r.ranks, r.case) != (5, "ring")]
    five, eight = lines_of(made, "16 MiB, time / that of raw TCP")
    assert sorted(five[4:]) == ["-", "1.25", "1.25", "1.25"]
    assert eight[4:] == ["1.25"] * 4


def test_what_is_wrong_or_missing_is_said_at_the_end():
    assert table.text(report()).splitlines()[-1] == "# every result was checked, element by element, and none was wrong"
    made = report(missing=["1 Gbit/s, 5 ranks: not begun"])
    made.results[2] = replace(made.results[2], wrong=3)
    assert made.wrong == [made.results[2]]
    assert table.text(made).splitlines()[-2:] == [
        "# WRONG: ring, 200 Mbit/s, 5 ranks, 8 B: 3 elements",
        "# MISSING: 1 Gbit/s, 5 ranks: not begun",
    ]


def test_a_report_without_results_says_what_is_missing():
    made = Report(["hpcdist", "cluster", "report"], "2025-01-01T00:00:00+00:00", {}, missing=["all of it"])
    assert table.text(made).endswith("# MISSING: all of it\n")
    assert "none was wrong" not in table.text(made)


def test_rates_are_written_for_people():
    assert [table.rate_text(rate) for rate in (999, 200_000_000, 2_500_000_000)] == [
        "999 bit/s",
        "200 Mbit/s",
        "2.5 Gbit/s",
    ]


# --- figure ---


def panels(made):
    return figure.draw(made.results, "Open MPI v5.0.0").axes


def test_a_panel_for_each_number_of_ranks_with_a_line_for_each_case():
    five, six, eight = panels(report((8, 5, 6)))
    assert [axes.get_title(loc="left") for axes in (five, six, eight)] == ["5 ranks", "6 ranks", "8 ranks"]
    lines = {line.get_label(): line for line in eight.get_lines()}
    assert set(NAMES) <= set(lines)
    assert list(lines["ring"].get_ydata()) == [nbytes / (1 << 24) for nbytes in SIZES[1:]]


def test_raw_tcp_is_dashed_in_black_and_the_library_grey():
    lines = {line.get_label(): line for line in panels(report())[0].get_lines()}
    assert (lines[RAW].get_color(), lines[RAW].get_linestyle()) == ("black", "--")
    assert lines[LIBRARY].get_color() == "0.55"
    assert len({lines[name].get_color() for name in NAMES}) == len(NAMES)


def test_a_case_has_the_same_colour_in_all_panels_even_if_one_lacks_another_case():
    made = report()
    made.results = [r for r in made.results if (r.ranks, r.case) != (8, "ring")]
    colours = [{line.get_label(): line.get_color() for line in axes.get_lines()} for axes in panels(made)]
    assert colours[0]["halving_doubling"] == colours[1]["halving_doubling"]


def test_sizes_that_make_no_use_of_a_link_are_left_to_the_table_unless_there_are_no_others():
    assert 8 not in panels(report())[0].get_lines()[0].get_xdata()
    made = report()
    made.results = [r for r in made.results if r.nbytes == 8]
    assert list(panels(made)[0].get_lines()[0].get_xdata()) == [8]


def test_names_of_sizes_do_not_run_into_each_other():
    assert figure._ticks([1 << 10, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24]) == [1 << 10, 1 << 16, 1 << 20, 1 << 24]
    assert figure._ticks([1 << 20]) == [1 << 20]


def test_shares_above_the_whole_link_are_explained_only_if_there_are_any():
    made = report()
    assert "above" not in figure.draw(made.results, "").get_supxlabel()
    made.results[-1] = replace(made.results[-1], share=1.1)
    assert "above 100%" in figure.draw(made.results, "").get_supxlabel()


def test_the_same_numbers_make_the_same_files(tmp_path):
    for name in "ab":
        png, svg = figure.write(tmp_path / f"{name}-200mbit", report().results, "Open MPI v5.0.0")
        assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_text() == (tmp_path / "a-200mbit.svg").read_text()
    assert "share of the link" in svg.read_text()


# --- jobs that fail ---


def measurement(tmp_path):
    asked = Settings((8, 1024), ("ring",), 65536, 2, 1.0)
    made = Report([], "", {})
    return command.Measurement(made, asked, (200_000_000,), (5,), "none", tmp_path)


def test_of_a_job_that_fails_what_it_wrote_is_kept_and_the_rest_is_missing(tmp_path):
    work = measurement(tmp_path)
    replace(report((5,)), results=[record(nbytes=8, ranks=5)]).write_json(tmp_path / "run.json")
    work._take_over(200_000_000, 5, tmp_path / "run.json", "the job exited with 1")
    assert [r.nbytes for r in work.report.results] == [8]
    assert work.report.machine["mpi"] == "Open MPI v5.0.0"
    assert work.report.missing == ["200 Mbit/s, 5 ranks: 1 KiB: the job exited with 1"]


def test_a_job_that_wrote_nothing_lacks_all_sizes(tmp_path):
    work = measurement(tmp_path)
    work._take_over(200_000_000, 5, tmp_path / "run.json", "the job exited with 7")
    assert work.report.missing == ["200 Mbit/s, 5 ranks: 8 B, 1 KiB: the job exited with 7"]


@pytest.mark.parametrize(
    ("code", "wrong", "missing"),
    [
        ("", 0, []),
        ("the job exited with 1", 2, []),  # it said so because of the wrong elements, which the report has
        ("the job exited with 1", 0, ["200 Mbit/s, 5 ranks: all sizes are there, but the job exited with 1"]),
    ],
)
def test_a_job_that_did_all_lacks_nothing(tmp_path, code, wrong, missing):
    work = measurement(tmp_path)
    results = [record(nbytes=nbytes, ranks=5, wrong=wrong) for nbytes in (8, 1024)]
    replace(report((5,)), results=results).write_json(tmp_path / "run.json")
    work._take_over(200_000_000, 5, tmp_path / "run.json", code)
    assert work.report.missing == missing


def test_json_holds_numbers_only_where_there_are_any(tmp_path):
    report().write_json(tmp_path / "network.json")
    first = json.loads((tmp_path / "network.json").read_text())["results"][0]
    assert (first["case"], first["predicted_us"], first["samples"]) == (RAW, None, 5)
