"""The figure: its files, its lines, its axes."""

from pathlib import Path

import pytest
from sweep_records import record

from hpcdist.sweep import figure
from hpcdist.sweep.record import figure_paths

SIZES = [8 << i for i in range(20)]
NAMES = ("ring", "tree", "MPI_Allreduce")


def records(names=NAMES, **fields):
    return [
        record(name, nbytes, us=5.0 + number + nbytes / 5e3, **fields)
        for number, name in enumerate(names)
        for nbytes in SIZES
    ]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("f.png", ["f.png"]),
        ("f.svg", ["f.svg"]),
        ("f", ["f.png", "f.svg"]),
        ("f.v2", ["f.v2.png", "f.v2.svg"]),
    ],
)
def test_a_name_without_suffix_means_both_files(given, made):
    assert figure_paths(Path(given)) == [Path(name) for name in made]


def test_both_files_are_written(tmp_path):
    png, svg = figure.write(tmp_path / "sweep", records())
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "bus bandwidth" in svg.read_text()


def test_the_same_numbers_make_the_same_svg(tmp_path):
    first, second = (figure.write(tmp_path / name, records())[0].read_text() for name in ("a.svg", "b.svg"))
    assert first == second


def test_one_line_per_algorithm_and_the_library_dashed_in_black():
    (axes,) = figure.draw(records()).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {*NAMES, "predicted"}
    assert (lines["MPI_Allreduce"].get_color(), lines["MPI_Allreduce"].get_linestyle()) == ("black", "--")
    assert len({lines[name].get_color() for name in NAMES}) == 3
    assert list(lines["ring"].get_xdata()) == SIZES


def test_segments_are_lines_of_their_own():
    rows = [*records(("ring", "tree")), *records(("ring",), segment_nbytes=1 << 20)]
    (axes,) = figure.draw(rows).axes
    labels = {line.get_label() for line in axes.get_lines()}
    assert labels == {"ring/64KiB", "ring/1MiB", "tree", "predicted"}


def test_the_prediction_is_dotted_in_the_colour_of_its_algorithm_and_the_library_has_none():
    (axes,) = figure.draw([*records(("tree",)), *records(("library:ring",), predicted_us=None)]).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {"tree", "library:ring", "predicted"}
    dotted = lines["predicted"]
    assert (dotted.get_linestyle(), dotted.get_color()) == (":", lines["tree"].get_color())
    assert dotted.get_ydata()[0] == pytest.approx(8 / 90e-6 / 1e9 * 2 * 7 / 8)


def test_axes_are_logarithmic_with_sizes_in_binary_units():
    (axes,) = figure.draw(records()).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xticklabels()[-1].get_text() == "4 MiB"


def test_each_type_has_its_panel_and_the_legend_every_name_once():
    mixed = [*records(("ring",), dtype="bfloat16"), *records(), *records(dtype="int32")]
    drawn = figure.draw(mixed)
    assert len(drawn.axes) == 3
    assert sorted(text.get_text() for text in drawn.legends[0].get_texts()) == sorted([*NAMES, "predicted"])


def test_only_one_placement_is_drawn(tmp_path, monkeypatch):
    drawn = []
    real = figure.draw
    monkeypatch.setattr(figure, "draw", lambda rows: drawn.extend(rows) or real(rows))
    figure.write(tmp_path / "f.svg", [*records(), *records(placement="out_of_place")])
    assert {row.placement for row in drawn} == {"in_place"}


def test_each_path_of_device_buffers_has_its_panel():
    rows = [*records(), *(row for path in ("staged", "peer") for row in records(memory="cuda", path=path))]
    titles = [axes.get_title(loc="left") for axes in figure.draw(rows).axes]
    assert titles == [f"8 ranks, 2 nodes, float32, sum{path}" for path in ("", ", staged", ", peer")]
