"""The job scripts as people submit them, but for sizes, to a real Slurm on virtual hosts."""

import csv
import json
from pathlib import Path

import pytest
from virtual_slurm import eventually

SCRIPTS = Path(__file__).parents[2] / "jobscripts"
DONE = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
TWO = ["--nodes=2"]
SMALL = ["--min-bytes", "64", "--max-bytes", "4KiB", "--step-factor", "8", "--time-limit", "0.02"]
TRAIN = ["--model", "softmax", "--batch", "64", "--seed", "5", "--algorithm", "ring"]

pytestmark = pytest.mark.limit(400)


def submit(slurm, name, *flags, arguments=(), env=None):
    return slurm.submit(SCRIPTS / name, *flags, arguments=arguments, env=env)


def complete(slurm, job, seconds=150):
    state = slurm.wait_for(job, *DONE, seconds=seconds)
    assert state == "COMPLETED", slurm.story(job)


def losses(folder):
    """Step -> what was logged of it, but for the time it took."""
    with (folder / "log.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def steps(folder):
    path = folder / "log.csv"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize("launch", ["srun -K --mpi=pmix", "mpirun"])
def test_a_sweep_over_numbers_of_nodes_is_merged_into_one_report(slurm, launch):
    job = submit(slurm, "sweep.sbatch", arguments=SMALL, env={"LAUNCH": launch})
    eventually(lambda: all(task["JobState"] in DONE for task in slurm.tasks(job)), 150)
    assert {task["JobState"] for task in slurm.tasks(job)} == {"COMPLETED"}, slurm.story(job)
    out = slurm.folder / f"sweep-{job}"
    report = json.loads((out / "sweep.json").read_text())
    assert {(row["ranks"], row["nodes"]) for row in report["results"]} == {(2, 2), (4, 4)}
    assert not any(row["wrong"] for row in report["results"])
    rules = json.loads((out / "selection.json").read_text())["rules"]
    assert [(rule["size"], rule["nodes"]) for rule in rules] == [(2, 2), (4, 4)]
    assert {"sweep.csv", "busbw.png", "busbw.svg", "2-nodes.png", "4-nodes.json"} <= {p.name for p in out.iterdir()}


def test_a_sweep_on_more_nodes_than_the_job_has_is_refused(slurm):
    job = submit(slurm, "sweep.sbatch", "--nodes=1", "--array=2")
    slurm.wait_for(job, *DONE)
    assert slurm.job_state(job) == "FAILED"
    assert "raise --nodes" in (slurm.folder / f"sweep-{job}_2.out").read_text()


def test_training_waits_for_tuning_and_uses_its_table(slurm):
    tune = submit(slurm, "tune.sbatch", *TWO, arguments=SMALL)
    table = f"tune-{tune}/selection.json"
    after = [f"--dependency=afterok:{tune}", "--kill-on-invalid-dep=yes"]
    quick = ["--model", "softmax", "--epochs", "1"]
    train = submit(slurm, "train.sbatch", *TWO, *after, arguments=quick, env={"HPCDIST_SELECTION": table})
    complete(slurm, tune)
    complete(slurm, train)
    assert f"{table} says so" in (slurm.folder / f"train-{train}.out").read_text()
    assert json.loads((slurm.folder / f"train-{train}" / "summary.json").read_text())["completed"]


def test_training_is_cancelled_if_tuning_fails(slurm):
    tune = submit(slurm, "tune.sbatch", *TWO, arguments=["--algorithms", "none"])
    train = submit(slurm, "train.sbatch", *TWO, f"--dependency=afterok:{tune}", "--kill-on-invalid-dep=yes")
    assert slurm.wait_for(tune, *DONE) == "FAILED"
    assert slurm.wait_for(train, *DONE) == "CANCELLED"
    assert not (slurm.folder / f"train-{train}").exists()


def test_a_job_with_the_wrong_launcher_fails_and_says_what_to_do(slurm):
    job = submit(slurm, "train.sbatch", *TWO, env={"LAUNCH": "srun --mpi=pmi2"})
    assert slurm.wait_for(job, *DONE) == "FAILED"
    assert "srun --mpi=pmix" in (slurm.folder / f"train-{job}.out").read_text()


@pytest.mark.parametrize("launch", ["srun -K --mpi=pmix", "mpirun"])
def test_training_cut_off_twice_ends_with_the_losses_of_an_uninterrupted_one(slurm, launch):
    arguments = [*TRAIN, "--epochs", "150"]
    whole = submit(slurm, "train.sbatch", *TWO, "--exclusive", arguments=arguments, env={"LAUNCH": launch})
    cut = submit(slurm, "resume.sbatch", *TWO, "--exclusive", arguments=arguments, env={"LAUNCH": launch})
    folder = slurm.folder / f"resume-{cut}"
    for restart in range(2):
        before = steps(folder)
        eventually(lambda so_far=before: steps(folder) > so_far + 30, 90, lambda: slurm.story(cut))
        slurm.exec("scancel", "--batch", "--signal=USR1", cut)
        slurm.start_now(cut)
        assert slurm.show(cut)["Restarts"] == str(restart + 1)
    complete(slurm, cut)
    complete(slurm, whole)
    found, wanted = losses(folder), losses(slurm.folder / f"train-{whole}")
    assert found == wanted
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["completed"]
    assert 0 < summary["resumed_from"] < summary["steps"] == len(found)
    assert (slurm.folder / f"resume-{cut}.out").read_text().count("stopped with a checkpoint; requeueing") == 2


def test_training_is_warned_before_its_time_is_over_and_goes_on_in_another_allocation(slurm):
    arguments = [*TRAIN, "--epochs", "100000"]  # more than any allocation here has time for
    job = submit(slurm, "resume.sbatch", *TWO, "--time=1", "--signal=B:USR1@50", arguments=arguments)
    folder = slurm.folder / f"resume-{job}"
    eventually(lambda: (folder / "stopped.json").exists(), 90, lambda: slurm.story(job))
    slurm.start_now(job)
    done = json.loads(max((folder / "checkpoints").glob("step-*/manifest.json")).read_text())["manifest"]["step"]
    eventually(lambda: steps(folder) > done + 30, 60, lambda: slurm.story(job))
    assert "resumed from" in (slurm.folder / f"resume-{job}.out").read_text()


def test_an_urgent_job_preempts_training_which_goes_on_afterwards(slurm):
    arguments = [*TRAIN, "--epochs", "60"]
    job = submit(slurm, "resume.sbatch", "--nodes=4", "--exclusive", arguments=arguments)
    folder = slurm.folder / f"resume-{job}"
    eventually(lambda: steps(folder) > 30, 90, lambda: slurm.story(job))
    urgent = slurm.submit(slurm.write("urgent.sbatch", "true"), "--partition=urgent", "--nodes=4", "--exclusive")
    complete(slurm, urgent)
    slurm.start_now(job)
    complete(slurm, job)
    assert json.loads((folder / "summary.json").read_text())["resumed_from"] > 0


def test_training_goes_on_on_other_hosts_when_one_dies(slurm):
    arguments = [*TRAIN, "--epochs", "60", "--checkpoint-every", "50"]
    job = submit(slurm, "resume.sbatch", *TWO, arguments=arguments)
    folder = slurm.folder / f"resume-{job}"
    eventually(lambda: steps(folder) > 120, 90, lambda: slurm.story(job))
    victim = slurm.show(job)["BatchHost"]
    slurm.cluster("kill", victim)
    try:
        eventually(lambda: slurm.show(job).get("Restarts") == "1", 90, lambda: slurm.story(job))
        slurm.start_now(job)
        complete(slurm, job)
        assert json.loads((folder / "summary.json").read_text())["resumed_from"] > 0
    finally:
        slurm.cluster("heal", victim)
        eventually(lambda: slurm.node(victim) == "idle", 60)


@pytest.mark.parametrize("launch", ["srun -K --mpi=pmix --cpu-bind=cores", "mpirun"])
def test_every_rank_has_its_own_gpu_first_and_sees_those_of_its_node(slurm, launch):
    flags = [*TWO, "--gpus-per-node=2", "--ntasks-per-node=2", "--cpus-per-task=1"]
    tell = slurm.write("tell.sh", 'echo "$1 $CUDA_VISIBLE_DEVICES $UCX_NET_DEVICES" >> "told-$(hostname)"')
    tell.chmod(0o755)
    env = {"LAUNCH": launch, "PROGRAM": str(tell), "NICS": "card0 card1"}
    job = submit(slurm, "train-gpu.sbatch", *flags, arguments=["hello"], env=env)
    complete(slurm, job)
    for path in (slurm.folder / "told-n1", slurm.folder / "told-n2"):
        assert sorted(path.read_text().splitlines()) == ["hello 0,1 card0", "hello 1,0 card1"]
