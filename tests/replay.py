"""The recorded windows once more, by C MuJoCo in float64 from the worlds as they are stored, in float32.

Some windows hang on less than that rounding: a gremlin that hops on the robot's nose, a box wedged between pillars.
Where MuJoCo itself does not find back to the recording, nothing is asked of us.
"""

import functools

import mujoco
import numpy as np

from mjx_safety import make
from mjx_safety.boxes import hover
from mjx_safety.scene import scene_spec

COSTS = {
    "vases": "cost_vases_contact",
    "pillars": "cost_pillars",
    "buttons": "cost_buttons",
    "gremlins": "cost_gremlins",
}


def replay(task_id: str, recorded: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Plays all windows.

    Returns:
      Whether the contacts that cost are those recorded, bool [windows, steps]; and where the boxes end by kind,
      [windows, num, 3].
    """
    same, ends = [], {}
    for window in range(len(recorded["action"])):
        world = {name: x[window] for name, x in recorded.items()}
        touched, end = _play(task_id, world)
        costs = {kind: name for kind, name in COSTS.items() if name in world}
        same.append(
            [all((kind in hit) == bool(world[costs[kind]][t]) for kind in costs) for t, hit in enumerate(touched)]
        )
        for kind, pos in end.items():
            ends.setdefault(kind, []).append(pos)
    return np.array(same), {kind: np.array(pos) for kind, pos in ends.items()}


@functools.cache
def _task(task_id: str):
    return make(task_id).task


def _play(task_id: str, world: dict[str, np.ndarray]) -> tuple[list[set[str]], dict[str, np.ndarray]]:
    """Kinds that the robot touches after each step, without the goal's button; and where boxes end."""
    task = _task(task_id)
    recorded = {name.removeprefix("world."): x for name, x in world.items() if name.startswith("world.")}
    spec = scene_spec(task.robot, task.objects, recorded)
    model = spec.compile()
    data = mujoco.MjData(model)
    _set_robot(task, data, world)
    pushed = {kind.name: kind for kind in task.objects if kind.boxes()}
    for name in pushed:
        parts = (
            world[f"world.{name}_{part}"].reshape(-1, size) for part, size in zip(("pos", "quat"), (3, 4), strict=True)
        )
        rates = (world[f"world.{name}_{part}"].reshape(-1, 3) for part in ("linvel", "angvel"))
        for i, (pos, quat, linvel, angvel) in enumerate(zip(*parts, *rates, strict=True)):
            joint = model.joint(f"{name}{i}")
            data.qpos[joint.qposadr[0] :][:7] = *pos, *quat
            data.qvel[joint.dofadr[0] :][:6] = *linvel, *_mat(quat).T @ angvel
    centres = world.get("world.gremlins_center", np.zeros((0, 3)))
    yaws = world.get("world.gremlins_yaw", ())
    gremlins = pushed["gremlins"].boxes() if "gremlins" in pushed else None
    goal = f"buttons{int(world['world.goal_button'])}" if "world.goal_button" in world else ""
    own = {body for body in range(model.nbody) if model.body_rootid[body] == model.body("robot").rootid[0]}
    touched, time = [], float(world["world.time"])
    for action in world["action"]:
        data.ctrl[:] = np.clip(action, -1, 1)
        for _ in range(task.frame_skip):
            for i, (centre, yaw) in enumerate(zip(centres, yaws, strict=True)):
                mocap = model.body(f"gremlins{i}_target").mocapid[0]
                x, y = centre[0] + gremlins.travel * np.sin(time), centre[1] + gremlins.travel * np.cos(time)
                data.mocap_pos[mocap] = x, y, hover(gremlins)
                data.mocap_quat[mocap] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
            mujoco.mj_step(model, data)
            time += model.opt.timestep
        mujoco.mj_forward(model, data)
        pairs = [model.geom_bodyid[list(pair)] for pair in zip(data.contact.geom1, data.contact.geom2, strict=True)]
        others = {model.body(int(b)).name for pair in pairs if own & {*pair.tolist()} for b in pair}
        touched.append({name.rstrip("0123456789") for name in others - {goal}})
    ends = {
        name: np.array([data.body(f"{name}{i}").xpos for i in range(kind.num)]).copy() for name, kind in pushed.items()
    }
    return touched, ends


def _set_robot(task, data, world) -> None:
    pos, quat, linvel, angvel = (world[f"world.robot_{part}"] for part in ("pos", "quat", "linvel", "angvel"))
    if task.robot.planar:
        data.qpos[:3] = *pos[:2], 2 * np.arctan2(quat[3], quat[0])
        data.qvel[:3] = *linvel[:2], angvel[2]
        return
    joint_pos, joint_vel = world["world.joint_pos"], world["world.joint_vel"]
    data.qpos[: 7 + len(joint_pos)] = *pos, *quat, *joint_pos
    data.qvel[: 6 + len(joint_vel)] = *linvel, *_mat(quat).T @ angvel, *joint_vel


def _mat(quat) -> np.ndarray:
    mat = np.zeros(9)
    mujoco.mju_quat2Mat(mat, np.asarray(quat, float))
    return mat.reshape(3, 3)
