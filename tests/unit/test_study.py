"""The verbs that need no MPI: what they refuse, and by which prices they choose."""

import json

import pytest
from click.testing import CliRunner

from hpcdist.cli.main import main
from hpcdist.simulate import cost
from hpcdist.tuning.auto import ENVIRONMENT
from hpcdist.tuning.table import Bracket, Rule, Selection


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def invoke(*arguments):
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "-n", "5-3"], "the smaller one first"),
        (["verify", "-n", "0"], "from 1 to 131072"),
        (["verify", "-n", "\u00b2"], "is no list of numbers of ranks"),
        (["verify", "-n", "\u0664"], "is no list of numbers of ranks"),
        (["verify", "-n", "4,"], "is no list of numbers of ranks"),
        (["verify", "ring", "-n", "1000000000"], "from 1 to 131072"),
        (["verify", "direct", "-n", "20000"], "direct on 20000 ranks has 8.0e+08 transfers"),
        (["show", "ring", "-n", "4", "--figure", "ring"], "must end in .png, .svg or .pdf"),
        (["show", "ring", "-n", "4", "--figure", "ring.jpg"], "must end in .png, .svg or .pdf"),
        (["show", "ring", "-n", "2", "--topology", "0,1", "--ranks-per-node", "1"], "give one of them"),
        (["predict", "-n", "2", "--topology", "0,1", "--ranks-per-node", "1"], "give one of them"),
    ],
)
def test_usage_errors_exit_with_2_and_say_why(arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("\u2502", "").split())


def test_sizes_are_proven():
    assert "ring: proven for 4 sizes (2,4-6)" in invoke("verify", "ring", "-n", "2,4-6").output


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_figure_is_where_it_is_said_to_be_and_folders_are_made(suffix, start, tmp_path):
    path = tmp_path / "new" / f"ring{suffix}"
    result = invoke("show", "ring", "-n", "3", "--figure", str(path))
    assert f"drawn to {path}" in result.output
    assert path.read_bytes().startswith(start)


def test_hierarchical_is_priced_only_where_the_nodes_are_known():
    flat = invoke("predict", "-n", "4").output
    assert all(head in flat for head in ("sent [x nbytes]", "time [us]", "busbw [GB/s]"))
    assert "hierarchical: not priced: it needs the ranks' nodes, by --ranks-per-node or --topology" in flat
    assert flat.count("hierarchical") == 1
    for option in (["--ranks-per-node", "2"], ["--topology", "0,0,1,1"]):
        assert "not priced" not in invoke("predict", "-n", "4", *option).output


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The path of a table named by the environment: alpha is 7 us, and 5 ranks on 5 nodes take the tree."""
    path = tmp_path / "t.json"
    rule = Rule(5, 5, "float32", (Bracket(None, "tree"),))
    Selection((rule,), cost.Model(7e-6, 0.0, 0.0)).write(path)
    monkeypatch.setenv(ENVIRONMENT, str(path))
    return path


def test_an_explanation_is_priced_by_the_table_that_chooses(table):
    output = invoke("predict", "-n", "5", "--explain").output
    assert output.startswith("alpha 7 us")
    assert f"these are the prices of {table}" in output
    assert "auto: tree, because" in output


@pytest.mark.parametrize("price", ["0", "2e-6"])
def test_prices_that_are_given_go_before_the_table(table, price):
    output = invoke("predict", "-n", "5", "--explain", "--alpha", price).output
    assert output.startswith(f"alpha {float(price) * 1e6:.3g} us")
    assert "not asked, as prices were given" in output
    assert "prices of" not in output


def test_what_goes_with_a_price_that_is_given_is_not_taken_from_a_model(tmp_path):
    """It would be of another network."""
    model = tmp_path / "sweep.json"
    fitted = {
        "alpha": 8e-6,
        "lone_alpha": 2e-6,
        "gap": 1e-6,
        "beta": 1e-9,
        "pair_beta": 2e-9,
        "burst": 4096,
        "burst_beta": 5e-10,
    }
    model.write_text(json.dumps({"model": fitted}))

    def words(*options):
        said = invoke("predict", "-n", "5", "--model", str(model), *options).output
        return " ".join(said.partition(", gamma")[0].split())

    assert words() == (
        "alpha 8 us, alone 2 us, further ones 1 us each, "
        "beta 1e+03 ps/B, between two that send to each other 2e+03 ps/B, 4 KiB saved up at 500 ps/B"
    )
    assert words("--alpha", "3e-6").startswith("alpha 3 us, alone 3 us, beta 1e+03 ps/B, between two that send to")
    assert words("--beta", "3e-9") == (
        "alpha 8 us, alone 2 us, further ones 1 us each, "
        "beta 3e+03 ps/B, between two that send to each other 3e+03 ps/B"
    )


def test_without_an_explanation_the_table_is_not_read(table):
    table.write_text("{")
    assert invoke("predict", "-n", "5").exit_code == 0
    broken = invoke("predict", "-n", "5", "--explain")
    assert broken.exit_code == 1
    assert "no JSON" in broken.output
