"""From a task to MuJoCo models (host only)."""

import importlib.resources
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

from mjx_safety.boxes import WELD, hover
from mjx_safety.contact import Shape
from mjx_safety.objects import Objects
from mjx_safety.robots import Joint, Robot

_CONDIM = 6  # Safety Gym's contacts: sliding, turning and rolling friction
_UNMOVED = [*[0.0] * 6, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]  # MuJoCo's data of a weld that holds two bodies in one pose
_GEOMS = {name: getattr(mujoco.mjtGeom, f"mjGEOM_{name.upper()}") for name in ("box", "cylinder", "sphere")}


def robot_spec(robot: Robot) -> mujoco.MjSpec:
    """The robot's MJCF, ready to be extended."""
    asset = importlib.resources.files("mjx_safety") / "assets" / robot.asset
    return mujoco.MjSpec.from_string(asset.read_text())


def robot_model(robot: Robot) -> mujoco.MjModel:
    """The robot alone, without a floor."""
    return robot_spec(robot).compile()


def scene_spec(robot: Robot, objects: Sequence[Objects], world: Mapping[str, np.ndarray]) -> mujoco.MjSpec:
    """The robot where its MJCF puts it, a floor, and the things of a world that collide.

    Each thing is a body, "vases0" and so on; what is pushed has a free joint of that name. A gremlin is welded to a
    mocap body, "gremlins0_target", at the height to which the original draws it.

    Args:
      robot: who moves.
      objects: the kinds around it.
      world: their poses, see `Env.get_world`.
    """
    spec = robot_spec(robot)
    # One point a pair where MuJoCo's general collider works, as in MuJoCo 3.3.7, on which the recordings were made.
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_MULTICCD
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[5.0, 5.0, 0.1], condim=_CONDIM)
    for kind in objects:
        pushed, obstacle = kind.boxes(), kind.obstacle()
        for i, pos in enumerate(world[f"{kind.name}_pos"].reshape(-1, 3)):
            name = f"{kind.name}{i}"
            if obstacle:
                body = spec.worldbody.add_body(name=name, pos=pos)
                body.add_geom(type=_GEOMS[obstacle.kind], size=obstacle.size, condim=_CONDIM)
            elif pushed:
                quat = world[f"{kind.name}_quat"].reshape(-1, 4)[i]
                box = spec.worldbody.add_body(name=name, pos=pos, quat=quat)
                box.add_freejoint(name=name)
                for centre, half in pushed.parts:
                    box.add_geom(pos=centre, size=half, density=pushed.density, condim=_CONDIM, type=_GEOMS["box"])
                if pushed.travel is not None:
                    target = f"{name}_target"
                    spec.worldbody.add_body(name=target, mocap=True, pos=[*pos[:2], hover(pushed)], quat=quat)
                    weld = spec.add_equality(type=mujoco.mjtEq.mjEQ_WELD, objtype=mujoco.mjtObj.mjOBJ_BODY)
                    weld.name1, weld.name2, weld.solref = target, name, WELD
                    weld.data = _UNMOVED
    return spec


_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
_KINDS = {
    mujoco.mjtGeom.mjGEOM_SPHERE: "sphere",
    mujoco.mjtGeom.mjGEOM_CAPSULE: "capsule",
    mujoco.mjtGeom.mjGEOM_CYLINDER: "cylinder",
    mujoco.mjtGeom.mjGEOM_BOX: "box",
}


def shapes(model: mujoco.MjModel) -> tuple[Shape, ...]:
    """A robot's geoms, its bodies counted from the root."""
    return tuple(
        Shape(
            kind=_KINDS[mujoco.mjtGeom(model.geom_type[i])],
            body=int(model.geom_bodyid[i]) - 1,
            pos=tuple(model.geom_pos[i].tolist()),
            quat=tuple(model.geom_quat[i].tolist()),
            size=tuple(model.geom_size[i].tolist()),
        )
        for i in range(model.ngeom)
    )


def radius(model: mujoco.MjModel) -> float:
    """Radius round the robot's root of the ball that holds it in every pose, metres."""
    chain = np.zeros(model.nbody)  # from the root to a body's origin, joints wherever they are
    for body in range(2, model.nbody):
        chain[body] = chain[model.body_parentid[body]] + np.linalg.norm(model.body_pos[body])
    reach = []
    for geom in range(model.ngeom):
        size, mat = model.geom_size[geom], np.zeros(9)
        mujoco.mju_quat2Mat(mat, model.geom_quat[geom])
        # The corners of a box, or the ends of the segment inside a rounded shape.
        box = model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX
        half = size if box else np.array([0.0, 0.0, size[1]])
        points = model.geom_pos[geom] + (_CORNERS * half) @ mat.reshape(3, 3).T
        skin = 0.0 if box else size[0]
        reach.append(chain[model.geom_bodyid[geom]] + np.linalg.norm(points, axis=1).max() + skin)
    return float(max(reach))


def joint_sensors(model: mujoco.MjModel) -> tuple[Joint, ...]:
    """A robot's joint and touch sensors; those of inertia are known without being told (`robots.sensors`)."""
    sensors, num_touch = [], 0
    for i in range(model.nsensor):
        name, joint = model.sensor(i).name, model.sensor_objid[i]
        match mujoco.mjtSensor(model.sensor_type[i]):
            case mujoco.mjtSensor.mjSENS_JOINTPOS:
                sensors.append(Joint(name, "jointpos", int(model.jnt_qposadr[joint])))
            case mujoco.mjtSensor.mjSENS_JOINTVEL:
                sensors.append(Joint(name, "jointvel", int(model.jnt_dofadr[joint])))
            case mujoco.mjtSensor.mjSENS_BALLQUAT:
                sensors.append(Joint(name, "ballquat", int(model.jnt_qposadr[joint])))
            case mujoco.mjtSensor.mjSENS_BALLANGVEL:
                sensors.append(Joint(name, "ballangvel", int(model.jnt_dofadr[joint])))
            case mujoco.mjtSensor.mjSENS_TOUCH:
                sensors.append(Joint(name, "touch", num_touch))
                num_touch += 1
    return tuple(sensors)
