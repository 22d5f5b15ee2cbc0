"""From states to solids: what a frame shows, whoever draws it."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from mjx_safety import geometry
from mjx_safety.autoreset import VecState
from mjx_safety.objectives import Button, Circle, Goal, Objective, Push
from mjx_safety.objects import Buttons, Objects
from mjx_safety.robots import Robot
from mjx_safety.scene import robot_spec

if TYPE_CHECKING:
    from mjx_safety.env import Env, State

BOX, CYLINDER, SPHERE = (int(getattr(mujoco.mjtGeom, f"mjGEOM_{name}")) for name in ("BOX", "CYLINDER", "SPHERE"))


class Camera(NamedTuple):
    """A view to the north and 45 degrees down, `offset` metres south of and above what it looks at."""

    offset: float
    follows: bool

    @property
    def distance(self) -> float:
        """Metres to what it looks at."""
        return self.offset * 2**0.5

    def target(self, robot_pos: np.ndarray) -> np.ndarray:
        """The point in the middle of the picture, [3]."""
        return robot_pos if self.follows else np.zeros(3)


CAMERAS = {  # Safety Gym's
    "fixednear": Camera(2.0, follows=False),
    "fixedfar": Camera(5.0, follows=False),
    "track": Camera(2.0, follows=True),
}
FIELD_OF_VIEW = 45.0
"""Degrees from the lower to the upper edge of the picture."""

FLOOR_HALF_WIDTH = 3.5
FLOOR_SQUARES = 20
FLOOR_GREYS = (0.7, 0.8)
SKY = ((0.527, 0.582, 0.906), (0.1, 0.1, 0.35))
"""Colours of the sky at the horizon and at the zenith."""

ROBOT_RGB = (1.0, 0.0, 0.0)
COST_RADIUS = 0.25
COST_RGBA = (0.5, 0.0, 0.0, 0.5)

LIDAR_ORDER = ("box", "goal", "buttons", "circle", "walls", "hazards", "pillars", "gremlins", "vases")
"""Names of kinds from the lowest ring to the highest."""
LIDAR_HEIGHT, LIDAR_STEP = 0.5, 0.06
LIDAR_RADIUS, LIDAR_DOT = 0.15, 0.025


class Solids(NamedTuple):
    """P solids in each of T frames. Those of alpha 0 are not to be drawn."""

    kind: np.ndarray  # mujoco.mjtGeom, int [P]
    size: np.ndarray  # in MuJoCo's convention, [P, 3]
    pos: np.ndarray  # [T, P, 3]
    mat: np.ndarray  # [T, P, 3, 3]
    rgba: np.ndarray  # [T, P, 4]


class Scene(NamedTuple):
    """An episode, ready to be drawn.

    Attributes:
      solids: objects, robot and cost sphere.
      rings: lidar readings, lowest ring first.
      robot_pos: float [T, 3].
    """

    solids: Solids
    rings: tuple[Solids, ...]
    robot_pos: np.ndarray


def build(env: "Env", states: "State") -> Scene:
    """Reads states, with or without a leading time axis, into a scene."""
    ndim = getattr(getattr(states, "obs", None), "ndim", None)
    if ndim is None:
        raise TypeError(
            f"states is a {type(states).__name__}; stack the states of an episode along a leading time axis: "
            "jax.tree.map(lambda *leaves: jnp.stack(leaves), *list_of_states)."
        )
    if isinstance(states, VecState) and ndim == 2:
        raise ValueError(
            f"states are those of a batch of {len(states.obs)} environments, not of an episode; pick the state of one: "
            "jax.tree.map(lambda leaf: leaf[0], states.unbatched())."
        )
    if ndim > 2:
        raise ValueError(
            f"states.obs has shape {list(states.obs.shape)}, but an episode of one environment has [T, "
            f"{states.obs.shape[-1]}]; pick one of states or, for AutoReset's, "
            "states.unbatched(): jax.tree.map(lambda leaf: leaf[:, 0], states)."
        )
    if ndim == 1:
        states = jax.tree.map(lambda leaf: leaf[None], states)

    world = jax.device_get(jax.jit(jax.vmap(env.get_world))(states))
    obs, cost = np.asarray(states.obs), np.asarray(states.cost)
    robot_pos, robot_mat = world["robot_pos"], _matrices(world["robot_quat"])
    kinds = [kind for kind in env.task.objects if f"{kind.name}_pos" in world]
    alarm = _solids(SPHERE, COST_RADIUS, robot_pos[:, None], np.where(cost[:, None, None] > 0, COST_RGBA, 0.0))
    goal = _goal(env.task.objective, world)
    solids = _join([*(_things(kind, world) for kind in kinds), *goal, _robot(env.task.robot, world), alarm])

    seen = [kind for kind in (*kinds, env.task.objective) if f"{kind.name}_lidar" in env.observation_slices]
    seen.sort(key=lambda kind: LIDAR_ORDER.index(kind.name) if kind.name in LIDAR_ORDER else len(LIDAR_ORDER))
    rings = tuple(
        _ring(obs[:, env.observation_slices[f"{kind.name}_lidar"]], level, kind.rgba, robot_pos, robot_mat)
        for level, kind in enumerate(seen)
    )
    return Scene(solids, rings, robot_pos)


class Part(NamedTuple):
    """A solid of a thing, in the thing's frame."""

    geom: int
    size: tuple[float, float, float]
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)


def _parts(kind: Objects) -> list[Part]:
    """What one thing looks like: what of it collides, or a flat disc."""
    pushed, obstacle = kind.boxes(), kind.obstacle()
    if pushed:
        return [Part(BOX, half, centre) for centre, half in pushed.parts]
    if obstacle:
        return [Part({"cylinder": CYLINDER, "sphere": SPHERE, "box": BOX}[obstacle.kind], obstacle.size)]
    return [Part(CYLINDER, (kind.size, 0.01, 0.0))]


def _things(kind: Objects, world: dict[str, np.ndarray]) -> Solids:
    pos, quat = world[f"{kind.name}_pos"], world.get(f"{kind.name}_quat")
    if pos.ndim == 2:  # a single thing, without an axis to number it
        pos, quat = pos[:, None], None if quat is None else quat[:, None]
    mat = np.broadcast_to(np.eye(3), (*pos.shape, 3)) if quat is None else _matrices(quat).reshape(*pos.shape, 3)
    rgba = np.broadcast_to(kind.rgba, (*pos.shape[:2], 4))
    return _join([_solids(part.geom, part.size, pos + mat @ np.array(part.offset), rgba, mat) for part in _parts(kind)])


def _goal(objective: Objective, world: dict[str, np.ndarray]) -> list[Solids]:
    """What marks the place that the objective is about."""
    num_frames = len(world["robot_pos"])
    match objective:
        case Goal() | Push():
            pos, size, rgba = world["goal_pos"], (objective.size, objective.size / 2, 0.0), objective.rgba
        case Button():
            pos = world["buttons_pos"][np.arange(num_frames), world["goal_button"].astype(int)]
            size, rgba = (0.2, 0.2, 0.0), tuple(0.1 * x for x in Buttons.rgba)
        case Circle():
            pos, size, rgba = np.tile([0.0, 0.0, 0.02], (num_frames, 1)), (objective.radius, 0.01, 0.0), objective.rgba
        case _:
            return []
    return [_solids(CYLINDER, size, pos[:, None], np.broadcast_to(rgba, (num_frames, 1, 4)))]


def _robot(robot: Robot, world: dict[str, np.ndarray]) -> Solids:
    """The robot's own geoms, red unless its MJCF colours them, posed by forward kinematics."""
    spec = robot_spec(robot)
    for element in (*spec.actuators, *spec.sensors):
        spec.delete(element)
    body = spec.body("robot")
    for joint in body.joints:
        spec.delete(joint)
    body.mocap = True  # posed directly; what joints are left are those of `joint_pos`
    uncoloured = mujoco.MjSpec().worldbody.add_geom().rgba
    for geom in spec.geoms:
        if np.array_equal(geom.rgba, uncoloured):
            geom.rgba = (*ROBOT_RGB, 1.0)
    model = spec.compile()
    data = mujoco.MjData(model)

    num_frames = len(world["robot_pos"])
    pos = np.empty((num_frames, model.ngeom, 3))
    mat = np.empty((num_frames, model.ngeom, 3, 3))
    joint_pos = world.get("joint_pos", np.empty((num_frames, 0)))
    for t in range(num_frames):
        data.mocap_pos[0], data.mocap_quat[0] = world["robot_pos"][t], world["robot_quat"][t]
        data.qpos[:] = joint_pos[t]
        mujoco.mj_kinematics(model, data)
        pos[t], mat[t] = data.geom_xpos, data.geom_xmat.reshape(-1, 3, 3)
    rgba = np.broadcast_to(model.geom_rgba, (num_frames, model.ngeom, 4))
    return Solids(model.geom_type, model.geom_size, pos, mat, rgba)


def _ring(
    readings: np.ndarray, level: int, rgba: tuple[float, ...], robot_pos: np.ndarray, robot_mat: np.ndarray
) -> Solids:
    """Dots round the robot in the middle of each bin, the brighter the closer what is seen."""
    num_bins = readings.shape[-1]
    angle = 2 * np.pi * (np.arange(num_bins) + 0.5) / num_bins
    local = np.stack([
        LIDAR_RADIUS * np.cos(angle),
        LIDAR_RADIUS * np.sin(angle),
        np.full(num_bins, LIDAR_HEIGHT + LIDAR_STEP * level),
    ])  # fmt: skip
    pos = robot_pos[:, None] + np.swapaxes(robot_mat @ local, 1, 2)
    brightness = np.minimum(1.0, readings + 0.1)[..., None]
    return _solids(SPHERE, LIDAR_DOT, pos, brightness * np.array([*rgba[:3], 1.0]))


def _solids(
    kind: int, size: float | tuple[float, ...], pos: np.ndarray, rgba: np.ndarray, mat: np.ndarray | None = None
) -> Solids:
    """Solids that differ in place and colour only."""
    num_frames, num = pos.shape[:2]
    if mat is None:
        mat = np.broadcast_to(np.eye(3), (num_frames, num, 3, 3))
    return Solids(np.full(num, kind), np.broadcast_to(np.asarray(size), (num, 3)), pos, mat, rgba)


def _join(parts: list[Solids]) -> Solids:
    kind, size, pos, mat, rgba = zip(*parts, strict=True)
    return Solids(
        np.concatenate(kind),
        np.concatenate(size),
        np.concatenate(pos, axis=1),
        np.concatenate(mat, axis=1),
        np.concatenate(rgba, axis=1),
    )


def _matrices(quat: np.ndarray) -> np.ndarray:
    return np.asarray(jnp.vectorize(geometry.quat_to_mat, signature="(4)->(3,3)")(quat))
