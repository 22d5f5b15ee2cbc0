"""The yardstick: a task's scene in C MuJoCo, float64, and what it costs on all cores without Python around it."""

import os
from collections.abc import Callable

import jax
import mujoco
import mujoco.rollout
import numpy as np

from mjx_safety import Env
from mjx_safety.scene import scene_spec

LENGTH = 20  # environment steps of a rollout: long enough to hide its start, short enough to stay near the layout


def scene_model(env: Env) -> mujoco.MjModel:
    """A layout of the task as the original simulates it.

    Gremlins hover where they start. Hazards and goals touch nothing and are left out, as are lidar, rewards and costs:
    this flatters C.
    """
    world = jax.device_get(jax.jit(lambda key: env.get_world(env.reset(key)))(jax.random.key(0)))
    spec = scene_spec(env.task.robot, env.task.objects, world)
    spec.body("robot").pos = world["robot_pos"]
    return spec.compile()


def rollouts(env: Env) -> tuple[int, Callable[[int], None]]:
    """Rollouts of the scene under random actions.

    Returns:
      Environment steps of one unit of work, and a function that does a number of units on all cores.
    """
    model, threads = scene_model(env), os.cpu_count() or 1
    batch = 16 * threads
    data = [mujoco.MjData(model) for _ in range(threads)]
    full = mujoco.mjtState.mjSTATE_FULLPHYSICS
    start = np.empty(mujoco.mj_stateSize(model, full))
    mujoco.mj_getState(model, data[0], start, full)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (batch, LENGTH, model.nu))
    control = actions.repeat(env.task.frame_skip, axis=1)
    pool = mujoco.rollout.Rollout(nthread=threads)

    def work(units: int) -> None:
        for _ in range(units):
            pool.rollout(model, data, np.tile(start, (batch, 1)), control)

    return batch * LENGTH, work
