"""A Slurm on virtual hosts, as tests use it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

from hpcdist.cluster import slurm as installed
from hpcdist.cluster import state
from hpcdist.cluster.namespaces import NamespaceError

HPCDIST = [str(Path(sys.executable).with_name("hpcdist"))]
NAME = f"slurm-{os.getpid()}"  # other people's clusters are left alone


def _missing():
    """Why there can be no Slurm here, or None."""
    try:
        installed.check_tools()
    except NamespaceError as error:
        return str(error)
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"root may not make namespaces: {tried.stderr.strip()}" if tried.returncode else None


MISSING = _missing()


def hpcdist(verb, *rest, name=NAME, check=True, timeout=90, **options):
    """Run `hpcdist cluster ...` on a cluster of ours."""
    argv = [*HPCDIST, "cluster", verb, "--name", name, *rest]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, **options)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


class Slurm:
    """The cluster `name`, as it is used in the folder `folder`."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder

    def cluster(self, verb, *rest, **options):
        """Run `hpcdist cluster VERB ...`."""
        return hpcdist(verb, *rest, name=self.name, **options)

    def exec(self, *command, env=None, **options):
        """Run a command on the head, in the work folder, with `env` added to our environment."""
        return self.cluster(
            "exec", "--", *map(str, command), cwd=self.folder, env={**os.environ, **(env or {})}, **options
        )

    def write(self, name, *lines):
        """A script in the work folder: lines after the first, `#!/bin/bash`."""
        script = self.folder / name
        script.write_text("\n".join(["#!/bin/bash", *lines, ""]))
        return script

    def submit(self, script, *flags, arguments=(), env=None):
        """sbatch a script, with sbatch's flags and the script's arguments; returns the job's number."""
        done = self.exec("sbatch", "--parsable", *flags, script, *arguments, env=env)
        return done.stdout.strip()

    def show(self, job):
        """What `scontrol show job` says, as a dict; of an array, what it says of the task shown first."""
        return self.tasks(job)[0]

    def tasks(self, job):
        """What `scontrol show job` says of each task of an array."""
        lines = self.exec("scontrol", "--oneliner", "show", "job", job).stdout.splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line]

    def job_state(self, job):
        """The state of a job: "PENDING", "RUNNING", "COMPLETED", "FAILED", ..."""
        return self.show(job)["JobState"]

    def wait_for(self, job, *states, seconds=60):
        """Wait until a job is in one of `states`; returns which."""
        eventually(lambda: self.job_state(job) in states, seconds, lambda: self.story(job))
        return self.job_state(job)

    def start_now(self, job):
        """Let a requeued job start before Slurm's waiting time is over.

        Hosts refuse a start with a credential that is no younger, in whole seconds, than the job's end, and the job
        has then failed: this is what the waiting time is for.
        """
        self.wait_for(job, "PENDING")
        time.sleep(2.5)
        self.exec("scontrol", "update", f"JobId={job}", "StartTime=now")

    def node(self, host):
        """What Slurm thinks of a host."""
        return self.exec("sinfo", "--noheader", "--partition=normal", f"--nodes={host}", "--format=%T").stdout.strip()

    def story(self, job):
        """All that is known of a job, for a test that fails."""
        files = [f"--- {path.name}\n{path.read_text()}" for path in self.folder.glob("*") if path.is_file()]
        return "\n".join([self.exec("scontrol", "show", "job", job).stdout, self.exec("sinfo").stdout, *files])

    def clear(self):
        """End all jobs, and wait until all hosts are free."""
        self.exec("scancel", "--user=root", check=False)
        self.exec("scancel", "--user=root", "--signal=KILL", "--full", check=False)
        eventually(lambda: not self.exec("squeue", "--noheader").stdout.strip(), 60)


def eventually(condition, seconds=60, story=lambda: ""):
    """Wait until `condition()` is true."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"waited {seconds} s in vain; {story()}"
        time.sleep(0.2)


def members(name):
    """All living processes of a cluster: those started with its folder on their command line, and what came of them."""
    folder = str(state.folder(name))
    roots = [p for p in psutil.process_iter(["cmdline"]) if folder in (p.info["cmdline"] or [])]
    return {p for root in roots for p in (root, *_children(root)) if _lives(p)}


def programs(processes):
    """The names of processes, but for those that have ended."""
    return [name for process in processes if (name := _name(process))]


def _name(process):
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return None


def _children(process):
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _lives(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def mounts(name):
    """Mounts of this machine in the folder of a cluster."""
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"{state.folder(name)}/" in line]


def assert_nothing_is_left(name):
    eventually(lambda: not members(name), 10, lambda: str(members(name)))
    assert not state.folder(name).exists()
    assert not mounts(name)
