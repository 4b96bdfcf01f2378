"""Starting a run: find where to go on, see that it fits, and only then take the checkpoint directory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpcdist.checkpoint import Checkpoint, DamagedCheckpoint, Fence, committed, look, newest
from hpcdist.checkpoint.partner import Recovery
from hpcdist.checkpoint.writer import set_aside
from hpcdist.train.config import AUTO, Config
from hpcdist.train.trainer import Execution, Trainer

Saved = Checkpoint | Recovery  # a state on the file system, or in the memory of the nodes

# With another value, the steps done and the steps to come would not be of the same run.
SAME = ("model", "batch", "seed")


class ResumeError(ValueError):
    """The run cannot go on from there, or would mix two histories in one directory."""


@dataclass(frozen=True)
class Start:
    """How a run starts.

    Attributes:
        config: The effective settings.
        checkpoint: Where to go on, or None from the beginning.
        notes: What the user should know.
    """

    config: Config
    checkpoint: Saved | None
    notes: list[str]


def begin(settings: dict[str, Any], fence: Fence | None = None) -> Start:
    """Start, or start again, a run with these settings; others come from the checkpoint. On one rank.

    Args:
        settings: Fields of `Config` that are not to have their defaults.
        fence: The claim by which damaged checkpoints are set aside; without it, nothing is changed on the disk.

    Raises:
        ResumeError: it would mix two histories.
        DamagedCheckpoint: the checkpoint asked for by its path is damaged.
        ConfigError: a setting is wrong.
    """
    config = Config(**settings)
    asked = None if config.resume in ("auto", "never") else look_asked(Path(config.resume))
    refuse_to_mix(config, asked)
    checkpoint, damaged = newest(config.checkpoints) if config.resume == "auto" else (asked, [])
    if fence:
        for error in damaged:
            set_aside(fence, error.path)
    notes = [f"{error}; set aside" for error in damaged]
    refuse_to_forget(config, checkpoint, damaged)
    return go_on(settings, checkpoint, notes) if checkpoint else Start(config, None, notes)


def go_on(settings: dict[str, Any], checkpoint: Saved, notes: list[str]) -> Start:
    """Start from a checkpoint, with its settings where others are not given.

    Raises:
        ResumeError: it is of another run, or was computed elsewhere and nobody says that this is meant.
    """
    effective = Config.after(checkpoint.facts["configuration"], settings)
    refuse_to_move(settings, checkpoint, effective)
    return Start(effective, checkpoint, notes + changes(checkpoint, effective))


def refuse_to_move(settings: dict[str, Any], checkpoint: Saved, config: Config) -> None:
    """See that a run does not come to another device, for which it may take a hundred times as long, by a slip.

    The device is not taken from the checkpoint, as it must be chosen before MPI starts.
    """
    before = stored_execution(checkpoint).device
    if "device" not in settings and before != config.device:
        raise ResumeError(
            f"{checkpoint.path} was computed with --device {before}: give that again, or --device {config.device} to "
            "go on there"
        )


def refuse_to_forget(config: Config, checkpoint: Checkpoint | None, damaged: list[DamagedCheckpoint]) -> None:
    """See that a run whose checkpoints are all damaged is not begun again from nothing without a word."""
    lost = [error.path.name for error in damaged] + sorted(
        path.name for path in config.checkpoints.glob("step-*.damaged-*")
    )
    if config.resume == AUTO and checkpoint is None and lost:
        raise ResumeError(
            f"no checkpoint in {config.checkpoints} is whole: {', '.join(lost)} are damaged, or could not be read from "
            "here; hpcdist checkpoint verify says what is wrong. To begin anew, remove them, or give --resume never"
        )


def look_asked(path: Path) -> Checkpoint:
    """The checkpoint that was asked for by its path.

    Raises:
        ResumeError: it is the directory above.
    """
    below = committed(path)
    if below:
        raise ResumeError(
            f"--resume {path} is a directory of checkpoints: give one of them, such as {below[-1]}, or "
            f"--resume auto with --checkpoint-dir {path}"
        )
    return look(path)


def refuse_to_mix(config: Config, asked: Checkpoint | None) -> None:
    """See that no checkpoint of another history would be newer than this run's first."""
    if config.resume == "auto":
        return
    done = asked.step if asked else 0
    others = [path for path in committed(config.checkpoints) if not asked or not path.samefile(asked.path)]
    newer = [path.name for path in others if int(path.name.removeprefix("step-")) >= done]
    if newer:
        raise ResumeError(
            f"{config.checkpoints} holds checkpoints of a run that went further than step {done}: "
            f"{', '.join(newer)}; go on with --resume auto, give another --checkpoint-dir, or "
            "remove them"
        )


def changes(checkpoint: Saved, config: Config) -> list[str]:
    """Settings that differ from the checkpoint's, for the user.

    Raises:
        ResumeError: one that must not.
    """
    before, now = {**Config().lasting(), **checkpoint.facts["configuration"]}, config.lasting()
    changed = {name: f"{name} {before[name]!r} -> {now[name]!r}" for name in now if before[name] != now[name]}
    wrong = [text for name, text in changed.items() if name in SAME]
    if wrong:
        raise ResumeError(
            f"{checkpoint.path} is of another run: {', '.join(wrong)}; use its settings, or start anew in "
            "another --checkpoint-dir"
        )
    return [f"changed since the checkpoint: {', '.join(changed.values())}"] if changed else []


def execution(config: Config, ranks: int, threads: int, checkpoint: Saved | None) -> Execution:
    """How to add up gradients: as before the checkpoint, if ranks, device and wishes are the same."""
    fresh = Execution(ranks, config.algorithm, config.segment_nbytes, None, config.threads or threads, config.device)
    if checkpoint is None:
        return fresh
    before, now = {**Config().lasting(), **checkpoint.facts["configuration"]}, config.lasting()
    wishes = ("algorithm", "segment", "selection", "threads")
    stored = stored_execution(checkpoint)
    same = (stored.ranks, stored.device) == (ranks, config.device)
    return stored if same and all(before[name] == now[name] for name in wishes) else fresh


def stored_execution(checkpoint: Saved) -> Execution:
    """How the gradients were added up before `checkpoint`."""
    stored = checkpoint.facts["execution"]
    return Execution(**{**stored, "topology": tuple(stored["topology"])})


def check(trainer: Trainer, checkpoint: Saved) -> None:
    """See that `checkpoint` fits the trainer's model, data and random numbers.

    Raises:
        ResumeError: saying what does not.
    """
    facts = checkpoint.facts
    if checkpoint.step > trainer.total:
        raise ResumeError(
            f"{checkpoint.path} is {checkpoint.step} steps along, and --epochs {trainer.config.epochs} ends "
            f"after {trainer.total}"
        )
    if facts["data"]["digest"] != trainer.data.digest:
        raise ResumeError(
            f"{checkpoint.path} was trained on other data: {facts['data']['path']} had the digest "
            f"{facts['data']['digest']}, {trainer.data.path} has {trainer.data.digest}"
        )
    shapes = {name: (values.shape, values.dtype.str) for name, values in trainer.arrays().items()}
    stored = {name: (entry.shape, entry.dtype) for name, entry in checkpoint.manifest.arrays.items()}
    if shapes != stored:
        raise ResumeError(f"{checkpoint.path} holds {stored}, the model needs {shapes}")
    drawn = trainer.sampler.random_state(checkpoint.step)
    if drawn != facts["random"]:
        raise ResumeError(
            f"{checkpoint.path}: the order of the samples would be another than before, {drawn} instead of "
            f"{facts['random']}; is it another release of NumPy?"
        )


def placement_notes(checkpoint: Saved, used: Execution, found: tuple[int, ...]) -> list[str]:
    """What differs in the machine, and what that means for the bits.

    Args:
        checkpoint: Where the run goes on.
        used: How the gradients are added up now.
        found: Node of every rank as it is now.
    """
    before = stored_execution(checkpoint)
    if used.ranks != before.ranks:
        return [f"on {used.ranks} ranks after {before.ranks}: equal to rounding, not bit for bit"]
    if used.device != before.device:
        return [f"on the device {used.device} after {before.device}: equal to rounding, not bit for bit"]
    if used != before:
        old, new = asdict(before), asdict(used)
        changed = ", ".join(f"{name} {old[name]} -> {new[name]}" for name in old if old[name] != new[name])
        return [f"gradients are added up in another order ({changed}): equal to rounding, not bit for bit"]
    if found != before.topology:
        return [f"nodes of the ranks are {found}, were {before.topology}: adding up in the old order"]
    return []
