"""Which algorithm "auto" means: tables, and prices where no table speaks."""

import json

import pytest

from hpcdist.algorithms import ALLREDUCE, allreduce
from hpcdist.simulate import cost
from hpcdist.tuning.auto import ENVIRONMENT, NOT_BY_PRICE, choose_by_price, loaded, resolve
from hpcdist.tuning.table import Bracket, Rule, Selection

MODEL = cost.Model(1e-6, 1e-10, 1e-11)
RULE = Rule(4, 2, "float32", (Bracket(1024, "tree", 0), Bracket(4096, "direct", 512), Bracket(None, "ring", 65536)))
TABLE = Selection((RULE,), MODEL, {"date": "2026-01-02"}, "a.json")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture
def written(tmp_path):
    """The table in a file, and its path."""
    TABLE.write(tmp_path / "a.json")
    return tmp_path / "a.json"


@pytest.mark.parametrize(
    ("nbytes", "algorithm", "segment"),
    [
        (0, "tree", 0),
        (1024, "tree", 0),
        (1025, "direct", 512),
        (4096, "direct", 512),
        (1 << 40, "ring", 65536),
    ],
)
def test_the_first_bracket_that_holds_is_taken(nbytes, algorithm, segment):
    choice = TABLE.choose(4, 2, "float32", nbytes)
    assert (choice.algorithm, choice.segment_nbytes) == (algorithm, segment)


def test_a_choice_says_why():
    assert TABLE.choose(4, 2, "float32", 9).why == (
        "a.json says so for 4 ranks on 2 nodes and float32 buffers up to 1 KiB"
    )
    assert TABLE.choose(4, 2, "float32", 9999).why.endswith("float32 buffers of any size")


def test_a_type_of_the_same_width_stands_in_and_the_reason_says_so():
    choice = TABLE.choose(4, 2, "int32", 9)
    assert choice.algorithm == "tree"
    assert "float32, of the same width as int32," in choice.why


def test_the_type_itself_goes_before_one_of_the_same_width():
    own = Rule(4, 2, "int32", (Bracket(None, "halving_doubling"),))
    assert Selection((RULE, own)).choose(4, 2, "int32", 9).algorithm == "halving_doubling"


def test_a_bracket_that_the_type_itself_lacks_is_looked_up_in_its_stand_in():
    own = Rule(4, 2, "int32", (Bracket(8, "halving_doubling"),))
    assert Selection((own, RULE)).choose(4, 2, "int32", 9).algorithm == "tree"


@pytest.mark.parametrize(("size", "nodes", "dtype"), [(5, 2, "float32"), (4, 1, "float32"), (4, 2, "float64")])
def test_another_case_is_none_of_the_table_s_business(size, nodes, dtype):
    assert TABLE.choose(size, nodes, dtype, 9) is None


def test_a_table_reads_as_it_was_written(written):
    table = Selection.load(written)
    assert (table.rules, table.model, table.provenance) == (TABLE.rules, TABLE.model, TABLE.provenance)
    assert table.path == str(written)


@pytest.mark.parametrize("given", ["argument", "path", "environment"])
def test_a_table_comes_by_argument_path_or_environment(given, written, monkeypatch):
    if given == "environment":
        monkeypatch.setenv(ENVIRONMENT, str(written))
    table = {"argument": TABLE, "path": written, "environment": None}[given]
    assert resolve(loaded(table), 4, (0, 0, 1, 1), "float32", 9).algorithm == "tree"


def test_an_argument_goes_before_the_environment(written, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "/nowhere")
    assert resolve(loaded(written), 4, (0, 0, 1, 1), "float32", 9).algorithm == "tree"


def test_without_a_rule_the_table_s_own_model_decides():
    choice = resolve(TABLE, 3, (0, 0, 0), "float32", 1 << 20)
    assert choice.algorithm == choose_by_price(3, (0, 0, 0), 1 << 20, MODEL).algorithm
    assert choice.why.startswith("a.json has no rule for 3 ranks on 1 node and float32; lowest predicted time")


@pytest.mark.parametrize("nbytes", [8, 4096, 1 << 26])
@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_the_price_chosen_is_the_lowest(size, nbytes):
    choice = choose_by_price(size, None, nbytes, MODEL)
    flat = set(ALLREDUCE) - {"hierarchical"} - NOT_BY_PRICE
    prices = {name: cost.predict(allreduce(name, size), nbytes, MODEL) for name in flat}
    assert prices[choice.algorithm] == min(prices.values())
    assert f"{choice.algorithm} {prices[choice.algorithm] * 1e6:.4g} us" in choice.why
    assert choice.why.count(" us") == 3


@pytest.mark.parametrize("topology", [None, (0, 0, 0, 0), (0, 1, 2, 3)])
def test_hierarchical_is_no_choice_where_there_is_no_hierarchy(topology):
    assert "hierarchical" not in choose_by_price(4, topology, 1 << 26, cost.DEFAULT).why


def test_hierarchical_is_a_choice_where_nodes_hold_several_ranks():
    slow_between_nodes = cost.Model(1e-3, 1e-6, 0.0, node_alpha=1e-9, node_beta=1e-12)
    assert choose_by_price(8, (0, 1) * 4, 1 << 20, slow_between_nodes).algorithm == "hierarchical"


def test_without_any_table_the_default_prices_decide():
    topology = (0, 0, 1, 1)
    assert resolve(None, 4, topology, "float32", 64) == choose_by_price(4, topology, 64, cost.DEFAULT)


def edited(change):
    """The table's JSON with one thing changed."""
    document = {
        "hpcdist_selection": 1,
        "rules": [
            {
                "size": 4,
                "nodes": 2,
                "dtype": "float32",
                "choose": [
                    {"max_bytes": 8, "algorithm": "ring", "segment_nbytes": 0},
                    {"max_bytes": None, "algorithm": "ring"},
                ],
            }
        ],
        "model": {"alpha": 1e-6, "beta": 0, "gamma": 0},
    }
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("change", "place", "wanted"),
    [
        (lambda d: d.update(hpcdist_selection=9), "hpcdist_selection", "9"),
        (lambda d: d.update(hpcdist_selection=True), "hpcdist_selection", "Expected `int`, got `bool`; found True"),
        (lambda d: d.update(provenance=7), "provenance", "Expected `object | null`, got `int`; found 7"),
        (lambda d: d["rules"][0].update(choose=[]), "rules[0].choose", "Expected `array` of length >= 1; found []"),
        (lambda d: d.update(rules={}), "rules", "Expected `array`, got `object`; found {}"),
        (lambda d: d["rules"].append(3), "rules[1]", "Expected `object`, got `int`; found 3"),
        (lambda d: d["rules"][0].pop("size"), "rules[0]", "Object missing required field `size`"),
        (lambda d: d["rules"][0].update(nodes=True), "rules[0].nodes", "Expected `int`, got `bool`; found True"),
        (lambda d: d["rules"][0].update(dtype="half"), "rules[0].dtype", "one of float64, float32"),
        (lambda d: d["rules"][0].update(dtype=[]), "rules[0].dtype", "Expected `str`, got `array`; found []"),
        (lambda d: d["rules"][0]["choose"].reverse(), "rules[0].choose", "in ascending order"),
        (lambda d: d["rules"][0]["choose"][0].update(algorithm=[]), "choose[0].algorithm", "Expected `str`"),
        (lambda d: d["rules"][0]["choose"][1].update(max_bytes=-1), "choose[1].max_bytes", ">= 0; found -1"),
        (lambda d: d.update(model=[1]), "model", "Expected `object | null`, got `array`; found [1]"),
        (lambda d: d["rules"][0].update(memory=3), "rules[0].memory", "Expected `str`, got `int`; found 3"),
        (
            lambda d: d["rules"][0].update(path="auto"),
            "rules[0].path",
            "staged, aware, peer; found 'auto'",
        ),
    ],
)
def test_a_malformed_table_is_refused_with_file_place_and_what_was_expected(change, place, wanted, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(edited(change))
    with pytest.raises(ValueError, match=r"bad\.json: ") as raised:
        Selection.load(path)
    assert f"{place}: " in str(raised.value)
    assert wanted in str(raised.value)
    assert str(raised.value).endswith("; hpcdist sweep --tune writes such tables")


def test_an_unknown_algorithm_is_refused_with_those_there_are(tmp_path):
    (tmp_path / "bad.json").write_text(edited(lambda d: d["rules"][0]["choose"][1].update(algorithm="rign")))
    with pytest.raises(ValueError, match=r"bad\.json: rules\[0\].choose\[1\].algorithm: .*'rign'; choose from ring"):
        Selection.load(tmp_path / "bad.json")


def test_a_malformed_model_is_refused_with_the_file(tmp_path):
    (tmp_path / "bad.json").write_text(edited(lambda d: d["model"].update(alpha=-1)))
    with pytest.raises(ValueError, match=r"bad\.json: model: .*alpha must be a number of seconds >= 0, not -1"):
        Selection.load(tmp_path / "bad.json")


def test_what_is_no_json_is_refused(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json: no JSON .*; hpcdist sweep --tune"):
        Selection.load(tmp_path / "bad.json")


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"rules": ' * 100_000, b"\xff{}"])
def test_what_is_nested_too_deeply_or_no_text_is_refused(tmp_path, text):
    (tmp_path / "bad.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"bad\.json: "):
        Selection.load(tmp_path / "bad.json")


@pytest.mark.parametrize("table", [5, 0, b"a.json", ["a.json"]])
def test_what_is_neither_table_nor_path_is_refused(table):
    with pytest.raises(TypeError, match="a selection is a Selection, the path of its file, or None"):
        loaded(table)


def test_a_table_that_is_not_there_is_an_error_and_no_default():
    with pytest.raises(FileNotFoundError):
        loaded("/nowhere/table.json")


DEVICE_RULES = (
    Rule(4, 2, "float32", (Bracket(None, "direct"),), "cuda", "staged"),
    Rule(4, 2, "float32", (Bracket(None, "shared"),), "cuda", "peer"),
)


@pytest.mark.parametrize("rules", [(RULE, *DEVICE_RULES), (*DEVICE_RULES, RULE)], ids=["host first", "host last"])
@pytest.mark.parametrize(
    ("where", "algorithm"),
    [((), "tree"), (("host", "host"), "tree"), (("cuda", "staged"), "direct"), (("cuda", "peer"), "shared")],
)
def test_host_buffers_and_each_path_of_device_buffers_have_rules_of_their_own(rules, where, algorithm):
    assert Selection(rules).choose(4, 2, "float32", 9, *where).algorithm == algorithm
    assert resolve(Selection(rules), 4, (0, 0, 1, 1), "float32", 9, *where).algorithm == algorithm


def test_rules_for_device_buffers_are_nothing_to_host_buffers_nor_the_other_way_round():
    assert Selection(DEVICE_RULES).choose(4, 2, "float32", 9) is None
    assert TABLE.choose(4, 2, "float32", 9, "cuda", "staged") is None
    assert Selection(DEVICE_RULES).choose(4, 2, "float32", 9, "cuda", "aware") is None
    assert Selection(DEVICE_RULES).choose(4, 2, "int32", 9, "cuda", "peer").algorithm == "shared"


def test_a_reason_says_where_device_buffers_lie_and_how_they_travel():
    assert Selection(DEVICE_RULES, path="a.json").choose(4, 2, "float32", 9, "cuda", "staged").why == (
        "a.json says so for 4 ranks on 2 nodes and float32 buffers of any size in cuda memory, path staged"
    )
    missing = resolve(TABLE, 4, (0, 0, 1, 1), "float32", 8, "cuda", "peer").why
    assert missing.startswith("a.json has no rule for 4 ranks on 2 nodes and float32 in cuda memory, path peer; lowest")


def test_memory_and_path_are_written_and_read(tmp_path):
    Selection((RULE, *DEVICE_RULES)).write(tmp_path / "a.json")
    assert Selection.load(tmp_path / "a.json").rules == (RULE, *DEVICE_RULES)


def test_a_rule_that_tells_nothing_of_memory_is_one_for_host_buffers(tmp_path):
    (tmp_path / "a.json").write_text(edited(lambda document: None))
    (rule,) = Selection.load(tmp_path / "a.json").rules
    assert (rule.memory, rule.path) == ("host", "host")
