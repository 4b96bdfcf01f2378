"""What the doctor concludes from what it has seen, and what one process can see by itself."""

import errno
import os
import threading
import time
from itertools import combinations
from pathlib import Path

import pytest

from hpcdist.device.driver import Devices
from hpcdist.doctor import (
    aware,
    cores,
    gpu,
    hdf5,
    launch,
    library,
    locks,
    memory,
    mounts,
    network,
    probe,
    rename,
    rounds,
    start,
    storage,
    tolerance,
)
from hpcdist.doctor.cores import Share
from hpcdist.doctor.finding import FAIL, OK, SKIP, WARN, WIDTH, Finding, listing, summary
from hpcdist.doctor.job import Places
from hpcdist.doctor.limit import Limit
from hpcdist.doctor.memory import Room
from hpcdist.doctor.mounts import Mount
from hpcdist.doctor.pingpong import Link
from hpcdist.doctor.probe import Verdict
from hpcdist.mpi import launcher
from hpcdist.mpi import library as loaded
from hpcdist.mpi.cvars import text_of, value_of

EXT4 = Mount("ext4", "/")


# --- the report ---


def test_what_is_well_takes_one_line_and_what_is_not_says_why_and_what_to_do():
    assert str(Finding(OK, "cores", "4 per host")) == "ok    cores            4 per host"
    text = str(Finding(WARN, "fault tolerance", "none", "it matters", "do this"))
    assert text.splitlines() == [
        "warn  fault tolerance  none",
        "                       why  it matters",
        "                       do   do this",
    ]


def test_long_lines_are_wrapped_below_their_beginning_and_paths_are_not_cut():
    path = "/scratch/" + "x" * 120
    lines = str(Finding(FAIL, "shared", f"{'word ' * 40}{path}", "because " * 40)).splitlines()
    assert all(len(line) <= WIDTH or path in line for line in lines)
    assert any(line.strip() == path for line in lines)
    assert {len(line) - len(line.lstrip()) for line in lines[1:]} == {23, 28}


def test_levels_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="no level 'bad'; choose from ok, warn, fail, skip"):
        Finding("bad", "cores", "4")


def test_the_summary_counts_levels():
    findings = [Finding(level, "x", "y") for level in (OK, OK, WARN, FAIL, SKIP)]
    assert summary(findings) == "5 findings: 2 ok, 1 to look at, 1 failed, 1 skipped"


def test_long_listings_say_how_many_more_there_are():
    assert listing(["a", "b", "a"]) == "a, b"
    assert listing(range(100), most=2) == "0, 1 and 98 more"


SRUN = launcher.started({"SLURM_STEP_NUM_TASKS": "4"})


# --- hosts ---


def test_hosts_of_one_name_are_told_apart():
    places = Places((0, 0, 1, 2), ("a", "a", "b", "a"))
    assert places.names == ["a#0", "b", "a#2"]
    assert places.heads == [0, 2, 3]
    assert places.by_host(["w", "x", "y", "z"]) == {"a#0": "w", "b": "y", "a#2": "z"}


# --- the launcher ---


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "4"}, ("srun", 4)),
        ({"OMPI_COMM_WORLD_SIZE": "8", "SLURM_STEP_NUM_TASKS": "2"}, ("Open MPI's mpirun", 8)),  # started its daemons
    ],
)
def test_the_innermost_launcher_says_how_many_it_started(environment, expected):
    said = launcher.started(environment)
    assert (said and said[:2]) == expected


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"PMI_RANK": "0", "SLURM_PROCID": "3"}, True),
        ({"PMI_RANK": "1", "SLURM_PROCID": "0"}, False),
        ({"SLURM_PROCID": "1"}, False),
    ],
)
def test_one_process_of_many_worlds_speaks(environment, first):
    assert start.is_first(environment) is first


def test_an_mpich_under_pmix_is_doubted_before_it_starts():
    found = start.doubt({"PMIX_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, "MPICH Version: 5.0.2")
    assert found.level == WARN
    assert "Open MPI's mpirun" in found.found
    assert "srun --mpi=pmi2" in found.todo
    assert start.doubt({"PMIX_RANK": "0"}, "Open MPI v5.0.11") is None
    assert start.doubt({"PMI_RANK": "0"}, "MPICH Version: 5.0.2") is None


def test_a_part_of_the_ranks_in_a_world_is_a_failure():
    found = launch.judge_size(2, 1, SRUN)
    assert found.level == FAIL
    assert "started 4 processes, but this world has 2 ranks" in found.found
    assert launch.judge_size(4, 2, SRUN) == Finding(OK, "launcher", "4 ranks on 2 hosts, started by srun")
    assert launch.judge_size(1, 1, None).level == SKIP


def test_two_mpi_libraries_in_one_process_are_a_failure():
    found = launch.judge_libraries([["/a/libmpi.so.40"], ["/a/libmpi.so.40", "/b/libmpi.so.12"]])
    assert found.level == FAIL
    assert "rank 1 loaded more than one MPI library: /a/libmpi.so.40, /b/libmpi.so.12" in found.found
    assert launch.judge_libraries([["/a/libmpi.so.40"]] * 2).level == OK


@pytest.mark.parametrize(
    ("path", "is_library"),
    [
        ("/usr/lib/libmpi.so.40.30.7", True),
        ("/opt/cray/libmpi_gnu_123.so.12.0.0", True),
        ("/usr/lib/libmpich.so.12", True),
        ("/usr/lib/libmpi_mpifh.so.40", False),
        ("/usr/lib/libmpi_cxx.so.40", False),
        ("/opt/cray/libmpi_gtl_cuda.so.0", False),
    ],
)
def test_libraries_of_mpi_are_known_by_their_names(path, is_library):
    assert bool(loaded.LIBMPI.search(path)) is is_library


def test_different_versions_name_the_ranks():
    same, other = {"python": "3.11", "MPI": "a"}, {"python": "3.12", "MPI": "a"}
    found = launch.judge_versions([same, same, other])
    assert found.level == FAIL
    assert found.found == "python: 3.11 on ranks 0-1, 3.12 on rank 2"
    assert launch.judge_versions([same, same]).level == OK


# --- the library ---


def test_the_library_in_use_answers_through_its_tool_interface():
    yielding, polls = map(value_of, ("mpi_yield_when_idle", "MPIR_CVAR_POLLS_BEFORE_YIELD"))
    assert (yielding is None) != (polls is None)  # Open MPI has one of them, MPICH the other
    assert value_of("there_is_no_such_variable") is None
    assert text_of("there_is_no_such_variable") is None
    path = loaded.libraries()[0]
    assert loaded.query(path, "MPIX_There_is_no_such_function") is None
    assert loaded.query("/there/is/no/libmpi.so", "MPIX_Query_cuda_support") is None


def test_a_thread_level_below_multiple_is_told_where_it_matters():
    multiple, serialized, single = 3, 2, 0
    levels = dict(zip((single, 1, serialized, multiple), library.LEVELS, strict=True))
    assert library.judge_threads(levels[multiple], {"HPCDIST_TIMEOUT_ACTION": "abort"}).level == OK
    assert library.judge_threads(levels[serialized], {}).level == OK
    found = library.judge_threads(levels[serialized], {"HPCDIST_TIMEOUT_ACTION": "abort"})
    assert (found.level, found.found) == (WARN, "MPI_THREAD_SERIALIZED")
    assert "watchdog" in found.why


@pytest.mark.parametrize(
    ("numba", "said", "level", "words"),
    [
        (True, None, OK, None),
        (True, "1", OK, None),
        (True, "0", WARN, "unset HPCDIST_COMPILED"),
        (False, None, WARN, "pip install 'hpcdist[fast]'"),
    ],
)
def test_plans_in_plain_python_are_said(numba, said, level, words):
    found = library.judge_executor(numba, said)
    assert found.level == level
    assert found.todo == (words or "")


@pytest.mark.parametrize(
    ("revoke", "enabled", "launcher", "level", "words"),
    [
        (False, None, None, WARN, "no MPI_Comm_revoke"),
        (True, 0, ["mpirun"], WARN, "switched off"),
        (True, 1, ["mpirun", "-n", "2"], WARN, "mpirun was not told"),
        (True, 1, ["mpirun", "--with-ft", "ulfm"], OK, "real"),
        (True, 1, None, OK, "real"),  # mpirun is on another host
        (True, None, ["mpiexec"], WARN, "its launcher ends a job"),
        (True, None, ["mpiexec", "-disable-auto-cleanup"], OK, "real"),
    ],
)
def test_ulfm_takes_a_library_a_switch_and_a_launcher(revoke, enabled, launcher, level, words):
    found = tolerance.judge("Open MPI", revoke, enabled, launcher)
    assert found.level == level
    assert words in found.found
    assert bool(found.todo) is (level == WARN)


# --- cores and memory ---


def host(*shares):
    return {"n1": dict(enumerate(shares))}


def test_a_core_for_every_rank_is_well():
    assert [found.level for found in cores.judge(host(Share(frozenset({0})), Share(frozenset({1}))))] == [OK]


def test_ranks_that_spin_on_too_few_cores_fail_and_ranks_that_yield_are_warned_of():
    two = frozenset({0, 1})
    (spin,) = cores.judge(host(*[Share(two, installed=64)] * 3))
    assert (spin.level, spin.found) == (FAIL, "oversubscribed. n1: 3 ranks on 2 cores (of its 64)")
    assert "let ranks yield" in spin.todo
    (wait,) = cores.judge(host(*[Share(two, yields=True)] * 3))
    assert (wait.level, wait.found) == (WARN, "oversubscribed. n1: 3 ranks on 2 cores")


def test_ranks_bound_to_the_same_core_are_named():
    (found,) = cores.judge(host(Share(frozenset({5})), Share(frozenset({5})), Share(frozenset({6, 7}))))
    assert found.level == FAIL
    assert "n1: ranks 0-1 may use only 1 core (5)" in found.found
    assert "--cpu-bind" in found.todo


def test_more_threads_than_cores_are_warned_of():
    four = frozenset(range(4))
    (found,) = cores.judge(host(Share(four, threads=4), Share(four, threads=4)))
    assert (found.level, found.found) == (WARN, "n1: 8 threads of 2 ranks on 4 cores")
    assert "OMP_NUM_THREADS" in found.todo


def test_a_quota_below_the_number_of_ranks_is_warned_of():
    (found,) = cores.judge(host(*[Share(frozenset(range(4)), quota=1.5)] * 2))
    assert (found.level, found.found) == (WARN, "n1: 1.5 cores' time for 2 ranks")


def test_a_small_or_missing_shared_memory_is_told():
    found = memory.judge_shm({"n1": Room(64 << 20, 1), "n2": Room(8 << 30, 1)}, {"n1": 8, "n2": 8})
    assert (found.level, found.found) == (WARN, "n1: 64 MiB for 8 ranks")
    assert memory.judge_shm({"n1": Room(None, 1)}, {"n1": 2}).level == FAIL
    assert memory.judge_shm({"n1": Room(8 << 30, 1)}, {"n1": 2}).level == OK


def test_little_locked_memory_matters_where_there_is_infiniband():
    gib = 1 << 30
    assert memory.judge_locked({"n1": Room(0, gib, (), 65536)}).level == SKIP
    found = memory.judge_locked({"n1": Room(0, gib, ("mlx5_0",), 65536)})
    assert (found.level, found.found) == (WARN, "limited. n1: 64 KiB")
    assert memory.judge_locked({"n1": Room(0, gib, ("mlx5_0",), None)}).level == OK


# --- HDF5 ---


def test_an_h5py_with_another_mpi_or_another_version_fails():
    one = {"version": "HDF5 2", "parallel": False, "libraries": ["/a/libmpi.so.40"]}
    assert hdf5.judge_version([one, one]).level == OK
    found = hdf5.judge_version([one, {**one, "libraries": ["/a/libmpi.so.40", "/b/libmpi.so.40"]}])
    assert found.level == FAIL
    assert found.found.startswith("rank 1: with h5py there is more than one MPI library")
    assert hdf5.judge_version([one, {**one, "version": "HDF5 1"}]).level == FAIL


def test_a_locking_variable_that_differs_or_means_nothing_is_told():
    assert hdf5.judge_locking([None, None]).level == OK
    assert hdf5.judge_locking(["FALSE", "FALSE"]).level == OK
    assert hdf5.judge_locking([None, "FALSE"]).level == WARN
    assert hdf5.judge_locking(["no", "no"]).level == WARN


# --- GPUs: what children do with host memory, and what is concluded from devices ---

# A device pointer is an address that this process cannot read; so is this one.
WILD = """
from mpi4py import MPI
def make(n): return MPI.buffer.fromaddress(4096, n)
empty = make
def ready(): pass
def right(x): return True
"""


def test_a_child_that_can_send_its_memory_says_so():
    assert probe.run(probe.HOST) == Verdict(True, "8 B to 16 MiB arrived")


def test_a_child_that_crashes_on_an_address_it_cannot_read_is_an_mpi_that_does_not_take_it():
    verdict = probe.run(WILD)
    assert verdict.aware is False
    assert "SIG" in verdict.how or "exited" in verdict.how


def test_a_child_that_receives_other_bytes_is_an_mpi_that_does_not_take_it():
    verdict = probe.run(probe.HOST.replace("(x == 7)", "(x == 8)"))
    assert verdict == Verdict(False, "other bytes arrived")


def test_a_child_that_does_not_come_to_send_says_nothing_of_mpi():
    verdict = probe.run("raise SystemExit('there is no device')")
    assert verdict.aware is None
    assert "there is no device" in verdict.how


def test_a_child_keeps_transports_and_forgets_the_launcher():
    environment = {"OMPI_COMM_WORLD_RANK": "3", "SLURM_PROCID": "3", "PMI_FD": "7", "OMPI_MCA_pml": "ucx", "HOME": "/h"}
    assert probe.alone(environment) == {"OMPI_MCA_pml": "ucx", "HOME": "/h"}


def test_what_was_tried_counts_more_than_what_was_said():
    assert aware.judge({"MPIX_Query_cuda_support": True}, Verdict(False, "crashed")).level == FAIL
    assert aware.judge({}, Verdict(False, "crashed")).level == WARN
    assert aware.judge({"MPIX_Query_cuda_support": False}, Verdict(True, "cached")).level == OK
    assert aware.judge({}, Verdict(None, "did not end")).level == WARN
    assert aware.judge({"MPIX_Query_cuda_support": True}, None).level == SKIP


def test_who_claims_what_is_told():
    said = aware.claims(loaded.libraries()[0], {"MPICH_GPU_SUPPORT_ENABLED": "0"})
    assert said["MPICH_GPU_SUPPORT_ENABLED"] is False
    assert set(said) <= {"MPICH_GPU_SUPPORT_ENABLED", "MPIX_Query_cuda_support", "mpi_memory_alloc_kinds"}


FOUR = tuple(f"0000:0{i}:00.0" for i in range(4))
ALL_PEERS = frozenset((i, j) for i in range(4) for j in range(4) if i != j)


def test_a_device_for_every_rank_is_well():
    found = gpu.judge_booking(Places((0,) * 4, ("n1",) * 4), [Devices(FOUR)] * 4)
    assert found.level == OK
    assert gpu.judge_booking(Places((0, 1), ("n1", "n2")), [Devices(FOUR[:1])] * 2).level == OK


def test_a_device_booked_twice_and_a_rank_without_one_are_named():
    found = gpu.judge_booking(Places((0,) * 3, ("n1",) * 3), [Devices(FOUR[:2])] * 3)
    assert (found.level, found.found) == (FAIL, "booked more than once: n1 0000:00:00.0: ranks 0, 2")
    found = gpu.judge_booking(Places((0,) * 2, ("n1",) * 2), [Devices(FOUR), Devices(())])
    assert (found.level, found.found) == (FAIL, "rank 1 may use no GPU")


def test_ranks_that_see_one_gpu_each_are_isolated():
    places = Places((0,) * 2, ("n1",) * 2)
    found = gpu.judge_peers(places, [Devices(FOUR[:1]), Devices(FOUR[1:2])])
    assert found.level == WARN
    assert "--gpu-bind=none" in found.todo
    assert gpu.judge_peers(places, [Devices(FOUR, ALL_PEERS)] * 2).level == OK
    assert "12 of 24 pairs" in gpu.judge_peers(places, [Devices(FOUR, ALL_PEERS), Devices(FOUR)]).found


def test_allocators_that_break_ipc_are_found():
    bad = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64,expandable_segments:True"}
    assert gpu.judge_allocators([gpu.unshareable(bad)]).level == WARN
    assert gpu.unshareable({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}) == []
    assert gpu.judge_allocators([[]]).level == OK


# --- storage ---

TABLE = r"""22 1 0:1 / / rw - ext4 /dev/vda rw
30 22 0:9 / /scratch rw - lustre mds@tcp:/scratch rw,localflock,lazystatfs
31 22 0:9 / /home rw - nfs4 server:/home rw,vers=4.2,local_lock=none
32 22 0:9 / /my\040disk rw - xfs /dev/sdb rw
33 22 0:9 / /scratch rw - lustre mds@tcp:/scratch rw,flock
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/scratch/me/run", "lustre at /scratch (flock)"),  # the last one hides the one before
        ("/scratch2", "ext4 at /"),
        ("/home", "nfs4 at /home"),
        ("/my disk/x", "xfs at /my disk"),
    ],
)
def test_the_mount_of_a_path_is_the_innermost(path, expected):
    assert str(mounts.mount_of(Path(path), TABLE)) == expected


def test_the_mount_of_proc_is_proc():
    assert mounts.mount_of(Path("/proc/self")).kind == "proc"


def test_a_host_that_does_not_see_the_directory_is_named():
    kinds = {"n1": EXT4, "n2": Mount("tmpfs", "/tmp")}
    found = storage.judge_shared({"n1": 0.0, "n2": None}, kinds)
    assert found.level == FAIL
    assert "n2 did not see" in found.found
    assert "tmpfs at /tmp" in found.found
    assert storage.judge_shared({"n1": 0.0, "n2": 0.1}, kinds).level == OK
    assert storage.judge_shared({"n1": 0.0, "n2": 3.0}, kinds).level == WARN
    assert storage.judge_shared({"n1": 0.0}, kinds).level == SKIP


def test_the_delay_of_a_file_is_measured(tmp_path):
    late = threading.Timer(0.2, (tmp_path / "late").write_text, ["here"])
    late.start()
    assert storage.delay(tmp_path / "late") > 0.05
    assert storage.delay(tmp_path / "never", patience=0.1) is None


def test_little_space_and_files_in_memory_are_warned_of():
    assert storage.judge_space(1 << 20, 1 << 40, -1).level == WARN
    assert storage.judge_space(1 << 40, 1 << 41, 10).level == WARN
    assert storage.judge_space(1 << 40, 1 << 41, -1).level == OK
    assert storage.judge_mounts(Path("/x"), {"n1": EXT4, "n2": Mount("tmpfs", "/x")}).level == WARN


def seen_while(write, path):
    """What a reader sees while `write` does its work."""
    path.write_text("0\n" * rename.LINES)
    writer = threading.Thread(target=write, args=[path])
    writer.start()
    seen = rename.read_often(path, patience=1.0)
    writer.join()
    return seen


def test_renames_on_this_file_system_are_atomic(tmp_path):
    seen = seen_while(rename.replace_often, tmp_path / "file")
    assert seen.last
    assert rename.judge({"rank 1": seen}).level == OK


def write_over(path):
    for version in range(1, rename.VERSIONS):
        path.write_text("")
        time.sleep(0.01)
        path.write_text(f"{version}\n" * rename.LINES)


def remove_and_write(path):
    for version in range(1, rename.VERSIONS):
        path.unlink()
        time.sleep(0.01)
        path.write_text(f"{version}\n" * rename.LINES)


@pytest.mark.parametrize("write", [write_over, remove_and_write])
def test_a_file_that_is_not_replaced_at_once_is_seen(write, tmp_path):
    seen = seen_while(write, tmp_path / "file")
    assert seen.torn or seen.missing
    assert rename.judge({"rank 1": seen}).level == FAIL


def test_a_reader_that_stays_with_the_old_file_is_warned_of(tmp_path):
    (tmp_path / "file").write_text("0\n" * rename.LINES)
    assert rename.judge({"rank 1": rename.read_often(tmp_path / "file", patience=0.0)}).level == WARN


def test_a_lock_that_is_held_is_refused(tmp_path):
    with locks.ExitStack() as held:
        descriptor = held.enter_context(locks.opened(tmp_path / "flock", os.O_RDWR | os.O_CREAT))
        assert locks.fence.acquired(descriptor, tmp_path)
        assert locks.attempts(tmp_path)["flock"] == locks.REFUSED
    assert locks.attempts(tmp_path)["flock"] == locks.GRANTED


@pytest.mark.parametrize(
    ("taken", "other", "level"),
    [
        (locks.GRANTED, locks.REFUSED, OK),
        (locks.GRANTED, locks.GRANTED, FAIL),
        (os.strerror(errno.ENOLCK), locks.REFUSED, FAIL),
        (locks.GRANTED, os.strerror(errno.ENOSYS), FAIL),
    ],
)
def test_what_a_lock_is_worth(taken, other, level):
    found = locks.judge("flock", taken, [("rank 2 on n2", other)], {"n1": Mount("lustre", "/s", ("localflock",))})
    assert found.level == level
    if level == FAIL:
        assert "localflock" in found.found
        assert "-o flock" in found.todo
        assert "HDF5_USE_FILE_LOCKING=FALSE" in found.todo
        posix = locks.judge("fcntl locks", taken, [("rank 2 on n2", other)], {"n1": EXT4})
        assert posix.level == WARN


# --- the network ---


@pytest.mark.parametrize("count", range(2, 18))
def test_a_tournament_has_every_pair_once_and_nobody_twice_in_a_round(count):
    games = rounds.tournament(count)
    assert sorted(pair for pairs in games for pair in pairs) == list(combinations(range(count), 2))
    assert all(len(set(sum(pairs, ()))) == 2 * len(pairs) for pairs in games)
    assert len(games) == count - 1 + count % 2


@pytest.mark.parametrize("count", [17, 18, 101])
def test_of_many_hosts_a_ring_and_random_pairs_are_measured(count):
    games, words = rounds.plan(count)
    assert len(games) == 15
    assert "random" in words
    assert all(len(set(sum(pairs, ()))) == 2 * len(pairs) for pairs in games)
    neighbours = {frozenset((i, (i + 1) % count)) for i in range(count)}
    assert neighbours <= {frozenset(pair) for pairs in games for pair in pairs}
    assert rounds.plan(count) == (games, words)  # the same on all ranks


def test_partners_are_each_other_s():
    assert [rounds.partner(((0, 3), (1, 2)), player) for player in range(5)] == [3, 2, 1, 0, None]


def links(hosts, slow=(), rate=1e9):
    """All links of these hosts; those in `slow`, by host or pair, have a tenth of the rate."""
    pairs = combinations(hosts, 2)
    return {pair: Link(1e-6, rate / 10 if set(pair) & set(slow) or pair in slow else rate) for pair in pairs}


@pytest.mark.parametrize("count", [3, 4, 8])
def test_a_slow_host_is_named_and_the_others_are_not(count):
    hosts = [f"n{i}" for i in range(count)]
    first, *found = network.judge_between(links(hosts, ["n1"]), "all pairs")
    assert first.level == OK
    assert [(each.level, each.name) for each in found] == [(WARN, "slow host")]
    assert found[0].found.startswith("n1: 100 MB/s to 100 MB/s on all of its")
    assert "--exclude=n1" in found[0].todo


def test_a_slow_link_between_sound_hosts_is_named():
    _, found = network.judge_between(links(["a", "b", "c", "d"], [("a", "c")]), "all pairs")
    assert (found.level, found.name) == (WARN, "slow links")
    assert found.found.startswith("a-c (1 us, 100 MB/s), others have 1 GB/s")


def test_equal_links_are_well():
    assert [each.level for each in network.judge_between(links(["a", "b", "c"]), "all pairs")] == [OK]
    assert [each.level for each in network.judge_between(links(["a", "b"]), "all pairs")] == [OK]


def test_a_host_that_is_slow_inside_is_named():
    inside = {"a": Link(1e-6, 8e9), "b": Link(1e-6, 8e9), "c": Link(1e-6, 1e9)}
    found = network.judge_inside(inside)
    assert found.level == WARN
    assert "c (1 us, 1 GB/s)" in found.found
    assert network.judge_inside({}).level == SKIP


# --- time ---


def test_a_check_that_does_not_come_back_is_reported_with_what_it_is_at(capsys):
    events = []
    ended = threading.Event()
    limit = Limit(0.2, events.append, lambda: (events.append("end"), ended.set()))
    limit.who = "rank 7 on n3"
    with limit.on("storage"), limit.busy("take locks"):
        assert ended.wait(20)
    assert events == ["storage", "end"]
    assert "rank 7 on n3 does not come back from: take locks (check: storage)" in capsys.readouterr().err


def test_a_check_that_only_waits_for_others_says_nothing(capsys):
    ended = threading.Event()
    limit = Limit(0.2, lambda check: None, ended.set)
    with limit.on("storage"):
        assert ended.wait(20)
    assert capsys.readouterr().err == ""


def test_checks_in_time_are_left_alone():
    events = []
    limit = Limit(0.3, events.append, lambda: events.append("end"))
    for _ in range(4):
        with limit.on("storage"):
            time.sleep(0.15)
    time.sleep(0.5)
    assert events == []
