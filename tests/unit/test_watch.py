"""The watchdog warns of what stands still, leaves alone what moves, and ends the job only if told to."""

import os
import threading
import weakref

import pytest

from hpcdist.util import watchdog as watch
from hpcdist.util.watchdog import Watchdog, timeout, waiting

PATIENCE = 60.0  # seconds for a thread to get its turn; only a test that fails waits for them


class Thing:
    """Something that may wait; the test hears when it was looked at and described."""

    def __init__(self, moves=False, idle=False):
        self.moves, self.idle = moves, idle
        self.looks = 0
        self.described, self.looked_at_often = threading.Event(), threading.Event()

    def progress(self):
        self.looks += 1
        if self.looks > 50:
            self.looked_at_often.set()
        return None if self.idle else self.looks if self.moves else "here"

    def describe(self):
        self.described.set()
        return "a thing that waits"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setenv("HPCDIST_TIMEOUT", "0.01")
    monkeypatch.delenv("HPCDIST_TIMEOUT_ACTION", raising=False)


def test_what_stands_still_is_described(capfd):
    thing, second = Thing(), Thing()
    watchdog = Watchdog()
    watchdog.watch(thing)
    assert thing.described.wait(PATIENCE)
    watchdog.watch(second)
    assert second.described.wait(PATIENCE)
    assert second.looked_at_often.wait(PATIENCE)  # so that the line about the first is out
    assert "hpcdist: no progress for 0 s: a thing that waits\n" in capfd.readouterr().err


@pytest.mark.parametrize("state", ["moves", "idle"])
def test_what_moves_or_has_nothing_to_do_is_left_alone(state):
    thing = Thing(**{state: True})
    Watchdog().watch(thing)
    assert thing.looked_at_often.wait(PATIENCE)
    assert not thing.described.is_set()


def test_the_job_is_ended_if_that_was_asked_for(monkeypatch):
    monkeypatch.setenv("HPCDIST_TIMEOUT_ACTION", "abort")
    ended = threading.Event()
    watchdog, thing = Watchdog(), Thing()
    watchdog.abort = ended.set
    watchdog.watch(thing)
    assert ended.wait(PATIENCE)


def test_the_job_is_not_ended_otherwise():
    ended = threading.Event()
    watchdog, thing = Watchdog(), Thing()
    watchdog.abort = ended.set
    watchdog.watch(thing)
    assert thing.described.wait(PATIENCE)
    assert thing.looked_at_often.wait(PATIENCE)
    assert not ended.is_set()


@pytest.mark.parametrize("value", ["off", "OFF", "0"])
def test_switched_off_no_thread_is_started(value, monkeypatch):
    monkeypatch.setenv("HPCDIST_TIMEOUT", value)
    before = threading.active_count()
    Watchdog().watch(Thing())
    assert threading.active_count() == before
    assert timeout() == float("inf")


def test_a_minute_is_waited_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("HPCDIST_TIMEOUT")
    assert timeout() == 60
    monkeypatch.setenv("HPCDIST_TIMEOUT", "2.5")
    assert timeout() == 2.5


@pytest.mark.parametrize("text", ["soon", "nan", "-3", ""])
def test_a_timeout_that_is_no_time_is_refused(monkeypatch, text):
    monkeypatch.setenv("HPCDIST_TIMEOUT", text)
    with pytest.raises(ValueError, match=f"HPCDIST_TIMEOUT must be a number of seconds, 0 or 'off', not '{text}'"):
        timeout()


def test_what_is_watched_is_not_kept_alive():
    watchdog, thing, gone = Watchdog(), Thing(), threading.Event()
    watchdog.watch(thing)
    assert thing.described.wait(PATIENCE)
    weakref.finalize(thing, gone.set)
    del thing
    assert gone.wait(PATIENCE)


def test_a_wait_inside_a_wait_is_told_apart_and_forgotten_at_the_end(monkeypatch):
    watched = []
    monkeypatch.setattr(watch.WATCHDOG, "watch", watched.append)

    def a_thread_of_its_own():
        with waiting("outer"):
            (wait,) = watched
            with waiting("inner"):
                assert (wait.progress() is not None, wait.describe()) == (True, "inner")
            assert wait.describe() == "outer"
        assert wait.progress() is None
        done.append(True)

    done = []
    thread = threading.Thread(target=a_thread_of_its_own)
    thread.start()
    thread.join()
    assert done


def test_without_mpi_the_process_itself_is_ended(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    Watchdog().abort()
    assert codes == [70]


def test_two_waits_for_the_same_thing_are_not_one_long_wait():
    seen = []
    for _ in range(2):
        with waiting("rank 0 waits"):
            seen.append(watch._waits.wait.progress())
    assert len(set(seen)) == 2
    assert watch._waits.wait.progress() is None
