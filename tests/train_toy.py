"""Trains the toy environment in a process of its own: `python -m tests.train_toy '{"run_dir": ..., "config": {...}}'`.

Further keys: "devices", "processes": [coordinator, number, id] for one of several processes, and "pause": seconds to
wait after every chunk, so that a test can kill the run before it ends.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax

import agents
from agents import hosts
from agents.progress import Reporter
from tests.toy_env import ToyEnv


def start(run_dir: Path, config: agents.Config, devices: int, **words) -> subprocess.Popen:
    words |= {
        "run_dir": str(run_dir),
        "config": dataclasses.asdict(config),
        "cache": jax.config.jax_compilation_cache_dir,
    }
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "tests.train_toy", json.dumps(words)]
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        command,
        cwd=root,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )


def checkpointed(run_dir: Path) -> list[int]:
    """Updates of which there is a checkpoint."""
    saved = run_dir / "checkpoints"
    return sorted(int(path.name) for path in saved.iterdir() if path.name.isdecimal()) if saved.exists() else []


if __name__ == "__main__":
    words = json.loads(sys.argv[1])
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_compilation_cache_dir", words["cache"])
    if "pause" in words:
        Reporter.show = lambda *_: time.sleep(words["pause"])
    hosts.initialize(*words.get("processes", (None, None, None)))
    result = agents.train(
        ToyEnv(),
        agents.Config(**words["config"]),
        run_dir=words["run_dir"],
        devices=words.get("devices"),
        progress=False,
    )
    print(json.dumps({"return": result.metrics["return_estimate"].tolist(), "devices": jax.device_count()}))
