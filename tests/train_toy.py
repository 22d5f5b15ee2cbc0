"""Trains the toy environment in a process of its own: `python -m tests.train_toy '{"run_dir": ..., "config": {...}}'`.

Further keys: "devices", and "processes": [coordinator, number, id] for one of several processes.
"""

import json
import sys

import jax

import agents
from agents import hosts
from tests.toy_env import ToyEnv

if __name__ == "__main__":
    words = json.loads(sys.argv[1])
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_compilation_cache_dir", words["cache"])
    hosts.initialize(*words.get("processes", (None, None, None)))
    result = agents.train(
        ToyEnv(),
        agents.Config(**words["config"]),
        run_dir=words["run_dir"],
        devices=words.get("devices"),
        progress=False,
    )
    print(json.dumps({"return": result.metrics["return_estimate"].tolist(), "devices": jax.device_count()}))
