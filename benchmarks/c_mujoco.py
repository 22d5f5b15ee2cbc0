"""The yardstick: what a task's scene costs in C MuJoCo on all cores, without any Python around the physics."""

import os
from collections.abc import Callable

import jax
import mujoco
import mujoco.rollout
import numpy as np

from mjx_safety import Env
from mjx_safety.scene import robot_spec

CONDIM = 6  # Safety Gym's contacts: sliding, torsional and rolling friction
LENGTH = 20  # environment steps of a rollout: long enough to hide its start, short enough to stay near the layout
GEOMS = {name: getattr(mujoco.mjtGeom, f"mjGEOM_{name.upper()}") for name in ("box", "cylinder", "sphere")}


def scene_model(env: Env) -> mujoco.MjModel:
    """A layout of the task as the original simulates it: the robot, what it bumps into and what it pushes, float64.

    Gremlins are welded to where they start. Hazards and goals touch nothing and are left out, as are lidar, rewards
    and costs: this flatters C.
    """
    world = jax.device_get(jax.jit(lambda key: env.get_world(env.reset(key)))(jax.random.key(0)))
    spec = robot_spec(env.task.robot)
    spec.body("robot").pos = world["robot_pos"]
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[5.0, 5.0, 0.1], condim=CONDIM)
    for kind in env.task.objects:
        pushed, obstacle = kind.boxes(), kind.obstacle()
        places = world[f"{kind.name}_pos"].reshape(-1, 3)
        for i, pos in enumerate(places):
            if obstacle:
                geom = GEOMS[obstacle.kind]
                spec.worldbody.add_body(pos=pos).add_geom(type=geom, size=obstacle.size, condim=CONDIM)
            elif pushed:
                name = f"{kind.name}{i}"
                box = spec.worldbody.add_body(name=name, pos=pos, quat=world[f"{kind.name}_quat"].reshape(-1, 4)[i])
                box.add_freejoint()
                for centre, half in pushed.parts:
                    box.add_geom(pos=centre, size=half, density=pushed.density, condim=CONDIM, type=GEOMS["box"])
                if pushed.travel is not None:
                    spec.add_equality(type=mujoco.mjtEq.mjEQ_WELD, name1=name, objtype=mujoco.mjtObj.mjOBJ_BODY)
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
