"""From a task to MuJoCo models (host only)."""

import importlib.resources

import mujoco

from mjx_safety.movers import Shape
from mjx_safety.robots import Robot


def robot_spec(robot: Robot) -> mujoco.MjSpec:
    """The robot's MJCF, ready to be extended."""
    asset = importlib.resources.files("mjx_safety") / "assets" / robot.asset
    return mujoco.MjSpec.from_string(asset.read_text())


def physics_model(robot: Robot) -> mujoco.MjModel:
    """The robot alone, with nothing that cannot change its motion.

    The Point has no floor: its sphere touches the plane at distance 0, which MuJoCo leaves out of the constraints, and
    a rounding error below 0 would switch on friction that the original does not have. Its geoms keep their mass but
    collide with nothing here; what they push is worked out in `movers`.
    """
    spec = robot_spec(robot)
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 0
    return spec.compile()


def outline(robot: Robot) -> tuple[Shape, ...]:
    """The robot seen from above: its geoms as discs and rectangles in the frame of its body."""
    shapes = []
    for geom in robot_spec(robot).geoms:
        centre = (float(geom.pos[0]), float(geom.pos[1]))
        if geom.type == mujoco.mjtGeom.mjGEOM_SPHERE:
            shapes.append(Shape(centre, (0.0, 0.0), float(geom.size[0]), points=1))
        elif geom.type == mujoco.mjtGeom.mjGEOM_BOX:
            shapes.append(Shape(centre, (float(geom.size[0]), float(geom.size[1])), 0.0, points=2))
        else:
            raise NotImplementedError(f"Geom {geom.name!r} of {robot.name} has a type that the outline lacks.")
    return tuple(shapes)
