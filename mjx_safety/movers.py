"""Light boxes on the floor that the robot pushes: vases.

A vase weighs 8 mg, the Point 5 g, the Car 30 g: what a vase does to the robot is below 0.2 % of the robot's own
acceleration, so the coupling is one-way. The robot moves first; then each box slides in the plane (x, y, yaw) under

- contact with the robot's outline and with other boxes: MuJoCo's own soft constraints (solref 0.02 1, solimp 0.9 0.95
  0.001, pyramidal cone, friction 1, condim 6), minimised over the box's three accelerations;
- friction of the floor: MuJoCo's soft floor contact is not Coulomb friction, and how fast it stops a box was measured
  on a lone box in C MuJoCo (`floor_friction`).
"""

import functools
import math
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

SLOTS = 3  # boxes that can interact with the robot and each other within one environment step
ITERATIONS = 4  # Newton steps of the contact solver
REST = 5e-5  # m/s, rad/s: slower boxes lie still; half of the least speed that costs anything

# MuJoCo's contact defaults, which Safety Gym keeps.
_TIMECONST, _DAMPRATIO = 0.02, 1.0
_DMIN, _DMAX, _WIDTH = 0.9, 0.95, 0.001
_FRICTION = 1.0
_EDGES = 8  # edges of the condim-6 pyramid along which a planar body sees the normal alone


# Full float32 products: recent GPUs default to TF32, which breaks fidelity silently.
_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


@flax.struct.dataclass
class Movers:
    """Planar state of the boxes of one environment.

    Attributes:
      pose: float32 [num, 3]: x, y in metres, yaw in radians.
      vel: float32 [num, 3]: their rates, world frame.
    """

    pose: jax.Array
    vel: jax.Array


class Shape(NamedTuple):
    """A convex part of the robot's outline, seen from above, fixed in the robot's frame."""

    centre: tuple[float, float]
    half: tuple[float, float]  # (0, 0) for a disc
    radius: float  # 0 for a rectangle
    points: int  # MuJoCo's contact points for each of the two that the plane shows: 2 where box meets upright box


def radius(outline: tuple[Shape, ...]) -> float:
    """Radius round the robot's origin of the circle that holds its outline, metres."""
    return max(math.hypot(*shape.centre) + max(shape.radius, math.hypot(*shape.half)) for shape in outline)


class Trajectory(NamedTuple):
    """The robot's planar motion over an environment step, physics step by physics step.

    Attributes:
      pose: float32 [frame_skip + 1, 3]: x, y, yaw.
      vel: float32 [frame_skip + 1, 3].
    """

    pose: jax.Array
    vel: jax.Array


class Contact(NamedTuple):
    """Candidate contacts of boxes; leading axes as the context says, last axis the candidates.

    Attributes:
      dist: signed distance, metres; touching where below 0.
      pos: where, world frame [..., 2].
      normal: into the box [..., 2].
      points: MuJoCo's contact points that the candidate stands for.
    """

    dist: jax.Array
    pos: jax.Array
    normal: jax.Array
    points: jax.Array


def settle(movers: Movers) -> Movers:
    """Lays boxes still that are slower than `REST`."""
    slow = jnp.all(jnp.abs(movers.vel) < REST, axis=-1, keepdims=True)
    return movers.replace(vel=jnp.where(slow, 0.0, movers.vel))


def floor_friction(vel: jax.Array, dt: float) -> jax.Array:
    """What the floor leaves of a box's velocity after one physics step.

    Measured on a box of Safety Gym's vase's size and mass sliding on a plane in C MuJoCo: above 0.25 m/s a constant
    deceleration of 10 m/s^2; from 0.2 to 0.01 m/s exponential, 110 /s; below 0.008 m/s exponential, 34 /s (this slow
    tail is what `cost_vases_velocity` counts); yaw exponential, 116 /s, never faster than 185 rad/s^2.

    Args:
      vel: float32 [..., 3].
      dt: physics step, seconds.
    """
    speed = jnp.linalg.norm(vel[..., :2], axis=-1)
    rate = jnp.where(speed > 0.2, 10.0 / jnp.maximum(speed, 0.2), jnp.where(speed > 0.008, 110.0, 34.0))
    keep = jnp.maximum(0.0, jnp.where(speed > 0.2, 1.0 - rate * dt, jnp.exp(-rate * dt)))
    turn = vel[..., 2]
    slower = turn * np.exp(-116.0 * dt)
    slower = turn + jnp.clip(slower - turn, -185.0 * dt, 185.0 * dt)
    return jnp.stack([vel[..., 0] * keep, vel[..., 1] * keep, slower], axis=-1)


def _turn(yaw: jax.Array, vec: jax.Array) -> jax.Array:
    """Rotates [..., 2] by `yaw` [...]."""
    cos, sin = jnp.cos(yaw), jnp.sin(yaw)
    x, y = vec[..., 0], vec[..., 1]
    return jnp.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def _disc_box(centre: jax.Array, radius: float, pose: jax.Array, half: float, points: int) -> Contact:
    """A disc against a square box of half-width `half` at `pose` [3]: one candidate."""
    local = _turn(-pose[2], centre - pose[:2])
    nearest = jnp.clip(local, -half, half)
    out = local - nearest
    dist = jnp.linalg.norm(out)
    normal = -_turn(pose[2], out / jnp.maximum(dist, 1e-9))
    gap = dist - radius
    pos = pose[:2] + _turn(pose[2], nearest) - normal * gap / 2
    return Contact(gap[None], pos[None], normal[None], jnp.full(1, points, jnp.float32))


def _box_box(pose_a, half_a, pose_b, half_b, points: int) -> Contact:
    """Rectangle a against rectangle b (poses [3], half-sizes [2]): two candidates, normals into b.

    The face of least overlap is the reference; the other's facing edge is clipped against it.
    """
    gaps = jnp.concatenate([_face_gaps(pose_a, half_a, pose_b, half_b), _face_gaps(pose_b, half_b, pose_a, half_a)])
    on_a = jnp.argmax(gaps) < 2

    def pick(a, b):
        return jnp.where(on_a, a, b)

    ref, ref_half = pick(pose_a, pose_b), pick(half_a, half_b)
    inc, inc_half = pick(pose_b, pose_a), pick(half_b, half_a)
    across = jnp.argmax(gaps) % 2 == 1  # whether the reference face looks along its owner's y axis

    # Everything in the reference's frame, turned so that the face looks along +x.
    centre = _turn(-ref[2], inc[:2] - ref[:2])
    along = jnp.where(across, centre[1], centre[0])
    quarter = jnp.where(across, jnp.pi / 2, 0.0) + jnp.where(along < 0, jnp.pi, 0.0)
    centre = _turn(-quarter, centre)
    depth, width = jnp.where(across, ref_half[1], ref_half[0]), jnp.where(across, ref_half[0], ref_half[1])
    tilt = inc[2] - ref[2] - quarter
    cos, sin = jnp.cos(tilt), jnp.sin(tilt)
    facing_x = jnp.abs(cos) >= jnp.abs(sin)
    side = -jnp.sign(jnp.where(facing_x, cos, -sin))
    middle = centre + side * jnp.where(
        facing_x, inc_half[0] * jnp.stack([cos, sin]), inc_half[1] * jnp.stack([-sin, cos])
    )
    edge = jnp.where(facing_x, inc_half[1] * jnp.stack([-sin, cos]), inc_half[0] * jnp.stack([cos, sin]))
    ends = jnp.array([-1.0, 1.0])[:, None] * edge + middle  # [2, 2]
    slope = edge[0] / jnp.where(jnp.abs(edge[1]) < 1e-9, 1e-9, edge[1])
    clipped = jnp.clip(ends[:, 1], -width, width)
    x = ends[:, 0] + slope * (clipped - ends[:, 1])
    overlaps = (ends[:, 1].min() < width) & (ends[:, 1].max() > -width)
    dist = jnp.where(overlaps & (gaps.max() < 0), x - depth, 1.0)
    turn = ref[2] + quarter
    pos = ref[:2] + _turn(turn, jnp.stack([x - dist / 2, clipped], axis=-1))
    normal = pick(1.0, -1.0) * jnp.stack([jnp.cos(turn), jnp.sin(turn)])
    return Contact(dist, pos, jnp.stack([normal, normal]), jnp.full(2, points, jnp.float32))


def _face_gaps(ref, ref_half, other, other_half) -> jax.Array:
    """Gaps along the reference rectangle's x and y axes, [2]; negative where the shadows overlap."""
    offset = jnp.abs(_turn(-ref[2], other[:2] - ref[:2]))
    cos, sin = jnp.abs(jnp.cos(other[2] - ref[2])), jnp.abs(jnp.sin(other[2] - ref[2]))
    shadow = jnp.stack([cos * other_half[0] + sin * other_half[1], sin * other_half[0] + cos * other_half[1]])
    return offset - ref_half - shadow


def _join(contacts: list[Contact]) -> Contact:
    return jax.tree.map(lambda *x: jnp.concatenate(x), *contacts)


def robot_contacts(outline: tuple[Shape, ...], robot: jax.Array, box: jax.Array, half: float) -> Contact:
    """Candidates of contact between the robot's outline at pose `robot` [3] and one box at pose `box` [3]."""
    contacts = []
    for shape in outline:
        centre = robot[:2] + _turn(robot[2], jnp.array(shape.centre))
        if shape.radius:
            contacts.append(_disc_box(centre, shape.radius, box, half, shape.points))
        else:
            pose = jnp.concatenate([centre, robot[2:]])
            contacts.append(_box_box(pose, jnp.array(shape.half), box, jnp.full(2, half), shape.points))
    return _join(contacts)


def contacts(outline: tuple[Shape, ...], half: float, movers: Movers, robot: jax.Array) -> jax.Array:
    """The robot's contact points with each box, its pose being `robot` [3]: float32 [num]."""
    touch = jax.vmap(lambda pose: robot_contacts(outline, robot, pose, half))(movers.pose)
    return jnp.sum(jnp.where(touch.dist < 0, touch.points, 0.0), axis=-1)


def _jacobian(contact: Contact, origin: jax.Array) -> jax.Array:
    """Edges by (x, y, yaw) of a body with its origin at [..., 2]: float32 [..., 3, 3]."""
    arm = contact.pos - origin
    nx, ny = contact.normal[..., 0], contact.normal[..., 1]
    normal = jnp.stack([nx, ny, arm[..., 0] * ny - arm[..., 1] * nx], axis=-1)
    side = jnp.stack([-ny, nx, arm[..., 0] * nx + arm[..., 1] * ny], axis=-1)
    return jnp.stack([normal, normal + _FRICTION * side, normal - _FRICTION * side], axis=-2)


def _along(jac: jax.Array, rates: jax.Array) -> jax.Array:
    """`jac @ rates` for [..., 3, 3] and [..., 3]."""
    return jnp.sum(jac * rates[..., None, :], axis=-1)


def _reference(contact: Contact, velocity: jax.Array, dt: float, weight: float) -> tuple[jax.Array, jax.Array]:
    """MuJoCo's reference acceleration and stiffness along the edges (its documentation, "Solver parameters").

    Args:
      contact: candidates [...].
      velocity: approach along the edges, [..., 3].
      dt: physics step, seconds.
      weight: sum of the inverse masses of the bodies over the box's inverse mass.
    """
    timeconst = max(_TIMECONST, 2 * dt)
    damping = 2 / (_DMAX * timeconst)
    spring = 1 / (_DMAX * timeconst * _DAMPRATIO) ** 2
    depth = jnp.minimum(jnp.abs(contact.dist) / _WIDTH, 1.0)
    rise = jnp.where(depth < 0.5, 2 * depth**2, 1 - 2 * (1 - depth) ** 2)
    impedance = _DMIN + rise * (_DMAX - _DMIN)
    ref = -damping * velocity - (spring * impedance * contact.dist)[..., None]
    # The pyramid's regularisation: 2 mu^2 (1 + mu^2) times the inverse weight.
    soft = 2 * _FRICTION**2 * (1 + _FRICTION**2) * weight * (1 - impedance) / impedance
    stiffness = jnp.where(contact.dist < 0, contact.points / soft, 0.0)
    return ref, stiffness[..., None] * jnp.array([_EDGES, 1.0, 1.0])


def _solve3(hessian: jax.Array, vec: jax.Array) -> jax.Array:
    """Solves symmetric 3x3 systems [..., 3, 3], [..., 3] by cofactors."""
    a, b, c = (hessian[..., i, :] for i in range(3))
    columns = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=-1)
    det = jnp.sum(a * columns[..., :, 0], axis=-1)
    return jnp.sum(columns * vec[..., None, :], axis=-1) / det[..., None]


def accelerations(
    outline: tuple[Shape, ...], half: float, movers: Movers, robot: Trajectory, robot_acc: jax.Array, dt: float
) -> jax.Array:
    """Accelerations of boxes under contact with the robot and each other, float32 [num, 3].

    Args:
      outline: the robot's shapes.
      half: half-width of the boxes, metres.
      movers: the boxes.
      robot: pose [3] and velocity [3] of the robot.
      robot_acc: its acceleration [3].
      dt: physics step, seconds.
    """
    num = movers.pose.shape[0]
    inertia = jnp.array([1.0, 1.0, 2 / 3 * half**2])  # of a cube over its mass

    touch = jax.vmap(lambda pose: robot_contacts(outline, robot.pose, pose, half))(movers.pose)  # [num, candidates]
    jac = _jacobian(touch, movers.pose[:, None, :2])
    jac_robot = _jacobian(touch, robot.pose[:2])
    approach = _along(jac, movers.vel[:, None]) - _along(jac_robot, robot.vel)
    ref, stiffness = _reference(touch, approach, dt, weight=1.0)
    ref = ref + _along(jac_robot, robot_acc)

    first, second = np.triu_indices(num, k=1)
    square = jnp.full(2, half)
    pair = jax.vmap(lambda a, b: _box_box(a, square, b, square, points=2))(movers.pose[first], movers.pose[second])
    jac_a = -_jacobian(pair, movers.pose[first, None, :2])
    jac_b = _jacobian(pair, movers.pose[second, None, :2])
    approach = _along(jac_a, movers.vel[first, None]) + _along(jac_b, movers.vel[second, None])
    pair_ref, pair_stiffness = _reference(pair, approach, dt, weight=2.0)

    def newton(_, acc):
        gap = _along(jac, acc[:, None]) - ref
        force = jnp.where(gap < 0, stiffness, 0.0)
        gradient = inertia * acc + _einsum("...ce,...cei->...i", force * gap, jac)
        hessian = jnp.diag(inertia) + _einsum("...ce,...cei,...cej->...ij", force, jac, jac)
        if num > 1:
            gap = _along(jac_a, acc[first, None]) + _along(jac_b, acc[second, None]) - pair_ref
            force = jnp.where(gap < 0, pair_stiffness, 0.0)
            for jacobian, index in ((jac_a, first), (jac_b, second)):
                gradient = gradient.at[index].add(_einsum("...ce,...cei->...i", force * gap, jacobian))
                # Twice the block: a bound on the coupled Hessian, so that the blocks can be solved at once.
                hessian = hessian.at[index].add(2 * _einsum("...ce,...cei,...cej->...ij", force, jacobian, jacobian))
        return acc - _solve3(hessian, gradient)

    return jax.lax.fori_loop(0, ITERATIONS, newton, jnp.zeros((num, 3)))


def reach(outline: tuple[Shape, ...], half: float, movers: Movers, robot: Trajectory) -> jax.Array:
    """Which boxes the robot may touch during the step, bool [num]: it stays in a circle round its start."""
    path = jnp.max(jnp.linalg.norm(robot.pose[:, :2] - robot.pose[0, :2], axis=-1))
    distance = jnp.linalg.norm(movers.pose[:, :2] - robot.pose[0, :2], axis=-1)
    return distance < radius(outline) + half * 2**0.5 + path


def _interacting(outline: tuple[Shape, ...], half: float, movers: Movers, robot: Trajectory) -> jax.Array:
    """The boxes worth a slot, int32 [slots]: those the robot may touch, then moving ones and who lies close to them."""
    offset = movers.pose[:, None, :2] - movers.pose[:, :2]
    moving = jnp.any(movers.vel != 0, axis=-1)
    to_moving = jnp.min(jnp.where(moving, jnp.linalg.norm(offset, axis=-1), jnp.inf), axis=1)  # 0 for moving ones
    to_robot = jnp.linalg.norm(movers.pose[:, :2] - robot.pose[0, :2], axis=-1)
    urgency = jnp.where(reach(outline, half, movers, robot), -to_robot, -10.0 - jnp.minimum(to_moving, 10.0))
    return jax.lax.top_k(urgency, min(SLOTS, len(moving)))[1]


def advance(outline: tuple[Shape, ...], half: float, movers: Movers, robot: Trajectory, dt: float):
    """Moves the boxes through one environment step beside the robot's motion.

    Returns:
      The boxes afterwards, and the robot's contact points with each at the end, float32 [num].
    """
    chosen = _interacting(outline, half, movers, robot)

    def substep(movers, robot):
        pose, vel, acc = robot
        near = jax.tree.map(lambda x: x[chosen], movers)
        push = accelerations(outline, half, near, Trajectory(pose, vel), acc, dt)
        vel = floor_friction(movers.vel.at[chosen].add(dt * push), dt)
        return Movers(movers.pose + dt * vel, vel), None

    robot_acc = (robot.vel[1:] - robot.vel[:-1]) / dt
    movers, _ = jax.lax.scan(substep, movers, (robot.pose[:-1], robot.vel[:-1], robot_acc))
    movers = settle(movers)
    return movers, contacts(outline, half, movers, robot.pose[-1])
