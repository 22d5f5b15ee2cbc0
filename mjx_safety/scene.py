"""From a task to MuJoCo models (host only)."""

import importlib.resources

import mujoco
import numpy as np

from mjx_safety.contact import Shape
from mjx_safety.robots import Joint, Robot


def robot_spec(robot: Robot) -> mujoco.MjSpec:
    """The robot's MJCF, ready to be extended."""
    asset = importlib.resources.files("mjx_safety") / "assets" / robot.asset
    return mujoco.MjSpec.from_string(asset.read_text())


def robot_model(robot: Robot) -> mujoco.MjModel:
    """The robot alone, without a floor."""
    return robot_spec(robot).compile()


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
