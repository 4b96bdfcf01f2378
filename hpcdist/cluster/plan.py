"""What a virtual cluster consists of, as data, and the commands that build its network. Nothing is run here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

HEAD = "head"  # the name by which launchers and hosts know the machine that mpirun runs on
HEAD_ADDRESS = "10.77.255.254"
PREFIX = 16  # one subnet, so that MPI takes every pair of hosts as neighbours
CORE = "core"
MTU = 9000
MOST_HOSTS = 200

# A bucket holds several of the frames that an interface is handed in one piece (up to 64 KiB); with a smaller one the
# link reaches two thirds of its rate.
SHAPE = ("burst", "256kb", "latency", "100ms")

Command = tuple[str, ...]

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)bit", re.IGNORECASE)
_FACTOR = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True)
class Host:
    """A host: its name, IPv4 address, rack (from 1) and the rate of its link each way [bit/s]."""

    name: str
    address: str
    rack: int
    rate: int

    @property
    def port(self) -> str:
        """The switch's end of the host's link."""
        return f"port-{self.name}"


@dataclass(frozen=True)
class Network:
    """Hosts in racks; with more than one rack, `rack_rate` [bit/s] is that of the link from a rack to the core."""

    hosts: tuple[Host, ...]
    racks: int = 1
    rack_rate: int | None = None

    def host(self, name: str) -> Host:
        """The host of that name.

        Raises: ValueError if there is none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        raise ValueError(f"there is no host {name!r}; the hosts are {self.hosts[0].name} to {self.hosts[-1].name}")


@dataclass(frozen=True)
class Equipment:
    """What Slurm is told that every host has: cores, which the machine need not have, and GPUs, which are none."""

    cores: int = 4
    gpus: int = 0


def parse_rate(text: str) -> int:
    """Bits per second written as `text`: "200mbit", "1gbit", "2.5 Gbit"; prefixes are powers of 1000.

    Raises: ValueError if `text` is no rate, or none of at least 1 kbit/s.
    """
    match = _RATE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no rate in bits per second; write for example 200mbit or 1gbit")
    bits = round(float(match[1]) * _FACTOR[match[2].lower()])
    if bits < 1000:
        raise ValueError(f"{text!r} is too slow for a link; the least is 1kbit")
    return bits


def format_rate(bits: int) -> str:
    """Write a rate as `parse_rate` reads it: 200000000 -> "200mbit"."""
    for prefix in "gmk":
        if bits >= _FACTOR[prefix]:
            return f"{bits / _FACTOR[prefix]:.6g}{prefix}bit"
    return f"{bits}bit"


def network(
    hosts: int,
    rate: int,
    racks: int = 1,
    rack_rate: int | None = None,
    slow: Mapping[str, int] | None = None,
) -> Network:
    """Lay out a cluster: hosts n1, n2, ... in racks of equal size, or nearly so.

    Args:
        hosts: how many, 1 to 200.
        rate: of every host's link, each way [bit/s].
        racks: how many; neighbours share one.
        rack_rate: of the link between a rack and the core [bit/s]; needed with more than one rack.
        slow: host name -> its own rate [bit/s].

    Raises: ValueError if that makes no cluster.
    """
    if not 1 <= hosts <= MOST_HOSTS:
        raise ValueError(f"a cluster has 1 to {MOST_HOSTS} hosts, not {hosts}")
    if not 1 <= racks <= hosts:
        raise ValueError(f"{hosts} hosts cannot be spread over {racks} racks")
    if (racks > 1) != (rack_rate is not None):
        raise ValueError("several racks need a rate for the links between them, and only they: --racks and --rack-rate")
    rates = dict(slow or {})
    places = [(f"n{i + 1}", i * racks // hosts + 1) for i in range(hosts)]
    laid_out = Network(
        tuple(
            Host(name, f"10.77.{rack}.{number}", rack, rates.pop(name, rate))
            for number, (name, rack) in enumerate(places, 1)
        ),
        racks,
        rack_rate,
    )
    for name in rates:
        laid_out.host(name)  # raises
    return laid_out


def hardware_address(address: str) -> str:
    """An interface's, made of its IPv4 address, so that peers still know a host that was started again."""
    return ":".join(["02", "00", *(f"{int(part):02x}" for part in address.split("."))])


def hosts_file(plan: Network) -> str:
    """The cluster's /etc/hosts."""
    lines = ["127.0.0.1 localhost", f"{HEAD_ADDRESS} {HEAD}", *(f"{host.address} {host.name}" for host in plan.hosts)]
    return "\n".join(lines) + "\n"


def switch_commands(plan: Network) -> list[Command]:
    """Inside the switch: the bridges, and the links between racks. The head is the core bridge's own interface.

    A bridge takes the hardware address of one of its ports, and changes it with them, unless it was given one.
    """
    commands = [
        ("ip", "link", "set", "lo", "up"),
        ("ip", "link", "add", CORE, "mtu", str(MTU), "address", hardware_address(HEAD_ADDRESS), "type", "bridge"),
        ("ip", "address", "add", f"{HEAD_ADDRESS}/{PREFIX}", "dev", CORE),
        ("ip", "link", "set", CORE, "up"),
    ]
    if plan.racks > 1 and plan.rack_rate:
        for rack in range(1, plan.racks + 1):
            commands += _rack(rack, plan.rack_rate)
    return commands


def _rack(rack: int, rate: int) -> list[Command]:
    """A bridge for the rack, and a link from it up to the core that is limited both ways.

    The bridge does not ask or answer for addresses itself, or it would do so for the head, past the limited link.
    """
    up, down = f"up{rack}", f"down{rack}"
    return [
        ("ip", "link", "add", bridge_of(rack), "mtu", str(MTU), "type", "bridge"),
        ("ip", "link", "set", bridge_of(rack), "arp", "off", "up"),
        ("ip", "link", "add", up, "mtu", str(MTU), "type", "veth", "peer", "name", down, "mtu", str(MTU)),
        ("ip", "link", "set", up, "master", bridge_of(rack), "up"),
        ("ip", "link", "set", down, "master", CORE, "up"),
        shape(up, rate),
        shape(down, rate),
    ]


def bridge_of(rack: int, racks: int = 2) -> str:
    """The bridge that the hosts of a rack are plugged into."""
    return f"rack{rack}" if racks > 1 else CORE


def port_commands(plan: Network, host: Host, pid: int) -> list[Command]:
    """Inside the switch: a link to the host whose first process is `pid`; what the host receives is limited here."""
    return [
        ("ip", "link", "add", host.port, "mtu", str(MTU), "type", "veth",
         "peer", "name", "eth0", "mtu", str(MTU), "address", hardware_address(host.address), "netns", str(pid)),
        shape(host.port, host.rate),
        ("ip", "link", "set", host.port, "master", bridge_of(host.rack, plan.racks), "up"),
    ]  # fmt: skip


def host_commands(host: Host) -> list[Command]:
    """Inside the host: its end of the link; what the host sends is limited here."""
    return [
        ("ip", "link", "set", "lo", "up"),
        ("ip", "address", "add", f"{host.address}/{PREFIX}", "dev", "eth0"),
        shape("eth0", host.rate),
        ("ip", "link", "set", "eth0", "up"),
    ]


def shape(device: str, rate: int) -> Command:
    """Limit what leaves through `device` to `rate` [bit/s] by a token bucket."""
    return ("tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{rate}bit", *SHAPE)


def place(ranks: int, hosts: int, per_host: int | None = None) -> list[int]:
    """How many ranks each host gets, in order: `per_host` each until none are left, or else all hosts alike.

    Raises: ValueError if they do not fit.
    """
    if per_host is None:
        return [ranks // hosts + (i < ranks % hosts) for i in range(hosts)]
    if ranks > hosts * per_host:
        raise ValueError(f"{ranks} ranks need more than {hosts} hosts with {per_host} ranks each")
    return [min(per_host, max(0, ranks - i * per_host)) for i in range(hosts)]
