"""Run the checks one after another; whatever happens in one, the next one follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpcdist.doctor.finding import FAIL, SKIP, Finding
from hpcdist.doctor.job import Job, OutOfStep, said
from hpcdist.errors import AgreedError


@dataclass(frozen=True)
class Check:
    """A check: its name, the function, how much longer than others it may take [s], whether it needs a whole job."""

    name: str
    run: Callable[[Job], list[Finding]]
    more: float = 0.0
    alone: bool = False  # it says something even if every process is a world of its own


def examine(job: Job, checks: Sequence[Check], tell: Callable[[Finding], None], alone: bool) -> None:
    """Collective: run the checks and tell what they find, all ranks alike.

    Args:
        job: what to look at.
        checks: in the order in which to run them.
        tell: called with each finding as soon as it is there.
        alone: every process is a world of its own by mistake, so checks of the job would tell nothing.
    """
    for check in checks:
        if alone and not check.alone:
            tell(Finding(SKIP, check.name, "the processes are not one job, see above"))
            continue
        for finding in examined(job, check):
            tell(finding)


def examined(job: Job, check: Check) -> list[Finding]:
    """Collective: what one check finds; if it fails, that."""
    found: list[Finding] = []
    problem = None
    with job.limit.on(check.name, check.more):
        try:
            found = check.run(job)
        except OutOfStep as error:  # the rank that left the check is at its close, as its answer told us
            return [_broken(check, str(error))]
        except AgreedError as error:
            problem = str(error)
        except Exception as error:
            problem = said(error)
        problem = job.close(problem)
    return [_broken(check, problem)] if problem else found


def left_out(name: str, why: str) -> Callable[[Job], list[Finding]]:
    """A check that looks at nothing."""
    return lambda job: [Finding(SKIP, name, why)]


def overdue(check: str, seconds: float) -> Finding:
    """What there is to say of a check that did not come back."""
    return Finding(
        FAIL,
        check,
        f"this check did not come back within {seconds:g} s, so the doctor ends the job here",
        "a call that hangs here would hang the real job: a file system that does not answer, or messages that do not "
        "get through between hosts",
        "see the lines on stderr for the ranks that hang and in what; leave their hosts out (--exclude), or allow more "
        "time with --timeout; for storage try another --checkpoint-dir, for the network see --no-network",
    )


def _broken(check: Check, problem: str) -> Finding:
    return Finding(
        FAIL,
        check.name,
        f"the check itself failed: {problem}",
        "what it should have looked at is unknown",
        "mend what the exception names, and run the doctor again; the other checks are not affected",
    )
