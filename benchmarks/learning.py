"""Trains a slate of tasks and sets what was learned beside the published numbers.

    python -m benchmarks.learning --tasks SG6 --algorithms ppo ppo_lagrangian --seeds 0 1 2

All seeds of a task and algorithm train in one program, for as many steps as the Safety Gym paper's runs. Each seed
appends a JSON object to the output; docs/learning.md is written anew from all of them, and says what is missing. A
run that was interrupted goes on where it stopped.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import agents
import mjx_safety
from agents import run_directory
from agents.config import validate
from benchmarks import learning_page
from benchmarks.learning_page import Row, budget
from benchmarks.throughput import circumstances

END_STEPS = 150_000  # "the end of training" in the paper: five epochs of 30,000 steps
CURVE_POINTS = 50
PAGE = Path(__file__).parent.parent / "docs" / "learning.md"


@dataclasses.dataclass(frozen=True)
class Args:
    """What to train."""

    tasks: tuple[str, ...] = ("SG6",)
    """Slates (SG6, SG18, SG1, SG2, SGPoint, SGCar, SGDoggo) and registered ids."""
    algorithms: tuple[str, ...] = ("ppo_lagrangian",)
    """Names as in `python -m agents.train --algorithm`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Trained together."""
    cost_limits: tuple[float, ...] = (25.0,)
    """Trained together with the seeds."""
    steps: int | None = None
    """Environment steps of each agent; as many as the paper's without one: 1e7, and 1e8 for Doggo."""
    preset: str | None = None
    """cpu, gpu or paper; by default the one for this machine."""
    train: bool = True
    """Otherwise only write the page."""
    run_dir: Path = Path("runs/learning")
    """Directory of the runs; those that are complete are not trained again."""
    output: Path = learning_page.RESULTS
    """File to which one JSON object per agent is appended."""
    page: Path = PAGE
    """The page to write."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 some run diverged, 2 refused."""
    args = tyro.cli(Args, prog="python -m benchmarks.learning", description=__doc__, args=argv)
    try:
        runs = plan(args) if args.train else []
    except (ValueError, KeyError) as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 2
    status = 0
    for task, config in runs:
        print(f"{task}, {config.algorithm}: {len(config.agents)} agents of {config.total_steps:,} steps", flush=True)
        varied = "+".join(f"{value:g}" for value in (*config.seeds, *config.cost_limits))
        name = f"{task}-{config.algorithm}-{args.preset or 'default'}-{config.total_steps}-{varied}"
        try:
            result = agents.train(task, config, run_dir=args.run_dir / name, resume=True)
        except FloatingPointError as error:
            print(f"error: {task}, {config.algorithm}: {error}", file=sys.stderr)
            status = 1
            continue
        args.output.parent.mkdir(parents=True, exist_ok=True)
        run_directory.append_rows(args.output, rows_of(task, args.preset, result))
    text = learning_page.page(learning_page.read(args.output))
    args.page.write_text(text)
    print(text)
    return status


def plan(args: Args) -> list[tuple[str, agents.Config]]:
    """Tasks and settings of every run; raises what is wrong with any of them before the first one starts."""
    tasks = [task for name in args.tasks for task in learning_page.SLATES.get(name, (name,))]
    runs = []
    for task in tasks:
        mjx_safety.make(task)
        for algorithm in args.algorithms:
            sizes = {"total_steps": args.steps or budget(task), "seeds": args.seeds, "cost_limits": args.cost_limits}
            config = agents.preset(args.preset, algorithm=algorithm, video_steps=0, **sizes)
            validate(config)
            runs.append((task, config))
    return runs


def rows_of(task: str, preset: str | None, result: agents.Result) -> list[Row]:
    """What each agent of a run has learned."""
    config, num_agents = result.config, len(result.config.agents)
    metrics = {name: values.reshape(-1, num_agents) for name, values in result.metrics.items()}
    timing = [json.loads(line) for line in (result.run_dir / run_directory.TIMING).read_text().splitlines()]
    seconds = sum(row["seconds"] for row in timing)
    steps = config.num_updates * config.batch_size
    shared = {
        "task": task,
        "algorithm": config.algorithm,
        "multiplier": config.multiplier,
        "preset": preset or "default",
        "steps": steps,
        "agents": num_agents,
        "seconds": seconds,
        "steps_per_second": steps * num_agents / seconds,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **circumstances(),
    }
    return [
        {
            **agent,
            **shared,
            "train": _end(config, {name: values[:, i] for name, values in metrics.items()}),
            "last_quarter_cost": float(np.mean(metrics["cost_estimate"][-(-3 * config.num_updates // 4) :, i])),
            **{mode: evaluation[mode] for mode in ("stochastic", "deterministic")},
            "curve": _curve({name: values[:, i] for name, values in metrics.items()}),
        }
        for i, (agent, evaluation) in enumerate(zip(config.agents, result.evaluation, strict=True))
    ]


def _end(config: agents.Config, metrics: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over the episodes that finished in the last END_STEPS, or over its steps where none did."""
    last = slice(-max(1, round(END_STEPS / config.batch_size)), None)
    episodes = metrics["episodes"][last]

    def mean(name: str) -> float:
        if not episodes.sum():
            return float(np.mean(metrics[f"{name}_estimate"][last]))
        return float(np.nansum(metrics[name][last] * episodes) / episodes.sum())

    return {"return": mean("return"), "cost": mean("cost"), "cost_rate": float(metrics["cost_rate"][-1])}


def _curve(metrics: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    """The learning curve in CURVE_POINTS means over equally many updates."""
    names = ("env_steps", "return_estimate", "cost_estimate", "cost_rate", "multiplier")
    parts = min(CURVE_POINTS, len(metrics["env_steps"]))
    return {name: [float(f"{part.mean():.5g}") for part in np.array_split(metrics[name], parts)] for name in names}


if __name__ == "__main__":
    sys.exit(main())
