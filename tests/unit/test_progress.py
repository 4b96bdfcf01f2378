"""The thread that goes on with runs, on its own."""

import os
import threading
import time

import pytest
from mpi4py import MPI

from hpcdist.executor import progress_thread
from hpcdist.executor.progress_thread import AUTO, CALLS, THREAD, Helped, ProgressThread, chosen

ONE_NODE, TWO_NODES = (0, 0), (0, 1)
ENDLESS = 10**9
ITS_NAME = "hpcdist progress"


class Program:
    """Complete after some looks; notes who looked. `in_a_look` is called in each."""

    def __init__(self, looks=3, in_a_look=lambda: None):
        self.looks, self.in_a_look, self.lookers, self.running = looks, in_a_look, [], False

    def start(self):
        assert not self.running
        self.left, self.running = self.looks, True

    def test(self):
        if not self.running:
            return True
        self.lookers.append(threading.current_thread().name)
        self.in_a_look()
        self.left -= 1
        self.running = self.left > 0
        return not self.running

    def wait(self):
        while self.running:
            Program.test(self)


class Plan(Helped):
    """Of such a program, which it shows."""

    def __init__(self, *arguments, **options):
        super().__init__(Program(*arguments, **options), ONE_NODE, None)

    def __getattr__(self, name):
        return getattr(self._program, name)


def until(true):
    while not true():
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def thread(monkeypatch):
    made = ProgressThread()
    monkeypatch.setattr(progress_thread, "PROGRESS", made)
    yield made
    made._end(os.getpid())


def failing():
    raise OSError("the link is down")


def test_the_thread_looks_until_all_is_done():
    plan = Plan(looks=5)
    plan.start(THREAD)
    until(lambda: not plan.running)
    assert plan.lookers == [ITS_NAME] * 5


def test_it_goes_on_with_several_in_turn_and_those_that_come_later():
    plans = [Plan(looks=20) for _ in range(3)]
    for plan in plans:
        plan.start(THREAD)
    until(lambda: not any(plan.running for plan in plans))
    later = Plan()
    later.start(THREAD)
    until(lambda: not later.running)
    assert [len(plan.lookers) for plan in (*plans, later)] == [20, 20, 20, 3]


def test_by_calls_nobody_else_looks():
    plan = Plan()
    plan.start(CALLS)
    time.sleep(0.05)
    assert plan.lookers == []
    plan.wait()
    assert set(plan.lookers) == {"MainThread"}


def test_what_is_waited_for_is_taken_from_the_thread():
    plan = Plan(looks=ENDLESS)
    plan.start(THREAD)
    until(lambda: plan.lookers)
    threading.Timer(0.1, setattr, (plan._program, "left", 2)).start()
    plan.wait()
    ours = plan.lookers.index("MainThread")
    assert set(plan.lookers[ours:]) == {"MainThread"}
    time.sleep(0.01)
    assert plan.lookers[-1] == "MainThread"


def test_the_caller_may_look_beside_the_thread():
    plan = Plan(looks=1000)
    plan.start(THREAD)
    until(plan.test)
    assert len(plan.lookers) == 1000
    assert set(plan.lookers) == {"MainThread", ITS_NAME}


@pytest.mark.parametrize("again", [CALLS, THREAD])
def test_once_the_caller_has_seen_the_end_the_thread_does_not_look_at_the_next_run(again):
    for _ in range(100):
        plan = Plan(looks=50)
        plan.start(THREAD)
        while not plan.test():
            pass
        plan.lookers.clear()
        plan._program.looks = ENDLESS
        plan.start(again)
        if again == THREAD:
            run = plan._left
            run.over = True
            with run.lock:
                plan.lookers.clear()
        time.sleep(5 * progress_thread.INTERVAL)
        assert plan.lookers == []


def test_a_plan_is_begun_and_ended_while_the_thread_is_busy_with_another():
    busy, go = threading.Event(), threading.Event()
    slow = Plan(in_a_look=lambda: (busy.set(), go.wait(60)))
    slow.start(THREAD)
    assert busy.wait(60)
    quick = Plan()
    quick.start(THREAD)
    quick.wait()
    assert quick.lookers == ["MainThread"] * 3
    go.set()


@pytest.mark.parametrize("ask", ["wait", "test"])
def test_what_goes_wrong_in_the_thread_is_raised_to_the_caller(ask):
    plan = Plan(in_a_look=failing)
    plan.start(THREAD)
    until(lambda: plan._left.over)
    assert plan.lookers == [ITS_NAME]
    with pytest.raises(OSError, match="link is down"):
        getattr(plan, ask)()


def test_others_go_on_when_one_goes_wrong():
    bad, good = Plan(in_a_look=failing), Plan(looks=50)
    bad.start(THREAD)
    good.start(THREAD)
    until(lambda: not good.running)
    assert (bad.lookers, good.lookers) == ([ITS_NAME], [ITS_NAME] * 50)


def test_nothing_is_kept_and_nothing_looks_when_all_is_done(thread):
    plan = Plan()
    plan.start(THREAD)
    until(lambda: not plan.running)
    until(lambda: not thread._runs)
    thread._end(os.getpid())
    assert not thread._thread.is_alive()


def test_a_child_that_was_forked_does_not_wait_for_a_thread_it_does_not_have(thread):
    plan = Plan(looks=ENDLESS)
    plan.start(THREAD)
    with thread._change:  # as the thread may hold it at any time
        thread._end(os.getpid() + 1)
    assert not thread._ended


def test_without_a_thread_to_be_had_nothing_is_begun_and_the_next_start_tries_again(thread, monkeypatch):
    plan = Plan()
    monkeypatch.setattr(threading.Thread, "start", lambda self: no_thread())
    with pytest.raises(RuntimeError, match="can't start new thread"):
        plan.start(THREAD)
    assert not plan.running
    monkeypatch.undo()
    monkeypatch.setattr(progress_thread, "PROGRESS", thread)
    plan.start(THREAD)
    until(lambda: not plan.running)


def no_thread():
    raise RuntimeError("can't start new thread")


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
