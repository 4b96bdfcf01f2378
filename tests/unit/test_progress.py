"""The thread that goes on with runs, on its own."""

import threading
import time

import pytest
from mpi4py import MPI

from hpcdist import progress
from hpcdist.progress import AUTO, CALLS, THREAD, Helped, ProgressThread, chosen

ONE_NODE, TWO_NODES = (0, 0), (0, 1)


class Program:
    """Complete after some looks; notes who looked."""

    def __init__(self, looks=3, error=None):
        self.left, self.error, self.lookers, self.running = looks, error, [], False

    def start(self):
        self.running = True

    def test(self):
        self.lookers.append(threading.current_thread().name)
        if self.error and self.left == 0:
            raise self.error
        self.left -= 1
        self.running = self.left > 0
        return not self.running

    def wait(self):
        while not self.test():
            pass


class Plan(Helped, Program):
    topology, accelerator = ONE_NODE, None


def until(true):
    while not true():
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def thread(monkeypatch):
    made = ProgressThread()
    monkeypatch.setattr(progress, "PROGRESS", made)
    yield made
    made._end()


def test_the_thread_looks_until_all_is_done():
    plan = Plan(looks=5)
    plan.start(THREAD)
    until(lambda: not plan.running)
    assert plan.lookers == ["hpcdist progress"] * 5


def test_it_goes_on_with_several_in_turn_and_those_that_come_later():
    plans = [Plan(looks=20) for _ in range(3)]
    for plan in plans:
        plan.start(THREAD)
    until(lambda: not any(plan.running for plan in plans))
    later = Plan()
    later.start(THREAD)
    until(lambda: not later.running)


def test_by_calls_nobody_else_looks():
    plan = Plan()
    plan.start(CALLS)
    time.sleep(0.05)
    assert plan.lookers == []
    plan.wait()
    assert set(plan.lookers) == {"MainThread"}


def test_what_is_waited_for_is_taken_from_the_thread(thread):
    plan = Plan(looks=10**9)
    plan.start(THREAD)
    until(lambda: plan.lookers)
    plan.left = 10**9
    with thread.lock:
        plan.left = 2
        plan.lookers.clear()
        plan.wait()
    time.sleep(0.05)
    assert plan.lookers == ["MainThread"] * 2


def test_the_caller_may_look_beside_the_thread():
    plan = Plan(looks=1000)
    plan.start(THREAD)
    until(plan.test)
    assert len(plan.lookers) >= 1000
    assert len(set(plan.lookers)) == 2


@pytest.mark.parametrize("ask", ["wait", "test"])
def test_what_goes_wrong_in_the_thread_is_raised_to_the_caller(ask):
    wrong = OSError("the link is down")
    plan = Plan(looks=0, error=wrong)
    plan.start(THREAD)
    until(lambda: plan._error)
    with pytest.raises(OSError, match="link is down"):
        getattr(plan, ask)()
    assert plan._error is None


def test_others_go_on_when_one_goes_wrong():
    bad, good = Plan(looks=0, error=OSError("gone")), Plan(looks=50)
    bad.start(THREAD)
    good.start(THREAD)
    until(lambda: not good.running)


def test_nothing_is_kept_and_nothing_looks_when_all_is_done(thread):
    plan = Plan()
    plan.start(THREAD)
    until(lambda: not plan.running)
    until(lambda: not thread._looks)
    thread._end()
    assert not thread._thread.is_alive()


def test_by_itself_a_thread_is_for_messages_between_nodes():
    assert MPI.Query_thread() == MPI.THREAD_MULTIPLE
    assert chosen(AUTO, TWO_NODES) == THREAD
    assert chosen(AUTO, ONE_NODE) == CALLS
    assert chosen(THREAD, ONE_NODE) == THREAD
    assert chosen(CALLS, TWO_NODES) == CALLS


def test_an_mpi_without_threads_is_said_and_needs_none(monkeypatch):
    monkeypatch.setattr(MPI, "Query_thread", lambda: MPI.THREAD_SERIALIZED)
    assert chosen(AUTO, TWO_NODES) == CALLS
    with pytest.raises(RuntimeError, match="MPI_THREAD_MULTIPLE"):
        chosen(THREAD, TWO_NODES)


def test_another_word_is_refused_before_anything_begins():
    plan = Plan()
    with pytest.raises(ValueError, match="'auto', 'calls' or 'thread', not 'threads'"):
        plan.start("threads")
    assert not plan.running
