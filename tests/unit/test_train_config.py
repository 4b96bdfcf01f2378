"""Settings from TOML and flags, and the log that survives a crash."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hpcdist.device.host import Host
from hpcdist.device.kinds import KINDS, by_name
from hpcdist.train.command import choose_device
from hpcdist.train.config import Config, ConfigError, load, options, parse
from hpcdist.train.log import Log, Row, read


def test_the_effective_configuration_reads_back() -> None:
    config = Config(out='a "quoted"\\path', learning_rate=1e-05, checkpoint_every=7, segment="64KiB")
    assert Config(**parse(config.to_toml())) == config
    assert config.segment_nbytes == 65536


@pytest.mark.parametrize("out", ["c\U0001f600", "\x7f\x01\t", "\u00fc\u2028", 'a"\\u0041'])
def test_every_path_reads_back(out: str) -> None:
    assert parse(Config(out=out).to_toml())["out"] == out


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="out must be text in UTF-8"):
        Config(out="a\udcff")


@pytest.mark.parametrize(("raw", "why"), [(b"\xff\xfe", "not a TOML file"), (b"epoch = 1", "did you mean epochs")])
def test_a_bad_file_is_named(raw: bytes, why: str) -> None:
    with pytest.raises(ConfigError, match=f"here.toml: .*{why}"):
        load(Path("here.toml"), raw)


def test_toml_may_write_a_flag_s_name_and_an_integer_for_a_number() -> None:
    assert parse("checkpoint-every = 20\nmomentum = 0") == {"checkpoint_every": 20, "momentum": 0.0}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("checkpoint_evry = 20", "did you mean checkpoint_every"),
        ("epochs = 1.5", "epochs must be of type int, got 1.5"),
        ("epochs = true", "epochs must be of type int, got True"),
        ('model = "mlp', "not a TOML file"),
    ],
)
def test_a_bad_file_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(text)


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"model must be one of .* got 'cnn'; .*momentum must be .* got 1.5; keep"):
        Config(model="cnn", momentum=1.5, keep=0)


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        Config(**{name: value})


def test_checkpoints_lie_below_the_results_unless_told_otherwise() -> None:
    assert Config(out="here").checkpoints == Path("here/checkpoints")
    assert Config(out="here", checkpoint_dir="there").checkpoints == Path("there")
    assert not {"out", "device", "path"} & set(Config().lasting())


def test_flags_are_made_from_the_settings() -> None:
    seen = {}
    command = click.command()(options(lambda **flags: seen.update(flags)))
    result = CliRunner().invoke(command, ["--checkpoint-every", "20", "--learning-rate", "0.5"])
    assert result.exit_code == 0
    assert {name: value for name, value in seen.items() if value is not None} == {
        "checkpoint_every": 20,
        "learning_rate": 0.5,
    }
    assert "[default: 0.9]" in CliRunner().invoke(command, ["--help"]).output


def test_a_path_is_for_devices() -> None:
    with pytest.raises(ConfigError, match=r"path must be one of auto, .* and auto where the device is cpu, got"):
        Config(path="staged")
    with pytest.raises(ConfigError, match="path must be"):
        Config(device="cuda", path="fast")
    assert Config(device="cuda", path="staged").path == "staged"


def test_kinds_of_devices_are_known_by_name() -> None:
    with pytest.raises(ConfigError, match="device must be one of cpu, cuda, got 'gpu'"):
        Config(device="gpu")
    with pytest.raises(ValueError, match="no kind of device 'gpu'; choose from cpu, cuda"):
        by_name("gpu")
    assert by_name("cpu").kind == "cpu"


@pytest.mark.parametrize(
    ("text", "flag", "chosen"),
    [("", None, []), ('device = "rare"', None, ["rare"]), ('device = "rare"', "cpu", []), ("", "rare", ["rare"])],
)
def test_a_device_is_chosen_before_mpi_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, flag: str | None, chosen: list[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setitem(KINDS, "rare", lambda: seen.append("rare") or Host())
    file = tmp_path / "config.toml"
    file.write_text(text)
    choose_device(file, {"device": flag})
    assert seen == chosen


@pytest.mark.parametrize("text", ["no toml", 'device = "gpu"', "device = 3"])
def test_what_is_wrong_with_a_device_is_told_later(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    choose_device(tmp_path / "config.toml", {"device": None})
    choose_device(tmp_path / "missing.toml", {"device": None})


ROWS = [Row(step, 1, 1 / step, 0.5, 0.1, 0.01, *((0.3, 0.9) if step == 3 else ())) for step in range(1, 6)]


def write(path: Path, rows: list[Row], done: int = 0) -> None:
    log = Log(path, done)
    for row in rows:
        log.append(row)
    log.close()


def test_the_log_reads_back_bit_for_bit(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", ROWS)
    assert read(tmp_path / "log.csv") == ROWS


@pytest.mark.parametrize("torn", range(30))
def test_a_resumed_log_has_every_step_once(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "log.csv"
    write(path, ROWS[:4])
    path.write_bytes(path.read_bytes()[:-torn] if torn else path.read_bytes())  # never into the first two rows
    write(path, ROWS[2:], done=2)
    assert read(path) == ROWS


def test_a_process_that_outlived_its_run_cannot_write_into_the_new_log(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    old = Log(path, 0)
    old.append(ROWS[0])
    new = Log(path, 1)
    old.append(ROWS[1])
    new.append(ROWS[1])
    assert read(path) == ROWS[:2]
    old.close()
    new.close()


def test_a_log_that_is_not_there_begins_where_the_run_does(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", ROWS[3:], done=3)
    assert read(tmp_path / "log.csv") == ROWS[3:]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_told_once_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpcdist.train.log.replacing", lambda path: nullcontext("/dev/null"))
    monkeypatch.setattr("hpcdist.train.log.read", lambda path, last: [])  # /dev/full has no end
    log = Log(Path("/dev/full"), 0)
    log.append(ROWS[0])
    log.append(ROWS[1])
    assert log.failed
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        log.sync()
    log.close()
