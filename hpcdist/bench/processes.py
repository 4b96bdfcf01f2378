"""The processes of a job: started together, waited for, ended together; what went wrong, in words."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep

PATIENCE = 20.0  # seconds for processes to end when they are told to
LOOK = 0.2  # seconds between looks at processes; more often would disturb them
LAST_WORDS = 300  # characters of an error


@dataclass(frozen=True)
class Process:
    """One to start: what, and which variables to set."""

    argv: Sequence[str]
    variables: dict[str, str] = field(default_factory=dict)


def call(processes: Sequence[Process], seconds: float, variables: dict[str, str] | None = None) -> str:
    """Start all, and wait until the last has ended, or one has failed; returns what went wrong, or nothing."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        started = [
            _start(each, {**os.environ, **each.variables, **(variables or {})}, log.fileno()) for each in processes
        ]
        try:
            why = _wait(started, monotonic() + seconds)
        finally:
            _end(started)
        log.seek(0)
        return f"{why}: {last_words(log.read())}" if why else ""


def _start(process: Process, environment: dict[str, str], log: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        process.argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _wait(started: Sequence[subprocess.Popen[bytes]], end: float) -> str:
    while True:
        codes = [each.poll() for each in started]
        failed = next((code for code in codes if code), None)
        if failed is not None:
            return f"the job exited with {failed}"
        if None not in codes:
            return ""
        if monotonic() > end:
            return "the job took too long, and was ended"
        sleep(LOOK)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """End those that still run, and all that they have started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        running = [each for each in started if each.poll() is None]
        for each in running:
            os.killpg(each.pid, number)
        end = monotonic() + PATIENCE
        while any(each.poll() is None for each in running) and monotonic() < end:
            sleep(LOOK)


def last_words(text: str) -> str:
    """The end of what a program said, in one line."""
    return " ".join(text.split())[-LAST_WORDS:]
