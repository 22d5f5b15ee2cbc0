"""Task ids: `make`, `register`, `registered`."""

import dataclasses
from typing import Any

from mjx_safety import checks, suite
from mjx_safety.env import Env, Impl
from mjx_safety.task import Task

_TASKS: dict[str, Task] = dict(suite.TASKS)


def registered() -> tuple[str, ...]:
    """Ids of all tasks, those of Safety Gym first."""
    return tuple(_TASKS)


def register(task_id: str, task: Task) -> None:
    """Makes `task` known to `make` under `task_id`.

    Raises:
      TypeError: `task` is not a Task, or its id no string.
      ValueError: the id is taken.
    """
    if not isinstance(task_id, str):
        raise TypeError(f"register got the id {task_id!r}; it takes a string, such as 'Warehouse'.")
    if not isinstance(task, Task):
        raise TypeError(f"register({task_id!r}, ...) got a {type(task).__name__}; it takes a mjx_safety.Task.")
    if task_id in _TASKS:
        raise ValueError(f"Task id {task_id!r} is taken; choose another one.")
    _TASKS[task_id] = task


def make(task_id: str, *, impl: Impl = "jax", **overrides: Any) -> Env:
    """The environment of a registered task.

    Args:
      task_id: such as "PointGoal1", or under its original name "Safexp-PointGoal1-v0".
      impl: what computes the physics, "jax" or "warp"; see `Env`.
      **overrides: fields of `Task` to replace.

    Raises:
      ImportError: MuJoCo Warp is not installed.
      ValueError: unknown id, impl or field, or a value that the task does not allow; names the nearest match.
    """
    if not isinstance(task_id, str):
        raise ValueError(f"make got {task_id!r}; it takes a task id such as 'PointGoal1'. For a Task use Env(task).")
    name = task_id
    if task_id not in _TASKS and task_id.startswith("Safexp-"):
        name = task_id.removeprefix("Safexp-").removesuffix("-v0")
    if name not in _TASKS:
        raise ValueError(f"Unknown task {task_id!r}.{checks.nearest(name, _TASKS)} Known tasks: {', '.join(_TASKS)}.")
    fields = [field.name for field in dataclasses.fields(Task)]
    for field in overrides:
        if field not in fields:
            raise ValueError(
                f"Task has no field {field!r}.{checks.nearest(field, fields)} Fields: {', '.join(fields)}."
            )
    return Env(dataclasses.replace(_TASKS[name], **overrides), impl)
