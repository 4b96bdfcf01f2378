"""Which path device buffers take: the decision, what is known of the MPI library, and what the doctor says of it."""

import json
import os

import pytest

from hpcdist.device import awareness, paths
from hpcdist.device.awareness import UNKNOWN, Awareness
from hpcdist.device.paths import AUTO, AWARE, PEER, STAGED, Facts, decide
from hpcdist.doctor import aware, gpu, probe
from hpcdist.doctor.finding import FAIL, OK, SKIP, WARN
from hpcdist.doctor.probe import Verdict
from hpcdist.errors import ArgumentError

POOL = "rank 1: it lies in a stream-ordered pool"
BLIND = "rank 1: cannot open the memory of rank 0"
ASK_THE_DOCTOR = "no verdict of a probe; `hpcdist doctor` makes one"


def facts(nodes=1, unshareable=None, unopened=None, aware=None, source=ASK_THE_DOCTOR):
    return Facts(nodes, unshareable, unopened, aware, source)


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch):
    for name in (paths.ENVIRONMENT, awareness.ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)


# --- the decision ---


@pytest.mark.parametrize(
    ("known", "path"),
    [
        (facts(), PEER),
        (facts(aware=True), PEER),
        (facts(aware=False), PEER),
        (facts(unopened=BLIND), STAGED),
        (facts(unopened=BLIND, aware=True), STAGED),  # on which one aborts that opens them itself
        (facts(nodes=2, unopened=BLIND, aware=True), AWARE),
        (facts(unopened=BLIND, aware=False), STAGED),
        (facts(unshareable=POOL), STAGED),
        (facts(unshareable=POOL, aware=True), STAGED),  # on which many an MPI that takes device memory crashes
        (facts(nodes=2), STAGED),
        (facts(nodes=2, aware=True), AWARE),
        (facts(nodes=2, aware=False), STAGED),
        (facts(nodes=2, unshareable=POOL, aware=True), STAGED),
    ],
)
def test_auto_prefers_peer_then_aware_then_staged(known, path):
    assert decide(AUTO, known)[0] == path


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (facts(), "the ranks of one node, which can open each other's device memory"),
        (
            facts(nodes=2, aware=True, source="HPCDIST_CUDA_AWARE=1"),
            "this MPI takes device memory (HPCDIST_CUDA_AWARE=1); not by memory of peers: the ranks are on 2 nodes",
        ),
        (
            facts(unopened=BLIND),
            f"staged through host memory: it is not known that this MPI takes device memory ({ASK_THE_DOCTOR}); "
            f"not by memory of peers: {BLIND}",
        ),
        (facts(unshareable=POOL, aware=True), f"staged through host memory: {POOL}"),
        (
            facts(nodes=3, aware=False, source="as a probe has found"),
            "staged through host memory: this MPI does not take device memory (as a probe has found); not by "
            "memory of peers: the ranks are on 3 nodes",
        ),
    ],
)
def test_the_reason_is_in_words(known, why):
    assert decide(AUTO, known)[1] == why


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("unshareable", [None, POOL])
@pytest.mark.parametrize("unopened", [None, BLIND])
@pytest.mark.parametrize("known", [None, False, True])
def test_a_path_that_is_asked_for_is_taken_or_refused_and_never_replaced(nodes, unshareable, unopened, known):
    case = facts(nodes, unshareable, unopened, known)
    possible = {
        STAGED: True,
        AWARE: known is True and not unshareable and not (nodes == 1 and unopened),
        PEER: nodes == 1 and not unshareable and not unopened,
    }
    for path, can_be in possible.items():
        if can_be:
            assert decide(path, case) == (path, "it was asked for")
        else:
            with pytest.raises(ArgumentError, match=f"path='{path}' is not possible: "):
                decide(path, case)


@pytest.mark.parametrize(
    ("path", "case", "said"),
    [
        (PEER, facts(nodes=2), "the ranks are on 2 nodes. Leave the path to 'auto', or take 'staged'"),
        (PEER, facts(unshareable=POOL), f"{POOL}. Leave"),
        (PEER, facts(unopened=BLIND), f"{BLIND}. Leave"),
        (AWARE, facts(unshareable=POOL, aware=True), f"{POOL}. Leave"),
        (AWARE, facts(unopened=BLIND, aware=True), f"{BLIND}. Leave"),
        (AWARE, facts(), "it is not known that this MPI takes device memory"),
        (AWARE, facts(), "set HPCDIST_CUDA_AWARE=1 if you know that it does"),
        (
            AWARE,
            facts(aware=False, source="HPCDIST_CUDA_AWARE=0"),
            "does not take device memory (HPCDIST_CUDA_AWARE=0)",
        ),
    ],
)
def test_a_path_that_is_refused_says_why_and_what_to_do(path, case, said):
    with pytest.raises(ArgumentError) as raised:
        decide(path, case)
    assert said in str(raised.value)


def test_auto_is_what_the_environment_names(monkeypatch):
    assert paths.asked_for(AUTO) == AUTO
    monkeypatch.setenv(paths.ENVIRONMENT, "staged")
    assert paths.asked_for(AUTO) == STAGED
    assert paths.asked_for(AWARE) == AWARE
    assert decide(STAGED, facts()) == (STAGED, "HPCDIST_PATH=staged")
    monkeypatch.setenv(paths.ENVIRONMENT, "")
    assert paths.asked_for(AUTO) == AUTO


def test_a_path_that_there_is_not_is_refused_with_those_that_there_are(monkeypatch):
    with pytest.raises(ArgumentError, match="there is no path 'fast'; choose from auto, staged, aware, peer"):
        decide("fast", facts())
    monkeypatch.setenv(paths.ENVIRONMENT, "fast")
    with pytest.raises(ArgumentError, match=r"there is no path 'fast' \(HPCDIST_PATH\)"):
        decide(paths.asked_for(AUTO), facts())


# --- what is known of the MPI library ---


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library, and an environment with a cache of its own."""
    path = tmp_path / "libmpi.so"
    path.write_text("")
    return str(path), {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_without_a_verdict_nothing_is_known(library):
    assert awareness.known(*library) == UNKNOWN == Awareness(None, ASK_THE_DOCTOR)


@pytest.mark.parametrize("found", [True, False])
def test_a_verdict_is_known_from_then_on(library, found):
    awareness.remember(*library, found)
    known = awareness.known(*library)
    assert (known.aware, known.source) == (found, "as a probe in a process of its own has found")


def test_the_environment_counts_more_than_a_verdict(library):
    path, environment = library
    awareness.remember(path, environment, False)
    assert awareness.known(path, {**environment, "HPCDIST_CUDA_AWARE": "1"}) == Awareness(True, "HPCDIST_CUDA_AWARE=1")
    awareness.remember(path, environment, True)
    assert awareness.known(path, {**environment, "HPCDIST_CUDA_AWARE": "0"}) == Awareness(False, "HPCDIST_CUDA_AWARE=0")
    assert awareness.known(path, {**environment, "HPCDIST_CUDA_AWARE": ""}).aware is True
    with pytest.raises(ValueError, match="HPCDIST_CUDA_AWARE must be 0 or 1, not 'yes'"):
        awareness.known(path, {**environment, "HPCDIST_CUDA_AWARE": "yes"})


@pytest.mark.parametrize(
    "setting", [{"MPICH_GPU_SUPPORT_ENABLED": "0"}, {"UCX_TLS": "tcp"}, {"OMPI_MCA_pml": "ob1"}, {"FI_PROVIDER": "tcp"}]
)
def test_a_verdict_does_not_hold_for_other_settings_of_the_library(library, setting):
    path, environment = library
    awareness.remember(path, environment, True)
    assert awareness.known(path, {**environment, **setting}) == UNKNOWN
    awareness.remember(path, {**environment, **setting}, False)
    assert awareness.known(path, environment).aware is True
    assert awareness.known(path, {**environment, **setting}).aware is False


def test_a_verdict_does_not_hold_for_another_build_or_driver(library, monkeypatch, tmp_path):
    path, environment = library
    awareness.remember(path, environment, True)
    os.utime(path, ns=(1, 1))
    assert awareness.known(path, environment) == UNKNOWN
    awareness.remember(path, environment, True)
    (tmp_path / "version").write_text("NVRM version: 999\n")
    monkeypatch.setattr(awareness, "VERSION", tmp_path / "version")
    assert awareness.driver_version() == "NVRM version: 999"
    assert awareness.known(path, environment) == UNKNOWN


def test_what_has_nothing_to_do_with_it_changes_no_verdict(library):
    path, environment = library
    awareness.remember(path, environment, True)
    rank = {"OMPI_COMM_WORLD_RANK": "3", "SLURM_PROCID": "3", "PMIX_RANK": "3", "OMP_NUM_THREADS": "4"}
    assert awareness.known(path, {**environment, **rank}).aware is True


@pytest.mark.parametrize("text", ["{", "[1, 2]", "{}", '"yes"'])
def test_a_broken_cache_is_an_empty_one(library, text):
    file = awareness.cache_file(library[1])
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert awareness.known(*library) == UNKNOWN
    awareness.remember(*library, True)
    assert awareness.known(*library).aware is True


def test_a_verdict_that_is_neither_true_nor_false_is_none(library):
    file = awareness.cache_file(library[1])
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({awareness.key(*library): "yes"}))
    assert awareness.known(*library) == UNKNOWN


def test_one_node_that_does_not_know_is_enough_not_to_risk_it():
    yes, no = Awareness(True, "yes"), Awareness(False, "no")
    assert awareness.least([yes, yes]) == yes
    assert awareness.least([yes, UNKNOWN]) == UNKNOWN
    assert awareness.least([yes, no, UNKNOWN]) == no


# --- the doctor ---


@pytest.mark.parametrize("found", [True, False, None])
def test_the_doctor_tries_once_and_plans_read_what_it_found(monkeypatch, tmp_path, found):
    tries = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(aware.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(aware, "libraries", lambda: [__file__])
    monkeypatch.setattr(probe, "run", lambda memory: tries.append(memory) or Verdict(found, "tried"))
    assert aware.try_it() == Verdict(found, "tried")
    assert aware.try_it() == Verdict(found, "tried" if found is None else "cached")
    assert tries == [probe.DEVICE] * (2 if found is None else 1)
    assert awareness.known(__file__, os.environ).aware is found


@pytest.mark.parametrize(
    ("asked", "known", "level", "said"),
    [
        (AUTO, facts(), OK, "peer: the ranks of one node"),
        (AUTO, facts(nodes=2, aware=True, source="probe"), OK, "aware: this MPI takes device memory (probe)"),
        (AUTO, facts(nodes=2), WARN, "staged through host memory: it is not known"),
        (AUTO, facts(unopened="GPU peers: 0"), WARN, "not by memory of peers: GPU peers: 0"),
        (STAGED, facts(), OK, "staged: "),
        (AWARE, facts(), FAIL, "HPCDIST_PATH=aware: path='aware' is not possible"),
        ("fast", facts(), FAIL, "there is no path 'fast'"),
    ],
)
def test_the_doctor_tells_which_path_would_be_taken(monkeypatch, asked, known, level, said):
    monkeypatch.setenv(paths.ENVIRONMENT, "" if asked == AUTO else asked)
    finding = gpu.judge_path(asked, known, cupy=True)
    assert (finding.name, finding.level) == ("device path", level)
    assert said in finding.found
    assert bool(finding.why) == (level in (WARN, FAIL))
    assert gpu.judge_path(asked, known, cupy=False).level == SKIP
