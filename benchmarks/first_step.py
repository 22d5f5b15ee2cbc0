"""Seconds to the first step of a batch in a fresh process: what is traced and compiled, or taken from JAX's cache.

python -m benchmarks.first_step PointGoal1 jax 1024
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import mjx_safety
from mjx_safety.env import Impl


def main(task: str, impl: Any, num_envs: str) -> None:
    """Prints the seconds from a task's id to its first step; Python's imports and the device's start are left out."""
    jax.devices()
    start = time.perf_counter()
    venv = mjx_safety.AutoReset(mjx_safety.make(task, impl=impl), int(num_envs))
    states = jax.jit(venv.reset)(jax.random.key(0))
    jax.block_until_ready(jax.jit(venv.step)(states, jnp.zeros((venv.num_envs, venv.env.action_size))))
    print(time.perf_counter() - start)


def measure(task: str, impl: Impl, num_envs: int) -> dict[str, float]:
    """Seconds with JAX's persistent compilation cache empty, and of a second process that finds it full.

    Warp keeps its kernels in a cache of its own, which may be full in both.
    """
    command = [sys.executable, "-m", "benchmarks.first_step", task, impl, str(num_envs)]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # this process may hold most of a GPU's memory
        }

        def seconds() -> float:
            root = Path(__file__).parent.parent
            run = subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            return float(run.stdout.splitlines()[-1])  # Warp prints before

        return {"first_step_s": seconds(), "first_step_cached_s": seconds()}


if __name__ == "__main__":
    main(*sys.argv[1:])
