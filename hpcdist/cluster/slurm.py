"""A Slurm on the hosts of a cluster: its controller on the head, a daemon on every host."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Collection
from pathlib import Path

from hpcdist.cluster import namespaces
from hpcdist.cluster.namespaces import NamespaceError, Process
from hpcdist.cluster.plan import Equipment
from hpcdist.cluster.slurm_conf import MPI_CONF, gpu_devices, gres_conf, slurm_conf
from hpcdist.cluster.state import Cluster

# Debian's packages; libpmix-dev for the one name under which srun --mpi=pmix looks for its library.
PACKAGES = "slurm-wlm slurmctld slurmd slurm-client munge libpmi2-0 libpmix-dev"
INSTALL = f"as root: apt-get install -y --no-install-recommends {PACKAGES}"
TOOLS = ("slurmctld", "slurmd", "munged", "sinfo", "sbatch", "srun", "scontrol")
PATIENCE = 60.0  # seconds for nodes to report; it takes one or two on an idle machine
TAIL = 12  # lines of a log


def configuration(cluster: Cluster) -> Path:
    """Where slurm.conf is: the value of SLURM_CONF."""
    return cluster.folder / "slurm" / "slurm.conf"


def check_tools() -> None:
    """Make sure that Slurm can be run here.

    Raises: NamespaceError, naming what is missing and where it comes from.
    """
    namespaces.check_tools()
    if os.geteuid() != 0:
        raise NamespaceError(
            "--slurm needs root: Slurm's daemons become the users whose jobs they run, which the kernel refuses in a "
            "user's own namespaces. Without --slurm a user can have virtual hosts"
        )
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise NamespaceError(f"{', '.join(missing)} not found, which --slurm needs; {INSTALL}")


def start(cluster: Cluster, equipment: Equipment) -> None:
    """Start Slurm on a cluster all of whose hosts are up; return when Slurm can use them.

    Raises: NamespaceError if it cannot after 60 s, or if a daemon ends, with the end of its log; or without PMIx.
    """
    _write(cluster, equipment)
    munge = cluster.folder / "slurm" / "munge"
    files = [f"--{kind}-file={munge}.{kind}" for kind in ("key", "log", "pid", "seed")]
    _daemon(cluster, cluster.switch, "munge", "munged", "--force", f"--socket={munge}.socket", *files)
    _daemon(cluster, cluster.switch, "slurmctld", "slurmctld")
    for host in cluster.hosts:
        _node(cluster, host)
    _await_nodes(cluster, cluster.hosts)
    _check_pmix(cluster)


def start_node(cluster: Cluster, host: str) -> None:
    """Start Slurm's daemon on a host that was started again; return when Slurm can use it.

    Raises: NamespaceError as `start` does.
    """
    _node(cluster, host)
    _await_nodes(cluster, [host])


def _write(cluster: Cluster, equipment: Equipment) -> None:
    """Slurm's files, but for those that its daemons make."""
    folder = cluster.folder / "slurm"
    (folder / "state").mkdir(parents=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // len(cluster.hosts)
    configuration(cluster).write_text(slurm_conf(cluster.name, cluster.network, equipment, cluster.folder, memory))
    (folder / "gres.conf").write_text(gres_conf(equipment, cluster.folder))
    (folder / "mpi.conf").write_text(MPI_CONF)
    # Slurm wants a device for each GPU that it hands out, and only looks whether it is there; these are null devices.
    for device in gpu_devices(equipment, cluster.folder):
        os.mknod(device, stat.S_IFCHR | 0o666, os.stat(os.devnull).st_rdev)
    key = folder / "munge.key"
    key.touch(mode=0o400)
    key.write_bytes(secrets.token_bytes(1024))


def _node(cluster: Cluster, host: str) -> None:
    _daemon(cluster, cluster.hosts[host], f"slurmd-{host}", "slurmd", "-N", host)


def _daemon(cluster: Cluster, first: Process, log: str, *command: str) -> None:
    """Start a daemon in the namespaces of `first`; it goes to the background by itself."""
    try:
        _call(cluster, first, *command)
    except NamespaceError as error:
        raise NamespaceError(f"{error}\n{_tail(cluster, log)}") from None


def _call(cluster: Cluster, first: Process, *command: str) -> str:
    environment = {"PATH": os.environ["PATH"], "SLURM_CONF": str(configuration(cluster))}
    return namespaces.call(first, command, namespaces.EVERY_KIND, environment)


def _await_nodes(cluster: Cluster, hosts: Collection[str]) -> None:
    give_up = time.monotonic() + PATIENCE
    while late := [host for host, state in states(cluster).items() if host in hosts and not usable(state)]:
        logs = [*(f"slurmd-{host}" for host in late), "slurmctld"]
        ended = [log for log in logs if "fatal:" in _log(cluster, log)]
        if ended or time.monotonic() > give_up:
            raise NamespaceError(f"Slurm cannot use {', '.join(late)}\n{_tail(cluster, (ended or logs)[0])}")
        time.sleep(0.1)


def usable(state: str) -> bool:
    """Whether Slurm's state of a node means that it answers, and is not taken for broken."""
    return not state.endswith("*") and not state.startswith(("down", "unk"))


def _check_pmix(cluster: Cluster) -> None:
    """Find out now whether srun can start Open MPI's ranks, not in the first job."""
    try:
        _call(cluster, cluster.switch, "srun", "--mpi=pmix", "--test-only", "--ntasks=1", "true")
    except NamespaceError as error:
        raise NamespaceError(f"Slurm cannot use PMIx; {INSTALL}\n{error}") from None


def _log(cluster: Cluster, name: str) -> str:
    path = cluster.folder / "slurm" / f"{name}.log"
    return path.read_text() if path.exists() else ""


def _tail(cluster: Cluster, name: str) -> str:
    return "\n".join([f"The end of {name}.log:", *_log(cluster, name).splitlines()[-TAIL:]])


def states(cluster: Cluster) -> dict[str, str]:
    """What Slurm thinks of each node, as sinfo says it: "idle", "down*"; a star means that it does not answer.

    Raises: NamespaceError if Slurm's controller does not answer.
    """
    lines = _call(cluster, cluster.switch, "sinfo", "--noheader", "--Node", "--partition=normal", "--format=%N %T")
    return dict(line.split() for line in lines.splitlines())
