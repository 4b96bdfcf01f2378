"""The doctor in real jobs, with real faults: each is found, and the output says what to do."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from mpi4py import MPI

from hpcdist.mpi import launcher as launch

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "-m", "hpcdist"]
DOCTOR = [*COMMAND, "doctor"]
FROM_A_LAUNCHER = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_", "HPCDIST_", "HDF5_", "OMP_")
CONSENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(FROM_A_LAUNCHER)} | CONSENT
CORES = len(os.sched_getaffinity(0))
LIBRARY = launch.maker(MPI.Get_library_version())
open_mpi = pytest.mark.skipif(LIBRARY != "Open MPI", reason=f"the MPI in use is {LIBRARY}")


def run(command, cwd, timeout=60, **variables):
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=CLEAN | variables,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )


def doctor(ranks, folder, *options, **variables):
    """(exit code, finding by name) of the doctor on so many ranks."""
    options = ("--json", folder / "findings.json", "--no-network", *options)
    done = run([*COMMAND, "run", "-n", ranks, "--", *DOCTOR, *options], folder, **variables)
    return done.returncode, read(folder / "findings.json"), done


def read(file):
    return {each["name"]: each for each in json.loads(file.read_text())["findings"]}


def mpirun(ranks, *options):
    """The command line of the MPI in use that starts ranks of what follows, with options of our own."""
    launcher = launch.find(None)
    crowd = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"] if LIBRARY == "Open MPI" else []
    return [launcher.path, *crowd, *options, "-n", ranks]


# --- nothing wrong ---


def test_on_two_ranks_nothing_fails_and_nothing_is_left(tmp_path):
    (tmp_path / "mine").write_text("mine")
    done = run([*COMMAND, "run", "-n", "2", "--", *DOCTOR, "--json", "found.json"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["ranks"], found["failed"], len(found["hosts"])) == (2, False, 1)
    levels = {each["name"]: each["level"] for each in found["findings"]}
    for name in ("launcher", "libmpi", "versions", "MPI", "HDF5", "writable", "rename", "flock", "inside hosts"):
        assert levels[name] == "ok", found
    assert "fail" not in levels.values()
    assert done.stdout.count("launcher  ") == 1
    assert done.stdout.splitlines()[-1].startswith(f"{len(found['findings'])} findings: ")
    assert sorted(os.listdir(tmp_path)) == ["found.json", "mine"]


def test_a_directory_that_was_not_there_is_not_there_afterwards(tmp_path):
    code, found, _ = doctor(2, tmp_path, "--checkpoint-dir", tmp_path / "new" / "run")
    assert code == 0
    assert found["writable"]["level"] == "ok"
    assert not (tmp_path / "new").exists()


def test_json_on_stdout_is_all_there_is(tmp_path):
    done = run([*COMMAND, "run", "-n", "2", "--", *DOCTOR, "--no-network", "--json", "-"], tmp_path)
    assert json.loads(done.stdout)["ranks"] == 2


def test_a_file_for_which_there_is_no_folder_is_a_usage_error(tmp_path):
    done = run([*COMMAND, "run", "-n", "2", "--", *DOCTOR, "--json", "none/found.json"], tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("no directory that can be written") == 1


def test_one_process_without_a_launcher_is_told_to_use_one(tmp_path):
    done = run([*DOCTOR, "--no-network"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "skip  launcher" in done.stdout
    assert "srun --mpi=pmix hpcdist doctor" in done.stdout.replace("\n" + " " * 23, " ")


# --- the wrong launcher ---


@pytest.fixture(scope="session")
def hydra(tmp_path_factory):
    """The mpiexec of MPICH, from its wheel."""
    folder = tmp_path_factory.mktemp("mpich")
    done = run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, "mpich"], folder)
    if done.returncode:
        pytest.skip(f"no MPICH could be installed: {done.stderr.strip()}")
    return folder / "bin" / "mpiexec"


@open_mpi
def test_a_wrong_launcher_is_found_once_with_the_right_one(hydra, tmp_path):
    done = run([hydra, "-n", "3", *DOCTOR, "--json", "found.json"], tmp_path)
    assert done.returncode == 1
    assert done.stdout.count("fail  launcher") == 1
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["failed"]
    launcher = found["findings"][0]
    assert (launcher["name"], launcher["level"]) == ("launcher", "fail")
    assert "started 3 processes (PMI_SIZE)" in launcher["found"]
    assert "srun --mpi=pmix" in launcher["todo"]
    assert launch.find(None).path in launcher["todo"]
    levels = {each["name"]: each["level"] for each in found["findings"]}
    assert levels["network"] == levels["storage"] == levels["cores"] == "skip"
    assert os.listdir(tmp_path) == ["found.json"]


def test_a_second_mpi_library_in_a_process_is_found(tmp_path):
    program = """
import ctypes, shutil, sys
from mpi4py import MPI
from hpcdist.doctor import launch
from hpcdist.mpi import library
(path,) = library.libraries()
ctypes.CDLL(shutil.copy(path, sys.argv[1]))
print(launch.judge_libraries([library.libraries()]))
"""
    done = run([sys.executable, "-c", program, tmp_path / "libmpi.so.99"], tmp_path)
    assert done.stdout.startswith("fail  libmpi"), done.stdout + done.stderr
    assert "libmpi.so.99" in done.stdout


# --- no ULFM ---


@open_mpi
@pytest.mark.parametrize(
    ("options", "variables", "level", "words"),
    [
        ([], {}, "warn", "it is switched off"),
        ([], {"OMPI_MCA_mpi_ft_enable": "1"}, "warn", "mpirun was not told"),
        (["--with-ft", "ulfm"], {}, "ok", "ULFM is real here"),
    ],
)
def test_ulfm_is_real_only_if_mpirun_was_told(options, variables, level, words, tmp_path):
    done = run([*mpirun(2, *options), *DOCTOR, "--no-network", "--json", "found.json"], tmp_path, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read(tmp_path / "found.json")["fault tolerance"]
    assert found["level"] == level
    assert words in found["found"]
    assert (level == "ok") or "mpirun --with-ft ulfm" in found["todo"]


OUTLIVE = """
import os, signal
from mpi4py import MPI
comm = MPI.COMM_WORLD.Dup()
if comm.rank == 1:
    for other in (0, 2):
        comm.recv(source=other)  # they have the communicator, too
    os.kill(os.getpid(), signal.SIGKILL)
comm.send("ready", 1)
comm.Set_errhandler(MPI.ERRORS_RETURN)
try:
    comm.Barrier()
except MPI.Exception:
    comm.Revoke()
    print("left:", comm.Shrink().size, flush=True)
    os._exit(0)  # MPI_Finalize may wait for the dead rank for ever
"""


@open_mpi
@pytest.mark.parametrize(
    ("options", "variables", "lives"),
    [
        ([], {}, False),
        ([], {"OMPI_MCA_mpi_ft_enable": "1"}, False),
        (["--with-ft", "ulfm"], {}, True),
    ],
)
def test_what_the_doctor_says_of_ulfm_is_what_happens_when_a_rank_dies(options, variables, lives, tmp_path):
    done = run([*mpirun(3, *options), sys.executable, "-c", OUTLIVE], tmp_path, **variables)
    assert ("left: 2" in done.stdout) is lives, done.stdout + done.stderr


# --- oversubscription ---


def test_more_ranks_than_cores_are_found_with_what_to_do(tmp_path):
    ranks = 2 * CORES + 1
    code, found, _ = doctor(ranks, tmp_path)
    assert code == 0  # hpcdist run lets them yield
    assert found["cores"]["level"] == "warn"
    assert f"{ranks} ranks on {CORES} core" in found["cores"]["found"]
    assert "--ntasks-per-node" in found["cores"]["todo"]


def test_more_ranks_than_cores_that_spin_are_a_failure(tmp_path):
    ranks = CORES + 1
    spin = ["--mca", "mpi_yield_when_idle", "0"] if LIBRARY == "Open MPI" else []
    done = run([*mpirun(ranks, *spin), *DOCTOR, "--no-network", "--json", "found.json"], tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    found = read(tmp_path / "found.json")["cores"]
    assert found["level"] == "fail"
    assert f"{ranks} ranks on {CORES} core" in found["found"]
    assert "mpi_yield_when_idle 1" in found["todo"] or "POLLS_BEFORE_YIELD" in found["todo"]


def test_threads_of_all_ranks_are_counted(tmp_path):
    code, found, _ = doctor(2, tmp_path, OMP_NUM_THREADS=str(CORES + 1))
    assert code == 0
    assert f"{2 * (CORES + 1)} threads of 2 ranks" in found["compute threads"]["found"]


# --- storage ---


def test_a_directory_that_cannot_be_made_fails(tmp_path):
    (tmp_path / "file").write_text("")
    code, found, done = doctor(2, tmp_path, "--checkpoint-dir", tmp_path / "file" / "run")
    assert code == 1
    assert "cannot be written by rank 0: Not a directory" in found["directory"]["found"]
    assert "--checkpoint-dir" in found["directory"]["todo"]
    assert "fail  directory" in done.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_fails(tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o500)
    code, found, _ = doctor(2, tmp_path, "--checkpoint-dir", tmp_path / "theirs")
    assert code == 1
    assert "Permission denied" in found["directory"]["found"]


# --- a check that fails or hangs ---

CHECKS = """
import sys, time
from mpi4py import MPI
from hpcdist.doctor.examine import Check, examine
from hpcdist.doctor.finding import Finding
from hpcdist.doctor.job import Job
from hpcdist.doctor.limit import Limit

comm = MPI.COMM_WORLD

def fails_in_a_look(job):
    job.ask("look", lambda: 1 // (job.rank - 1))
    return [Finding("ok", "not", "reached")]

def fails_alone(job):
    job.ask("look", lambda: 1)
    if job.rank == 1:
        raise ValueError("only here")
    job.ask("look again", lambda: 2)
    return [Finding("ok", "not", "reached")]

def fails_alone_at_the_end(job):
    if job.rank == 1:
        raise ValueError("only here, late")
    return [Finding("ok", "not", "reached")]

def fails_everywhere(job):
    raise ValueError("on all")

def works(job):
    return [Finding("ok", "works", str(sum(job.ask("count", lambda: 1))))]

def hangs(job):
    job.ask("nap", lambda: time.sleep(600) if job.rank == 1 else None)
    return []

def report(check):
    if comm.rank == 0:
        print("overdue:", check, flush=True)

names = sys.argv[1:]
job = Job(comm, Limit(3.0 if "hangs" in names else 30.0, report, lambda: comm.Abort(1)))
tell = (lambda finding: print(finding, flush=True)) if comm.rank == 0 else (lambda finding: None)
examine(job, [Check(name, globals()[name]) for name in names], tell, alone=False)
"""


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("fails_in_a_look", "rank 1: ZeroDivisionError"),
        ("fails_alone", "rank 1: ValueError: only here"),
        ("fails_alone_at_the_end", "rank 1: ValueError: only here, late"),
        ("fails_everywhere", "the check itself failed: ValueError: on all"),
    ],
)
def test_a_check_that_fails_is_a_finding_and_the_next_one_follows(check, words, tmp_path):
    done = run([*COMMAND, "run", "-n", "3", "--", sys.executable, "-c", CHECKS, check, "works"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"fail  {check}")
    assert words in done.stdout.replace("\n" + " " * len(f"fail  {check} "), " ")
    assert done.stdout.splitlines()[-1] == "ok    works            3"


def test_a_check_that_hangs_is_named_with_the_rank_and_the_job_ends(tmp_path):
    done = run([*COMMAND, "run", "-n", "3", "--", sys.executable, "-c", CHECKS, "works", "hangs"], tmp_path)
    assert done.returncode != 0
    assert "overdue: hangs" in done.stdout
    assert "does not come back from: nap (check: hangs)" in done.stderr
    assert "rank 1 on" in done.stderr
    assert "rank 2 on" not in done.stderr


def rank(process):
    """The number that the launcher gave a process, or None."""
    try:
        variables = process.environ()
    except psutil.Error:
        return None
    return next((variables[name] for name in launch.RANK_VARIABLES if name in variables), None)


def test_a_rank_that_is_stopped_does_not_hang_the_doctor(tmp_path):
    """Rank 1 is stopped as soon as its checks have begun, as when its host stalls."""
    options = ["--timeout", "6", "--json", "found.json", "--no-network"]
    command = [*COMMAND, "run", "-n", "2", "--", *DOCTOR, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=CLEAN, start_new_session=True, **pipes) as job:
        try:
            first = job.stdout.readline()  # the checks have begun
            (other,) = [each for each in psutil.Process(job.pid).children(recursive=True) if rank(each) == "1"]
            other.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            output, errors = job.communicate(timeout=50)
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    assert time.monotonic() - began < 50
    assert first.startswith("ok    launcher")
    assert job.returncode != 0
    assert "did not come back within 6 s" in output.replace("\n" + " " * 23, " "), output + errors
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["failed"]
    assert found["findings"][-1]["level"] == "fail"


# --- a child of a rank ---


def test_a_child_of_a_rank_is_a_job_of_its_own(tmp_path):
    program = "from mpi4py import MPI\nfrom hpcdist.doctor import probe\nprint(probe.run(probe.HOST).aware)"
    done = run([*COMMAND, "run", "-n", "2", "--", sys.executable, "-c", program], tmp_path)
    assert done.stdout.split() == ["True", "True"], done.stdout + done.stderr
