import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcdist.cluster import launch, namespaces, plan, state
from hpcdist.cluster.command import cluster as command
from hpcdist.cluster.namespaces import NamespaceError, Process
from hpcdist.cluster.state import Cluster, StateError

MBIT = 10**6


@pytest.mark.parametrize(
    ("text", "bits"),
    [("200mbit", 200 * MBIT), ("1gbit", 10**9), ("2.5 Gbit", 2_500_000_000), ("64kbit", 64_000), ("5000bit", 5000)],
)
def test_rates_are_powers_of_1000(text, bits):
    assert plan.parse_rate(text) == bits
    assert plan.parse_rate(plan.format_rate(bits)) == bits


# tc would take mbps for bytes per second
@pytest.mark.parametrize("text", ["200", "200mbps", "200 MB", "mbit", "-1mbit", "0mbit", "1bit", "1e3mbit"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match=r"rate|slow"):
        plan.parse_rate(text)


def test_hosts_are_numbered_and_neighbours_share_a_rack():
    network = plan.network(5, 100 * MBIT, racks=2, rack_rate=10 * MBIT, slow={"n4": MBIT})
    assert [host.name for host in network.hosts] == ["n1", "n2", "n3", "n4", "n5"]
    assert [host.rack for host in network.hosts] == [1, 1, 1, 2, 2]
    assert [host.rate for host in network.hosts] == [100 * MBIT] * 3 + [MBIT, 100 * MBIT]
    assert len({host.address for host in network.hosts} | {plan.HEAD_ADDRESS}) == 6


def test_the_largest_cluster_has_addresses_and_short_enough_names():
    network = plan.network(200, MBIT, racks=200, rack_rate=MBIT)
    assert len({host.address for host in network.hosts}) == 200
    assert len({plan.hardware_address(host.address) for host in network.hosts}) == 200
    assert all(0 < int(part) < 255 for host in network.hosts for part in host.address.split("."))
    commands = plan.switch_commands(network) + [c for h in network.hosts for c in plan.port_commands(network, h, 1)]
    devices = {command[3] for command in commands if command[:3] == ("ip", "link", "add")}
    assert len(devices) == 1 + 200 * 3  # the core; for each rack its bridge, its link up, its only host's port
    assert max(map(len, devices)) <= 15  # the kernel's limit


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"hosts": 0}, "1 to 200"),
        ({"hosts": 201}, "not 201"),
        ({"racks": 9, "rack_rate": MBIT}, "over 9 racks"),
        ({"racks": 2}, "--rack-rate"),
        ({"rack_rate": MBIT}, "--racks"),
        ({"slow": {"n9": MBIT}}, "no host 'n9'.*n1 to n8"),
    ],
)
def test_what_makes_no_cluster_is_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        plan.network(**{"hosts": 8, "rate": MBIT, **arguments})


def shapes(commands):
    """Device -> rate [bit/s] of all token buckets."""
    return {c[c.index("dev") + 1]: int(c[c.index("rate") + 1].removesuffix("bit")) for c in commands if c[0] == "tc"}


def test_a_host_is_limited_in_what_it_sends_and_in_what_it_receives():
    network = plan.network(3, 200 * MBIT, slow={"n2": 20 * MBIT})
    for host, rate in zip(network.hosts, (200, 20, 200), strict=True):
        assert shapes(plan.host_commands(host)) == {"eth0": rate * MBIT}
        assert shapes(plan.port_commands(network, host, 77)) == {f"port-{host.name}": rate * MBIT}
    assert shapes(plan.switch_commands(network)) == {}


def test_racks_are_limited_both_ways_and_only_by_them_joined():
    network = plan.network(4, 200 * MBIT, racks=2, rack_rate=50 * MBIT)
    commands = plan.switch_commands(network)
    assert shapes(commands) == dict.fromkeys(("up1", "down1", "up2", "down2"), 50 * MBIT)
    plugs = {c[3]: c[5] for c in commands if c[:3] == ("ip", "link", "set") and "master" in c}
    assert plugs == {"up1": "rack1", "down1": "core", "up2": "rack2", "down2": "core"}
    ports = [plan.port_commands(network, host, 77)[-1] for host in network.hosts]
    assert [c[c.index("master") + 1] for c in ports] == ["rack1", "rack1", "rack2", "rack2"]


def test_addresses_are_known_for_good():
    network = plan.network(4, MBIT, racks=2, rack_rate=MBIT)
    core = next(c for c in plan.switch_commands(network) if c[:4] == ("ip", "link", "add", "core"))
    assert core[core.index("address") + 1] == "02:00:0a:4d:ff:fe"
    again = [plan.port_commands(network, network.hosts[2], pid)[0] for pid in (77, 78)]
    assert {c[c.index("address") + 1] for c in again} == {"02:00:0a:4d:02:03"}
    silent = {c[3] for c in plan.switch_commands(network) if c[4:6] == ("arp", "off")}
    assert silent == {"rack1", "rack2"}


def test_without_racks_hosts_are_plugged_into_the_core():
    network = plan.network(2, MBIT)
    assert all("core" in plan.port_commands(network, host, 77)[-1] for host in network.hosts)


def test_every_host_knows_every_other_by_name():
    lines = plan.hosts_file(plan.network(3, MBIT)).splitlines()
    names = {line.split()[1]: line.split()[0] for line in lines}
    assert names == {
        "localhost": "127.0.0.1", "head": "10.77.255.254",
        "n1": "10.77.1.1", "n2": "10.77.1.2", "n3": "10.77.1.3",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ranks", "hosts", "per_host", "placed"),
    [
        (8, 8, None, [1] * 8),
        (3, 5, None, [1, 1, 1, 0, 0]),
        (9, 4, None, [3, 2, 2, 2]),
        (5, 4, 2, [2, 2, 1, 0]),
        (8, 4, 2, [2, 2, 2, 2]),
    ],
)
def test_ranks_are_placed(ranks, hosts, per_host, placed):
    assert plan.place(ranks, hosts, per_host) == placed


def test_ranks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="9 ranks need more than 4 hosts with 2"):
        plan.place(9, 4, 2)


def example(pid=1):
    process = Process.of(pid)
    return Cluster("toy", plan.network(3, MBIT), process, dict.fromkeys(("n1", "n2", "n3"), process))


def test_mpirun_gets_the_hosts_that_have_ranks_and_no_memory_between_them(monkeypatch, tmp_path):
    monkeypatch.setattr(state, "root", lambda: tmp_path)
    argv = launch.mpirun(example(), "/opt/mpirun", [2, 1, 0], ["python", "a b.py"])
    assert argv[0] == "/opt/mpirun"
    assert argv[argv.index("--host") + 1] == "n1:2,n2:1"
    assert argv[argv.index("-n") :] == ["-n", "3", "python", "a b.py"]
    assert argv[argv.index("plm_ssh_agent") + 1] == f"sh {tmp_path}/toy/agent"
    assert argv[argv.index("btl_tcp_if_include") + 1] == "eth0"
    assert argv[argv.index("pml") + 1] == "ob1"


def test_a_cluster_is_remembered(monkeypatch, tmp_path):
    monkeypatch.setattr(state, "root", lambda: tmp_path)
    cluster = example()
    cluster.folder.mkdir()
    state.save(cluster)
    assert state.load("toy") == cluster
    assert state.names() == ["toy"]
    state.forget("toy")
    assert state.names() == []
    with pytest.raises(StateError, match="no cluster 'toy' is up"):
        state.load("toy")


def test_a_cluster_is_not_up_if_another_process_has_the_number_of_its_first(monkeypatch, tmp_path):
    monkeypatch.setattr(state, "root", lambda: tmp_path)
    cluster = example()
    later = Process(cluster.switch.pid, cluster.switch.born + 1)
    (tmp_path / "toy").mkdir()
    state.save(Cluster(cluster.name, cluster.network, later, cluster.hosts))
    assert state.find("toy") is None


@pytest.mark.parametrize("name", ["", "../x", "A", "-x", "a b", "x" * 32])
def test_a_name_that_would_be_a_bad_folder_is_refused(name):
    with pytest.raises(StateError, match="name"):
        state.folder(name)


def test_a_process_is_alive_until_it_has_ended():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = Process.of(child.pid)
    assert process.alive()
    process.kill()  # returns although the child is not collected yet
    assert not process.alive()
    child.communicate()
    assert not process.alive()
    with pytest.raises(ProcessLookupError):
        Process.of(child.pid)


def test_missing_tools_are_named_with_their_package(monkeypatch):
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: None if tool in ("ip", "tc") else f"/bin/{tool}")
    with pytest.raises(NamespaceError, match=r"ip, tc not found.*apt-get install iproute2$"):
        namespaces.check_tools()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["up", "--hosts", "2", "--rate", "200"], "write for example 200mbit"),
        (["up", "--hosts", "2", "--rate", "1mbit", "--slow", "n1"], "is not HOST=RATE"),
        (["up", "--hosts", "2", "--rate", "1mbit", "--racks", "2"], "--rack-rate"),
        (["up", "--hosts", "2", "--rate", "1mbit", "--slow", "n3=1mbit"], "no host 'n3'"),
    ],
)
def test_the_command_line_refuses_what_cannot_be_before_it_does_anything(arguments, complaint):
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert complaint in result.output


def test_the_readme_names_every_command():
    text = (Path(launch.__file__).parent / "README.md").read_text()
    assert all(f"hpcdist cluster {name}" in text for name in command.commands)
