"""A fleet on two devices is the fleet on one, whichever axis is split, and they seldom wait for each other."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

import agents
from agents import reduce
from agents.loop import METRICS, Trainer, make_fleet
from agents.mesh import compile_on, make_mesh
from tests.toy_env import ToyEnv

CONFIG = agents.preset(
    "cpu",
    num_envs=32,
    num_groups=2,
    num_steps=32,
    total_steps=32 * 32 * 3,
    num_epochs=2,
    num_minibatches=4,
    hidden_sizes=(8,),
    cost_limits=(1.0,),
    updates_per_chunk=3,
)
FLAGS = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"


def train(devices: int, num_agents: int, algorithm: str) -> dict[str, np.ndarray]:
    """Three updates: metrics [updates, agents], and the policy's weights."""
    config = agents.preset("cpu", **{**vars(CONFIG), "algorithm": algorithm, "seeds": tuple(range(num_agents))})
    keys, hypers = make_fleet(config)
    mesh = make_mesh(num_agents, config.num_groups, jax.devices()[:devices])
    assert mesh.size == devices
    assert mesh.shape["agent"] == min(devices, num_agents)
    init, chunk = compile_on(mesh, Trainer(ToyEnv(), config))
    states, metrics = chunk(jax.tree.map(jax.numpy.copy, init(keys, hypers)), hypers, jax.numpy.int32(3))
    assert len(states.env.reward.sharding.device_set) == devices
    leaves = {f"weights {i}": leaf for i, leaf in enumerate(jax.tree.leaves(states.params))}
    return jax.device_get({name: metrics[name] for name in METRICS} | leaves)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("2 ppo_lagrangian", id="agents"),
        pytest.param("1 ppo_lagrangian", id="data"),
        pytest.param("1 cpo", id="data, trust region", marks=pytest.mark.slow),
        pytest.param("1 p3o", id="data, hinge of a mean", marks=pytest.mark.slow),
    ],
)
def test_two_devices_equal_one(tmp_path, case):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    environment = os.environ | cache | {"XLA_FLAGS": FLAGS, "PYTHONPATH": "."}
    command = [sys.executable, __file__, str(tmp_path / "runs.npz"), *case.split()]
    subprocess.run(command, cwd=Path(__file__).parents[1], env=environment, check=True)
    runs = dict(np.load(tmp_path / "runs.npz"))
    names = {name.split("/")[1] for name in runs}
    assert {"kl", "multiplier", "weights 0"} < names
    for name in names:
        np.testing.assert_allclose(runs[f"2/{name}"], runs[f"1/{name}"], rtol=1e-3, atol=1e-5, err_msg=name)
    assert runs["1/cost_mean"].any()
    assert runs["1/policy_steps"].all()


@pytest.mark.parametrize("algorithm", ["ppo_lagrangian", "trpo_lagrangian"])
def test_devices_meet_once_in_a_gradient_step(algorithm):
    # XLA's CPU devices wait for each other at every array of an all-reduce: a network has many.
    config = agents.preset("cpu", **{**vars(CONFIG), "algorithm": algorithm, "num_minibatches": 16})
    mesh: Any = AbstractMesh((1, 2), ("agent", reduce.AXIS), axis_types=(AxisType.Auto,) * 2)
    init, chunk = compile_on(mesh, Trainer(ToyEnv(), config))
    keys, hypers = make_fleet(config)
    update = jax.make_jaxpr(chunk)(jax.eval_shape(init, keys, hypers), hypers, jax.numpy.int32(1)).jaxpr

    loops = [loop for loop in operations(update, "scan") if loop.params["length"] == config.num_minibatches]
    assert sum(len(psum.invars) for loop in loops for psum in operations(loop, "psum")) == 1


def operations(within: Any, name: str) -> Iterator[Any]:
    """The equations of that primitive in a jaxpr, or in those that an equation carries."""
    for equation in getattr(within, "eqns", ()):
        if equation.primitive.name == name:
            yield equation
        yield from operations(equation, name)
    for value in jax.tree.leaves(getattr(within, "params", {}), is_leaf=lambda x: hasattr(x, "eqns")):
        yield from operations(getattr(value, "jaxpr", value), name)


if __name__ == "__main__":
    path, num_agents, algorithm = sys.argv[1:]
    both = {devices: train(devices, int(num_agents), algorithm) for devices in (1, 2)}
    np.savez(path, **{f"{devices}/{name}": x for devices, run in both.items() for name, x in run.items()})
