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
from agents import evaluation, run_directory
from agents.config import Config, preset
from agents.policy import load_policies
from agents.runner import describe, evaluation_key, execute, prepare

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclasses.dataclass(frozen=True)
class TrainArgs:
    """Train agents on a safety task, then evaluate and film them."""

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
        run = prepare(args.task, args.config, args.run_dir, args.resume)
    except (ValueError, KeyError, OSError) as error:
        return _refuse(error)
    try:
        execute(*run, progress=True)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        run_dir = run[-1]
        print(f"\ninterrupted; continue with: python -m agents.train --run-dir {run_dir} --resume", file=sys.stderr)
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
    agents = describe(args.run_dir, config, episodes)
    evaluation.write(args.run_dir / "evaluation.json", task, agents)
    print(evaluation.report(agents))
    return 0


def _parse_train(argv: list[str]) -> TrainArgs:
    """Two passes: the first finds where the defaults come from, a preset or the run to resume."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--run-dir", type=Path)
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(argv)
    task, config = None, preset(known.preset)
    if known.resume and known.run_dir and (known.run_dir / run_directory.CONFIG).exists():
        task, saved = run_directory.read_config(known.run_dir)
        config = config if known.preset else saved
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
        fields = [f.name for part in (TrainArgs, Config, EvaluateArgs) for f in dataclasses.fields(part)]
        near = difflib.get_close_matches(unknown[0], ["--" + name.replace("_", "-") for name in fields], n=1)
        hint = f"; did you mean {near[0]}?" if near else ", see --help"
        raise ValueError(f"unknown option {unknown[0]}{hint}")
    return args


def _refuse(error: Exception) -> int:
    message = error.args[0] if isinstance(error, KeyError) and error.args else error  # str(KeyError) adds quotes
    print(f"error: {message}", file=sys.stderr)
    return 2
