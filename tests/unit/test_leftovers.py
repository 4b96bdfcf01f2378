"""Files of killed ranks in shared memory: which they are, and that they go."""

import mmap
import os

from hpcdist.doctor import memory
from hpcdist.doctor.finding import OK, WARN
from hpcdist.doctor.memory import SOME, Room
from hpcdist.mpi import leftovers

USER = os.geteuid()
KILLED, ALONE = f"sm_segment.node7.example.{USER}.6a660001.2", f"sm_segment.vm.{USER}.a1200000.0"


def segment(folder, name, age=3600.0):
    path = folder / name
    path.write_bytes(bytes(mmap.PAGESIZE))
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    return path


def test_what_nobody_has_mapped_goes_and_all_else_stays(tmp_path):
    dead, alone = segment(tmp_path, KILLED), segment(tmp_path, ALONE)
    young = segment(tmp_path, f"sm_segment.vm.{USER}.00010001.0", age=0.0)
    foreign = segment(tmp_path, f"sm_segment.vm.{USER + 1}.00010001.0")
    used = segment(tmp_path, f"sm_segment.vm.{USER}.00020001.0")
    other = segment(tmp_path, "mpich_shm_5cab0204_0")
    with open(used, "r+b") as file, mmap.mmap(file.fileno(), 0):
        assert set(leftovers.find(tmp_path)) == {dead, alone}
        assert leftovers.killed(tmp_path) == 1
        assert leftovers.remove(tmp_path) == 2
    assert set(tmp_path.iterdir()) == {young, foreign, used, other}


def test_where_there_is_no_shared_memory_nothing_is_found(tmp_path):
    assert leftovers.find(tmp_path / "shm") == []


def test_the_doctor_says_so_of_many():
    assert memory.judge_leftovers({"n1": Room(1, 1, leftovers=SOME)}).level == OK
    found = memory.judge_leftovers({"n1": Room(1, 1), "n2": Room(1, 1, leftovers=137)})
    assert (found.level, "n2: 137" in found.found, "n1" in found.found) == (WARN, True, False)
