"""Settings without effect are said, each with its numbers; ordinary ones are not."""

from dataclasses import asdict, replace

import pytest

from hpcdist.train.config import Config
from hpcdist.train.doubts import doubts, jump

USUAL = Config(warmup=4, batch=32)

ODD = {
    "warm-up": (
        {"warmup": 40},
        "--warmup 40, but the run has 5 steps: the learning rate ends at 0.0125 and never comes to --learning-rate "
        "0.1, nor to --policy cosine",
    ),
    "policy": ({"warmup": 5, "policy": "steps"}, "nor to --policy steps"),
    "batch": ({"batch": 4000}, "--batch 4000, but the training set has 320 samples: each step takes all 320"),
    "selection": (
        {"selection": "t.json", "algorithm": "ring"},
        "--selection t.json has no effect, as --algorithm ring was asked for",
    ),
    "compression": (
        {"checkpoint_compression": "gzip"},
        "--checkpoint-compression gzip, but no checkpoint is written unless the run is asked to stop",
    ),
}


@pytest.mark.parametrize(("settings", "said"), ODD.values(), ids=ODD)
def test_a_setting_without_effect_is_said(settings, said):
    (note,) = doubts(replace(USUAL, **settings), 5, 320)
    assert said in note


def test_segments_of_messages_that_are_not_sent_are_said():
    (note,) = doubts(replace(USUAL, segment="1KiB"), 100, 320, messages=False)
    assert "--segment 1KiB has no effect" in note
    assert not [*doubts(replace(USUAL, segment="1KiB"), 100, 320)]


def test_ordinary_settings_are_not_doubted():
    assert not [*doubts(USUAL, 100, 320)]
    assert not [*doubts(replace(USUAL, selection="t.json"), 100, 320)]
    assert not [*doubts(replace(USUAL, checkpoint_compression="gzip", checkpoint_every=5), 100, 320)]
    assert not [*doubts(replace(USUAL, warmup=99), 100, 320)]


def test_a_learning_rate_that_jumps_at_a_resume_is_said():
    stored = asdict(replace(USUAL, epochs=2))
    (note,) = jump(replace(USUAL, epochs=20), stored, 18, 10)
    assert "the learning rate of step 19 is " in note
    assert "--epochs (2 -> 20)" in note
    assert not [*jump(replace(USUAL, epochs=2), stored, 18, 10)]
    assert not [*jump(replace(USUAL, epochs=20), stored, 20, 10)]  # it was complete: there was no rate to come
