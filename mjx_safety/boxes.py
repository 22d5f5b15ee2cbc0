"""Light boxes that robots push: vases, gremlins, the push box; six degrees of freedom and MuJoCo's soft contacts.

A vase weighs 8 mg, the lightest robot 5 g. So the robot moves first, as prescribed, and the boxes react; what they do
to the robot is returned for the caller to use. Each box that matters is solved on its own six accelerations: gravity,
contacts with the floor, the robot, fixed obstacles and other boxes, and the weld that draws a gremlin along, in
MuJoCo's formulas (`contact`), minimised by Newton's method. What is simplified beside MuJoCo: boxes and cylinders meet
in at most four points; turning and rolling friction (0.005 and 0.0001 m; 0.01 for the Point's sphere) is left out.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mjx_safety import contact, geometry
from mjx_safety.contact import Contact, Frames, Obstacle, Shape

ITERATIONS = {False: 6, True: 10}  # Newton steps of the contact solver, by whether a box has several parts
NEAR = 6  # contacts a box can have at once, those with the floor aside
HEAVY = 0.01  # of the robot's mass: heavier boxes are solved together with it
REST = 5e-5  # m/s, rad/s: slower boxes lie still; half of the least speed that costs anything
GRAVITY = 9.81
WELD = (0.02, 1.5)  # solref of a gremlin's weld
HOVER = 0.2  # height of a gremlin's target, metres: the original counts its height twice
_EDGES = 10  # of the friction pyramid; those that turn or roll count as normal ones here


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


class _Solids(NamedTuple):
    """Oriented boxes: centres [..., 3], rotations to the world [..., 3, 3], half-sizes [..., 3]."""

    pos: jax.Array
    mat: jax.Array
    half: jax.Array


class Reaction(NamedTuple):
    """What boxes do to the robot's root, which itself accelerates by a: push - added (a' - a), should it be a' instead.

    Attributes:
      push: float32 [6], force in N, and torque about the root's origin in N m, world axes.
      added: float32 [6, 6], mass that the boxes add to the robot's; 0 for boxes that it hardly feels.
    """

    push: jax.Array
    added: jax.Array


class _Surfaces(NamedTuple):
    """Motion of what boxes touch, as in `Frames` and `Accelerations`, and the constraint's weight, over the box's."""

    pos: jax.Array
    linvel: jax.Array
    angvel: jax.Array
    linacc: jax.Array
    angacc: jax.Array
    weight: jax.Array


class BoxPhysics:
    """Moves the boxes of one kind beside a robot.

    Args:
      kind: the boxes.
      shapes: the robot's parts.
      obstacles: kinds of things that stand still.
      timestep: physics step, seconds.
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
        invweight: tuple[float, ...],
        robot_mass: float,
        robot_radius: float,
    ):
        self._kind, self._shapes, self._obstacles, self._timestep = kind, shapes, obstacles, timestep
        centres, halves = (np.array(x) for x in zip(*kind.parts, strict=True))
        self._centres, self._halves = jnp.asarray(centres, jnp.float32), jnp.asarray(halves, jnp.float32)
        masses = kind.density * 8 * halves.prod(axis=1)
        self.mass = float(masses.sum())
        self.heavy = self.mass > HEAVY * robot_mass
        square = halves**2 / 3 + centres**2
        inertia = (masses[:, None] * (square.sum(axis=1, keepdims=True) - square)).sum(axis=0) / self.mass
        self._inertia = inertia  # principal moments over the mass, m^2
        self._feet = _feet(centres, halves)
        self._extent = (np.abs(centres) + halves).max(axis=0).astype(np.float32)
        self._robot_radius = robot_radius
        self._invweight = np.array(invweight)

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
        return jnp.any(boxes.linvel != 0, axis=-1) | jnp.any(boxes.angvel != 0, axis=-1)

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
        touch, _ = self._touch(boxes.pos, quat_to_mat(boxes.quat), frames)
        return jnp.sum(jnp.where(touch.dist < 0, touch.points, 0.0), axis=-1)

    def _clearance(self, boxes: Boxes, robot_path: jax.Array) -> jax.Array:
        """Distance between a ball that holds the robot all along and each box, metres [n]."""
        path = jnp.sqrt(jnp.max(jnp.sum((robot_path - robot_path[0]) ** 2, axis=-1)))
        local = jnp.sum(quat_to_mat(boxes.quat) * (robot_path[0] - boxes.pos)[..., None], axis=-2)
        beyond = jnp.maximum(jnp.abs(local) - self._extent, 0.0)
        return jnp.sqrt(jnp.sum(beyond**2, axis=-1)) - self._robot_radius - path

    def _touch(self, pos: jax.Array, mat: jax.Array, frames: Frames) -> tuple[Contact, np.ndarray]:
        """Candidates of contact with the robot, [boxes, candidates], normals into the box; and the robot's bodies."""
        parts = jax.tree.map(lambda x: x[:, None], self._parts(pos, mat))  # [boxes, 1, parts]
        found, bodies = [], []
        for kind, group in _by_kind(self._shapes):
            body = np.array([shape.body for shape in group])
            place, turn = frames.pos[body], frames.mat[body]
            offset = jnp.asarray([shape.pos for shape in group], jnp.float32)
            centre = (place + contact.einsum("bij,bj->bi", turn, offset))[:, None]  # [shapes, 1, 3]
            local = np.stack([_host_mat(shape.quat) for shape in group])
            turn = contact.einsum("bij,bjk->bik", turn, jnp.asarray(local, jnp.float32))[:, None]
            size = np.array([shape.size for shape in group])[:, None]
            if kind == "sphere":
                new = [_ball_box(centre, jnp.asarray(size[..., 0], jnp.float32), parts)]
            elif kind == "capsule":
                radius, half_length = (jnp.asarray(size[..., i], jnp.float32) for i in (0, 1))
                new = _capsule_box(centre, turn[..., 2], radius, half_length, parts)
            elif kind == "beam":
                radius, half_length = (jnp.asarray(size[..., i], jnp.float32) for i in (0, 1))
                new = _capsule_box(centre, turn[..., 2], radius, half_length - radius, parts)[:1]
            elif kind == "wheel":
                new = _box_box(_wheel(centre, turn[..., 2], size), parts)
                new = [candidates._replace(points=candidates.points / 2) for candidates in new]
            else:
                new = _box_box(_Solids(centre, turn, jnp.asarray(size, jnp.float32)), parts)
            for candidates in new:
                found.append(jax.tree.map(lambda x: x.reshape(x.shape[0], -1, *x.shape[3:]), candidates))
                bodies.append(np.repeat(body, len(self._kind.parts)))
        return _concatenate(found), np.concatenate(bodies)

    def _parts(self, pos: jax.Array, mat: jax.Array) -> _Solids:
        """The parts of boxes at `pos` [boxes, 3], `mat` [boxes, 3, 3]: [boxes, parts]."""
        centres = pos[:, None] + jnp.sum(mat[:, None] * self._centres[:, None], axis=-1)
        mats = jnp.broadcast_to(mat[:, None], (*centres.shape, 3))
        return _Solids(centres, mats, jnp.broadcast_to(self._halves, centres.shape))

    def _stand(self, pos: jax.Array, mat: jax.Array) -> Contact:
        """Candidates of contact with the floor, [boxes, feet]."""
        feet = jnp.sum(mat[:, None] * self._feet[:, None], axis=-1)
        feet = jnp.where(feet[..., 2:] > 0, -feet, feet)  # of two opposite corners the lower one
        dist = pos[:, None, 2] + feet[..., 2]
        where = (pos[:, None] + feet).at[..., 2].add(-dist / 2)
        up = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), where.shape)
        return Contact(dist, where, up, jnp.ones(dist.shape))

    def advance(
        self,
        boxes: Boxes,
        chosen: jax.Array,
        frames: Frames,
        frames_acc: Accelerations,
        places: tuple[jax.Array, ...],
        home: jax.Array,
        time: jax.Array,
    ) -> tuple[Boxes, Reaction]:
        """One physics step of the chosen boxes; the others stay as they are.

        Args:
          boxes: before.
          chosen: int32 [slots], from `choose`.
          frames: the robot's bodies now.
          frames_acc: their accelerations during this step.
          places: where the obstacles are, float32 [K, 2] for each kind.
          home: float32 [n, 3]: x, y of a gremlin's circle's centre, and its first yaw.
          time: float32 [], seconds since reset, at the start of the step.

        Returns:
          The boxes afterwards, and what they do to the robot.
        """
        near = jax.tree.map(lambda x: x[chosen], boxes)
        acc, reaction, moves = self._solve(near, frames, frames_acc, places, home[chosen], time)
        dt = self._timestep
        linvel, angvel = near.linvel + dt * acc[:, :3], near.angvel + dt * acc[:, 3:]
        after = Boxes(near.pos + dt * linvel, _spin(near.quat, dt * angvel), linvel, angvel)
        after = jax.tree.map(lambda old, new: jnp.where(moves[:, None], new, old), near, after)
        return jax.tree.map(lambda x, y: x.at[chosen].set(y), boxes, after), reaction

    def _solve(self, near, frames, frames_acc, places, home, time):
        """Accelerations [slots, 6], the reaction on the robot, and which boxes move at all, bool [slots]."""
        num, dt = near.pos.shape[0], self._timestep
        mat = quat_to_mat(near.quat)

        # What boxes may touch: the robot's bodies, each other, and the world, in one table.
        robot, world = frames.pos.shape[0], frames.pos.shape[0] + num
        zeros = jnp.zeros((num, 3))
        table = _Surfaces(
            pos=_rows(frames.pos, near.pos),
            linvel=_rows(frames.linvel, near.linvel),
            angvel=_rows(frames.angvel, near.angvel),
            linacc=_rows(frames_acc.linacc, zeros),
            angacc=_rows(frames_acc.angacc, zeros),
            weight=jnp.asarray([*(1 + self.mass * self._invweight), *[2.0] * num, 1.0], jnp.float32),
        )
        touch, body = self._touch(near.pos, mat, frames)
        found, owner = [touch], [np.broadcast_to(body, touch.dist.shape)]
        if self._obstacles:
            found.append(self._blocked(near.pos, mat, places))
            owner.append(np.full(found[-1].dist.shape, world))
        if num > 1:
            pair, other = self._meet(near.pos, mat)
            found.append(pair)
            owner.append(robot + other)
        touching, owner = _deepest(_concatenate(found), np.concatenate(owner, axis=1))
        if self._kind.travel is None:
            stand = self._stand(near.pos, mat)
            touching = _concatenate([touching, stand])
            owner = jnp.concatenate([owner, jnp.full(stand.dist.shape, world)], axis=1)
        surface = jax.tree.map(lambda x: x[owner], table)

        normal = touching.normal
        directions = jnp.stack([normal, *contact.tangents(normal)], axis=-2)  # [slots, candidates, 3, 3]
        arm, their_arm = touching.pos - near.pos[:, None], touching.pos - surface.pos
        jac = jnp.concatenate([directions, cross(arm[..., None, :], directions)], axis=-1)
        approach = near.linvel[:, None] + cross(near.angvel[:, None], arm)
        approach = approach - surface.linvel - cross(surface.angvel, their_arm)
        surface_acc = surface.linacc + cross(surface.angacc, their_arm)
        stiff, damp = contact.spring(dt)
        ref = jnp.sum(directions * (surface_acc - damp * approach)[..., None, :], axis=-1)
        ref = ref.at[..., 0].add(-stiff * contact.impedance(touching.dist) * touching.dist)
        stiffness = touching.points * contact.edge_stiffness(touching.dist, surface.weight)  # over the mass

        inertia, smooth = self._smooth(near, mat)
        rows = jac.reshape(num, -1, 6)
        is_pair = (owner >= robot) & (owner < world)
        # Twice the block of a pair: a bound on the coupled Hessian, so that the blocks can be solved at once.
        bound = jnp.where(is_pair, 2.0, 1.0)
        weld = None if self._kind.travel is None else self._weld(near, home, time)

        def gaps(acc):
            gap = contact.einsum("sri,si->sr", rows, acc).reshape(ref.shape) - ref
            if num == 1:
                return gap
            # The other boxes' accelerations are those of the iteration before.
            theirs = _rows(jnp.zeros((robot, 6)), acc)[owner]
            theirs = theirs[..., :3] + cross(theirs[..., 3:], their_arm)
            return gap - jnp.sum(directions * theirs[..., None, :], axis=-1)

        acc, hessian = smooth, inertia
        for _ in range(ITERATIONS[len(self._kind.parts) > 1]):
            force, curve = _edges(gaps(acc), stiffness)
            gradient = contact.einsum("sij,sj->si", inertia, acc - smooth)
            gradient += contact.einsum("sr,sri->si", force.reshape(num, -1), rows)
            weighted = contact.einsum("scij,scjk->scik", curve * bound[..., None, None], jac)
            hessian = inertia + contact.einsum("sri,srj->sij", rows, weighted.reshape(rows.shape))
            if weld is not None:
                factor, weld_ref, hold = weld
                gradient += hold * factor * (factor * acc - weld_ref)
                hessian += jnp.eye(6) * (hold * factor**2)[:, None]
            acc = acc - solve(hessian, gradient)

        force, curve = _edges(gaps(acc), jnp.where(owner < robot, stiffness, 0.0))
        root = cross((touching.pos - frames.pos[0])[..., None, :], directions)
        root = jnp.concatenate([directions, root], axis=-1).reshape(rows.shape)
        push = self.mass * contact.einsum("sr,sri->i", force.reshape(num, -1), root)
        added = jnp.zeros((6, 6))
        if self.heavy:
            # What the push changes by as the robot's acceleration does, the box's answer included.
            curved = contact.einsum("scij,scjk->scik", curve, root.reshape(jac.shape)).reshape(rows.shape)
            mixed = contact.einsum("sri,srj->sji", rows, curved)  # [slots, 6 of the robot, 6 of the box]
            answer = jax.vmap(solve, in_axes=(None, 1), out_axes=1)(hessian, mixed)
            added = contact.einsum("sri,srj->ij", root, curved) - contact.einsum("sij,skj->ik", mixed, answer)
            added = self.mass * added
        reaction = Reaction(push, added)

        # A box at rest is left alone until the robot or a moving box touches it.
        awake = self.awake(near)
        stirring = jnp.concatenate([jnp.ones(robot, bool), awake, jnp.zeros(1, bool)])[owner]
        moves = awake | jnp.any(stirring & (touching.dist < 0), axis=1) | (self._kind.travel is not None)
        return acc, reaction, moves

    def _smooth(self, near: Boxes, mat: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Inertia over the mass [slots, 6, 6] and accelerations under gravity alone [slots, 6]."""
        num = near.pos.shape[0]
        gravity = jnp.broadcast_to(jnp.array([0.0, 0.0, -GRAVITY]), (num, 3))
        inertia = jnp.asarray(self._inertia, jnp.float32)
        block = jnp.sum(mat[:, :, None] * inertia * mat[:, None], axis=-1)
        full = jnp.zeros((num, 6, 6)).at[:, :3, :3].set(jnp.eye(3)).at[:, 3:, 3:].set(block)
        if np.ptp(self._inertia) < 1e-9:
            return full, jnp.concatenate([gravity, jnp.zeros((num, 3))], axis=1)
        spin = jnp.sum(mat * near.angvel[:, :, None], axis=1)  # body axes
        turn = jnp.sum(mat * (-cross(spin, inertia * spin) / inertia)[:, None], axis=-1)
        return full, jnp.concatenate([gravity, turn], axis=1)

    def _blocked(self, pos: jax.Array, mat: jax.Array, places: tuple[jax.Array, ...]) -> Contact:
        """Candidates of contact with the nearest two obstacles of each kind, [boxes, candidates], as `_touch`."""
        parts = jax.tree.map(lambda x: x[:, None], self._parts(pos, mat))
        found = []
        for obstacle, where in zip(self._obstacles, places, strict=True):
            offset = where - pos[:, None, :2]
            nearest = jax.lax.top_k(-jnp.sum(offset**2, axis=-1), min(2, where.shape[0]))[1]  # [boxes, 2]
            where = where[nearest]
            height = jnp.full((*where.shape[:2], 1), obstacle.height)
            centre = jnp.concatenate([where, height], axis=-1)[:, :, None]
            if obstacle.kind == "sphere":
                new = [_ball_box(centre, jnp.float32(obstacle.size[0]), parts)]
            elif obstacle.kind == "cylinder":
                # MuJoCo finds one point, at the end of the common heights where the box leans against the pillar.
                reach = jnp.sum(jnp.abs(parts.mat[..., 2, :]) * parts.half, axis=-1)
                low = jnp.maximum(parts.pos[..., 2] - reach, obstacle.height - obstacle.size[1])
                high = jnp.minimum(parts.pos[..., 2] + reach, obstacle.height + obstacle.size[1])
                level = jnp.broadcast_to(centre, (*high.shape[:1], where.shape[1], *high.shape[2:], 3))
                level = level.at[..., 2].set(jnp.broadcast_to((low + high) / 2, level.shape[:-1]))
                touch = _ball_box(level, jnp.float32(obstacle.size[0]), parts)
                normal = touch.normal * jnp.array([1.0, 1.0, 0.0])
                lean = jnp.sum(parts.mat[..., 2] * normal, axis=-1)
                dist = touch.dist - jnp.abs(lean) * (high - low) / 2
                pos = touch.pos.at[..., 2].set(jnp.where(lean < 0, high, low))
                new = [Contact(jnp.where(low < high, dist, 1.0), pos, normal, touch.points)]
            else:
                upright = jnp.broadcast_to(jnp.eye(3), (*centre.shape, 3))
                new = _box_box(_Solids(centre, upright, jnp.asarray(obstacle.size, jnp.float32)), parts)
            found += [jax.tree.map(lambda x: x.reshape(x.shape[0], -1, *x.shape[3:]), c) for c in new]
        return _concatenate(found)

    def _target(self, home: jax.Array, time: jax.Array) -> jax.Array:
        """Where the weld draws gremlins to, [n, 3]."""
        x, y = ((self._kind.travel or 0.0) * f(time) for f in (jnp.sin, jnp.cos))
        return jnp.stack([home[:, 0] + x, home[:, 1] + y, jnp.full_like(home[:, 0], HOVER)], axis=-1)

    def _weld(self, near: Boxes, home: jax.Array, time: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The weld's rows, each on one of the six accelerations: factor [6], reference and stiffness [slots, 6]."""
        stiff, damp = contact.spring(self._timestep, *WELD)
        turned = _turned(near.quat, home[:, 2])
        off = jnp.concatenate([near.pos - self._target(home, time), turned / 2], axis=-1)
        factor = jnp.array([1.0, 1.0, 1.0, 0.5, 0.5, 0.5])
        rate = factor * jnp.concatenate([near.linvel, near.angvel], axis=-1)
        imp = contact.impedance(jnp.sqrt(jnp.sum(off**2, axis=-1, keepdims=True)))
        weight = jnp.concatenate([jnp.ones(3), jnp.asarray(self._inertia, jnp.float32)])
        return factor, -damp * rate - stiff * imp * off, imp / (1 - imp) * weight

    def glide(self, boxes: Boxes, home: jax.Array, time: jax.Array, num_steps: int) -> Boxes:
        """Gremlins after `num_steps` physics steps under gravity and the weld alone, in closed form.

        The weld is taken to be off by more than a millimetre, where its impedance no longer grows: it lags behind its
        target by a twelfth of its circle's radius. Turns away from the first yaw are taken to be small.

        Args:
          boxes: before.
          home: float32 [n, 3]: x, y of the circle's centre, and the first yaw.
          time: float32 [], seconds since reset.
          num_steps: how many.
        """
        glide, lift, sway, turn = _glides(self._timestep, num_steps)
        sin, cos = ((self._kind.travel or 0.0) * f(time) for f in (jnp.sin, jnp.cos))
        zero = jnp.zeros_like(sin)
        # Responses to sin t and to cos t, which is sin t a quarter later.
        drive = [
            jnp.stack([sway[0, i] * sin + sway[1, i] * cos, sway[0, i] * cos - sway[1, i] * sin, zero + lift[i]])
            for i in range(2)
        ]
        centre = jnp.concatenate([home[:, :2], jnp.zeros_like(home[:, :1])], axis=-1)
        off = boxes.pos - centre
        pos = centre + glide[0, 0] * off + glide[0, 1] * boxes.linvel + drive[0]
        linvel = glide[1, 0] * off + glide[1, 1] * boxes.linvel + drive[1]
        off = _turned(boxes.quat, home[:, 2])
        vec = (turn[0, 0] * off + turn[0, 1] * boxes.angvel) / 2
        angvel = turn[1, 0] * off + turn[1, 1] * boxes.angvel
        scalar = jnp.sqrt(jnp.maximum(1 - jnp.sum(vec**2, axis=-1, keepdims=True), 0.0))
        quat = quat_mul(jnp.concatenate([scalar, vec], axis=-1), geometry.yaw_to_quat(home[:, 2]))
        return Boxes(pos, quat, linvel, angvel)

    def _meet(self, pos: jax.Array, mat: jax.Array) -> tuple[Contact, np.ndarray]:
        """Candidates of contact with the other slots, [slots, candidates], normals into the slot; and the others."""
        num = pos.shape[0]
        first, second = np.triu_indices(num, k=1)
        parts = self._parts(pos, mat)
        a = jax.tree.map(lambda x: x[first][:, :, None], parts)
        b = jax.tree.map(lambda x: x[second][:, None], parts)
        found = [jax.tree.map(lambda x: x.reshape(len(first), -1, *x.shape[3:]), c) for c in _box_box(a, b)]
        found = _concatenate(found)
        back = found._replace(normal=-found.normal)
        per = found.dist.shape[1]
        index, others = [], []
        for i in range(num):
            mine = [(p, second[p] == i) for p in range(len(first)) if i in (first[p], second[p])]
            index.append([p + len(first) * (0 if into else 1) for p, into in mine])
            others.append(np.repeat([first[p] if into else second[p] for p, into in mine], per))
        both = jax.tree.map(lambda x, y: jnp.concatenate([x, y])[np.array(index)], found, back)
        return jax.tree.map(lambda x: x.reshape(num, -1, *x.shape[3:]), both), np.array(others)


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
    lift = sum(later) * (drive * HOVER - (1 - imp) * GRAVITY)
    sway = drive * np.array([sum(p * f(k * dt) for k, p in enumerate(later)) for f in (np.cos, np.sin)])
    ratio = imp / (1 - imp) / 4
    turn = power(ratio / (1 + ratio), dt, num_steps)
    glide = power(imp, dt, num_steps)
    return glide.astype(np.float32), lift.astype(np.float32), sway.astype(np.float32), turn.astype(np.float32)


def _turned(quat: jax.Array, yaw: jax.Array) -> jax.Array:
    """Small rotations [..., 3] from upright at `yaw` [...] to `quat` [..., 4], world axes."""
    back = geometry.yaw_to_quat(-yaw)
    off = quat_mul(quat, back)
    return 2 * off[..., 1:] * jnp.where(off[..., :1] < 0, -1.0, 1.0)


def _edges(gap: jax.Array, stiffness: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradient [..., 3] and Hessian [..., 3, 3] of the pyramid's cost along normal and two tangents.

    Args:
      gap: acceleration beyond the reference along them, [..., 3].
      stiffness: of each edge, [...].
    """
    normal, one, two = gap[..., 0], gap[..., 1], gap[..., 2]
    slides = [normal + one, normal - one, normal + two, normal - two]
    straight = jnp.where(normal < 0, (_EDGES - 4) * stiffness, 0.0)
    a, b, c, d = (jnp.where(slide < 0, stiffness, 0.0) for slide in slides)
    fa, fb, fc, fd = (k * slide for k, slide in zip((a, b, c, d), slides, strict=True))
    force = jnp.stack([straight * normal + fa + fb + fc + fd, fa - fb, fc - fd], axis=-1)
    zero = jnp.zeros_like(a)
    curve = jnp.stack([
        jnp.stack([straight + a + b + c + d, a - b, c - d], axis=-1),
        jnp.stack([a - b, a + b, zero], axis=-1),
        jnp.stack([c - d, zero, c + d], axis=-1),
    ], axis=-2)  # fmt: skip
    return force, curve


def solve(matrix: jax.Array, vec: jax.Array) -> jax.Array:
    """Solves symmetric positive definite systems [..., n, n], [..., n], written out."""
    size = vec.shape[-1]
    low, inv, fwd = {}, [], []
    for j in range(size):
        scaled = [low[j, k] * inv[k] for k in range(j)]
        pivot = matrix[..., j, j] - sum(low[j, k] * scaled[k] for k in range(j))
        inv.append(1 / pivot)
        for i in range(j + 1, size):
            low[i, j] = matrix[..., i, j] - sum(low[i, k] * scaled[k] for k in range(j))
        fwd.append(vec[..., j] - sum(scaled[k] * fwd[k] for k in range(j)))
    out = {}
    for j in reversed(range(size)):
        out[j] = (fwd[j] - sum(low[i, j] * out[i] for i in range(j + 1, size))) * inv[j]
    return jnp.stack([out[j] for j in range(size)], axis=-1)


def cross(a: jax.Array, b: jax.Array) -> jax.Array:
    """Cross product along the last axis."""
    x, y, z = (a[..., i] for i in range(3))
    u, v, w = (b[..., i] for i in range(3))
    return jnp.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=-1)


def quat_to_mat(quat: jax.Array) -> jax.Array:
    """Rotation matrices [..., 3, 3] of unit quaternions (w first) [..., 4]."""
    w, x, y, z = (quat[..., i] for i in range(4))
    return jnp.stack([
        jnp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=-1),
        jnp.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=-1),
        jnp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=-1),
    ], axis=-2)  # fmt: skip


def _spin(quat: jax.Array, turn: jax.Array) -> jax.Array:
    """Quaternions [..., 4] turned by rotation vectors [..., 3], world axes."""
    angle = jnp.sqrt(jnp.sum(turn**2, axis=-1))
    vec = turn * (0.5 * jnp.sinc(angle / (2 * jnp.pi)))[..., None]
    return _unit(quat_mul(jnp.concatenate([jnp.cos(angle / 2)[..., None], vec], axis=-1), quat))


def _unit(quat):
    return quat / jnp.sqrt(jnp.sum(quat**2, axis=-1, keepdims=True))


def quat_mul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Products of quaternions (w first) [..., 4]."""
    w = a[..., :1] * b[..., :1] - jnp.sum(a[..., 1:] * b[..., 1:], axis=-1, keepdims=True)
    return jnp.concatenate([w, a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + cross(a[..., 1:], b[..., 1:])], -1)


def _concatenate(contacts: list[Contact]) -> Contact:
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *contacts)


def _rows(robot: jax.Array, boxes: jax.Array) -> jax.Array:
    """A table of the robot's bodies, boxes and the world, which stands still."""
    return jnp.concatenate([robot, boxes, jnp.zeros_like(boxes[:1])])


def _deepest(candidates: Contact, owner: np.ndarray) -> tuple[Contact, jax.Array]:
    """The deepest `NEAR` of each box's candidates, [boxes, NEAR], and their owners."""
    if candidates.dist.shape[1] <= NEAR:
        return candidates, jnp.asarray(owner)
    picked = jax.lax.top_k(-candidates.dist, NEAR)[1]
    single = jnp.stack([candidates.dist, candidates.points], axis=-1)
    stacked = jnp.concatenate([candidates.pos, candidates.normal, single], axis=-1)
    stacked = jnp.take_along_axis(stacked, picked[..., None], axis=1)
    dist, points = stacked[..., 6], stacked[..., 7]
    candidates = Contact(dist, stacked[..., :3], stacked[..., 3:6], points)
    return candidates, jnp.take_along_axis(jnp.asarray(owner), picked, axis=1)


def _by_kind(shapes: tuple[Shape, ...]) -> list[tuple[str, list[Shape]]]:
    """Shapes that collide alike, together; cylinders are wheels or, where they are longer than wide, beams."""
    groups: dict[str, list[Shape]] = {}
    for shape in shapes:
        cylinder = "beam" if shape.size[1] > shape.size[0] else "wheel"
        groups.setdefault(cylinder if shape.kind == "cylinder" else shape.kind, []).append(shape)
    return list(groups.items())


def _host_mat(quat: tuple[float, ...]) -> np.ndarray:
    w, x, y, z = quat
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def _feet(centres: np.ndarray, halves: np.ndarray) -> jax.Array:
    """Corners on which a box's parts stand, one of each pair of opposite ones, float32 [feet, 3]."""
    signs = np.array([[x, y, -1] for x in (-1, 1) for y in (-1, 1)])
    return jnp.asarray((centres[:, None] + signs * halves[:, None]).reshape(-1, 3), jnp.float32)


def _ball_box(centre: jax.Array, radius: jax.Array, box: _Solids) -> Contact:
    """Balls against boxes, one candidate each, normals into the box; shapes broadcast."""
    local = jnp.sum(box.mat * (centre - box.pos)[..., None], axis=-2)
    nearest = jnp.clip(local, -box.half, box.half)
    out = local - nearest
    gap = jnp.sqrt(jnp.sum(out**2, axis=-1))
    # A centre inside the box leaves it through the nearest face.
    room = box.half - jnp.abs(local)
    face = (room == jnp.min(room, axis=-1, keepdims=True)).astype(jnp.float32) * jnp.sign(local)
    inside = gap < 1e-9
    away = jnp.where(inside[..., None], face, out / jnp.maximum(gap, 1e-9)[..., None])
    gap = jnp.where(inside, -jnp.min(room, axis=-1), gap)
    normal = -jnp.sum(box.mat * away[..., None, :], axis=-1)
    dist = gap - radius
    pos = centre + normal * (radius + dist / 2)[..., None]
    return Contact(dist, pos, normal, jnp.ones_like(dist))


def _capsule_box(
    centre: jax.Array, axis: jax.Array, radius: jax.Array, half_length: jax.Array, box: _Solids
) -> list[Contact]:
    """Capsules against boxes, two candidates each, normals into the box; shapes broadcast.

    One ball sits where the capsule's axis comes closest to the box, the other one as far along as the axis runs beside
    the box's face there.
    """
    local = jnp.sum(box.mat * (centre - box.pos)[..., None], axis=-2)
    along = jnp.sum(box.mat * axis[..., None], axis=-2)
    length = jnp.broadcast_to(half_length, local.shape[:-1])

    # The squared distance's slope along the axis rises, in straight pieces between where the axis leaves a face's span.
    safe = jnp.where(jnp.abs(along) < 1e-6, 1e-6, along)
    ends = jnp.stack([-length, length], axis=-1)
    knots = jnp.concatenate([(box.half - local) / safe, (-box.half - local) / safe, ends], axis=-1)
    knots = jnp.clip(knots, -length[..., None], length[..., None])  # [..., 8]
    points = local[..., None, :] + knots[..., None] * along[..., None, :]
    half = box.half[..., None, :]
    slope = jnp.sum(along[..., None, :] * (points - jnp.clip(points, -half, half)), axis=-1)
    low = jnp.max(jnp.where(slope <= 0, knots, -length[..., None]), axis=-1)
    high = jnp.min(jnp.where(slope >= 0, knots, length[..., None]), axis=-1)
    slope_low = jnp.min(jnp.where(slope <= 0, -slope, jnp.inf), axis=-1)
    slope_high = jnp.min(jnp.where(slope >= 0, slope, jnp.inf), axis=-1)
    share = jnp.where(slope_low + slope_high > 0, slope_low / (slope_low + slope_high), 0.5)
    share = jnp.where(jnp.isinf(slope_low), 0.0, jnp.where(jnp.isinf(slope_high), 1.0, share))
    closest = low + jnp.clip(share, 0.0, 1.0) * (high - low)
    first = _ball_box(centre + closest[..., None] * axis, radius, box)

    # Beside a face, the span of the axis that lies over it.
    out = jnp.abs(jnp.sum(box.mat * first.normal[..., None], axis=-2))
    other = out < jnp.max(out, axis=-1, keepdims=True)
    enter = jnp.minimum((box.half - local) / safe, (-box.half - local) / safe)
    leave = jnp.maximum((box.half - local) / safe, (-box.half - local) / safe)
    enter = jnp.maximum(jnp.max(jnp.where(other, enter, -jnp.inf), axis=-1), -length)
    leave = jnp.minimum(jnp.min(jnp.where(other, leave, jnp.inf), axis=-1), length)
    far = jnp.where(jnp.abs(enter - closest) > jnp.abs(leave - closest), enter, leave)
    second = _ball_box(centre + far[..., None] * axis, radius, box)
    distinct = (jnp.abs(far - closest) > 1e-3) & (enter < leave)
    return [first, second._replace(dist=jnp.where(distinct, second.dist, 1.0))]


def _wheel(centre: jax.Array, axle: jax.Array, size: np.ndarray) -> _Solids:
    """The box that stands for a wheel on a level axle: its outline seen from above, and half its height."""
    side = cross(jnp.array([0.0, 0.0, 1.0]), axle)
    side = side / jnp.maximum(jnp.sqrt(jnp.sum(side**2, axis=-1, keepdims=True)), 1e-6)
    mat = jnp.stack([axle, side, cross(axle, side)], axis=-1)
    radius, width = size[..., 0], size[..., 1]
    return _Solids(centre, mat, jnp.asarray(np.stack([width, radius, radius / 2], axis=-1), jnp.float32))


def _box_box(a: _Solids, b: _Solids) -> list[Contact]:
    """Boxes a against boxes b, four candidates each, normals into b; shapes broadcast.

    The face of least overlap is the reference; the corners of the other's facing face are drawn into its outline. This
    is the clipped face where the edges of both run alike as seen along the normal, as they do when both stand upright.
    """
    offset = b.pos - a.pos
    relative = jnp.abs(jnp.sum(a.mat[..., :, :, None] * b.mat[..., :, None, :], axis=-3))
    gaps_a = jnp.abs(jnp.sum(a.mat * offset[..., None], axis=-2)) - a.half
    gaps_a = gaps_a - jnp.sum(relative * b.half[..., None, :], axis=-1)
    gaps_b = jnp.abs(jnp.sum(b.mat * offset[..., None], axis=-2)) - b.half
    gaps_b = gaps_b - jnp.sum(relative * a.half[..., :, None], axis=-2)
    most_a, most_b = jnp.max(gaps_a, axis=-1), jnp.max(gaps_b, axis=-1)
    on_a = most_a >= most_b
    gaps = jnp.where(on_a[..., None], gaps_a, gaps_b)
    apart = jnp.maximum(most_a, most_b) > 0

    def pick(x, y):
        x, y = jnp.broadcast_arrays(x, y)
        return jnp.where(on_a.reshape(on_a.shape + (1,) * (x.ndim - on_a.ndim)), x, y)

    ref = _Solids(*(pick(x, y) for x, y in zip(a, b, strict=True)))
    inc = _Solids(*(pick(y, x) for x, y in zip(a, b, strict=True)))
    offset = inc.pos - ref.pos

    axis = jnp.argmax(gaps, axis=-1)
    (normal, depth), (u, wide), (v, high) = _from_axis(ref, axis)
    sign = jnp.where(jnp.sum(normal * offset, axis=-1) < 0, -1.0, 1.0)
    normal = normal * sign[..., None]
    facing = jnp.sum(inc.mat * normal[..., None], axis=-2)
    (face, thick), (p, p_half), (q, q_half) = _from_axis(inc, jnp.argmax(jnp.abs(facing), axis=-1))
    sign = -jnp.where(jnp.sum(face * normal, axis=-1) < 0, -1.0, 1.0)
    face = face * sign[..., None]
    middle = offset + face * thick[..., None]

    def dot(x, y):
        return jnp.sum(x * y, axis=-1)

    corners = [(i, j) for i in (-1.0, 1.0) for j in (-1.0, 1.0)]
    at = []
    for edge, half in ((u, wide), (v, high)):
        centre, along_p, along_q = dot(middle, edge), dot(p, edge) * p_half, dot(q, edge) * q_half
        apart = apart | (jnp.abs(centre) >= half + jnp.abs(along_p) + jnp.abs(along_q))
        at.append([jnp.clip(centre + i * along_p + j * along_q, -half, half) for i, j in corners])
    slope = dot(normal, face)
    found = []
    for x, y in zip(*at, strict=True):
        # Where the line along the normal meets the plane of the other's face.
        rise = (dot(middle, face) - x * dot(u, face) - y * dot(v, face)) / slope
        dist = rise - depth
        pos = ref.pos + x[..., None] * u + y[..., None] * v + (depth + dist / 2)[..., None] * normal
        into = normal * jnp.where(on_a, 1.0, -1.0)[..., None]
        found.append(Contact(jnp.where(apart, 1.0, dist), pos, into, jnp.ones_like(dist)))
    return found


def _from_axis(solid: _Solids, axis: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """The chosen axis [..., 3] and its half-size [...], then those of the next two."""
    out = []
    for shift in range(3):
        hot = ((axis[..., None] + shift) % 3 == jnp.arange(3)).astype(jnp.float32)
        out.append((jnp.sum(solid.mat * hot[..., None, :], axis=-1), jnp.sum(solid.half * hot, axis=-1)))
    return out
