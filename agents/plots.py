"""Learning curves of a run."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from agents import aggregate
from agents.config import Config, label


def plot_curves(metrics: dict[str, np.ndarray], config: Config, path: Path) -> None:
    """Return, episode cost, cost rate and multiplier against environment steps, one line per setting.

    A line over several seeds is their interquartile mean, its band the 95 % bootstrap interval; beside the line of a
    single seed, pale, is each update's own batch.

    Args:
        metrics: arrays [updates, agents] as from `run_directory.read_metrics`.
        config: the run's settings.
        path: image file to write.
    """
    figure = Figure(figsize=(10, 6), layout="constrained")
    panels = {
        "return": "return per episode",
        "cost": "cost per episode",
        "cost_rate": "cost rate",
        "multiplier": "multiplier",
    }
    axes = figure.subplots(2, 2, sharex=True)
    steps, num_seeds = metrics["env_steps"][:, 0], len(config.seeds)
    for axis, (name, title) in zip(axes.flat, panels.items(), strict=True):
        for i, setting in enumerate(config.settings):
            color, seeds = f"C{i % 10}", slice(i * num_seeds, (i + 1) * num_seeds)
            middle, low, high = aggregate.band(metrics[name][:, seeds].T)
            axis.plot(steps, middle, color=color, label=label(setting))
            if num_seeds > 1:
                axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
            elif f"{name}_estimate" in metrics:
                axis.plot(steps, metrics[f"{name}_estimate"][:, i], color=color, alpha=0.3, linewidth=1)
        for cost_limit in config.cost_limits if name == "cost" else ():
            axis.axhline(cost_limit, color="black", linestyle="--", linewidth=1)
        axis.set_title(title)
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("environment steps")
    if len(config.settings) > 1:
        axes[0, 0].legend(fontsize="small")
    if num_seeds > 1:
        figure.suptitle(f"{num_seeds} seeds: interquartile mean and 95 % bootstrap interval", fontsize="medium")
    figure.savefig(path, dpi=120)
