import os
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcdist.cluster import launch, namespaces, plan, slurm, slurm_conf, state
from hpcdist.cluster.command import cluster as command
from hpcdist.cluster.namespaces import NamespaceError, Process
from hpcdist.cluster.plan import Equipment
from hpcdist.cluster.state import Cluster

NETWORK = plan.network(3, 10**9, racks=2, rack_rate=10**8)
FOLDER = Path("/run/hpcdist/toy")


PLAIN = Equipment()


def conf(equipment=PLAIN, memory=2000):
    return slurm_conf.slurm_conf("toy", NETWORK, equipment, FOLDER, memory)


def settings(text):
    """Name -> value of the lines with one setting."""
    lines = [line for line in text.splitlines() if not line.startswith(("#", "NodeName", "PartitionName"))]
    return dict(line.split("=", 1) for line in lines)


def test_every_host_is_a_node_at_its_address():
    nodes = re.findall(r"^NodeName=(n\d) NodeAddr=(\S+)$", conf(), re.MULTILINE)
    assert nodes == [(host.name, host.address) for host in NETWORK.hosts]
    assert settings(conf())["SlurmctldHost"] == "head(10.77.255.254)"


def test_nodes_have_what_they_are_said_to_have():
    plain = conf(Equipment(cores=7), memory=123)
    assert "CoresPerSocket=7 " in plain
    assert "RealMemory=123 State" in plain
    assert "pu:" not in plain
    assert "GresTypes" not in settings(plain)
    gpus = conf(Equipment(gpus=2))
    assert "RealMemory=2000 Gres=gpu:2 State" in gpus
    assert settings(gpus)["GresTypes"] == "gpu"


def test_each_gpu_has_a_device_in_the_cluster_s_folder():
    assert slurm_conf.gres_conf(Equipment(gpus=2), FOLDER).splitlines() == [
        "Name=gpu File=/run/hpcdist/toy/slurm/gpu0",
        "Name=gpu File=/run/hpcdist/toy/slurm/gpu1",
    ]
    assert slurm_conf.gres_conf(Equipment(), FOLDER) == ""


def test_all_files_are_in_the_folder_of_the_cluster_and_those_of_hosts_where_each_has_its_own():
    paths = {name: value for name, value in settings(conf()).items() if "/run/" in value}
    assert all(value.startswith(("/run/hpcdist/toy/", "socket=/run/hpcdist/toy/")) for value in paths.values())
    assert {name for name, value in paths.items() if value.startswith("/run/hpcdist/toy/tmp")} == {
        "SlurmctldPidFile", "SlurmdPidFile", "SlurmdSpoolDir", "TmpFS",
    }  # fmt: skip


def test_urgent_jobs_preempt_normal_ones():
    partitions = dict(re.findall(r"^PartitionName=(\w+) (.*)$", conf(), re.MULTILINE))
    assert "Default=YES PriorityTier=1 GraceTime=30" in partitions["normal"]
    assert "PriorityTier=2 PreemptMode=OFF" in partitions["urgent"]
    assert settings(conf())["PreemptMode"] == "REQUEUE"


def example(equipment):
    process = Process.of(1)
    return Cluster("toy", NETWORK, process, dict.fromkeys(("n1", "n2", "n3"), process), equipment)


@pytest.mark.parametrize("equipment", [None, Equipment(3, 2)])
def test_it_is_remembered_whether_a_cluster_has_a_slurm(monkeypatch, tmp_path, equipment):
    monkeypatch.setattr(state, "root", lambda: tmp_path)
    cluster = example(equipment)
    cluster.folder.mkdir()
    state.save(cluster)
    assert state.load("toy").slurm == equipment


def test_a_command_finds_this_installation_and_the_cluster_s_slurm_not_another(monkeypatch, tmp_path):
    monkeypatch.setattr(state, "root", lambda: tmp_path)
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    monkeypatch.setenv("PATH", "/opt/bin")
    found = launch.surroundings(example(Equipment()))
    assert found["SLURM_CONF"] == f"{tmp_path}/toy/slurm/slurm.conf"
    assert found["PATH"] == f"{Path(sys.executable).parent}:/opt/bin"


def test_open_mpi_is_told_what_a_user_has_not_told_it(monkeypatch, tmp_path):
    monkeypatch.setattr(state, "root", lambda: tmp_path)
    monkeypatch.setenv("OMPI_MCA_pml", "cm")
    monkeypatch.delenv("OMPI_MCA_btl_tcp_if_include", raising=False)
    found = launch.surroundings(example(None))
    assert found["OMPI_MCA_pml"] == "cm"
    assert found["OMPI_MCA_btl_tcp_if_include"] == "eth0"
    assert found["PRTE_MCA_hwloc_default_binding_policy"] == "none"


def test_without_a_slurm_a_command_gets_none(monkeypatch, tmp_path):
    monkeypatch.setattr(state, "root", lambda: tmp_path)
    monkeypatch.delenv("SLURM_CONF", raising=False)
    assert "SLURM_CONF" not in launch.surroundings(example(None))


def test_missing_tools_are_named_with_their_packages(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    absent = ("slurmd", "munged")
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: None if tool in absent else f"/bin/{tool}")
    with pytest.raises(NamespaceError, match=r"slurmd, munged not found.*apt-get install .* slurm-wlm .*libpmix-dev"):
        slurm.check_tools()


def test_a_user_is_told_that_slurm_needs_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: f"/bin/{tool}")
    with pytest.raises(NamespaceError, match="--slurm needs root"):
        slurm.check_tools()


@pytest.mark.parametrize("options", [["--cores", "2"], ["--gpus", "1"]])
def test_cores_and_gpus_without_a_slurm_are_refused(options):
    result = CliRunner().invoke(command, ["up", "--hosts", "2", "--rate", "1mbit", *options])
    assert result.exit_code == 2
    assert "give --slurm" in result.output


def test_a_state_is_usable_unless_down_or_silent():
    usable = [name for name in ("idle", "mixed", "drained", "idle*", "down", "down*", "unk*") if slurm.usable(name)]
    assert usable == ["idle", "mixed", "drained"]
