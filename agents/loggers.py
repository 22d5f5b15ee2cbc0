"""Metrics for viewers: TensorBoard and Weights & Biases, each imported only when it is asked for."""

import importlib.util
import json
import uuid
from pathlib import Path
from typing import Any, Protocol

from agents.config import Config, label, slug

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


class Logger(Protocol):
    """Where rows of metrics.jsonl go besides that file."""

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Log rows, update by update and agent by agent."""

    def close(self) -> None:
        """Wait until everything is written."""


def check(names: tuple[str, ...]) -> None:
    """Raise an ImportError if the package of one of the loggers is missing."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            package = PACKAGES[name]
            raise ImportError(f"--{name} needs {package}, which is not installed: pip install {package}")


def open_loggers(names: tuple[str, ...], run_dir: Path, task: str | None, config: Config, done: int) -> list[Logger]:
    """The loggers of a run that continues after `done` updates."""
    return [{"tensorboard": TensorBoard, "wandb": WandB}[name](run_dir, task, config, done) for name in names]


class TensorBoard:
    """Event files under RUN_DIR/tensorboard, one directory per agent."""

    def __init__(self, run_dir: Path, task: str | None, config: Config, done: int):
        from tensorboardX import SummaryWriter

        next_step = (done + 1) * config.batch_size  # what a killed run had logged beyond its checkpoint is dropped
        self._agents = [
            SummaryWriter(str(run_dir / "tensorboard" / slug(agent)), purge_step=next_step) for agent in config.agents
        ]

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Log rows, update by update and agent by agent."""
        for i, row in enumerate(rows):
            for name, value in _numbers(row).items():
                self._agents[i % len(self._agents)].add_scalar(name, value, row["env_steps"])

    def close(self) -> None:
        """Wait until everything is written."""
        for writer in self._agents:
            writer.close()


class WandB:
    """One Weights & Biases run per agent, grouped by run directory; its own environment variables apply."""

    def __init__(self, run_dir: Path, task: str | None, config: Config, done: int):
        import wandb  # pyright: ignore[reportMissingImports]

        ids_file = run_dir / "wandb.json"
        if not ids_file.exists():
            ids_file.write_text(json.dumps([uuid.uuid4().hex[:8] for _ in config.agents]))
        settings = {"task": task, **vars(config)}
        self._agents = [
            wandb.init(
                id=run_id,
                resume="allow",
                group=run_dir.name,
                name=f"{run_dir.name}: {label(agent)}",
                config=settings | agent,
                dir=run_dir,
                reinit="create_new",
            )
            for run_id, agent in zip(json.loads(ids_file.read_text()), config.agents, strict=True)
        ]

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Log rows, update by update and agent by agent."""
        for i, row in enumerate(rows):
            self._agents[i % len(self._agents)].log(_numbers(row), step=row["env_steps"])

    def close(self) -> None:
        """Wait until everything is written."""
        for run in self._agents:
            run.finish()


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if value is not None and name not in ("seed", "env_steps")}
