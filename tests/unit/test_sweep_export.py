"""Tuning files of MPI libraries from sweeps of their own algorithms."""

import json
import shlex
import subprocess
import sys
from datetime import datetime

import pytest
from click.testing import CliRunner
from sweep_records import pair, record

from hpcdist.cli.main import main
from hpcdist.sweep.export import mpich_json, openmpi_classic, openmpi_json, ucc
from hpcdist.sweep.export.table import summary, table
from hpcdist.sweep.record import Report, write_json
from hpcdist.tuning.table import Bracket

OWN = {"algorithm=MPIR_Allreduce_intra_own": {}}
BASE = {
    "collective=bcast": {"algorithm=MPIR_Bcast_intra_binomial": {}},
    "collective=allreduce": {"comm_type=intra": OWN, "comm_type=inter": {"algorithm=other": {}}},
}
TWO = {4: (Bracket(4096, "recursive_doubling"), Bracket(None, "ring"))}


def swept(times, **fields):
    """Records of 4 ranks on a node from {algorithm: {nbytes: microseconds}}."""
    fields = {"ranks": 4, "nodes": 1, "segment_nbytes": None, "library": "Open MPI v5.0.0", **fields}
    return [row for name, line in times.items() for n, us in line.items() for row in pair(name, n, (us, us), **fields)]


BOTH = swept(
    {
        "library:recursive_doubling": {1024: 5, 16384: 80},
        "library:ring": {1024: 10, 16384: 40},
        "MPI_Allreduce": {1024: 10, 16384: 20},
        "halving_doubling": {1024: 1, 16384: 1},
    }
)


# --- what is the fastest? ---


def test_the_fastest_of_the_librarys_own_algorithms_is_taken_and_none_of_ours():
    assert table(BOTH, openmpi_classic.FORMAT) == TWO


def test_the_librarys_own_choice_is_kept_until_another_is_clearly_faster():
    rows = swept({"library:auto": {8: 1.02, 16: 2, 32: 1.02}, "library:ring": {8: 1, 16: 1, 32: 1}})
    assert table(rows, openmpi_classic.FORMAT) == {4: (Bracket(8, "auto"), Bracket(None, "ring"))}


def test_each_number_of_ranks_has_its_own_rule_and_a_lone_rank_none():
    times = {"library:ring": {8: 1}}
    found = table([*swept(times), *swept(times, ranks=8), *swept(times, ranks=1)], openmpi_classic.FORMAT)
    assert list(found) == [4, 8]


def test_an_algorithm_that_was_ever_wrong_is_not_written():
    rows = [*BOTH, *swept({"library:basic_linear": {1024: 1}}, wrong=1), *swept({"library:basic_linear": {16384: 1}})]
    assert table(rows, openmpi_classic.FORMAT) == TWO


def test_the_best_segment_is_taken():
    rows = [
        row for n in (1 << 16, 1 << 20) for row in swept({"library:segmented_ring": {1 << 22: n}}, segment_nbytes=n)
    ]
    assert table(rows, openmpi_classic.FORMAT) == {4: (Bracket(None, "segmented_ring", 1 << 16),)}


def test_what_a_format_cannot_name_is_left_out():
    rows = [*BOTH, *swept({"library:new": {1024: 1, 16384: 1}})]
    assert table(rows, openmpi_classic.FORMAT) == TWO


@pytest.mark.parametrize(
    ("rows", "form", "message"),
    [
        ([record(), record("MPI_Allreduce")], openmpi_classic, r"measure them: .* --library-algorithms --json"),
        (swept({"library:ring": {8: 1}}, ranks=1), openmpi_classic, "on several ranks"),
        (swept({"library:ring": {8: 1}}, wrong=3), openmpi_classic, "measure them"),
        (BOTH, mpich_json, "for MPICH, and the algorithms measured are those of .*Open MPI v5.0.0"),
        (swept({"library:ring": {8: 1}}), ucc, "can name none of what was measured: library:ring"),
        (
            [*BOTH, *swept({"library:ring": {8: 1}}, nodes=2)],
            openmpi_classic,
            "4 ranks .* on 1 and on 2 nodes.*--nodes",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_with_what_to_do(rows, form, message):
    with pytest.raises(ValueError, match=message):
        table(rows, form.FORMAT)


def test_one_number_of_nodes_can_be_chosen():
    rows = [*BOTH, *swept({"library:nonoverlapping": {8: 1}}, nodes=2)]
    assert table(rows, openmpi_classic.FORMAT, nodes=2) == {4: (Bracket(None, "nonoverlapping"),)}
    with pytest.raises(ValueError, match="on 3 nodes"):
        table(rows, openmpi_classic.FORMAT, nodes=3)


def test_the_summary_says_what_is_gained_and_warns_of_what_is_lost():
    first, second = summary(TWO, BOTH)
    assert (
        first
        == "4 ranks, up to 4 KiB: recursive_doubling, 2.00 times as fast as the library's own choice (2.00 to 2.00)"
    )
    assert second.startswith("4 ranks, any size: ring, 0.50 times as fast")
    assert "SLOWER" in second
    assert summary(TWO, [row for row in BOTH if row.algorithm != "MPI_Allreduce"])[0].endswith("recursive_doubling")


# --- Open MPI ---


def numbers(text):
    """The numbers of a classic file, without its comments."""
    return [int(word) for line in text.splitlines() for word in line.partition("#")[0].split()]


def test_classic_rules_leave_other_numbers_of_ranks_to_the_library():
    text = openmpi_classic.write(TWO)
    own = [1, 0, 0, 0, 0]
    assert numbers(text) == [1, 2, 3, 0, *own, 4, 2, 0, 3, 0, 0, 4097, 4, 0, 0, 5, *own]


def test_classic_rules_of_neighbouring_numbers_of_ranks_follow_each_other():
    text = openmpi_classic.write({5: (Bracket(None, "ring"),), 4: (Bracket(None, "segmented_ring", 65536),)})
    own = [1, 0, 0, 0, 0]
    assert numbers(text) == [1, 2, 4, 0, *own, 4, 1, 0, 5, 0, 65536, 5, 1, 0, 4, 0, 0, 6, *own]


def test_json_rules_cover_the_sizes_without_gap_or_overlap():
    document = json.loads(openmpi_json.write(TWO))
    assert (document["rule_file_version"], document["module"]) == (3, "tuned")
    (rule,) = document["collectives"]["allreduce"]
    assert (rule["comm_size_min"], rule["comm_size_max"]) == (4, 4)
    assert rule["rules"] == [
        {"msg_size_min": 0, "msg_size_max": 4096, "alg": "recursive_doubling"},
        {"msg_size_min": 4097, "msg_size_max": "inf", "alg": "ring"},
    ]


def test_json_rules_leave_out_the_librarys_own_choice_and_name_segments():
    made = openmpi_json.write({4: (Bracket(64, "auto"), Bracket(None, "segmented_ring", 65536))})
    (rule,) = json.loads(made)["collectives"]["allreduce"][0]["rules"]
    assert rule == {"msg_size_min": 65, "msg_size_max": "inf", "alg": "segmented_ring", "seg_size": 65536}


# --- MPICH ---


def mpich(tmp_path, chosen):
    (tmp_path / "base.json").write_text(json.dumps(BASE))
    return json.loads(mpich_json.write(chosen, tmp_path / "base.json"))


def test_mpich_keeps_everything_but_the_all_reduces_that_were_measured(tmp_path):
    document = mpich(tmp_path, {4: (Bracket(64, "nb"), Bracket(None, "ring"))})
    assert document["collective=bcast"] == BASE["collective=bcast"]
    assert document["collective=allreduce"]["comm_type=inter"] == {"algorithm=other": {}}
    tree = document["collective=allreduce"]["comm_type=intra"]
    assert list(tree) == ["comm_size<4", "comm_size<=4", "comm_size=any"]
    assert tree["comm_size<4"] == tree["comm_size=any"] == tree["comm_size<=4"]["is_op_built_in=no"] == OWN
    assert tree["comm_size<=4"]["is_op_built_in=yes"] == {
        "avg_msg_size<=64": {"algorithm=MPIR_Allreduce_allcomm_nb": {}},
        "avg_msg_size=any": {"algorithm=MPIR_Allreduce_intra_ring": {}},
    }


def test_mpich_takes_an_algorithm_only_where_it_fits_and_with_its_parameters(tmp_path):
    brackets = (Bracket(64, "smp"), Bracket(256, "auto"), Bracket(None, "k_reduce_scatter_allgather"))
    document = mpich(tmp_path, {4: brackets})
    small, middle, large = document["collective=allreduce"]["comm_type=intra"]["comm_size<=4"][
        "is_op_built_in=yes"
    ].values()
    assert small == {"comm_hierarchy=flat": OWN, "comm_hierarchy=parent": {"algorithm=MPIR_Allreduce_intra_smp": {}}}
    assert middle == large["count<pow2"] == OWN
    leaf = large["count=any"]["algorithm=MPIR_Allreduce_intra_k_reduce_scatter_allgather"]
    assert leaf == {"k=2": {}, "single_phase_recv=0": {}}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"collective=allreduce": {}}'])
def test_a_base_that_is_none_is_refused_by_name(tmp_path, text):
    (tmp_path / "base.json").write_text(text)
    with pytest.raises(ValueError, match=r"base\.json"):
        mpich_json.write({4: (Bracket(None, "ring"),)}, tmp_path / "base.json")


# --- UCC ---


def test_ucc_shares_its_names_among_several_algorithms():
    brackets = (Bracket(64, "recexch"), Bracket(4096, "recursive_doubling"), Bracket(None, "rabenseifner"))
    assert ucc.write({4: brackets}) == (
        "UCC_TL_UCP_TUNE=allreduce:0-4096:host:[4-4]:@knomial#allreduce:4096-inf:host:[4-4]:@sra_knomial\n"
    )


# --- the command ---


@pytest.fixture
def sweep_file(tmp_path):
    machine = {"ranks": 4, "mpi": "Open MPI v5.0.0"}
    write_json(tmp_path / "sweep.json", Report(datetime(2026, 1, 2), ["hpcdist"], machine, {}, {"alpha": 1e-6}, BOTH))
    return tmp_path / "sweep.json"


def export(*arguments):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_the_command_writes_the_file_and_says_how_to_use_it(sweep_file, tmp_path):
    done = export(sweep_file, "--format", "openmpi-classic", "-o", tmp_path / "new" / "rules.conf")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new" / "rules.conf").read_text() == openmpi_classic.write(TWO)
    assert f"export OMPI_MCA_coll_tuned_dynamic_rules_filename={tmp_path}/new/rules.conf" in done.output


def test_a_sweep_of_our_algorithms_alone_is_an_error_and_no_file(tmp_path):
    machine = {"ranks": 8, "mpi": "Open MPI v5.0.0"}
    write_json(tmp_path / "s.json", Report(datetime(2026, 1, 2), ["hpcdist"], machine, {}, {}, pair()))
    done = export(tmp_path / "s.json", "--format", "ucc", "-o", tmp_path / "rules")
    assert done.exit_code == 1
    assert "s.json: no algorithm of the MPI library itself" in done.output
    assert "--library-algorithms" in done.output
    assert not (tmp_path / "rules").exists()


def test_a_base_for_a_format_without_one_is_a_usage_error(sweep_file, tmp_path):
    done = export(sweep_file, "--format", "ucc", "-o", tmp_path / "rules", "--base", sweep_file)
    assert done.exit_code == 2
    assert "--base is for mpich-json" in done.output


def test_the_command_needs_no_mpi(sweep_file, tmp_path):
    arguments = ["export", str(sweep_file), "--format", "openmpi-json", "-o", str(tmp_path / "rules.json")]
    program = f"import sys; sys.modules['mpi4py'] = None; from hpcdist.cli.main import main; main({arguments})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, shlex.join(done.args) + done.stderr
