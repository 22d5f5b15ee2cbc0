"""Light boxes that robots push: vases, gremlins, the push box; six degrees of freedom and MuJoCo's soft contacts.

A vase weighs 8 mg, the lightest robot 5 g. So the robot moves first, as prescribed, and the boxes react; what they do
to the robot is returned for the caller to use. Each box that matters is solved on its own six accelerations: gravity,
contacts with the floor, the robot, fixed obstacles and other boxes, and the weld that draws a gremlin along, in
MuJoCo's formulas (`contact`), minimised by Newton's method. What is simplified beside MuJoCo: boxes and cylinders meet
in at most four points; turning and rolling friction (0.005 and 0.0001 m; 0.01 for the Point's sphere) is left out.

Vectors are lists of three arrays, environments last, as in `spatial`; contacts are [contacts, slots, envs].
"""

import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from mjx_safety import collide, collide_box, contact, spatial
from mjx_safety.collide import Solid
from mjx_safety.collide_box import Candidates
from mjx_safety.contact import Frames, Obstacle, Shape
from mjx_safety.spatial import Mat, Vec, add, back, cross, dot, keep, rotate, scale, total

ITERATIONS = {False: 6, True: 10}  # most Newton steps of the contact solver, by whether a box has several parts
TOLERANCE = 1e-4  # relative change of the accelerations at which Newton's method has converged
NEAR = 6  # contacts a box can have at once with the robot and obstacles
HEAVY = 0.01  # of the robot's mass: heavier boxes are solved together with it
REST = 5e-5  # m/s, rad/s: slower boxes lie still; half of the least speed that costs anything
GRAVITY = 9.81
WELD = (0.02, 1.5)  # solref of a gremlin's weld
HOVER = 0.2  # height of a gremlin's target, metres: the original counts its height twice
_WORLD: Any = [[np.float32(i == j) for j in range(3)] for i in range(3)]  # its axes
_FRICTION = np.array(contact.FRICTION[:2], np.float32)[:, None, None, None]  # sliding alone


@flax.struct.dataclass
class Boxes:
    """State of the boxes of one kind in one environment; world frame and axes.

    Attributes:
      pos: float32 [n, 3], centres, metres.
      quat: float32 [n, 4], w first.
      linvel: float32 [n, 3], velocities of the centres, m/s.
      angvel: float32 [n, 3], rad/s.
    """

    pos: jax.Array
    quat: jax.Array
    linvel: jax.Array
    angvel: jax.Array


class Kind(NamedTuple):
    """What boxes of a kind have in common.

    Attributes:
      parts: their boxes, each a centre and half-sizes in the body's frame, metres; symmetric about the origin.
      density: kg/m^3; each part counts in full, also where parts overlap.
      slots: how many can interact at once.
      travel: radius of the circle on which a weld leads them, metres; None for free bodies on the floor.
    """

    parts: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]
    density: float
    slots: int
    travel: float | None = None


class Accelerations(NamedTuple):
    """Accelerations of the robot's bodies at their origins, without the terms that are quadratic in velocities.

    Attributes:
      linacc: float32 [bodies, 3], m/s^2, world axes: the origins' Jacobians times the joint accelerations.
      angacc: float32 [bodies, 3], rad/s^2, world axes.
    """

    linacc: jax.Array
    angacc: jax.Array


class _Touch(NamedTuple):
    """Contacts of each slot, arrays [contacts, slots, envs].

    Attributes:
      dist, pos, normal: as of `Candidates`.
      points: MuJoCo's contact points that the candidate stands for.
      linvel, linacc: of what the box touches, where it does.
      weight: sum of the two translational `body_invweight0`, over the box's.
      robot: 1 where the box touches the robot, else 0.
    """

    dist: jax.Array
    pos: Vec
    normal: Vec
    points: jax.Array
    linvel: Vec
    linacc: Vec
    weight: jax.Array
    robot: jax.Array


class _Moving(NamedTuple):
    """Boxes as components, [slots, envs]."""

    pos: Vec
    quat: list
    linvel: Vec
    angvel: Vec


class _Problem(NamedTuple):
    """What the accelerations of the boxes minimise; all over a box's mass.

    Attributes:
      directions: of every contact, the normal and those of sliding.
      arm: from the box's centre to it.
      offset: what the accelerations along the directions have to reach, its sign turned [3, contacts, slots, envs].
      stiffness: of its edges.
      paired: which contacts are between two slots.
      their_arm: from the other box's centre to those; empty where there are none.
      inertia: 6 by 6, linear part first.
      smooth: accelerations without any constraint.
      weld: rows of a gremlin's weld, each on one of the six accelerations: factor, reference and stiffness.
    """

    directions: list[Vec]
    arm: Vec
    offset: jax.Array
    stiffness: jax.Array
    paired: slice
    their_arm: Vec
    inertia: Mat
    smooth: list
    weld: list[tuple]


class Reaction(NamedTuple):
    """What boxes do to the robot's root, which itself accelerates by a: push - added (a' - a), should it be a' instead.

    Attributes:
      push: float32 [6], force in N, and torque about the root's origin in N m, world axes.
      added: float32 [6, 6], mass that the boxes add to the robot's; 0 for boxes that it hardly feels.
    """

    push: jax.Array
    added: jax.Array


class BoxPhysics:
    """Moves the boxes of one kind beside a robot.

    Args:
      kind: the boxes.
      shapes: the robot's parts.
      obstacles: kinds of things that stand still.
      timestep: physics step, seconds.
      most_steps: physics steps that boxes may glide at once.
      invweight: MuJoCo's translational `body_invweight0` of the robot's bodies, 1/kg.
      robot_mass: kg.
      robot_radius: of the ball round its root that holds it, metres.

    Attributes:
      heavy: whether a box weighs enough for the robot to feel its inertia.
    """

    def __init__(
        self,
        kind: Kind,
        shapes: tuple[Shape, ...],
        obstacles: tuple[Obstacle, ...],
        timestep: float,
        most_steps: int,
        invweight: tuple[float, ...],
        robot_mass: float,
        robot_radius: float,
    ):
        self._kind, self._obstacles, self._timestep = kind, obstacles, timestep
        centres, halves = (np.array(x) for x in zip(*kind.parts, strict=True))
        self._centres, self._halves = (list(x.T.astype(np.float32)[..., None, None]) for x in (centres, halves))
        masses = kind.density * 8 * halves.prod(axis=1)
        self.mass = float(masses.sum())
        self.heavy = self.mass > HEAVY * robot_mass
        square = halves**2 / 3 + centres**2
        inertia = (masses[:, None] * (square.sum(axis=1, keepdims=True) - square)).sum(axis=0) / self.mass
        self._inertia = inertia.astype(np.float32)  # principal moments over the mass, m^2
        # Corners on which the parts stand, one of each pair of opposite ones.
        signs = np.array([[x, y, -1] for x in (-1, 1) for y in (-1, 1)])
        feet = (centres[:, None] + signs * halves[:, None]).reshape(-1, 3)
        self._feet = list(feet.T.astype(np.float32)[..., None, None])
        self._extent = (np.abs(centres) + halves).max(axis=0).astype(np.float32)
        self._robot_radius = robot_radius
        self._groups = _groups(shapes)
        self._weight = 1 + self.mass * np.array(invweight, np.float32)
        steps = range(most_steps + 1)
        self._glides = [np.stack(x) for x in zip(*(_glides(timestep, k) for k in steps), strict=True)]

    def reach(self, boxes: Boxes, robot_path: jax.Array) -> jax.Array:
        """Which boxes the robot may touch during the step, bool [n].

        Args:
          boxes: before the step.
          robot_path: float32 [steps + 1, 3], positions of the robot's root.
        """
        return self._clearance(boxes, robot_path) < 0

    def awake(self, boxes: Boxes) -> jax.Array:
        """Which boxes move by themselves, bool [n]; the others lie still, or `glide`, until something touches them."""
        if self._kind.travel is not None:
            return jnp.zeros(boxes.pos.shape[0], bool)
        return _awake(boxes.linvel, boxes.angvel)

    def choose(self, boxes: Boxes, robot_path: jax.Array) -> jax.Array:
        """The boxes worth a slot, int32 [slots]: those the robot may touch, then moving ones and their neighbours."""
        clearance = self._clearance(boxes, robot_path)
        offset = boxes.pos[:, None] - boxes.pos
        distance = jnp.sqrt(jnp.sum(offset**2, axis=-1))
        to_moving = jnp.min(jnp.where(self.awake(boxes), distance, jnp.inf), axis=1)  # 0 for moving ones
        urgency = jnp.where(clearance < 0, -clearance, -10.0 - jnp.minimum(to_moving, 10.0))
        return jax.lax.top_k(urgency, min(self._kind.slots, len(clearance)))[1]

    def settle(self, boxes: Boxes) -> Boxes:
        """Lays free boxes still that are slower than `REST`."""
        if self._kind.travel is not None:
            return boxes
        slow = jnp.sum(boxes.linvel**2, axis=-1, keepdims=True) < REST**2
        slow &= jnp.sum(boxes.angvel**2, axis=-1, keepdims=True) < REST**2
        return boxes.replace(linvel=jnp.where(slow, 0.0, boxes.linvel), angvel=jnp.where(slow, 0.0, boxes.angvel))

    def contacts(self, boxes: Boxes, frames: Frames) -> jax.Array:
        """The robot's contact points with each box, float32 [n]."""
        return spatial.lanes(self._contacts)(boxes, frames)

    @spatial.traced_once
    def _contacts(self, boxes, frames):
        now = _components(boxes)
        parts = self._parts(now.pos, keep(spatial.quat_mat(now.quat)))
        touch = _join(self._meet_robot(parts, frames, Accelerations(*frames[2:])))  # these play no part
        return total(jnp.where(touch.dist < 0, touch.points, 0.0), 0)

    def advance(
        self,
        boxes: Boxes,
        frames: Frames,
        frames_acc: Accelerations,
        places: tuple[jax.Array, ...],
        home: jax.Array,
        time: jax.Array,
    ) -> tuple[Boxes, Reaction]:
        """One physics step of boxes that can touch each other, the robot and obstacles.

        Args:
          boxes: before, as many as have a slot.
          frames: the robot's bodies now.
          frames_acc: their accelerations during this step.
          places: where the obstacles are, float32 [K, 2] for each kind.
          home: float32 [slots, 3]: x, y of a gremlin's circle's centre, and its first yaw.
          time: float32 [], seconds since reset, at the start of the step.

        Returns:
          The boxes afterwards, and what they do to the robot.
        """
        return spatial.lanes(self._advance)(boxes, frames, frames_acc, places, home, time)

    @spatial.traced_once
    def _advance(self, boxes, frames, frames_acc, places, home, time):
        dt = self._timestep
        near = _components(boxes)
        mat = keep(spatial.quat_mat(near.quat))
        lin, ang, reaction, moves = self._solve(near, mat, frames, frames_acc, places, home, time)
        linvel, angvel = add(near.linvel, scale(lin, dt)), add(near.angvel, scale(ang, dt))
        quat = spatial.quat_integrate(jnp.stack(near.quat), jnp.stack(back(mat, angvel)), dt)
        after = _Moving(add(near.pos, scale(linvel, dt)), list(quat), linvel, angvel)
        after = jax.tree.map(lambda old, new: jnp.where(moves, new, old), near, after)
        return Boxes(*(jnp.stack(x, axis=1) for x in after)), reaction

    def glide(self, boxes: Boxes, home: jax.Array, time: jax.Array, num_steps: int | jax.Array) -> Boxes:
        """Gremlins after `num_steps` physics steps under gravity and the weld alone, in closed form.

        The weld is taken to be off by more than a millimetre, where its impedance no longer grows: it lags behind its
        target by a twelfth of its circle's radius. Turns away from the first yaw are taken to be small.

        Args:
          boxes: before.
          home: float32 [n, 3]: x, y of the circle's centre, and the first yaw.
          time: float32 [], seconds since reset.
          num_steps: how many, up to `most_steps`.
        """
        glide, lift, sway, turn = (jnp.asarray(table)[num_steps] for table in self._glides)
        sin, cos = ((self._kind.travel or 0.0) * f(time) for f in (jnp.sin, jnp.cos))
        # Responses to sin t and to cos t, which is sin t a quarter later.
        drive = [[sway[0, i] * sin + sway[1, i] * cos, sway[0, i] * cos - sway[1, i] * sin, lift[i]] for i in range(2)]
        now = _components(boxes)
        off = [now.pos[0] - home[:, 0], now.pos[1] - home[:, 1], now.pos[2]]
        pos = [glide[0, 0] * x + glide[0, 1] * v + push for x, v, push in zip(off, now.linvel, drive[0], strict=True)]
        linvel = [
            glide[1, 0] * x + glide[1, 1] * v + push for x, v, push in zip(off, now.linvel, drive[1], strict=True)
        ]
        pos = [pos[0] + home[:, 0], pos[1] + home[:, 1], pos[2]]
        off = _turned(now.quat, home[:, 2])
        vec = [(turn[0, 0] * x + turn[0, 1] * w) / 2 for x, w in zip(off, now.angvel, strict=True)]
        angvel = [turn[1, 0] * x + turn[1, 1] * w for x, w in zip(off, now.angvel, strict=True)]
        scalar = jnp.sqrt(jnp.maximum(1 - dot(vec, vec), 0.0))
        quat = spatial.quat_mul([scalar, *vec], _yaw(home[:, 2]))
        return Boxes(*(jnp.stack(x, axis=1) for x in (pos, quat, linvel, angvel)))

    # Where boxes meet what.

    def _clearance(self, boxes: Boxes, robot_path: jax.Array) -> jax.Array:
        """Distance between a ball that holds the robot all along and each box, metres [n]."""
        path = jnp.sqrt(jnp.max(jnp.sum((robot_path - robot_path[0]) ** 2, axis=-1)))
        now = _components(boxes)
        local = back(spatial.quat_mat(now.quat), add(list(robot_path[0]), scale(now.pos, -1.0)))
        beyond = [jnp.maximum(jnp.abs(x) - extent, 0.0) for x, extent in zip(local, self._extent, strict=True)]
        return jnp.sqrt(dot(beyond, beyond)) - self._robot_radius - path

    def _parts(self, pos: Vec, mat: Mat) -> Solid:
        """The parts of the boxes, [parts, slots, envs]."""
        axes = [[row[i] for row in mat] for i in range(3)]
        return Solid("box", add(pos, rotate(mat, self._centres)), axes, self._halves)

    def _meet_robot(self, parts: Solid, frames: Frames, acc: Accelerations) -> list[_Touch]:
        """Candidates of contact with the robot."""
        found = []
        for kind, body, offset, axes, size in self._groups:
            pos, linvel, angvel, linacc, angacc = (
                [_of(x[:, i], body) for i in range(3)]
                for x in (frames.pos, frames.linvel, frames.angvel, acc.linacc, acc.angacc)
            )
            mat = [[_of(frames.mat[:, i, j], body) for j in range(3)] for i in range(3)]
            centre, axes = add(pos, rotate(mat, offset)), [rotate(mat, axis) for axis in axes]
            points = 1.0
            if kind == "sphere":
                new = [collide_box.ball(centre, size[0], parts)]
            elif kind == "capsule":
                new = collide_box.capsule(centre, axes[2], size[0], size[1], parts)
            elif kind == "beam":
                new = collide_box.capsule(centre, axes[2], size[0], size[1] - size[0], parts)[:1]
            elif kind == "wheel":
                new = collide_box.box(collide_box.wheel(centre, axes[2], size[0], size[1]), parts)
                points = 0.5
            else:
                new = collide_box.box(Solid("box", centre, axes, size), parts)
            weight = self._weight[body][:, None, None, None]
            for candidates in new:
                arm = add(candidates.pos, scale(pos, -1.0))
                vel, rate = add(linvel, cross(angvel, arm)), add(linacc, cross(angacc, arm))
                found.append(_touch(candidates, points, weight, robot=1.0, linvel=vel, linacc=rate))
        return found

    def _meet_obstacles(self, parts: Solid, places: tuple[jax.Array, ...]) -> list[_Touch]:
        """Candidates of contact with what stands still."""
        found = []
        for obstacle, where in zip(self._obstacles, places, strict=True):
            centre = [where[:, 0, None, None], where[:, 1, None, None]]  # [places, parts, slots, envs]
            centre.append(jnp.full_like(centre[0], obstacle.height))
            size = obstacle.size
            if obstacle.kind == "sphere":
                new = [collide_box.ball(centre, size[0], parts)]
            elif obstacle.kind == "cylinder":
                new = [collide_box.pillar(centre, size[0], size[1], parts)]
            else:
                new = collide_box.box(Solid("box", centre, _WORLD, list(map(np.float32, size))), parts)
            found += [_touch(candidates, 1.0, 1.0) for candidates in new]
        return found

    def _meet_boxes(self, near: _Moving, parts: Solid) -> list[_Touch]:
        """Candidates of contact with the other slots, for each corner and each other one."""
        if len(near.pos[0]) == 1:
            return []
        theirs = jax.tree.map(lambda x: _others(jnp.broadcast_to(x, parts.pos[0].shape))[:, :, None], tuple(parts[1:]))
        found = []
        for candidates in collide_box.box(Solid("box", *theirs), parts):  # [others, parts, parts, slots, envs]
            pos, linvel, angvel = (
                [_others(x)[:, None, None] for x in vec] for vec in (near.pos, near.linvel, near.angvel)
            )
            linvel = add(linvel, cross(angvel, add(candidates.pos, scale(pos, -1.0))))
            found.append(_touch(candidates, 1.0, 2.0, linvel=linvel))
        return found

    def _stand(self, pos: Vec, mat: Mat) -> _Touch:
        """Candidates of contact with the floor."""
        feet = rotate(mat, self._feet)
        lower = jnp.where(feet[2] > 0, -1.0, 1.0)  # of two opposite corners
        foot = add(pos, scale(feet, lower))
        dist = foot[2]
        return _touch(Candidates(dist, [*foot[:2], dist / 2], _WORLD[2]), 1.0, 1.0)

    # The solver.

    def _solve(self, near: _Moving, mat: Mat, frames, frames_acc, places, home, time):
        """Linear and angular accelerations, the reaction on the robot, and which boxes move, bool [slots, envs]."""
        touch, paired = self._contacts_of(near, mat, frames, frames_acc, places)
        problem = self._problem(near, mat, touch, paired, home, time)
        acc = self._minimise(problem)
        reaction = self._react(problem, touch.robot, add(touch.pos, [-x for x in frames.pos[0]]), acc)

        # A box at rest is left alone until the robot or a moving box touches it.
        awake = _awake(jnp.stack(near.linvel, axis=-1), jnp.stack(near.angvel, axis=-1))
        stirring = touch.robot > 0
        if problem.their_arm:
            stirring = _replace(stirring, paired, _spread(awake, paired))
        moves = awake | jnp.any(stirring & (touch.dist < 0), axis=0) | (self._kind.travel is not None)
        return acc[:3], acc[3:], reaction, moves

    def _contacts_of(self, near: _Moving, mat: Mat, frames, frames_acc, places) -> tuple[_Touch, slice]:
        """All contacts, and which of them are between two slots."""
        parts = self._parts(near.pos, mat)
        nearest = _deepest(_join(self._meet_robot(parts, frames, frames_acc) + self._meet_obstacles(parts, places)))
        pairs = self._meet_boxes(near, parts)
        floor = [self._stand(near.pos, mat)] if self._kind.travel is None else []
        start = len(nearest.dist)
        return keep(_join([nearest, *pairs, *floor])), slice(start, start + sum(len(x.dist) for x in pairs))

    def _problem(self, near: _Moving, mat: Mat, touch: _Touch, paired: slice, home, time) -> _Problem:
        """What the solver minimises."""
        side = collide.tangent(touch.normal, _WORLD)
        directions = [touch.normal, side, cross(touch.normal, side)]
        arm = add(touch.pos, scale(near.pos, -1.0))
        approach = add(add(near.linvel, cross(near.angvel, arm)), scale(touch.linvel, -1.0))
        stiff, damp = contact.spring(self._timestep)
        rate = add(scale(approach, damp), scale(touch.linacc, -1.0))
        offset = [dot(direction, rate) for direction in directions]
        offset[0] += stiff * contact.impedance(touch.dist) * touch.dist
        stiffness = touch.points * contact.edge_stiffness(touch.dist, touch.weight)
        directions, arm, offset, stiffness = keep((directions, arm, jnp.stack(offset), stiffness))
        their_arm = []
        if paired.start < paired.stop:
            their_arm = keep([x[paired] - _spread(y, paired) for x, y in zip(touch.pos, near.pos, strict=True)])
        inertia, smooth = keep(self._smooth(near, mat))
        weld = [] if self._kind.travel is None else keep(self._weld(near, home, time))
        return _Problem(directions, arm, offset, stiffness, paired, their_arm, inertia, smooth, weld)

    def _minimise(self, problem: _Problem) -> list:
        """Accelerations, by Newton's method."""

        def newton(carry):
            count, _, acc = carry
            gradient, hessian = _system(problem, acc)
            change = keep(jnp.stack(spatial.solve6(hessian, gradient)))
            acc = [x - y for x, y in zip(acc, change, strict=True)]
            return count + 1, jnp.any(jnp.abs(change) > TOLERANCE * (1 + jnp.abs(jnp.stack(acc)))), acc

        def more(carry):
            return (carry[0] < ITERATIONS[len(self._kind.parts) > 1]) & carry[1]

        return jax.lax.while_loop(more, newton, (jnp.int32(0), jnp.array(True), problem.smooth))[2]

    def _react(self, problem: _Problem, robot: jax.Array, root_arm: Vec, acc: list) -> Reaction:
        """What contacts with the robot do to it; `root_arm` is from its root to all contacts."""
        force, fall = _press(problem, acc, problem.stiffness * robot)
        push = jnp.stack([-self.mass * total(total(x, 0), 0) for x in (*force, *cross(root_arm, force))])
        if not self.heavy:
            return Reaction(push, jnp.zeros((6, *push.shape)))
        # What the push changes by as the robot's acceleration does, the box's answer included.
        mixed = [[total(x, 0) for x in row] for row in _blocks(fall, problem.arm, root_arm)]  # of the box, of the robot
        mixed = keep([jnp.stack(row) for row in mixed])
        answer = keep(spatial.solve6(_system(problem, acc)[1], mixed))
        own = jnp.stack([jnp.stack([total(x, 0) for x in row]) for row in _blocks(fall, root_arm, root_arm)])
        own = own - sum(x[:, None] * y for x, y in zip(mixed, answer, strict=True))
        return Reaction(push, self.mass * total(own, 2))

    def _smooth(self, near: _Moving, mat: Mat) -> tuple[Mat, list]:
        """Inertia over the mass, 6 by 6, and accelerations under gravity alone; linear ones first."""
        none = jnp.zeros_like(near.pos[0])
        about = [[dot([x * y for x, y in zip(a, b, strict=True)], self._inertia) for b in mat] for a in mat]
        inertia = [[none + float(i == j) for j in range(3)] + [none] * 3 for i in range(3)]
        inertia += [[none] * 3 + row for row in about]
        turn = [none] * 3
        if np.ptp(self._inertia) > 1e-9:
            spin = back(mat, near.angvel)
            moment = cross([x * i for x, i in zip(spin, self._inertia, strict=True)], spin)
            turn = rotate(mat, [x / i for x, i in zip(moment, self._inertia, strict=True)])
        return inertia, [none, none, none - GRAVITY, *turn]

    def _weld(self, near: _Moving, home: jax.Array, time: jax.Array) -> list[tuple]:
        """The weld's rows, each on one of the six accelerations: factor, reference and stiffness."""
        stiff, damp = contact.spring(self._timestep, *WELD)
        x, y = ((self._kind.travel or 0.0) * f(time) for f in (jnp.sin, jnp.cos))
        target = [home[:, 0] + x, home[:, 1] + y, HOVER]
        off = [a - b for a, b in zip(near.pos, target, strict=True)]
        off += scale(_turned(near.quat, home[:, 2]), 0.5)
        imp = contact.impedance(jnp.sqrt(dot(off, off)))
        rows = []
        for i, (away, rate) in enumerate(zip(off, (*near.linvel, *near.angvel), strict=True)):
            factor, weight = (1.0, 1.0) if i < 3 else (0.5, self._inertia[i - 3])
            ref = -damp * factor * rate - stiff * imp * away
            rows.append((jnp.full_like(ref, factor), ref, imp / (1 - imp) * weight))
        return rows


_UPPER = [(i, j) for i in range(3) for j in range(i, 3)]


def _groups(shapes: tuple[Shape, ...]) -> list[tuple]:
    """Shapes that collide alike: kind, bodies, and centres, axes and sizes in the bodies' frames, [shapes, 1, 1, 1].

    Cylinders are wheels or, where they are longer than wide, beams.
    """
    groups: dict[str, list[Shape]] = {}
    for shape in shapes:
        cylinder = "beam" if shape.size[1] > shape.size[0] else "wheel"
        groups.setdefault(cylinder if shape.kind == "cylinder" else shape.kind, []).append(shape)
    out = []
    for kind, members in groups.items():
        mats = np.zeros((len(members), 9))
        for mat, shape in zip(mats, members, strict=True):
            mujoco.mju_quat2Mat(mat, np.array(shape.quat))
        pos, size = (np.array([getattr(shape, name) for shape in members]).T for name in ("pos", "size"))
        arrays = (x.astype(np.float32)[..., None, None, None] for x in (pos, mats.reshape(-1, 3, 3).T, size))
        pos, axes, size = map(list, arrays)  # the transposed matrices' rows are the axes
        body = np.array([shape.body for shape in members])
        out.append((kind, body, pos, [list(axis) for axis in axes], size))
    return out


def _glides(dt: float, num_steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Offset and velocity of a welded box after some steps: what is linear in them as they were [2, 2], the height that
    comes from target and gravity [2], what a target at sin t adds, by sin t and cos t [2, 2], and how turns decay
    [2, 2]."""
    stiff, damp = contact.spring(dt, *WELD)
    imp = 0.95

    def power(share, step, count):
        pull, drag = share * imp * stiff, share * damp
        return np.linalg.matrix_power(
            np.array([[1 - step**2 * pull, step * (1 - step * drag)], [-step * pull, 1 - step * drag]]), count
        )

    push = np.array([dt**2, dt])
    later = [power(imp, dt, num_steps - 1 - k) @ push for k in range(num_steps)]
    drive = imp * imp * stiff
    lift = sum(later, start=np.zeros(2)) * (drive * HOVER - (1 - imp) * GRAVITY)
    sway = drive * np.array([
        sum((p * f(k * dt) for k, p in enumerate(later)), start=np.zeros(2)) for f in (np.cos, np.sin)
    ])  # fmt: skip
    ratio = imp / (1 - imp) / 4
    turn = power(ratio / (1 + ratio), dt, num_steps)
    glide = power(imp, dt, num_steps)
    return glide.astype(np.float32), lift.astype(np.float32), sway.astype(np.float32), turn.astype(np.float32)


def _turned(quat: list, yaw: jax.Array) -> Vec:
    """Small rotations from upright at `yaw` to `quat`, world axes."""
    off = spatial.quat_mul(quat, _yaw(-yaw))
    return scale(off[1:], 2 * jnp.where(off[0] < 0, -1.0, 1.0))


def _yaw(yaw: jax.Array) -> list:
    """Quaternion of a turn about the vertical."""
    none = jnp.zeros_like(yaw)
    return [jnp.cos(yaw / 2), none, none, jnp.sin(yaw / 2)]


def _awake(linvel: jax.Array, angvel: jax.Array) -> jax.Array:
    """Whether any of the velocities [..., 3] is not 0."""
    return jnp.any(linvel != 0, axis=-1) | jnp.any(angvel != 0, axis=-1)


def _components(boxes: Boxes) -> _Moving:
    return _Moving(*([x[:, i] for i in range(x.shape[1])] for x in jax.tree.leaves(boxes)))


def _of(values: jax.Array, index: np.ndarray) -> jax.Array:
    """Rows of [bodies, envs], as [shapes, 1, 1, envs]."""
    if len(set(index.tolist())) == 1:
        return values[index[:1], None, None]
    return jnp.stack([values[i] for i in index])[:, None, None]


def _others(values: jax.Array) -> jax.Array:
    """For each slot of [..., slots, envs] the values of all others, [slots - 1, ..., slots, envs]."""
    num = values.shape[-2]
    slots = [values[..., i, :] for i in range(num)]
    return jnp.stack([jnp.stack([slots[k + (k >= i)] for i in range(num)], axis=-2) for k in range(num - 1)])


def _spread(values: jax.Array, paired: slice) -> jax.Array:
    """`_others` of [slots, envs] for each contact of boxes with each other, [contacts, slots, envs]."""
    others, num, corners = _others(values), paired.stop - paired.start, 4
    each = jnp.broadcast_to(others[None, :, None], (corners, len(others), num // len(others) // corners, *values.shape))
    return each.reshape(num, *values.shape)


def _replace(values: jax.Array, at: slice, new: jax.Array) -> jax.Array:
    """Other rows in the middle."""
    return jnp.concatenate([values[: at.start], new, values[at.stop :]])


def _touch(
    candidates: Candidates, points: float, weight: Any, robot: float = 0.0, linvel: Any = None, linacc: Any = None
) -> _Touch:
    """Contacts [contacts, slots, envs] of candidates [..., slots, envs]; without velocities, with what stands still."""
    still = [np.float32(0.0)] * 3
    dist, pos, normal = candidates
    fields: Any = dist, pos, normal, points, linvel or still, linacc or still, weight, robot
    touch = _Touch(*fields)
    shape = jnp.broadcast_shapes(*map(jnp.shape, jax.tree.leaves(touch)))
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.float32(x), shape).reshape(-1, *shape[-2:]), touch)


def _join(touches: list[_Touch]) -> _Touch:
    return jax.tree.map(lambda *x: jnp.concatenate(x), *touches)


def _deepest(touch: _Touch) -> _Touch:
    """The deepest `NEAR` contacts of each slot."""
    if len(touch.dist) <= NEAR:
        return touch
    touch = keep(touch)
    order = jax.lax.top_k(-jnp.moveaxis(touch.dist, 0, -1), NEAR)[1]
    order = jnp.moveaxis(order, -1, 0)
    leaves, structure = jax.tree.flatten(touch)
    return structure.unflatten(jnp.take_along_axis(jnp.stack(leaves), order[None], axis=1))


def _blocks(fall: Mat, left: Vec, right: Vec) -> Mat:
    """How wrenches on one body fall with the accelerations of another one, 6 by 6, linear part first.

    Args:
      fall: how a force falls with the acceleration of the point where it attacks, 3 by 3.
      left: from the first body's origin to that point.
      right: from the second body's.
    """
    upper = [[*row, *cross(right, row)] for row in fall]
    columns = [cross(left, [row[j] for row in upper]) for j in range(6)]
    return upper + [[column[i] for column in columns] for i in range(3)]


def _press(problem: _Problem, acc: list, stiffness: jax.Array) -> tuple[Vec, Mat]:
    """Forces of contacts on the boxes, and how they fall with the accelerations of the points where they attack."""
    directions, paired = problem.directions, problem.paired
    there = add(acc[:3], cross(acc[3:], problem.arm))
    bound: Any = np.ones((len(stiffness), 1, 1), np.float32)
    if problem.their_arm:
        # The other boxes' accelerations are those of the iteration before. Twice the block of a pair bounds the coupled
        # Hessian, so that the blocks can be solved one by one.
        lin, ang = ([_spread(x, paired) for x in vec] for vec in (acc[:3], acc[3:]))
        theirs = add(lin, cross(ang, problem.their_arm))
        there = [_replace(x, paired, x[paired] - y) for x, y in zip(there, theirs, strict=True)]
        bound[paired] = 2.0
    along = keep(jnp.stack([dot(direction, there) for direction in directions]) + problem.offset)
    forces, steep, mixed, own = contact.edges(along, stiffness, _FRICTION)
    force = functools.reduce(add, map(scale, directions, forces))
    normal, *sides = directions
    first = add(scale(normal, steep * bound), functools.reduce(add, map(scale, sides, mixed * bound)))
    rest = [add(scale(normal, m), scale(side, o)) for side, m, o in zip(sides, mixed * bound, own * bound, strict=True)]
    fall = {(i, j): dot([d[i] for d in directions], [x[j] for x in (first, *rest)]) for i, j in _UPPER}
    return keep((force, [[fall[min(i, j), max(i, j)] for j in range(3)] for i in range(3)]))


def _system(problem: _Problem, acc: list) -> tuple[list, Mat]:
    """Gradient at accelerations, and the Hessian's lower triangle."""
    force, fall = _press(problem, acc, problem.stiffness)
    pull = [total(x, 0) for x in (*force, *cross(problem.arm, force))]
    away = [x - y for x, y in zip(acc, problem.smooth, strict=True)]
    gradient = [dot(row, away) - x for row, x in zip(problem.inertia, pull, strict=True)]
    blocks = _blocks(fall, problem.arm, problem.arm)
    hessian = [
        [row[j] + total(block[j], 0) for j in range(i + 1)]
        for i, row, block in zip(range(6), problem.inertia, blocks, strict=True)
    ]
    for i, (factor, ref, hold) in enumerate(problem.weld):
        gradient[i] += hold * factor * (factor * acc[i] - ref)
        hessian[i][i] += hold * factor**2
    return keep((gradient, hessian))
