"""Rows that are slower than their own model, and why."""

from dataclasses import replace

import numpy as np
import pytest
from sweep_records import record

from hpcdist.sweep import deviation
from hpcdist.sweep.record import Times

MACHINE = {"oversubscribed": False, "ranks_per_node": [4, 4], "cores_per_host": 4}
MODEL = {"alpha": 5e-6, "beta": 1e-10, "gamma": 1e-11, "node_alpha": None, "node_beta": None}


def row(us, **fields):
    """A row of these samples, predicted to take 90 us."""
    return replace(record(**fields), times=Times.of(np.array(us) * 1e-6))


def test_slow_is_more_than_one_and_a_half_times_the_model():
    assert not deviation.slow(row([134.0]))
    assert deviation.slow(row([136.0]))
    assert deviation.ratio(row([180.0])) == pytest.approx(2)


@pytest.mark.parametrize("predicted_us", [None, 0.0])
def test_what_has_no_prediction_is_never_slow(predicted_us):
    assert deviation.ratio(row([500.0], predicted_us=predicted_us)) is None
    assert not deviation.slow(row([500.0], predicted_us=predicted_us))


@pytest.mark.parametrize(
    ("found", "machine", "words"),
    [
        (
            row([200.0]),
            {"oversubscribed": True, "ranks_per_node": [3, 9], "cores_per_host": 4},
            "9 ranks share 4 cores",
        ),
        (row([91.0, 200.0, 200.0]), {}, "something else ran meanwhile"),
        (row([200.0], segment_nbytes=4096), {}, "segments of 4KiB"),
        (row([200.0], nbytes=64), {}, "what a step costs"),
        (row([900.0], segment_nbytes=1 << 20), {}, "bytes that move slower"),
    ],
)
def test_the_cause_is_the_one_that_the_numbers_speak_for(found, machine, words):
    assert words in deviation.cause(found, MACHINE | machine, MODEL)


def test_rows_with_one_cause_are_told_together():
    rows = [row([200.0 + n], nbytes=n) for n in (8, 16, 32)] + [row([90.0], nbytes=64), row([500.0], nbytes=1 << 20)]
    first, second = deviation.flags(rows, MACHINE, MODEL)
    assert first.startswith("# slower than its model: ring, 8 B to 32 B float32 sum: x2.3 to x2.6; likely: what a step")
    assert second.startswith("# slower than its model: ring, 1 MiB float32 sum: x5.6; likely: ")
