"""A real Slurm on virtual hosts: what job scripts can rely on there."""

import subprocess

import psutil
import pytest
from virtual_slurm import HPCDIST, NAME, Slurm, assert_nothing_is_left, eventually, hpcdist, members, programs

pytestmark = pytest.mark.limit(150)
OWN = f"{NAME}-own"
DONE = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

WORLD = """
import socket
from pathlib import Path
from mpi4py import MPI
names = MPI.COMM_WORLD.gather(socket.gethostname())
if MPI.COMM_WORLD.rank == 0:
    Path("world").write_text(" ".join(names))
"""

# A job that says what happens to it, and how many times it had been started before.
TELL = 'tell() { echo "$* ${SLURM_RESTART_COUNT:-0}" >> told; }'
LINGER = "while :; do sleep 0.1; done"


def told(slurm):
    path = slurm.folder / "told"
    return path.read_text().splitlines() if path.exists() else []


def wait_until_told(slurm, *lines):
    eventually(lambda: told(slurm) == list(lines), 60, lambda: str(told(slurm)))


def world(slurm):
    return (slurm.folder / "world").read_text().split()


def completed(slurm, job):
    return slurm.wait_for(job, *DONE) == "COMPLETED"


def test_srun_starts_one_world_on_all_hosts(slurm):
    (slurm.folder / "world.py").write_text(WORLD)
    slurm.exec("srun", "--nodes=4", "--ntasks-per-node=2", "--mpi=pmix", "python", "world.py")
    assert world(slurm) == ["n1", "n1", "n2", "n2", "n3", "n3", "n4", "n4"]


def test_mpirun_in_a_job_starts_one_world_on_its_hosts(slurm):
    (slurm.folder / "world.py").write_text(WORLD)
    script = slurm.write("mpirun.sbatch", "mpirun python world.py")
    job = slurm.submit(script, "--nodes=3", "--ntasks-per-node=2")
    assert completed(slurm, job), slurm.story(job)
    assert world(slurm) == ["n1", "n1", "n2", "n2", "n3", "n3"]


def test_ranks_of_a_world_are_not_bound_to_the_same_core(slurm):
    cores = "import os; print(len(os.sched_getaffinity(0)))"
    script = slurm.write("cores.sbatch", f'mpirun python -c "{cores}"')
    job = slurm.submit(script, "--nodes=2", "--ntasks-per-node=1", "--output=cores")
    assert completed(slurm, job), slurm.story(job)
    assert (slurm.folder / "cores").read_text().split() == [str(len(psutil.Process().cpu_affinity()))] * 2


def test_the_wrong_kind_of_srun_is_refused_with_a_hint(slurm):
    done = slurm.exec("srun", "--ntasks=2", "--mpi=pmi2", "hpcdist", "sweep", "--max-bytes", "64", check=False)
    assert done.returncode == 1
    assert "each is a world of size 1 of its own" in done.stderr
    assert "srun --mpi=pmix" in done.stderr


def test_the_doctor_finds_the_wrong_kind_of_srun_once_and_says_what_to_do(slurm):
    done = slurm.exec("srun", "--ntasks=2", "--mpi=pmi2", "hpcdist", "doctor", "--no-network", check=False)
    assert done.returncode == 1
    assert done.stdout.count("fail  launcher") == 1, done.stdout + done.stderr
    assert "srun --mpi=pmix" in done.stdout


def test_every_task_of_an_array_runs(slurm):
    script = slurm.write("array.sbatch", "hostname > task-$SLURM_ARRAY_TASK_ID")
    job = slurm.submit(script, "--array=1,2,4%2", "--nodes=1")
    eventually(lambda: all(task["JobState"] in DONE for task in slurm.tasks(job)))
    assert {task["ArrayTaskId"]: task["JobState"] for task in slurm.tasks(job)} == dict.fromkeys("124", "COMPLETED")
    assert {path.name for path in slurm.folder.glob("task-*")} == {"task-1", "task-2", "task-4"}


def test_jobs_depend_on_how_others_end(slurm):
    good, bad = (slurm.submit(slurm.write(f"exit{code}.sbatch", f"exit {code}")) for code in (0, 3))
    script = slurm.write("after.sbatch", "exit 0")
    after = {
        f"{how}:{job}": slurm.submit(script, f"--dependency={how}:{job}", "--kill-on-invalid-dep=yes")
        for how in ("afterok", "afternotok")
        for job in (good, bad)
    }
    states = {dependency: slurm.wait_for(job, *DONE) for dependency, job in after.items()}
    assert states == {
        f"afterok:{good}": "COMPLETED",
        f"afterok:{bad}": "CANCELLED",
        f"afternotok:{good}": "CANCELLED",
        f"afternotok:{bad}": "COMPLETED",
    }


def test_the_exit_code_of_a_job_is_its_script_s(slurm):
    script = slurm.write("seven.sbatch", "exit 7")
    assert slurm.exec("sbatch", "--wait", script, check=False).returncode == 7


def test_a_requeued_job_knows_that_it_was_started_before(slurm):
    script = slurm.write("again.sbatch", TELL, "tell start", '[ "${SLURM_RESTART_COUNT:-0}" = 1 ] && exit 0', LINGER)
    job = slurm.submit(script, "--requeue")
    wait_until_told(slurm, "start 0")
    slurm.exec("scontrol", "requeue", job)
    slurm.start_now(job)
    assert completed(slurm, job), slurm.story(job)
    assert told(slurm) == ["start 0", "start 1"]


def test_a_signal_reaches_the_script_of_a_job(slurm):
    job = slurm.submit(slurm.write("signal.sbatch", TELL, "trap 'tell heard; exit 0' USR1", "tell start", LINGER))
    wait_until_told(slurm, "start 0")
    slurm.exec("scancel", "--batch", "--signal=USR1", job)
    assert completed(slurm, job), slurm.story(job)
    assert told(slurm) == ["start 0", "heard 0"]


def test_a_job_is_warned_before_its_time_is_over(slurm):
    # Slurm warns up to 30 s earlier than it is asked to: with 50 it may be before the trap is set.
    job = slurm.submit(
        slurm.write("limit.sbatch", TELL, "trap 'tell heard; exit 0' USR1", LINGER), "--time=1", "--signal=B:USR1@25"
    )
    assert completed(slurm, job), slurm.story(job)
    assert told(slurm) == ["heard 0"]


def test_an_urgent_job_takes_the_hosts_of_a_normal_one_which_runs_again(slurm):
    normal = slurm.submit(
        slurm.write(
            "normal.sbatch",
            TELL,
            "trap 'tell heard; scontrol requeue $SLURM_JOB_ID; exit 85' USR1",
            "tell start",
            '[ "${SLURM_RESTART_COUNT:-0}" = 1 ] && exit 0',
            LINGER,
        ),
        "--requeue",
        "--nodes=4",
        "--exclusive",
        "--signal=B:USR1@60",
    )
    wait_until_told(slurm, "start 0")
    script = slurm.write("urgent.sbatch", TELL, "tell urgent")
    urgent = slurm.submit(script, "--partition=urgent", "--nodes=4", "--exclusive")
    assert completed(slurm, urgent), slurm.story(urgent)
    slurm.start_now(normal)
    assert completed(slurm, normal), slurm.story(normal)
    assert told(slurm) == ["start 0", "heard 0", "urgent 0", "start 1"]


def test_a_job_on_a_host_that_dies_runs_again_on_others(slurm):
    script = slurm.write(
        "dies.sbatch", TELL, 'tell "$SLURM_JOB_NODELIST"', '[ "${SLURM_RESTART_COUNT:-0}" = 1 ] && exit 0', LINGER
    )
    job = slurm.submit(script, "--requeue", "--nodes=2", "--exclusive")
    wait_until_told(slurm, "n[1-2] 0")
    slurm.cluster("kill", "n2")
    try:
        slurm.start_now(job)
        assert completed(slurm, job), slurm.story(job)
        assert told(slurm)[1] in ("n[1,3] 1", "n[1,4] 1", "n[3-4] 1")
        assert slurm.node("n2") == "down*"
        assert "dead   0          down*" in slurm.cluster("status").stdout
    finally:
        slurm.cluster("heal", "n2")
    assert slurm.node("n2") == "idle"
    assert slurm.exec("srun", "--nodelist=n2", "hostname").stdout.strip() == "n2"


def test_jobs_see_the_gpus_that_they_are_given(slurm):
    done = slurm.exec("srun", "--ntasks=2", "--nodes=1", "--gpus-per-task=1", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert sorted(done.stdout.split()) == ["0", "1"]
    refused = slurm.exec("srun", "--nodes=1", "--gpus-per-node=3", "true", check=False)
    assert refused.returncode == 1
    assert "not available" in refused.stderr


def test_a_command_runs_on_the_head_or_on_a_host_in_the_caller_s_folder(slurm):
    where = ["sh", "-c", "hostname; pwd; exit 5"]
    head = slurm.exec(*where, check=False)
    assert (head.returncode, head.stdout.split()) == (5, ["head", str(slurm.folder)])
    host = slurm.cluster("exec", "--host", "n3", "--", *where, cwd=slurm.folder, check=False)
    assert (host.returncode, host.stdout.split()) == (5, ["n3", str(slurm.folder)])
    asked = slurm.cluster("exec", "--host", "n3", "--", "sh", "-c", "ps -e | grep -c slurmd")
    assert asked.stdout.strip() == "1"  # it sees the processes of its host only


def test_a_command_on_a_host_ends_with_the_one_that_asked_for_it(slurm):
    argv = [*HPCDIST, "cluster", "exec", "--name", slurm.name, "--host", "n1", "--", "sleep", "1006"]
    asked = subprocess.Popen(argv)
    eventually(lambda: _sleepers("1006"))
    asked.kill()
    asked.wait()
    eventually(lambda: not _sleepers("1006"))


def _sleepers(seconds):
    found = psutil.process_iter(["name", "cmdline"])
    return [p for p in found if p.info["name"] == "sleep" and (p.info["cmdline"] or [])[-1:] == [seconds]]


@pytest.fixture
def own():
    """The name of a cluster that the test makes for itself."""
    yield OWN
    hpcdist("down", name=OWN, check=False)
    assert_nothing_is_left(OWN)


def test_clusters_do_not_know_of_each_other_and_leave_nothing(slurm, own):
    hpcdist("up", "--hosts", "2", "--rate", "1gbit", "--slurm", "--cores", "1", name=own)
    sleeper = slurm.write("sleeper.sbatch", "srun sleep 1007")
    job = Slurm(own, slurm.folder).submit(sleeper, "--nodes=2", "--ntasks=2")
    eventually(lambda: len(_sleepers("1007")) == 2)
    there = members(own)
    assert {"slurmctld", "munged", "slurmd", "slurmstepd"} <= set(programs(there))
    assert hpcdist("exec", "--", "squeue", "--noheader", "--format=%i", name=own).stdout.split() == [job]
    assert not slurm.exec("squeue", "--noheader").stdout
    hpcdist("down", name=own)
    assert_nothing_is_left(own)
    eventually(lambda: not [p for p in there if p.is_running()], 10)
    assert slurm.exec("srun", "--nodes=4", "hostname").stdout.split()


def test_nothing_is_left_when_up_is_killed_half_way(own):
    argv = [*HPCDIST, "cluster", "up", "--name", own, "--hosts", "100", "--rate", "1gbit", "--slurm"]
    building = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    eventually(lambda: programs(members(own)).count("slurmd") > 2)
    assert building.poll() is None
    there = members(own)
    building.kill()
    building.wait()
    eventually(lambda: not [p for p in there | members(own) if p.is_running()], 10)
    hpcdist("up", "--hosts", "1", "--rate", "1gbit", "--slurm", name=own)  # the name is free again
    assert hpcdist("exec", "--", "srun", "hostname", name=own).stdout.strip() == "n1"


def test_up_says_why_a_daemon_does_not_start(own):
    argv = [*HPCDIST, "cluster", "up", "--name", own, "--hosts", "2", "--rate", "1gbit", "--slurm"]
    hidden = ["unshare", "--mount", "sh", "-c", 'umount --lazy /sys/fs/cgroup && exec "$@"', "sh"]
    done = subprocess.run([*hidden, *argv], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "The end of slurmd-n1.log" in done.stderr
    assert "/sys/fs/cgroup" in done.stderr
    assert_nothing_is_left(own)
