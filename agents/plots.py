"""Learning curves of a run."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from agents.config import Config


def plot_curves(metrics: dict[str, np.ndarray], config: Config, path: Path) -> None:
    """Return, episode cost, cost rate and multiplier against environment steps, one line per agent.

    Args:
        metrics: arrays [updates, agents] as from `run_directory.read_metrics`.
        config: the run's settings.
        path: image file to write.
    """
    figure = Figure(figsize=(10, 6), layout="constrained")
    panels = (("return", "return"), ("cost", "cost"), ("cost_rate", "cost rate"), ("multiplier", "multiplier"))
    axes = figure.subplots(2, 2, sharex=True)
    for axis, (name, title) in zip(axes.flat, panels, strict=True):
        for agent, (seed, cost_limit) in enumerate(config.agents):
            steps, color = metrics["env_steps"][:, agent], f"C{agent % 10}"
            if f"{name}_estimate" in metrics:  # this update's batch, where no episode has finished yet too
                axis.plot(steps, metrics[f"{name}_estimate"][:, agent], color=color, alpha=0.3, linewidth=1)
            axis.plot(steps, metrics[name][:, agent], color=color, label=f"seed {seed}, limit {cost_limit:g}")
        for cost_limit in config.cost_limits if name == "cost" else ():
            axis.axhline(cost_limit, color="black", linestyle="--", linewidth=1)
        axis.set_title(title if name in ("multiplier", "cost_rate") else f"{title} per episode (pale: this batch)")
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("environment steps")
    if len(config.agents) > 1:
        axes[0, 0].legend(fontsize="small")
    figure.savefig(path, dpi=120)
