"""Live progress in a terminal, a plain line now and then elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 15.0


class Reporter:
    """Shows the mean over agents of the newest metrics; silent where `enabled` is False. A context manager."""

    def __init__(self, task: str, total_steps: int, enabled: bool):
        console = Console(quiet=not enabled)
        self._live = enabled and console.is_terminal
        self._enabled, self._total, self._last_print = enabled, total_steps, -PLAIN_SECONDS
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=6),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task(task, total=total_steps, status="compiling ...")
        if enabled and not self._live:
            print(f"{task}: compiling ...", flush=True)

    def __enter__(self) -> "Reporter":
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def show(self, rows: list[dict[str, Any]], steps_per_second: float) -> None:
        """Report the rows of the newest update, one per agent."""

        def mean(finished: str, estimate: str) -> float:
            values = [row[estimate] if row[finished] is None else row[finished] for row in rows]
            return sum(value or 0.0 for value in values) / len(values)

        steps = rows[0]["env_steps"]
        status = (
            f"return {mean('return', 'return_estimate'):.1f} cost {mean('cost', 'cost_estimate'):.1f} "
            f"multiplier {mean('multiplier', 'multiplier'):.2f} {steps_per_second:,.0f} steps/s"
        )
        self._bar.update(self._task, completed=steps, status=status)
        now = time.monotonic()
        if self._enabled and not self._live and (now - self._last_print > PLAIN_SECONDS or steps >= self._total):
            left = (self._total - steps) * len(rows) / max(steps_per_second, 1e-9)
            print(f"{steps:>12,} / {self._total:,} steps  {status}  {left:5.0f} s left", flush=True)
            self._last_print = now
