"""Each rank's torch process, which works when it is told to and sleeps while others are measured."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from mpi4py import MPI

from hpcdist.bench.start import free_port
from hpcdist.mpi.collective_errors import on_all
from hpcdist.mpi.launcher import RANK_VARIABLES
from hpcdist.mpi.world import sleeping_barrier

PROGRAM = Path(__file__).with_name("dcp.py")
LAST_WORDS = 2000  # characters of what a process said before it ended


class Torch:
    """As many processes with torch as there are ranks, joined by gloo, on the same state. All methods are collective.

    Args:
        comm: The ranks.
        python: A Python that has torch.
        folder: Of the state; see `state.State`.

    Raises:
        AgreedError: on all ranks, if a process of any cannot start.
    """

    def __init__(self, comm: MPI.Intracomm, python: Path, folder: Path) -> None:
        self.comm = comm
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115, open as long as the process lives
        address, port = comm.bcast((socket.gethostname(), free_port()) if comm.rank == 0 else None)
        who = {"rank": comm.rank, "size": comm.size, "address": address, "port": port, "folder": str(folder)}
        self._process = on_all(comm, lambda: _start(python, self._log.fileno()))
        self.version = str(self.ask(who)["version"])

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Have all processes carry out a command; returns the answer of this rank's.

        Raises:
            AgreedError: on all ranks, if one failed.
        """
        answer = self._ask(command)
        sleeping_barrier(self.comm)  # those that are done leave the cores to the others
        return on_all(self.comm, lambda: _good(answer))

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": self._last_words()}

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        return f"its process ended with {code}: {self._log.read()[-LAST_WORDS:]}"

    def __enter__(self) -> Torch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()  # the end of its input ends it
        self._log.close()


def _good(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise RuntimeError(f"torch: {answer['error']}")
    return answer


def _start(python: Path, log: int) -> subprocess.Popen[str]:
    # Torch is not to think that it was started by our launcher.
    variables = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return subprocess.Popen(
        [str(python), "-W", "ignore", str(PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=variables,
        text=True,
        bufsize=1,
    )
