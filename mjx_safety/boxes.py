"""Light boxes that robots push: vases, gremlins, the push box; six degrees of freedom and MuJoCo's soft contacts.

A vase weighs 8 mg, the lightest robot 5 g. So the robot moves first, as prescribed, and the boxes react; what they do
to the robot is returned for the caller to use. The push box weighs more: the Point is solved together with it. Each box
that matters has its own six accelerations, under gravity, contacts with the floor, the robot, fixed obstacles and other
boxes, and the weld that draws a gremlin along, in MuJoCo's formulas (`contact`), found by Newton's method (`newton`).
What is simplified beside MuJoCo: boxes and cylinders meet in at most four points; turning and rolling friction (0.005
and 0.0001 m; 0.01 for the Point's sphere) is left out.

Vectors are lists of three arrays, environments last, as in `spatial`; contacts are [contacts, slots, envs], and side by
side in the solver (`points.Points`). On CPUs physics steps are part of a call in one go (`spatial.all_in_one_go`):
nothing that it takes may sort, scatter or multiply matrices.
"""

import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from mjx_safety import collide, collide_box, collide_boxes, contact, newton, short, spatial
from mjx_safety.angles import cos_sin
from mjx_safety.collide import Solid
from mjx_safety.collide_box import Candidates
from mjx_safety.contact import Frames, Obstacle, Reach, Shape
from mjx_safety.points import Points, Reaction, onto, spread, total
from mjx_safety.robots import GRAVITY
from mjx_safety.spatial import Mat, Vec, add, back, cross, dot, keep, keep_on_cpu, norm, rotate, scale

ITERATIONS = {False: 6, True: 10}  # most Newton steps of the contact solver, by whether a box has several parts
NEAR = 6  # contacts a box can have at once with the robot and obstacles
HEAVY = 0.01  # of the robot's mass: heavier boxes are solved together with it
REST = 5e-5  # m/s, rad/s: slower boxes lie still; half of the least speed that costs anything
WELD = (0.02, 1.5)  # solref of a gremlin's weld
_HELD = 0.95  # impedance of its weld where it is off by more than a millimetre
_WORLD: Any = [[np.float32(i == j) for j in range(3)] for i in range(3)]  # its axes


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


def hover(kind: Kind) -> float:
    """Height of a gremlin's target, metres: the original counts its half-size twice."""
    return 2 * kind.parts[0][1][2]


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
      num_points: MuJoCo's contact points that the candidate stands for.
      linvel, linacc: of what the box touches, where it does.
      weight: sum of the two translational `body_invweight0`, over the box's.
      robot: 1 where the box touches the robot, else 0.
    """

    dist: jax.Array
    pos: Vec
    normal: Vec
    num_points: jax.Array
    linvel: Vec
    linacc: Vec
    weight: jax.Array
    robot: jax.Array


class _Touches(NamedTuple):
    """Contacts of each slot with all but the floor.

    Attributes:
      nearest: with the robot and what stands still.
      pairs: with the other slots; None with a single one.
    """

    nearest: _Touch
    pairs: _Touch | None


class _Partner(NamedTuple):
    """What contacts are with.

    Numbers or numpy arrays [things] for what may be met; then arrays [contacts], for every candidate; then, of those
    that were chosen, what broadcasts to [contacts, slots, envs].

    Attributes:
      num_points: MuJoCo's contact points that the candidate stands for.
      weight: sum of the two translational `body_invweight0`, over the box's.
      body: of the robot, index into `Frames`; -1 for what stands still.
    """

    num_points: Any
    weight: Any
    body: Any


class _Moving(NamedTuple):
    """Boxes as components, [slots, envs]."""

    pos: Vec
    quat: list
    linvel: Vec
    angvel: Vec


class _Problem(NamedTuple):
    """What the accelerations of the boxes minimise, the linear ones first; all over a box's mass.

    Attributes:
      inertia: [6, 6, slots, envs].
      force: [6, slots, envs].
      start: accelerations [6, slots, envs] to start from.
      nearest: contacts with the robot and what stands still.
      pairs: contacts with the other slots; None without any.
      theirs: from those boxes' centres to the points of `pairs`; empty without any.
      floor: contacts with the floor; None where there are none.
    """

    inertia: jax.Array
    force: jax.Array
    start: jax.Array
    nearest: Points
    pairs: Points | None
    theirs: Vec
    floor: Points | None

    def terms(self, acc: jax.Array, reaction: Reaction) -> newton.Terms:
        """Of Newton's method at accelerations [6, slots, envs], with what `nearest` does to the boxes there.

        The other boxes' accelerations are those of the iteration before: twice the block of a pair bounds the coupled
        Hessian, so that the blocks can be solved one by one.
        """
        bodies = acc.shape[1:]
        shares = [self.nearest.on_bodies(reaction, bodies)]
        if self.pairs is not None:
            others = keep([_spread(x, self.pairs.each(bodies)) for x in acc], flat=True)
            passing = add(others[:3], cross(others[3:], self.theirs))
            between = self.pairs.react(add(self.pairs.accelerations(acc), scale(passing, -1.0)))
            shares.append(self.pairs.on_bodies(between.falling(2.0), bodies))
        if self.floor is not None:
            shares.append(self.floor.on_bodies(self.floor.react(self.floor.accelerations(acc)), bodies))
        stiff, push = jax.tree.map(lambda *x: sum(x[1:], start=x[0]), *shares)
        matrix = [[self.inertia[i, j] + stiff[i][j] for j in range(i + 1)] for i in range(len(acc))]
        slope = short.sum(self.inertia * acc, 1) - self.force - jnp.stack(push)
        return newton.Terms(*keep((matrix, slope)))


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
        self._corner = float(np.linalg.norm(np.abs(centres) + halves, axis=1).max())  # from the middle, metres
        self._groups = _groups(shapes)
        self._weight = 1 + self.mass * np.array(invweight, np.float32)
        self._iterations = ITERATIONS[len(kind.parts) > 1]
        if kind.travel is not None:
            tables = (_glides(timestep, k, hover(kind)) for k in range(most_steps + 1))
            self._glides = [np.stack(x) for x in zip(*tables, strict=True)]

    def clearance(self, boxes: Boxes, reach: Reach) -> jax.Array:
        """Distance between the robot's reach within a step and each box as it is before, metres [n]."""
        now = _components(boxes)
        centres = list(reach.centres.T[:, :, None])  # [balls, n]
        local = back(spatial.quat_mat(now.quat), add(centres, scale(now.pos, -1.0)))
        parts = zip(local, self._centres, self._halves, strict=True)
        beyond = [jnp.maximum(jnp.abs(x - centre) - half, 0.0) for x, centre, half in parts]  # [parts, balls, n]
        # Fused with the minimum, XLA's loops over a few balls would not be vectorised.
        nearest = keep(jnp.sqrt(short.min(dot(beyond, beyond), 0)))
        return short.min(nearest - reach.radii[:, None], 0)

    def awake(self, boxes: Boxes) -> jax.Array:
        """Which boxes move by themselves, bool [n]; the others lie still, or `glide`, until something touches them."""
        if self._kind.travel is not None:
            return jnp.zeros(boxes.pos.shape[0], bool)
        return _awake(boxes.linvel, boxes.angvel)

    def drift(self, before: Boxes, after: Boxes, time: float) -> jax.Array:
        """How far any point of each gliding box gets in some seconds, metres [n], turning no faster than at first."""
        return short.norm(after.pos - before.pos, -1) + time * self._corner * short.norm(before.angvel, -1)

    def choose(self, boxes: Boxes, clearance: jax.Array) -> jax.Array:
        """The boxes worth a slot, int32 [slots].

        Those the robot may touch, which clear it by less than 0 metres [n]; then those nearest to it or to what moves.
        """
        offset = boxes.pos[:, None] - boxes.pos
        distance = short.norm(offset, -1)
        to_moving = short.min(jnp.where(self.awake(boxes), distance, jnp.inf), 1)  # 0 for moving ones
        waiting = -10.0 - jnp.minimum(jnp.minimum(to_moving, clearance), 10.0)
        urgency = jnp.where(clearance < 0, -clearance, waiting)
        return jax.lax.top_k(urgency, min(self._kind.slots, len(clearance)))[1]

    def settle(self, boxes: Boxes) -> Boxes:
        """Lays free boxes still that are slower than `REST`."""
        if self._kind.travel is not None:
            return boxes
        slow = short.sum(boxes.linvel**2, -1)[:, None] < REST**2
        slow &= short.sum(boxes.angvel**2, -1)[:, None] < REST**2
        return boxes.replace(linvel=jnp.where(slow, 0.0, boxes.linvel), angvel=jnp.where(slow, 0.0, boxes.angvel))

    def contacts(self, boxes: Boxes, frames: Frames) -> jax.Array:
        """The robot's contact points with each box, float32 [n]."""
        return spatial.lanes(self._contacts)(boxes, frames)

    @spatial.traced_once
    def _contacts(self, boxes, frames):
        now, mat = _posed(boxes)
        candidates, partner = self._candidates(now.pos, mat, frames)
        return short.sum(jnp.where(candidates.dist < 0, partner.num_points[:, None, None], 0.0), 0)

    def first_yaw(self, boxes: Boxes, frames: Frames, centres: jax.Array, time: jax.Array) -> jax.Array:
        """The heading to which the weld turns each gremlin back, radians [n], which poses alone do not tell.

        A gremlin that a robot pushes, or has let go lately, is turned away from it. Once fast motions have died away,
        the weld balances push and turn: by how far the gremlin is off its target the push is known, and by how far it
        is tilted, how far a push there turns it.

        Args:
          boxes: now.
          frames: the robot's bodies now.
          centres: float32 [n, 2], of the gremlins' circles.
          time: float32 [], seconds since reset.
        """
        return spatial.lanes(self._first_yaw)(boxes, frames, centres, time)

    @spatial.traced_once
    def _first_yaw(self, boxes, frames, centres, time):
        now, mat = _posed(boxes)
        springs = _weld_springs(self._timestep)
        (pull, drag), slow, slow_turn = springs[0], *(b / 2 - (b * b / 4 - k) ** 0.5 for k, b in springs)
        off = self._off_target(now, centres, time)
        off[2] += (1 - _HELD) * GRAVITY / pull
        x, y = self.on_circle(time)
        leads = [y, -x, 0.0]  # the target's velocity
        push = [pull * (x + (v - lead) / slow) + drag * lead for x, v, lead in zip(off, now.linvel, leads, strict=True)]
        candidates, _ = self._candidates(now.pos, mat, frames)
        nearest = jax.nn.softmax(-candidates.dist / 1e-3, axis=0)
        arm = add([short.sum(nearest * x, 0) for x in candidates.pos], scale(now.pos, -1.0))
        turn = cross(arm, push)
        twist = 2 * jnp.arctan2(now.quat[3], now.quat[0])
        level = now.quat[0] ** 2 + now.quat[3] ** 2  # 1 where upright
        turned = jnp.zeros_like(twist)
        for _ in range(4):
            cos, away = _turned(now.quat, twist - turned)
            spin = add(now.angvel, scale(away, -dot(away, now.angvel)))
            held = [2 * cos * x + rate / slow_turn for x, rate in zip(away, spin, strict=True)]
            share = (held[0] * turn[0] + held[1] * turn[1]) / jnp.maximum(turn[0] ** 2 + turn[1] ** 2, 1e-6)
            about = jnp.maximum(share, 0.0) * turn[2] - spin[2] / slow_turn
            turned = jnp.arcsin(jnp.clip(about / jnp.maximum(level, 1e-6), -1.0, 1.0))
        return twist - turned

    def advance(
        self,
        boxes: Boxes,
        frames: Frames,
        frames_acc: Accelerations,
        places: tuple[jax.Array, ...],
        home: jax.Array,
        time: jax.Array,
    ) -> tuple[Boxes, jax.Array]:
        """One physics step of boxes that can touch each other, the robot and obstacles.

        Args:
          boxes: before, as many as have a slot.
          frames: the robot's bodies now.
          frames_acc: their accelerations during this step.
          places: where the obstacles are, float32 [K, 2] for each kind.
          home: float32 [slots, 3]: x, y of a gremlin's circle's centre, and its first yaw.
          time: float32 [], seconds since reset, at the start of the step.

        Returns:
          The boxes afterwards, and what they do to the robot's root: float32 [6], force in N and torque about its
          origin in N m, world axes.
        """
        return spatial.lanes(self._advance)(boxes, frames, frames_acc, places, home, time)

    @spatial.traced_once
    def _advance(self, boxes, frames, frames_acc, places, home, time):
        near, mat, touch = self._meet(boxes, frames, frames_acc, places)
        problem = self._problem(near, mat, touch, home, time)

        def react(acc):
            return problem.nearest.react(problem.nearest.accelerations(acc))

        acc = newton.minimise(lambda acc: problem.terms(acc, react(acc)).change(), problem.start, self._iterations)
        return self._moved(near, mat, touch, acc), self._push(touch.nearest, react(acc), frames)

    def advance_with(
        self,
        robot: newton.System,
        boxes: Boxes,
        frames: Frames,
        places: tuple[jax.Array, ...],
        home: jax.Array,
        time: jax.Array,
    ) -> tuple[jax.Array, Boxes, jax.Array]:
        """One physics step of heavy boxes and a robot on the plane, solved together; environments last, as in `lanes`.

        Args:
          robot: its accelerations along x and y and about z, at its root's origin.
          boxes, frames, places, home, time: as of `advance`.

        Returns:
          The robot's accelerations; the boxes afterwards, and what they do to the robot's root, as of `advance`.
        """
        near, mat, touch = self._meet(boxes, frames, None, places)
        problem = self._problem(near, mat, touch, home, time)
        x, y, _ = _from_root(touch.nearest, frames)
        met = keep_on_cpu(touch.nearest.robot, flat=True)

        def react(accs):
            along_x, along_y, turn = spread(accs[0], touch.nearest.robot.shape)
            own = problem.nearest.accelerations(accs[1])
            robots = [met * (along_x - turn * y), met * (along_y + turn * x)]
            return problem.nearest.react([own[0] - robots[0], own[1] - robots[1], own[2]])

        def on_robot(force):
            """What a force does along x and y and about z."""
            return [force[0], force[1], x * force[1] - y * force[0]]

        def change(accs):
            """Block elimination: the boxes' answer to the robot first, then the robot, then the boxes."""
            reaction = react(accs)
            own, theirs = problem.terms(accs[1], reaction), newton.terms(robot, accs[0])
            # How forces on the boxes grow as the robot speeds up along x and y and about z; those on it have the other
            # sign, and so has the slope.
            by_x, by_y, _ = (scale(row, met) for row in reaction.rows)
            growth = [by_x, by_y, [x * b - y * a for a, b in zip(by_x, by_y, strict=True)]]
            shared = [on_robot(force)[: i + 1] for i, force in enumerate(growth)]
            mixed = [[*force, *cross(problem.nearest.arm, force)] for force in growth]
            pull = on_robot(scale(reaction.force, met))
            shared, pull = jax.tree.map(lambda a: total(a, accs[0].shape[1:]), (shared, pull))
            mixed = [jnp.stack([total(a, accs[1].shape[1:]) for a in row]) for row in mixed]
            shared, pull, mixed = keep((shared, pull, -jnp.stack(mixed, 1)))
            answer = keep(jnp.stack(spatial.solve(own.matrix, [*jnp.concatenate([own.slope[:, None], mixed], axis=1)])))
            felt = keep(short.sum(short.sum(mixed[:, :, None] * answer[:, None], 0), 2))  # all boxes'
            matrix = [
                [theirs.matrix[i][j] / self.mass + shared[i][j] - felt[i, 1 + j] for j in range(i + 1)]
                for i in range(len(felt))
            ]
            slope = theirs.slope / self.mass + jnp.stack(pull) - felt[:, 0]
            first = jnp.stack(spatial.solve(matrix, list(slope)))
            return first, answer[:, 0] - short.sum(answer[:, 1:] * first[:, None], 1)

        accs = newton.minimise(change, (robot.start, problem.start), self._iterations)
        push = self._push(touch.nearest, react(accs), frames)
        return accs[0], self._moved(near, mat, touch, accs[1]), push

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
        sin, cos = self.on_circle(time)
        # Responses to sin t and to cos t, which is sin t a quarter later.
        drive = [[sway[0, i] * sin + sway[1, i] * cos, sway[0, i] * cos - sway[1, i] * sin, lift[i]] for i in range(2)]
        now = _components(boxes)
        off = [now.pos[0] - home[:, 0], now.pos[1] - home[:, 1], now.pos[2]]
        pos = [glide[0, 0] * x + glide[0, 1] * v + push for x, v, push in zip(off, now.linvel, drive[0], strict=True)]
        linvel = [
            glide[1, 0] * x + glide[1, 1] * v + push for x, v, push in zip(off, now.linvel, drive[1], strict=True)
        ]
        pos = [pos[0] + home[:, 0], pos[1] + home[:, 1], pos[2]]
        _, away = _turned(now.quat, home[:, 2])
        vec = [turn[0, 0] * x + turn[0, 1] * w / 2 for x, w in zip(away, now.angvel, strict=True)]
        angvel = [turn[1, 0] * 2 * x + turn[1, 1] * w for x, w in zip(away, now.angvel, strict=True)]
        vec = scale(vec, 1 / jnp.maximum(norm(vec), 1.0))
        scalar = jnp.sqrt(jnp.maximum(1 - dot(vec, vec), 0.0))
        quat = spatial.quat_mul([scalar, *vec], _yaw(home[:, 2]))
        return Boxes(*(jnp.stack(x, axis=1) for x in (pos, quat, linvel, angvel)))

    # Where boxes meet what.

    def _parts(self, pos: Vec, mat: Mat) -> Solid:
        """The parts of the boxes, [parts, slots, envs]."""
        axes = [[row[i] for row in mat] for i in range(3)]
        return Solid("box", add(pos, rotate(mat, self._centres)), axes, self._halves)

    def _meet_robot(self, parts: Solid, frames: Frames) -> list[tuple[Candidates, _Partner]]:
        """Candidates of contact with the robot, [shapes, parts, slots, envs]."""
        found = []
        for kind, body, offset, axes, size in self._groups:
            pos = [_of(frames.pos[:, i], body) for i in range(3)]
            mat = [[_of(frames.mat[:, i, j], body) for j in range(3)] for i in range(3)]
            centre, axes = add(pos, rotate(mat, offset)), [rotate(mat, axis) for axis in axes]
            num_points = np.float32(1.0)
            if kind == "sphere":
                new = [collide_box.ball(centre, size[0], parts)]
            elif kind == "capsule":
                new = collide_box.capsule(centre, axes[2], size[0], size[1], parts)
            elif kind == "beam":
                new = collide_box.capsule(centre, axes[2], size[0], size[1] - size[0], parts)[:1]
            elif kind == "wheel":
                new = collide_boxes.meet(collide_boxes.wheel(centre, axes[2], size[0], size[1]), parts)
                num_points = np.float32(0.5)
            else:
                new = collide_boxes.meet(Solid("box", centre, axes, size), parts)
            found += [(candidates, _Partner(num_points, self._weight[body], body)) for candidates in new]
        return found

    def _meet_obstacles(self, parts: Solid, places: tuple[jax.Array, ...]) -> list[tuple[Candidates, _Partner]]:
        """Candidates of contact with what stands still, [places, parts, slots, envs]."""
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
                new = collide_boxes.meet(Solid("box", centre, _WORLD, list(map(np.float32, size))), parts)
            found += [(candidates, _Partner(np.float32(1.0), np.float32(1.0), -1)) for candidates in new]
        return found

    def _candidates(
        self, pos: Vec, mat: Mat, frames: Frames, places: tuple[jax.Array, ...] | None = None
    ) -> tuple[Candidates, _Partner]:
        """All candidates of contact with the robot and, if told where it is, what stands still, and their partners."""
        parts = self._parts(pos, mat)
        still = [] if places is None else self._meet_obstacles(parts, places)
        return _flat(self._meet_robot(parts, frames) + still)

    def _meet_nearest(self, near: _Moving, mat: Mat, frames: Frames, acc: Accelerations | None, places) -> _Touch:
        """The deepest `NEAR` contacts of each slot with the robot and what stands still.

        Without accelerations of the robot, it is taken to keep its velocities.
        """
        candidates, partner = _deepest(*self._candidates(near.pos, mat, frames, places))
        rates = frames.linvel, frames.angvel, *(acc or ())
        origin, *rates = _of_partner(keep((frames.pos, *rates)), partner.body)
        arm = add(candidates.pos, scale(origin, -1.0))
        robot = (partner.body >= 0).astype(jnp.float32)
        linear, angular = rates[::2], rates[1::2]
        linvel, *linacc = [scale(add(x, cross(w, arm)), robot) for x, w in zip(linear, angular, strict=True)]
        return _touch(candidates, partner.num_points, partner.weight, robot, linvel, *linacc)

    def _meet_boxes(self, near: _Moving, mat: Mat) -> _Touch:
        """Contacts that each slot may have with the others, for each corner and each other one."""
        parts = self._parts(near.pos, mat)
        theirs = jax.tree.map(lambda x: _others(jnp.broadcast_to(x, parts.pos[0].shape))[:, :, None], tuple(parts[1:]))
        found = []
        for candidates in collide_boxes.meet(Solid("box", *theirs), parts):  # [others, parts, parts, slots, envs]
            pos, linvel, angvel = (
                [_others(x)[:, None, None] for x in vec] for vec in (near.pos, near.linvel, near.angvel)
            )
            linvel = add(linvel, cross(angvel, add(candidates.pos, scale(pos, -1.0))))
            found.append(_touch(candidates, 1.0, 2.0, linvel=linvel))
        return _join(found)

    def _stand(self, pos: Vec, mat: Mat) -> _Touch:
        """Candidates of contact with the floor."""
        feet = rotate(mat, self._feet)
        lower = jnp.where(feet[2] > 0, -1.0, 1.0)  # of two opposite corners
        foot = add(pos, scale(feet, lower))
        dist = foot[2]
        return _touch(Candidates(dist, [*foot[:2], dist / 2], _WORLD[2]), 1.0, 1.0)

    # The solver.

    def _meet(self, boxes: Boxes, frames, frames_acc, places) -> tuple[_Moving, Mat, _Touches]:
        """The boxes, their axes, and their contacts with all but the floor."""
        near, mat = _posed(boxes)
        nearest = self._meet_nearest(near, mat, frames, frames_acc, places)
        pairs = self._meet_boxes(near, mat) if len(near.pos[0]) > 1 else None
        return near, mat, keep(_Touches(nearest, pairs))

    def _moved(self, near: _Moving, mat: Mat, touch: _Touches, acc: jax.Array) -> Boxes:
        """The boxes after a physics step."""
        # A box at rest is left alone until the robot or a moving box touches it.
        awake = _awake(jnp.stack(near.linvel, axis=-1), jnp.stack(near.angvel, axis=-1))
        moves = awake | short.any((touch.nearest.robot > 0) & (touch.nearest.dist < 0), 0)
        if touch.pairs is not None:
            moves |= short.any(_spread(awake, len(touch.pairs.dist)) & (touch.pairs.dist < 0), 0)
        moves |= self._kind.travel is not None

        dt = self._timestep
        linvel, angvel = add(near.linvel, scale(list(acc[:3]), dt)), add(near.angvel, scale(list(acc[3:]), dt))
        quat = spatial.quat_integrate(jnp.stack(near.quat), jnp.stack(back(mat, angvel)), dt)
        after = _Moving(add(near.pos, scale(linvel, dt)), list(quat), linvel, angvel)
        after = jax.tree.map(lambda old, new: jnp.where(moves, new, old), near, after)
        return Boxes(*(jnp.stack(x, axis=1) for x in after))

    def _push(self, nearest: _Touch, reaction: Reaction, frames: Frames) -> jax.Array:
        """What the boxes do to the robot's root: [6, envs]."""
        force = scale(reaction.force, keep_on_cpu(nearest.robot, flat=True))
        turn = cross(_from_root(nearest, frames), force)
        return -self.mass * jnp.stack([total(x, frames.pos.shape[2:]) for x in keep([*force, *turn])])

    def _problem(self, near: _Moving, mat: Mat, touch: _Touches, home, time) -> _Problem:
        """What the solver minimises."""
        theirs = []
        if touch.pairs is not None:
            others = keep([_spread(x, len(touch.pairs.dist)) for x in near.pos])
            theirs = keep([x - y for x, y in zip(touch.pairs.pos, others, strict=True)], flat=True)
        inertia, smooth = self._smooth(near, mat)
        force = [dot(row, smooth) for row in inertia]
        if self._kind.travel is not None:
            held, pull = self._weld(near, home, time)
            inertia = [add(row, more) for row, more in zip(inertia, held, strict=True)]
            force = add(force, pull)
        inertia, force, smooth = keep(
            (jnp.stack([jnp.stack(row) for row in inertia]), jnp.stack(force), jnp.stack(smooth))
        )
        nearest = self._points(near, touch.nearest, _axes(touch.nearest))
        pairs = None if touch.pairs is None else self._points(near, touch.pairs, _axes(touch.pairs))
        floor = self._points(near, self._stand(near.pos, mat), None) if self._kind.travel is None else None
        return _Problem(inertia, force, smooth, nearest, pairs, theirs, floor)

    def _points(self, near: _Moving, touch: _Touch, axes: list[Vec] | None) -> Points:
        """What the solver knows of contacts."""
        arm = add(touch.pos, scale(near.pos, -1.0))
        approach = add(add(near.linvel, cross(near.angvel, arm)), scale(touch.linvel, -1.0))
        stiff, damp = contact.spring(self._timestep)
        offset = onto(axes, add(scale(approach, damp), scale(touch.linacc, -1.0)))
        offset[0] += stiff * contact.impedance(touch.dist) * touch.dist
        stiffness = touch.num_points * contact.edge_stiffness(touch.dist, touch.weight)
        return keep(Points(arm, axes, offset, stiffness), flat=True)

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

    def _weld(self, near: _Moving, home: jax.Array, time: jax.Array) -> tuple[Mat, list]:
        """What the weld adds to the inertia over the mass, 6 by 6, and to the force.

        Its rows for turns are the vector part of the quaternion e from the target: J = (e_0 I - [e]) / 2, so that
        J'J = (I - e e') / 4.
        """
        stiff, damp = contact.spring(self._timestep, *WELD)
        off = self._off_target(near, home, time)
        cos, away = _turned(near.quat, home[:, 2])
        imp = contact.impedance(jnp.sqrt(dot(off, off) + dot(away, away)))
        hold, pull = imp / (1 - imp), stiff * imp
        none = jnp.zeros_like(hold)
        move = [[hold if i == j else none for j in range(3)] for i in range(3)]
        turn = [
            [hold * self._inertia[0] / 4 * (float(i == j) - a * b) for j, b in enumerate(away)]
            for i, a in enumerate(away)
        ]
        force = [-hold * (damp * v + pull * x) for v, x in zip(near.linvel, off, strict=True)]
        spin = add(near.angvel, scale(away, -dot(away, near.angvel)))
        force += [
            -hold * self._inertia[0] * (damp / 4 * rate + pull / 2 * cos * a)
            for rate, a in zip(spin, away, strict=True)
        ]
        return [row + [none] * 3 for row in move] + [[none] * 3 + row for row in turn], force

    def on_circle(self, time: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Where a gremlin's target is, seen from the centre of its circle: x and y, metres."""
        (cos, sin), radius = cos_sin(time), self._kind.travel or 0.0
        return radius * sin, radius * cos

    def _off_target(self, now: _Moving, centres: jax.Array, time: jax.Array) -> Vec:
        """How far gremlins are off their targets, metres; x and y of their circles' centres come first in `centres`."""
        x, y = self.on_circle(time)
        return add(now.pos, scale([centres[:, 0] + x, centres[:, 1] + y, hover(self._kind)], -1.0))


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


def _glides(dt: float, num_steps: int, height: float) -> tuple[np.ndarray, ...]:
    """Offset and velocity of a welded box after some steps: what is linear in them as they were [2, 2], the height that
    comes from target and gravity [2], what a target at sin t adds, by sin t and cos t [2, 2], and how turns decay
    [2, 2]."""
    move, turn = _weld_springs(dt)

    def power(spring, step, count):
        pull, drag = spring
        return np.linalg.matrix_power(
            np.array([[1 - step**2 * pull, step * (1 - step * drag)], [-step * pull, 1 - step * drag]]), count
        )

    push = np.array([dt**2, dt])
    later = [power(move, dt, num_steps - 1 - k) @ push for k in range(num_steps)]
    lift = sum(later, start=np.zeros(2)) * (move[0] * height - (1 - _HELD) * GRAVITY)
    sway = move[0] * np.array([
        sum((p * f(k * dt) for k, p in enumerate(later)), start=np.zeros(2)) for f in (np.cos, np.sin)
    ])  # fmt: skip
    glides = power(move, dt, num_steps), lift, sway, power(turn, dt, num_steps)
    return tuple(x.astype(np.float32) for x in glides)


def _weld_springs(dt: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Pull (1/s^2) and drag (1/s) by which the weld moves a gremlin, and those by which it turns one."""
    stiff, damp = contact.spring(dt, *WELD)
    ratio = _HELD / (1 - _HELD) / 4  # a turn counts by its quaternion, which is half of it
    move, turn = ((share * _HELD * stiff, share * damp) for share in (_HELD, ratio / (1 + ratio)))
    return move, turn


def _turned(quat: list, yaw: jax.Array) -> tuple[jax.Array, Vec]:
    """The rotation from upright at `yaw` to `quat`: cosine of half its angle; its axis, world, by the half's sine."""
    off = spatial.quat_mul(quat, _yaw(-yaw))
    scalar, *vec = scale(off, jnp.where(off[0] < 0, -1.0, 1.0))
    return scalar, vec


def _yaw(yaw: jax.Array) -> list:
    """Quaternion of a turn about the vertical."""
    (cos, sin), none = cos_sin(yaw / 2), jnp.zeros_like(yaw)
    return [cos, none, none, sin]


def _awake(linvel: jax.Array, angvel: jax.Array) -> jax.Array:
    """Whether any of the velocities [..., 3] is not 0."""
    return short.any((linvel != 0) | (angvel != 0), -1)


def _components(boxes: Boxes) -> _Moving:
    return _Moving(*([x[:, i] for i in range(x.shape[1])] for x in jax.tree.leaves(boxes)))


def _posed(boxes: Boxes) -> tuple[_Moving, Mat]:
    """Boxes as components, and how they are turned."""
    now = _components(boxes)
    return now, keep(spatial.quat_mat(now.quat))


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


def _spread(values: jax.Array, num: int) -> jax.Array:
    """`_others` of [slots, envs] for each of so many contacts of boxes with each other, [contacts, slots, envs]."""
    corners, others = 4, len(values) - 1
    each = keep_on_cpu(_others(values), flat=True).reshape(others, 1, -1)
    return jnp.broadcast_to(each, (corners, others, num // others // corners, values.size)).reshape(num, *values.shape)


def _touch(
    candidates: Candidates, num_points: Any, weight: Any, robot: Any = 0.0, linvel: Any = None, linacc: Any = None
) -> _Touch:
    """Contacts [contacts, slots, envs] of candidates [..., slots, envs]; without velocities, with what stands still."""
    still = [np.float32(0.0)] * 3
    dist, pos, normal = candidates
    fields: Any = dist, pos, normal, num_points, linvel or still, linacc or still, weight, robot
    return _alike(_Touch(*fields))


def _alike(arrays: Any) -> Any:
    """Arrays [..., slots, envs] and numbers as alike ones [contacts, slots, envs]."""
    shape = jnp.broadcast_shapes(*map(jnp.shape, jax.tree.leaves(arrays)))
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.float32(x), shape).reshape(-1, *shape[-2:]), arrays)


def _from_root(touch: _Touch, frames: Frames) -> Vec:
    """Where contacts are, seen from the origin of the robot's root, side by side."""
    return keep_on_cpu([x - y for x, y in zip(touch.pos, frames.pos[0], strict=True)], flat=True)


def _axes(touch: _Touch) -> list[Vec]:
    """A contact's normal and directions of friction."""
    side = collide.tangent(touch.normal, _WORLD)
    return [touch.normal, side, cross(touch.normal, side)]


def _join(alike: list) -> Any:
    return jax.tree.map(lambda *x: jnp.concatenate(x), *alike)


def _flat(found: list[tuple[Candidates, _Partner]]) -> tuple[Candidates, _Partner]:
    """All candidates [things, parts, slots, envs] as [contacts, slots, envs], and their partners."""
    candidates, partners = [], []
    for new, partner in found:
        num_things, num_parts = new.dist.shape[:2]
        candidates.append(_alike(new))
        partners.append([np.repeat(np.broadcast_to(x, num_things), num_parts) for x in partner])
    return _join(candidates), _Partner(*(np.concatenate(x) for x in zip(*partners, strict=True)))


def _deepest(candidates: Candidates, partner: _Partner) -> tuple[Candidates, _Partner]:
    """The deepest `NEAR` candidates of each slot, and their partners."""
    if len(candidates.dist) <= NEAR:
        return candidates, _Partner(*(x[:, None, None] for x in partner))
    candidates = keep(candidates)
    order = _lowest(candidates.dist, NEAR)
    leaves, structure = jax.tree.flatten(candidates)
    chosen = structure.unflatten(jnp.take_along_axis(jnp.stack(leaves), order[None], axis=1))
    return chosen, _Partner(*(jnp.asarray(x)[order] for x in partner))


def _lowest(values: jax.Array, count: int) -> jax.Array:
    """Where the lowest few along the first axis are, int32 [count, ...], the lowest first and the first of equals."""
    search, sort = (functools.partial(find, count=count) for find in (lowest_by_search, lowest_by_sort))
    return jax.lax.platform_dependent(values, cpu=search, default=sort)


def lowest_by_sort(values: jax.Array, count: int) -> jax.Array:
    """`_lowest` with a kernel of its own, as a GPU has it."""
    return jnp.moveaxis(jax.lax.top_k(-jnp.moveaxis(values, 0, -1), count)[1], -1, 0)


def lowest_by_search(values: jax.Array, count: int) -> jax.Array:
    """`_lowest` of finite values, one found after the other: what a CPU takes in one go must not sort."""
    rows = jnp.arange(len(values), dtype=jnp.int32).reshape(-1, *[1] * (values.ndim - 1))
    found = []
    for _ in range(count):
        found.append(jax.lax.argmin(values, 0, jnp.int32))
        values = jnp.where(rows == found[-1], jnp.inf, values)
    return jnp.stack(found)


def _of_partner(vectors: tuple, body: Any) -> list[Vec]:
    """Of the robot's vectors [bodies, 3, envs] those of each contact's body, whatever they are where it has none."""
    if len(vectors[0]) == 1:
        return [[x[0, i] for i in range(3)] for x in vectors]
    values = jnp.stack([x[:, i] for x in vectors for i in range(3)])  # [numbers, bodies, envs]
    index = jnp.broadcast_to(jnp.maximum(body, 0), (*body.shape[:2], values.shape[-1]))
    chosen = jnp.take_along_axis(values, index.reshape(1, -1, index.shape[-1]), axis=1)
    return [list(x) for x in chosen.reshape(len(vectors), 3, *index.shape)]
