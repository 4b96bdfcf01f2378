"""Which states outside the checkpoint directory still count."""

from hpcdist.checkpoint.history import given_up, history_of, note_start
from hpcdist.checkpoint.writer import claim


def start(directory, step):
    fence = claim(directory)
    history_of(fence, anew=False)
    note_start(fence, step)
    return fence


def test_a_history_keeps_its_name_until_a_run_is_begun_anew(tmp_path):
    before, name = history_of(claim(tmp_path), anew=True)
    assert before == ""
    assert history_of(claim(tmp_path), anew=False) == (name, name)
    again, other = history_of(claim(tmp_path), anew=True)
    assert (again, other != name) == (name, True)


def test_what_a_start_left_counts_while_later_ones_go_on_from_it(tmp_path):
    first = start(tmp_path, 0)
    assert not given_up(first, first.token, 180)
    second = start(tmp_path, 180)
    assert not given_up(second, first.token, 180)
    assert not given_up(second, second.token, 300)


def test_what_a_later_start_has_gone_past_counts_no_more(tmp_path):
    first = start(tmp_path, 0)
    second = start(tmp_path, 100)  # it did not see the first one's state of step 180
    assert given_up(second, first.token, 180)
    assert not given_up(second, first.token, 100)
    third = start(tmp_path, 150)
    assert given_up(third, second.token, 170)


def test_of_a_start_that_is_not_known_nothing_counts(tmp_path):
    assert given_up(start(tmp_path, 0), "another", 10)
