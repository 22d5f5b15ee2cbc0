"""Command lines: `python -m agents.train` and `python -m agents.evaluate`."""

import argparse
import contextlib
import dataclasses
import difflib
import io
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

import mjx_safety
from agents import evaluation, hosts, run_directory
from agents.config import Config, preset
from agents.loggers import PACKAGES
from agents.policy import load_policies
from agents.runner import evaluation_key, execute, prepare, write_evaluation

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclasses.dataclass(frozen=True)
class TrainArgs:
    """Train agents on a safety task, all in one program, then evaluate and film them."""

    task: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="TASK")]
    """Registered id, for example PointGoal1; may be left out with --resume."""
    config: tyro.conf.OmitArgPrefixes[Config]
    """Settings; the defaults shown are those of the chosen preset."""
    run_dir: Path | None = None
    """Directory to write; runs/<task>-<time> without one."""
    resume: Flag = False
    """Continue the run in --run-dir, with the settings saved there."""
    preset: str | None = None
    """cpu, gpu or paper; by default the one for this machine."""
    devices: int | None = None
    """Devices of each host to use; all of them without one. No effect on results."""
    coordinator: str | None = None
    """HOST:PORT of the first of several hosts, given to each; "auto" under Slurm, Open MPI or on Cloud TPU."""
    num_processes: int | None = None
    """How many processes there are, one per host; not with "auto"."""
    process_id: int | None = None
    """Which of them this one is, from 0 on the coordinator's host; not with "auto"."""
    tensorboard: Flag = False
    """Also write event files for TensorBoard; needs tensorboardX."""
    wandb: Flag = False
    """Also log to Weights & Biases; needs wandb."""


@dataclasses.dataclass(frozen=True)
class EvaluateArgs:
    """Evaluate the agents of a run; print the table and write evaluation.json."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """Run directory."""
    episodes: int = 100
    """Episodes per agent."""
    deterministic: Flag = False
    """Take mean actions only; by default both sampled and mean actions are evaluated."""


def train_command(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 diverged, 2 refused, 130 interrupted."""
    try:
        args = _parse_train(sys.argv[1:] if argv is None else list(argv))
        if args.task is None:
            raise ValueError("name a task, for example: python -m agents.train PointGoal1; see --help")
        loggers = tuple(name for name in PACKAGES if getattr(args, name))
        run = prepare(args.task, args.config, args.run_dir, args.resume, args.devices, loggers)
    except (ValueError, KeyError, OSError, ImportError) as error:
        return _refuse(error)
    try:
        execute(run, progress=True)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except run_directory.DamagedRun as error:
        return _refuse(error)
    except KeyboardInterrupt:
        flags = "".join(f" --{name}" for name in loggers)
        again = f"python -m agents.train --run-dir {run.run_dir} --resume{flags}"
        print(f"\ninterrupted; continue with: {again}", file=sys.stderr)
        return 130
    return 0


def evaluate_command(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 refused."""
    try:
        args = _parse("python -m agents.evaluate", EvaluateArgs, sys.argv[1:] if argv is None else list(argv))
        if args.episodes < 1:
            raise ValueError(f"episodes must be a positive integer, got {args.episodes}")
        task, config = run_directory.read_config(args.run_dir)
        if task is None:
            raise ValueError(f"{args.run_dir} was trained on an environment without an id: use agents.evaluation")
        policies, env = load_policies(args.run_dir), mjx_safety.make(task)
    except (ValueError, KeyError, OSError) as error:
        return _refuse(error)
    modes = ("deterministic",) if args.deterministic else evaluation.MODES
    episodes, _ = evaluation.run_episodes(env, policies, evaluation_key(), args.episodes, modes, config=config)
    write_evaluation(args.run_dir, task, config, policies, episodes, progress=True)
    return 0


def _parse_train(argv: list[str]) -> TrainArgs:
    """Two passes: the first joins other hosts, and finds where the defaults come from, a preset or a run to resume."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset")
    first.add_argument("--run-dir", "--run_dir", type=Path)  # tyro takes either
    first.add_argument("--resume", action="store_true")
    first.add_argument("--coordinator")
    first.add_argument("--num-processes", "--num_processes", type=int)
    first.add_argument("--process-id", "--process_id", type=int)
    try:
        known, _ = first.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    # Before anything asks for a device, which the choice of a preset does.
    if known.coordinator is None:  # else the first host's cores would take all, and leave the others without work
        hosts.split_cpu()
    hosts.initialize(known.coordinator, known.num_processes, known.process_id)
    task, config = None, preset(known.preset)

    def saved() -> tuple[str | None, Config] | None:
        there = known.resume and known.run_dir and (known.run_dir / run_directory.CONFIG).exists()
        return run_directory.read_config(known.run_dir) if there else None

    if found := hosts.on_first(saved):
        task, config = found[0], config if known.preset else found[1]
    return _parse("python -m agents.train", TrainArgs, argv, TrainArgs(task, config))


def _parse(prog: str, kind, argv: list[str], default=None):
    """tyro.cli, with what it has to say about a mistake as a ValueError of one sentence."""
    complaint = io.StringIO()
    defaults = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            args, unknown = tyro.cli(kind, prog=prog, args=argv, return_unknown_args=True, **defaults)
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro draws a box: a title, the sentence, a rule, then advice.
        lines = [line.strip("│╭╮╰╯ ") for line in complaint.getvalue().splitlines()[1:]]
        parts = itertools.groupby(lines, key=lambda line: bool(line.strip("─-")))
        raise ValueError(" ".join(next(part for is_text, part in parts if is_text))) from None
    if unknown:
        parts = (TrainArgs, Config) if kind is TrainArgs else (kind,)
        fields = [f.name for part in parts for f in dataclasses.fields(part) if f.name not in ("task", "config")]
        near = difflib.get_close_matches(unknown[0], ["--" + name.replace("_", "-") for name in fields], n=1)
        hint = f"; did you mean {near[0]}?" if near else ", see --help"
        raise ValueError(f"unknown option {unknown[0]}{hint}")
    return args


def _refuse(error: Exception) -> int:
    message = error.args[0] if isinstance(error, KeyError) and error.args else error  # str(KeyError) adds quotes
    print(f"error: {message}", file=sys.stderr)
    return 2
