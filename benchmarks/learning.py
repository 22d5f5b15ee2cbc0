"""Trains a slate of tasks and sets what was learned beside the published numbers.

    python -m benchmarks.learning --tasks SG6 --algorithms ppo trpo_lagrangian --seeds 0 1 2

All seeds of a task and algorithm train in one program, for as many steps as the Safety Gym paper's runs. Each seed
appends a JSON object to the output; docs/learning.md is written anew from all of them, and says what is missing. A
run that was interrupted goes on where it stopped, and one whose rows are in the output already is left alone.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

import agents
import mjx_safety
from agents import hosts, run_directory
from agents.algorithms import ALGORITHMS
from agents.config import PAPER_TRUST_REGION, choose, preset_name, validate
from agents.lagrange import LAWS
from agents.runner import execute, prepare
from agents.wrappers import EarlyTerminated
from benchmarks import learning_page
from benchmarks.learning_page import Row, budget
from benchmarks.throughput import circumstances

END_STEPS = 150_000  # "the end of training" in the paper: five epochs of 30,000 steps
CURVE_POINTS = 50
CIRCUMSTANCES = "circumstances.json"  # of a run directory: when, where and with what its training began
PAGE = Path(__file__).parent.parent / "docs" / "learning.md"


@dataclasses.dataclass(frozen=True)
class Args:
    """What to train."""

    tasks: tuple[str, ...] = ("SG6",)
    """Slates (SG6, SG18, SG1, SG2, SGPoint, SGCar, SGDoggo) and registered ids."""
    algorithms: tuple[str, ...] = ("trpo_lagrangian",)
    """Names as in `python -m agents.train --algorithm`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Trained together."""
    cost_limits: tuple[float, ...] = (25.0,)
    """Trained together with the seeds."""
    multiplier: str | None = None
    """Law by which ppo_lagrangian, trpo_lagrangian and focops move their multiplier: pid, or adam as the paper has it.
    The preset's by default: pid with cpu and gpu, adam with paper."""
    steps: int | None = None
    """Environment steps of each agent; as many as the paper's without one: 1e7, and 1e8 for Doggo."""
    preset: str | None = None
    """cpu, gpu or paper; by default the one for this machine. Trust region algorithms take their target_kl of 0.01 with
    paper."""
    train: bool = True
    """Otherwise only write the page."""
    run_dir: Path = Path("runs/learning")
    """Directory of the runs; those that are complete are not trained again."""
    output: Path = learning_page.RESULTS
    """File to which one JSON object per agent is appended."""
    page: Path = PAGE
    """The page to write."""


class Run(NamedTuple):
    """One program: all seeds and cost limits of a task and algorithm."""

    task: str
    config: agents.Config
    preset: str
    run_dir: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 some run diverged or could not be continued, 2 refused."""
    args = tyro.cli(Args, prog="python -m benchmarks.learning", description=__doc__, args=argv)
    hosts.split_cpu()
    try:
        runs = plan(args) if args.train else []
    except (ValueError, KeyError, OSError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2
    status = 0
    for run in runs:
        config = run.config
        print(f"{run.run_dir.name}: {len(config.agents)} agents of {config.total_steps:,} steps", flush=True)
        if in_output(run, args.output):
            print(f"{run.run_dir} is in {args.output} already")
            continue
        try:
            rows = train(run)
        except (FloatingPointError, ValueError, OSError) as error:
            print(f"error: {run.run_dir.name}: {error}", file=sys.stderr)
            status = 1
            continue
        args.output.parent.mkdir(parents=True, exist_ok=True)
        run_directory.append_rows(args.output, rows)
    text = learning_page.page(learning_page.read(args.output))
    args.page.write_text(text)
    print(text)
    return status


def plan(args: Args) -> list[Run]:
    """Every run; raises what is wrong with any of them before the first one starts."""
    tasks = [task for name in args.tasks for task in learning_page.SLATES.get(name, (name,))]
    preset = preset_name(args.preset)
    usual = agents.preset(preset).multiplier
    law = choose("multiplier law", args.multiplier or usual, LAWS)
    if args.multiplier and all(name in ALGORITHMS and ALGORITHMS[name].law for name in args.algorithms):
        free = ", ".join(name for name, spec in ALGORITHMS.items() if not spec.law)
        raise ValueError(f"--multiplier {law} is of no use to {', '.join(args.algorithms)}; it is to {free}")
    runs = []
    for task in dict.fromkeys(tasks):
        mjx_safety.make(task)
        for algorithm in dict.fromkeys(args.algorithms):
            settings = {"total_steps": args.steps or budget(task), "seeds": args.seeds, "cost_limits": args.cost_limits}
            spec, method = ALGORITHMS.get(algorithm), algorithm
            if spec and preset == "paper" and spec.step:
                settings["target_kl"] = PAPER_TRUST_REGION
            if spec and not spec.law and law != usual:
                settings["multiplier"], method = law, f"{algorithm}-{law}"
            config = agents.preset(preset, algorithm=algorithm, video_steps=0, **settings)
            validate(config)
            seeds, limits = ("+".join(f"{value:g}" for value in values) for values in (args.seeds, args.cost_limits))
            name = f"{task}-{method}-{preset}-{config.total_steps}-seeds={seeds}-limits={limits}"
            run = Run(task, config, preset, args.run_dir / name)
            run_directory.check_free(run.run_dir, task, config, resume=True)
            runs.append(run)
    return runs


def in_output(run: Run, output: Path) -> bool:
    """Whether the output has a row of every agent of the training in the run's directory."""
    path = run.run_dir / CIRCUMSTANCES
    if not path.exists():
        return False
    date = json.loads(path.read_text())["date"]
    names = "task", "algorithm", "preset", "date", "seed", "cost_limit"
    known = {tuple(row.get(name) for name in names) for row in learning_page.read_all(output)}
    shared = run.task, run.config.algorithm, run.preset, date
    return all((*shared, agent["seed"], agent["cost_limit"]) in known for agent in run.config.agents)


def train(run: Run) -> list[Row]:
    """Train, or go on, or only evaluate once more; the rows say when and with what the training began."""
    prepared = prepare(run.task, run.config, run.run_dir, resume=True)
    path = run.run_dir / CIRCUMSTANCES
    if not path.exists():
        now = {"date": datetime.now(UTC).isoformat(timespec="microseconds"), **circumstances()}
        run_directory.write_atomically(path, json.dumps(now, indent=2) + "\n")
    return rows_of(run, execute(prepared, progress=True))


def rows_of(run: Run, result: agents.Result) -> list[Row]:
    """What each agent of a run has learned."""
    config, num_agents = result.config, len(result.config.agents)
    metrics = {name: values.reshape(-1, num_agents) for name, values in result.metrics.items()}
    timing = [json.loads(line) for line in (result.run_dir / run_directory.TIMING).read_text().splitlines()]
    seconds = sum(row["seconds"] for row in timing)
    steps = config.num_updates * config.batch_size
    shared = {
        "task": run.task,
        "algorithm": config.algorithm,
        "multiplier": config.multiplier,
        "preset": run.preset,
        "steps": steps,
        "agents": num_agents,
        "seconds": seconds,
        "steps_per_second": steps * num_agents / seconds,
        **json.loads((result.run_dir / CIRCUMSTANCES).read_text()),
    }
    last_quarter = slice(-(-3 * config.num_updates // 4), None)
    each = [{name: values[:, i] for name, values in metrics.items()} for i in range(num_agents)]
    return [
        {
            **agent,
            **shared,
            "train": _end(config, metrics),
            "last_quarter_cost": _mean_of_episodes(config, metrics, "cost", last_quarter),
            **{mode: evaluation[mode] for mode in ("stochastic", "deterministic")},
            "curve": _curve(config, metrics),
        }
        for agent, evaluation, metrics in zip(config.agents, result.evaluation, each, strict=True)
    ]


def _end(config: agents.Config, metrics: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over the episodes that finished in the last END_STEPS, or over its steps where none did."""
    last = slice(-max(1, round(END_STEPS / config.batch_size)), None)

    def mean(name: str) -> float:
        if not metrics["episodes"][last].sum():
            return float(np.mean(metrics[f"{name}_estimate"][last]))
        return _mean_of_finished(metrics, name, last)

    return {"return": mean("return"), "cost": mean("cost"), "cost_rate": float(metrics["cost_rate"][-1])}


def _mean_of_finished(metrics: dict[str, np.ndarray], name: str, updates: slice) -> float:
    """Mean of "return" or "cost" over the episodes that finished in these updates; NaN where none did."""
    episodes = metrics["episodes"][updates]
    return float(np.nansum(metrics[name][updates] * episodes) / episodes.sum()) if episodes.sum() else math.nan


def _mean_of_episodes(config: agents.Config, metrics: dict[str, np.ndarray], name: str, updates: slice) -> float | None:
    """Mean of "return" or "cost" of an episode: from all steps, or from what finished where episodes are broken off.

    None where nothing did.
    """
    if ALGORITHMS[config.algorithm].wrapper is not EarlyTerminated:
        return float(np.mean(metrics[f"{name}_estimate"][updates]))
    mean = _mean_of_finished(metrics, name, updates)
    return None if math.isnan(mean) else mean


def _curve(config: agents.Config, metrics: dict[str, np.ndarray]) -> dict[str, list[float | None]]:
    """The learning curve in CURVE_POINTS means over equally many updates."""
    num_updates = len(metrics["env_steps"])
    parts = np.array_split(np.arange(num_updates), min(CURVE_POINTS, num_updates))
    slices = [slice(part[0], part[-1] + 1) for part in parts]
    curve: dict[str, list[float | None]] = {
        name: [float(metrics[name][updates].mean()) for updates in slices]
        for name in ("env_steps", "cost_rate", "multiplier")
    }
    for name in ("return", "cost"):
        curve[name] = [_mean_of_episodes(config, metrics, name, updates) for updates in slices]
    return {
        name: [None if value is None else float(f"{value:.5g}") for value in values] for name, values in curve.items()
    }


if __name__ == "__main__":
    sys.exit(main())
