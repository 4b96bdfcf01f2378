"""The doctor on several virtual hosts, with a slow one, with locks that hold on one host only, with folders apart."""

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest
from virtual_hosts import HPCDIST, Cluster, missing

from hpcdist.cluster import namespaces, state

cluster = Cluster("doctor")
MISSING = missing("--net", "--mount") if os.geteuid() == 0 else "mounts inside of hosts need root"
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.limit(120),
]


@pytest.fixture(scope="module", autouse=True)
def four():
    """Four hosts with 200 Mbit/s each; n3 has a tenth of that."""
    cluster("up", "--hosts", "4", "--rate", "200mbit", "--slow", "n3=20mbit")
    yield
    cluster("down")


def doctor(ranks, file, *options):
    """(exit code, findings, by name) of the doctor."""
    done = cluster("run", "-n", ranks, "--", HPCDIST, "doctor", "--json", file, *options, check=False)
    assert file.exists(), done.stdout + done.stderr
    return done.returncode, {each["name"]: each for each in json.loads(file.read_text())["findings"]}


@contextmanager
def mounted(point, command):
    """Mount something on every host, in which HOST stands for its name, in the host's own namespace only."""
    hosts = state.load(cluster.name).hosts
    for name, first in hosts.items():
        inside = namespaces.enter(first, "--mount", "--pid")
        subprocess.run([*inside, *(word.replace("HOST", name) for word in command), str(point)], check=True)
    try:
        yield
    finally:
        for first in hosts.values():
            _unmount([*namespaces.enter(first, "--mount", "--pid"), "umount", str(point)])


def _unmount(command):
    """A process of the last job may still be on its way out."""
    give_up = time.monotonic() + 10
    while (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        assert time.monotonic() < give_up, done.stderr
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path):
    """A folder below which hosts may mount things; the mounts' own files are root's."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_a_slow_host_is_named_and_a_shared_directory_is_well(folder):
    shared = folder / "shared"
    code, found = doctor(5, folder / "found.json", "--checkpoint-dir", shared)
    assert code == 0, found
    assert found["slow host"]["level"] == "warn"
    assert found["slow host"]["found"].startswith("n3: ")
    assert "on all of its 3 links" in found["slow host"]["found"]
    assert "--exclude=n3" in found["slow host"]["todo"]
    assert "6 links measured: all pairs" in found["between hosts"]["found"]
    assert found["launcher"]["found"].startswith("5 ranks on 4 hosts")
    for name in ("shared", "writable", "rename", "flock", "fcntl locks"):
        assert found[name]["level"] == "ok", found
    assert "the same on all 4 hosts" in found["shared"]["found"]
    for host in ("n2", "n3", "n4"):
        assert f"on {host}" in found["flock"]["found"]
    assert not shared.exists()


def test_locks_that_hold_on_one_host_only_fail(folder):
    """Each host has an overlay of its own over one directory: the files are shared, and a lock is the mount's own.

    So it is with Lustre mounted with localflock, and NFS with local_lock.
    """
    for each in ("lower", "files", "seen", *(f"work-n{i}" for i in range(1, 5))):
        (folder / each).mkdir()
    layers = f"lowerdir={folder}/lower,upperdir={folder}/files,workdir={folder}/work-HOST,index=off"
    with mounted(folder / "seen", ["mount", "-t", "overlay", "overlay", "-o", layers]):
        code, found = doctor(5, folder / "found.json", "--no-network", "--checkpoint-dir", folder / "seen")
    assert code == 1
    assert found["shared"]["level"] == "ok", found
    flock = found["flock"]
    assert flock["level"] == "fail"
    for host in ("rank 2 on n2", "rank 3 on n3", "rank 4 on n4"):
        assert host in flock["found"]
    assert "rank 1 on n1" not in flock["found"]  # of rank 0's own host, where the lock holds
    assert "overlay at" in flock["found"]
    assert "-o flock" in flock["todo"]
    assert "local_lock" in flock["todo"]
    assert found["fcntl locks"]["level"] == "warn"
    assert os.listdir(folder / "files") == []


def test_a_directory_that_each_host_has_for_itself_fails(folder):
    (folder / "own").mkdir()
    with mounted(folder / "own", ["mount", "-t", "tmpfs", "tmpfs"]):
        code, found = doctor(4, folder / "found.json", "--no-network", "--checkpoint-dir", folder / "own")
    assert code == 1
    assert found["shared"]["level"] == "fail"
    assert found["shared"]["found"].startswith("n2, n3, n4 did not see within 5 s what rank 0 on n1 wrote")
    assert "--checkpoint-dir" in found["shared"]["todo"]
    assert found["directory"]["level"] == "warn"
    assert "tmpfs" in found["directory"]["found"]
