"""The settings of a run: one frozen record, from which the flags, the TOML file and their checks are made."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import click

from hpcdist.algorithms import ALLREDUCE, check
from hpcdist.checkpoint.layout import COMPRESSIONS, LAYOUTS
from hpcdist.device import paths
from hpcdist.device.host import CPU
from hpcdist.device.kinds import KINDS
from hpcdist.models import MODELS
from hpcdist.optim.policy import POLICIES
from hpcdist.util.sizes import parse_bytes

AUTO = "auto"
SHARED_MEMORY = "/dev/shm"
FREQUENCIES = ("checkpoint_every", "checkpoint_budget", "checkpoint_mtbf")
BACKGROUND, WAIT = "background", "wait"
PLACES = ("out", "checkpoint_dir", "partner_dir", "resume", "device", "path")  # which may change from start to start


class ConfigError(ValueError):
    """A setting is unknown, or has a value that cannot be used."""


def setting(default: Any, text: str) -> Any:
    """A field with its default, whose type is the setting's type, and its line in the help."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """All settings of a run, checked. What each means stands in its help text.

    Raises:
        ConfigError: naming every setting with a bad value.
    """

    data: str = setting(
        "digits", "Data set: digits; an HDF5 file (see hpcdist data); or .npz or .csv, which is imported first."
    )
    model: str = setting("mlp", f"Model: {', '.join(MODELS)}.")
    epochs: int = setting(6, "Passes over the training set.")
    batch: int = setting(32, "Samples per step, over all ranks together.")
    seed: int = setting(0, "Seed of the first parameters and of the order of the samples.")
    learning_rate: float = setting(0.1, "Peak learning rate.")
    policy: str = setting("cosine", f"Learning rate after the warm-up: {', '.join(POLICIES)}.")
    warmup: int = setting(40, "Steps of linear warm-up.")
    momentum: float = setting(0.9, "Momentum of SGD.")
    weight_decay: float = setting(1e-4, "Weight decay of SGD.")
    algorithm: str = setting(AUTO, f"All-reduce algorithm: {AUTO}, {', '.join(ALLREDUCE)}.")
    segment: str = setting(AUTO, f"Pipeline segment, such as 64KiB; 0 for none, {AUTO} to have it chosen.")
    selection: str = setting("", "Table, written by hpcdist sweep --tune, that auto is looked up in.")
    device: str = setting(CPU, f"Where to compute: {', '.join(KINDS)}.")
    path: str = setting(AUTO, f"How gradients on a device travel: {', '.join(paths.ASKABLE)}.")
    threads: int = setting(0, "BLAS threads per rank; 0 for this rank's share of the cores.")
    out: str = setting("run", "Directory for results.")
    checkpoint_dir: str = setting("", "Directory for checkpoints; empty for OUT/checkpoints.")
    checkpoint_every: int = setting(0, "Steps between checkpoints; 0 for none, but when asked to stop.")
    checkpoint_budget: float = setting(0.0, "Instead: save as often as this share of the time allows, such as 0.01.")
    checkpoint_mtbf: float = setting(0.0, "Instead: save as is best if the run fails every so many hours.")
    checkpoint_layout: str = setting("shards", f"How checkpoints are written: {', '.join(LAYOUTS)}.")
    checkpoint_writers: int = setting(0, "Ranks that write shards; 0 for up to 4 on a node.")
    checkpoint_mode: str = setting(BACKGROUND, f"Whether training goes on meanwhile: {BACKGROUND}, or {WAIT}.")
    checkpoint_compression: str = setting("none", f"Of the arrays in a checkpoint: {', '.join(COMPRESSIONS)}.")
    partner_every: int = setting(0, "Steps between copies of the state in the memory of two nodes; 0 for none.")
    partner_dir: str = setting(SHARED_MEMORY, "Where they lie, in memory that each node has of its own.")
    keep: int = setting(3, "Checkpoints to keep.")
    resume: str = setting("never", "auto: from the newest good checkpoint if any; never; or a PATH of one.")

    def __post_init__(self) -> None:
        # no TOML file can hold bytes that are no characters, as a path may have
        bytes_in = [name for name, value in asdict(self).items() if not _reads(str.encode, str(value))]
        no_text = [(name, "text in UTF-8") for name in bytes_in]
        wrong = [f"{name} must be {what}, got {getattr(self, name)!r}" for name, what in _wrong(self) + no_text]
        if wrong:
            raise ConfigError("; ".join(wrong))

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return Path(self.checkpoint_dir) if self.checkpoint_dir else Path(self.out) / "checkpoints"

    @property
    def segment_nbytes(self) -> int | None:
        """Segment in bytes, None to have it chosen."""
        return None if self.segment == AUTO else parse_bytes(self.segment)

    def lasting(self) -> dict[str, Any]:
        """The settings that a checkpoint takes along: all but places."""
        return {name: value for name, value in asdict(self).items() if name not in PLACES}

    @classmethod
    def after(cls, stored: dict[str, Any], settings: dict[str, Any]) -> Config:
        """The settings of a run that goes on: those that are given, then those of a checkpoint, then the defaults.

        Of how often to save there are several ways, of which one that is given replaces what was stored.
        """
        known = {item.name for item in fields(cls)}
        given_up = FREQUENCIES if any(name in settings for name in FREQUENCIES) else ()
        kept = {name: value for name, value in stored.items() if name in known and name not in given_up}
        return cls(**{**kept, **settings})

    def to_toml(self) -> str:
        """The effective configuration, to be given to `--config` again."""
        return "".join(f"{name} = {_toml(value)}\n" for name, value in asdict(self).items())


def _wrong(config: Config) -> list[tuple[str, str]]:
    """Names of the settings with bad values, and what they must be."""
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "model": (MODELS.__contains__, f"one of {', '.join(MODELS)}"),
        "epochs": (lambda value: value >= 1, "at least 1"),
        "batch": (lambda value: value >= 1, "at least 1"),
        "seed": (lambda value: value >= 0, "at least 0"),
        "learning_rate": (lambda value: 0 < value < math.inf, "a positive number"),
        "policy": (POLICIES.__contains__, f"one of {', '.join(POLICIES)}"),
        "warmup": (lambda value: value >= 0, "at least 0"),
        "momentum": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
        "weight_decay": (lambda value: 0 <= value < math.inf, "at least 0"),
        "algorithm": (
            lambda value: value == AUTO or _reads(check, value),
            f"one of {AUTO}, {', '.join(ALLREDUCE)}, or FILE.py:FUNCTION of yours",
        ),
        "segment": (lambda value: value == AUTO or _reads(parse_bytes, value), f"{AUTO} or a size such as 64KiB"),
        "device": (KINDS.__contains__, f"one of {', '.join(KINDS)}"),
        "path": (
            lambda value: value in paths.ASKABLE and (value == AUTO or config.device != CPU),
            f"one of {', '.join(paths.ASKABLE)}, and {AUTO} where the device is {CPU}",
        ),
        "threads": (lambda value: value >= 0, "at least 0"),
        "out": (bool, "a path"),
        "checkpoint_every": (lambda value: value >= 0, "at least 0"),
        "checkpoint_budget": (
            lambda value: 0 <= value < 1 and not (value and config.checkpoint_every),
            "at least 0 and below 1, and 0 if checkpoint_every is given",
        ),
        "checkpoint_mtbf": (
            lambda value: 0 <= value < math.inf and not (value and config.checkpoint_every),
            "at least 0, and 0 if checkpoint_every is given",
        ),
        "checkpoint_layout": (LAYOUTS.__contains__, f"one of {', '.join(LAYOUTS)}"),
        "checkpoint_writers": (lambda value: value >= 0, "at least 0"),
        "checkpoint_mode": ((BACKGROUND, WAIT).__contains__, f"{BACKGROUND} or {WAIT}"),
        "checkpoint_compression": (
            lambda value: value in COMPRESSIONS and (value == "none" or config.checkpoint_layout != "collective"),
            f"one of {', '.join(COMPRESSIONS)}, and none with the collective layout",
        ),
        "partner_every": (lambda value: value >= 0, "at least 0"),
        "partner_dir": (bool, "a path"),
        "keep": (lambda value: value >= 1, "at least 1, as the newest checkpoint is never removed"),
        "resume": (bool, "auto, never or a path"),
    }
    return [(name, what) for name, (good, what) in checks.items() if not good(getattr(config, name))]


def _reads(read: Callable[[str], object], text: str) -> bool:
    """Whether a text can be read."""
    try:
        read(text)
    except ValueError:
        return False
    return True


def _toml(value: str | int | float) -> str:
    """One value as TOML writes it; its strings are JSON's, but for surrogate pairs and a bare DEL."""
    if not isinstance(value, str):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def load(path: Path, raw: bytes) -> dict[str, Any]:
    """Settings from `raw`, which was read from the TOML file `path`.

    Raises:
        ConfigError: as `parse`, naming the file.
    """
    try:
        return parse(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(text: str) -> dict[str, Any]:
    """Settings from the text of a TOML file, `checkpoint-every = 20` or `checkpoint_every = 20`.

    Raises:
        ConfigError: no TOML, an unknown setting, or a value of the wrong type.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not a TOML file: {error}") from error
    given = {name.replace("-", "_"): value for name, value in table.items()}
    types = {item.name: type(item.default) for item in fields(Config)}
    return {name: _typed(name, value, types) for name, value in given.items()}


def _typed(name: str, value: Any, types: dict[str, type]) -> Any:
    """`value`, if it is of the setting's type; an int will do for a float."""
    if name not in types:
        near = difflib.get_close_matches(name, types, n=1)
        raise ConfigError(f"unknown setting {name}" + (f"; did you mean {near[0]}?" if near else ""))
    if types[name] is float and type(value) is int:
        return float(value)
    if type(value) is not types[name]:
        raise ConfigError(f"{name} must be of type {types[name].__name__}, got {value!r}")
    return value


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command a flag for every setting; a flag that is not used is None."""
    for item in reversed(fields(Config)):
        flag = f"--{item.name.replace('_', '-')}"
        shown = f"{item.metadata['help']} [default: {item.default if item.default != '' else 'none'}]"
        command = click.option(flag, item.name, type=type(item.default), default=None, help=shown)(command)
    return command
