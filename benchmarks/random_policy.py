"""Uniform random actions beside the original's: return, cost and each cost's share, task by task.

    python -m benchmarks.random_policy --tasks PointGoal1 CarButton2 --episodes 1000

The original's figures are means over 130 episodes (Safety Gym, November 2019, on C MuJoCo). Costs are very skewed, most
episodes have none, so a difference is read in its standard errors: `z`, with our standard deviation where the
original's is not known. Results are appended as JSON lines; `docs/` shows them.
"""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import mjx_safety
from agents.run_directory import append_rows
from benchmarks.throughput import check_output, circumstances, moment
from mjx_safety import checks

ORIGINAL = Path(__file__).parent / "original" / "random_policy.json"
BATCH = 1000  # episodes that run side by side


@dataclasses.dataclass(frozen=True)
class Args:
    """What to measure."""

    tasks: tuple[str, ...] = tuple(json.loads(ORIGINAL.read_text()))
    """Ids of benchmark tasks."""
    episodes: int = 1000
    """Episodes of each task; rounded up to batches of 1000."""
    seed: int = 0
    """Of layouts and actions."""
    output: Path = Path("benchmarks/results/random_policy.jsonl")
    """File to which one JSON object per task is appended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all within three standard errors, 1 not all, 2 refused."""
    args = tyro.cli(Args, prog="python -m benchmarks.random_policy", description=__doc__, args=argv)
    original = json.loads(ORIGINAL.read_text())
    unknown = [task for task in args.tasks if task not in original]
    if unknown or args.episodes < 2:
        fault = "episodes must be at least 2."
        if unknown:
            fault = f"no recorded figures of {', '.join(unknown)}.{checks.nearest(unknown[0], original)}"
        print(f"error: {fault}", file=sys.stderr)
        return 2
    check_output(args.output)
    worst = 0.0
    for task in args.tasks:
        now = moment()
        row = {"task": task} | compare(play(task, args.episodes, args.seed), original[task]) | now | circumstances()
        append_rows(args.output, [row])
        measures = (
            f"{name} {x['ours']:.3g} / {x['original']:.3g} (z {x['z']:+.1f})" for name, x in row["means"].items()
        )
        print(f"{task}: {', '.join(measures)}; {row['steps_per_s']:,.0f} steps/s", flush=True)
        worst = max(worst, *(abs(x["z"]) for x in row["means"].values()))
    print(f"largest difference: {worst:.1f} standard errors")
    return int(worst > 3)


def play(task: str, episodes: int, seed: int) -> dict[str, Any]:
    """Totals of every episode under uniform random actions: float [episodes] by name, and the steps per second."""
    env = mjx_safety.make(task)

    @jax.jit
    def batch(key: jax.Array) -> dict[str, jax.Array]:
        layout_key, action_key = jax.random.split(key)
        states = jax.vmap(env.reset)(jax.random.split(layout_key, BATCH))

        def step(carry, key):
            states, totals = carry
            actions = jax.random.uniform(key, (BATCH, env.action_size), minval=-1.0, maxval=1.0)
            states = jax.vmap(env.step)(states, actions)
            new = {"return": states.reward, "cost": states.cost, "goals": states.goal_met, **states.costs}
            return (states, jax.tree.map(jnp.add, totals, new)), None

        zero = jnp.zeros(BATCH)
        totals = {"return": zero, "cost": zero, "goals": zero, **dict.fromkeys(states.costs, zero)}
        keys = jax.random.split(action_key, env.task.num_steps)
        return jax.lax.scan(step, (states, totals), keys)[0][1]

    keys = jax.random.split(jax.random.key(seed), -(-episodes // BATCH))
    run = batch.lower(keys[0]).compile()
    start = time.perf_counter()
    totals = [jax.device_get(run(key)) for key in keys]
    rate = len(keys) * BATCH * env.task.num_steps / (time.perf_counter() - start)
    return {"totals": {name: np.concatenate([t[name] for t in totals]) for name in totals[0]}, "steps_per_s": rate}


def compare(played: dict[str, Any], original: dict[str, Any]) -> dict[str, Any]:
    """Means of ours and of the original, and their difference in standard errors."""
    totals, num = played["totals"], original["episodes"]
    known = {
        "return": (original["return_mean"], original["return_std"]),
        "cost": (original["cost_mean"], original["cost_std"]),
        "goals": (original["goals_mean"], None),
        **{name: (mean, None) for name, mean in original["cost_parts"].items()},
    }
    means = {}
    for name, (mean, std) in known.items():
        ours = totals[name]
        own = float(ours.std(ddof=1))
        error = math.sqrt(own**2 / len(ours) + (own if std is None else std) ** 2 / num)
        difference = float(ours.mean()) - mean
        z = difference / error if error else 0.0 if not difference else math.inf
        means[name] = {"ours": float(ours.mean()), "original": mean, "std": own, "z": z}
    return {"episodes": len(totals["return"]), "steps_per_s": played["steps_per_s"], "means": means}


if __name__ == "__main__":
    sys.exit(main())
