"""The yardstick: a task's scene in C MuJoCo, float64, and what it costs on all cores without Python around it."""

import os
from collections.abc import Callable, Mapping

import jax
import mujoco
import mujoco.rollout
import numpy as np

from mjx_safety import Env, Task
from mjx_safety.boxes import WELD, hover
from mjx_safety.scene import robot_spec

CONDIM = 6  # Safety Gym's contacts: sliding, torsional and rolling friction
LENGTH = 20  # environment steps of a rollout: long enough to hide its start, short enough to stay near the layout
UNMOVED = [*[0.0] * 6, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]  # MuJoCo's data of a weld that holds two bodies in one pose
GEOMS = {name: getattr(mujoco.mjtGeom, f"mjGEOM_{name.upper()}") for name in ("box", "cylinder", "sphere")}


def scene_model(env: Env) -> mujoco.MjModel:
    """A layout of the task as the original simulates it.

    Gremlins hover where they start. Hazards and goals touch nothing and are left out, as are lidar, rewards and costs:
    this flatters C.
    """
    world = jax.device_get(jax.jit(lambda key: env.get_world(env.reset(key)))(jax.random.key(0)))
    spec = scene_spec(env.task, world)
    spec.body("robot").pos = world["robot_pos"]
    return spec.compile()


def scene_spec(task: Task, world: Mapping[str, np.ndarray]) -> mujoco.MjSpec:
    """The robot where its MJCF puts it, a floor, and the things of a world that collide.

    Each thing is a body, "vases0" and so on; what is pushed has a free joint of that name. A gremlin is welded to a
    mocap body, "gremlins0_target", at the height to which the original draws it.

    Args:
      task: whose world it is.
      world: see `Env.get_world`.
    """
    spec = robot_spec(task.robot)
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[5.0, 5.0, 0.1], condim=CONDIM)
    for kind in task.objects:
        pushed, obstacle = kind.boxes(), kind.obstacle()
        for i, pos in enumerate(world[f"{kind.name}_pos"].reshape(-1, 3)):
            name = f"{kind.name}{i}"
            if obstacle:
                body = spec.worldbody.add_body(name=name, pos=pos)
                body.add_geom(type=GEOMS[obstacle.kind], size=obstacle.size, condim=CONDIM)
            elif pushed:
                quat = world[f"{kind.name}_quat"].reshape(-1, 4)[i]
                box = spec.worldbody.add_body(name=name, pos=pos, quat=quat)
                box.add_freejoint(name=name)
                for centre, half in pushed.parts:
                    box.add_geom(pos=centre, size=half, density=pushed.density, condim=CONDIM, type=GEOMS["box"])
                if pushed.travel is not None:
                    target = f"{name}_target"
                    spec.worldbody.add_body(name=target, mocap=True, pos=[*pos[:2], hover(pushed)], quat=quat)
                    weld = spec.add_equality(type=mujoco.mjtEq.mjEQ_WELD, objtype=mujoco.mjtObj.mjOBJ_BODY)
                    weld.name1, weld.name2, weld.solref = target, name, WELD
                    weld.data = UNMOVED
    return spec


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
