"""What control groups leave a process: those of both versions, nested, and this process's own."""

import psutil
import pytest

from hpcdist.util.cgroups import available_memory, quota

GIB = 1 << 30
FREE = 64 * GIB


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """A host with much memory."""
    memory = psutil.virtual_memory()._replace(available=FREE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{text}\n")


def test_the_least_quota_of_nested_control_groups_counts(tmp_path):
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "job" / "step" / "cpu.max").write_text("max 100000\n")
    assert quota(tmp_path, "0::/job/step\n") == 1.5
    assert quota(tmp_path, "0::/\n") is None
    folder = tmp_path / "cpu,cpuacct" / "job"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("50000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert quota(tmp_path, "3:cpu,cpuacct:/job\n2:memory:/\n") == 0.5


def test_the_quota_of_this_process_can_be_read():
    assert quota() is None or quota() > 0


def test_without_a_limit_there_is_what_the_host_has(tmp_path):
    group(tmp_path / "job", memory_max="max", memory_current=GIB, memory_stat="")
    group(tmp_path / "memory" / "job", memory_limit_in_bytes=9223372036854771712)
    assert available_memory(tmp_path, "0::/job\n4:memory:/job\n") == FREE
    assert available_memory(tmp_path, "0::/elsewhere\n") == FREE
    assert available_memory(tmp_path, "") == FREE


def test_the_least_room_of_nested_control_groups_counts_and_cached_files_make_way(tmp_path):
    group(
        tmp_path / "job",
        memory_max=8 * GIB,
        memory_current=6 * GIB,
        memory_stat=f"anon 7\ninactive_file {GIB}\nactive_file {GIB // 2}",
    )
    group(tmp_path / "job" / "step", memory_max=GIB, memory_current=GIB // 4, memory_stat="anon 7")
    assert available_memory(tmp_path, "0::/job\n") == 7 * GIB // 2
    assert available_memory(tmp_path, "0::/job/step\n") == 3 * GIB // 4


def test_version_1_tells_of_the_groups_inside_by_other_names(tmp_path):
    group(
        tmp_path / "memory" / "slurm" / "job_7",
        memory_limit_in_bytes=2 * GIB,
        memory_usage_in_bytes=3 * GIB // 2,
        memory_stat=f"inactive_file 5\ntotal_inactive_file {GIB // 4}\ntotal_active_file 0",
    )
    assert available_memory(tmp_path, "5:cpu:/\n4:memory:/slurm/job_7/step_0\n") == 3 * GIB // 4


def test_a_group_that_has_more_than_its_limit_leaves_nothing(tmp_path):
    group(tmp_path, memory_max=GIB, memory_current=GIB + 4096, memory_stat="anon 7")
    assert available_memory(tmp_path, "0::/\n") == 0


def test_this_process_has_memory_left():
    assert 0 < available_memory() <= FREE
