"""Several processes, one program: who writes, and how the others learn what was read or went wrong."""

import contextlib
import os
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes of a run; does nothing without a coordinator.

    Args:
        coordinator: "host:port" of process 0, or "auto" where JAX can tell by itself (Slurm, Open MPI, Cloud TPU).
        num_processes: how many there are; None with "auto".
        process_id: which one this is, from 0; None with "auto".

    Raises:
        ValueError: some of the three are missing.
    """
    if coordinator == "auto":
        return jax.distributed.initialize()
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ValueError("several hosts need --coordinator HOST:PORT, --num-processes N and --process-id I together")
    if coordinator is not None:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    return None


def split_cpu() -> None:
    """Make every core a device: most of a batch's step runs on one core of a device. Before any device is used.

    Does nothing where XLA_FLAGS or JAX_NUM_CPU_DEVICES have said how many there are, or devices are in use already.
    """
    if jax.config.jax_num_cpu_devices > 0 or "device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # in use
        jax.config.update("jax_num_cpu_devices", num_cores())


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_devices(num_devices: int | None) -> list[Any]:
    """The first `num_devices` of every process, or all.

    Raises:
        ValueError: a process has fewer.
    """
    by_process: dict[int, list[Any]] = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    fewest = min(map(len, by_process.values()))
    if num_devices is not None and not 1 <= num_devices <= fewest:
        raise ValueError(f"devices must be from 1 to the {fewest} that there are, got {num_devices}")
    return [device for devices in by_process.values() for device in devices[:num_devices]]


def is_first() -> bool:
    """Whether this process writes files, prints and evaluates."""
    return jax.process_index() == 0


def on_first(function: Callable[[], T]) -> T:
    """Call `function` in process 0 alone; every process gets its result, or raises what it raised.

    The result is pickled, so that only process 0 needs to reach the files.
    """
    if jax.process_count() == 1:
        return function()
    outcome = b""
    if is_first():
        try:
            outcome = pickle.dumps((function(), None))
        except Exception as error:  # whatever it is, the others must not wait for ever
            outcome = pickle.dumps((None, _portable(error)))
    result, error = _broadcast(outcome)
    if error is not None:
        raise error
    return result


def _portable(error: Exception) -> Exception:
    """The error if it outlives pickling, which many with arguments of their own do not, else one that says the same."""
    try:
        same = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a class does when it is rebuilt
        same = None
    return error if type(same) is type(error) else RuntimeError(f"{type(error).__name__}: {error}")


def _broadcast(pickled: bytes) -> Any:
    data = np.frombuffer(pickled, np.uint8) if is_first() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    data = data if is_first() else np.zeros(size, np.uint8)
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(data)).tobytes())


def to_host(tree: Any) -> Any:
    """Owned numpy copies of global arrays, keys as their data; every process calls it together."""

    def copy(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            x = multihost_utils.process_allgather(x, tiled=True)
        # Owned: on the CPU a view would alias a buffer that the next donated call overwrites.
        return np.array(x)

    return jax.tree.map(copy, key_data(tree))


def key_data(tree: Any) -> Any:
    """The tree with its typed random keys as plain integers."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def is_key(x: Any) -> bool:
    """Whether an array is one of typed random keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
