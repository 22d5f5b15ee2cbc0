"""A robot of several bodies on the floor, with MuJoCo's soft contacts: the Car and the Doggo.

The robot is a root body with six degrees of freedom, at times a second half of its trunk on a hinge, and limbs alike:
chains of up to three degrees of freedom (a ball joint counts as three, a wheel has two that are locked). All that
depends on the limbs is worked out for all of them at once.

Everything is written in the root's frame with the root's origin as the point of reference. There the Car is a
constant, because its wheels spin about axes of symmetry. Arrays have components first and environments last (see
`spatial.lanes`), sums over few components are written out, and what many need is stored (`spatial.keep`): on a CPU
this is eight times as fast as the same arithmetic left to XLA.

A physics step minimises Gauss's principle over the accelerations a, as MuJoCo does:

    1/2 (a - a0)' M (a - a0) + sum over edges of the friction pyramids 1/2 D min(0, J a - ref)^2

by Newton's method. Its matrix is that of a robot whose bodies have other inertias, M + J' D J = S' (I + G) S with the
bodies' 6x6 inertias I, what contact adds to them G, and the joints' motion S; so each Newton step is one pass of the
articulated-body algorithm, and neither M nor J is ever formed. Full Newton steps converge; a line search in float32
makes them worse.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from mjx_safety import collide, contact, scene, short, spatial
from mjx_safety.collide import Candidates, Solid
from mjx_safety.contact import Forces, Frames, Obstacle, Reach
from mjx_safety.robots import GRAVITY
from mjx_safety.spatial import Columns, Twist, add, apply, back, cross, dot, keep, mul, rotate, scale

DOFS = 3  # of a limb
ITERATIONS = 8  # Newton steps of a physics step that starts from the last one's accelerations
COLD_ITERATIONS = 12  # Newton steps that start from nothing
CONTACTS = 2  # deepest points of a body on the floor that get into the solver
OBSTACLE_CONTACTS = 2  # of a body on the trunk with obstacles; a limb's link has one
FRICTIONS = 3  # directions of friction that are solved for: sliding and turning, but not rolling (0.1 mm)
_UNLIMITED = 1e3  # radians


@dataclasses.dataclass(frozen=True)
class Node:
    """Where a body of the model is: on the trunk, or on a link of a limb (the one behind degree of freedom `dof`)."""

    trunk: int  # 0 root, 1 behind the waist; of a limb: where it starts
    limb: int = -1
    dof: int = -1
    pos: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the body in the frame of the node; they are parallel


class Joints(NamedTuple):
    """Joint positions, rates or accelerations, sorted: root (twist in the root's frame), waist, limbs [DOFS, limbs]."""

    root: jax.Array
    waist: jax.Array
    limbs: jax.Array


class Links(NamedTuple):
    """The configuration of trunk and limbs in the root's frame; limbs are the last axis.

    Attributes:
      pos, mat: origins and rotations of the trunk's bodies and of the limbs' links.
      motions: of each degree of freedom of the limbs, per unit rate.
      inertias: of the trunk's bodies and of the limbs' links, about the root's origin; None without mass.
    """

    pos: list
    mat: list
    motions: list
    inertias: list


class System(NamedTuple):
    """What the solver needs of a configuration; the bodies are the trunk's, then the links that weigh something.

    Attributes:
      inertias: columns [6 - j, bodies, envs or 1], in the root's frame about its origin.
      motions: of the limbs' degrees of freedom [DOFS, 6, limbs, envs].
    """

    inertias: Columns
    motions: jax.Array


class Touch(NamedTuple):
    """Contacts in the solver, body by body as `Articulated._seats` says.

    Attributes:
      rows: [1 + frictions, 6, contacts, envs], the directions of the contact as motions.
      stiffness: [contacts, envs], MuJoCo's D.
      reference: [1 + frictions, contacts, envs], the reference acceleration along them, with its sign turned.
    """

    rows: jax.Array
    stiffness: jax.Array
    reference: jax.Array


class Seats(NamedTuple):
    """Neighbouring bodies of the solver with alike shapes.

    Attributes:
      bodies: which.
      shapes: for each of their shapes the group that it is in, and their rows there.
      obstacle_contacts: how many each can have in the solver, where there are obstacles.
    """

    bodies: slice
    shapes: list[tuple[int, slice]]
    obstacle_contacts: int


class Articulated:
    """A robot on the floor. Its boxes do not touch the floor: the Car never tips over.

    Args:
      model: the robot alone. Its first body has a free joint; another one may hang on it by a hinge and carry limbs
        too; all else are limbs of at most three degrees of freedom. Actuators are motors on hinges.
      obstacles: kinds of things that stand about.
      iterations: Newton steps of a physics step.
      contacts: deepest points of a body on the floor that get into the solver.
      frictions: directions of friction solved for, of MuJoCo's five; the others' edges count as straight ones.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        obstacles: tuple[Obstacle, ...] = (),
        iterations: int = ITERATIONS,
        contacts: int = CONTACTS,
        frictions: int = FRICTIONS,
    ):
        self.timestep, self.action_size = float(model.opt.timestep), model.nu
        self.nq, self.nv = model.nq, model.nv
        self.shapes = scene.shapes(model)
        self._obstacles, self._iterations, self._contacts = obstacles, iterations, contacts
        self._radius = scene.radius(model)
        self._friction = tuple(map(np.float32, contact.FRICTION[:frictions]))
        self._read_tree(model)
        self._read_joints(model)
        self._read_inertias(model)
        self._read_shapes(model)
        self._read_sites(model)
        self._constant = None
        if self._waist is None:
            with jax.ensure_compile_time_eval():
                still = self._links(jnp.zeros((self.nq, 1)))
                turned = self._links(jnp.linspace(0.3, 1.0, self.nq)[:, None])
                if all(map(np.allclose, *map(jax.tree.leaves, (still[2:], turned[2:])))):
                    self._constant = jax.tree.map(np.asarray, still)

    # Reading the model.

    def _read_tree(self, model):
        moving = [b for b in range(2, model.nbody) if model.body_jntnum[b]]
        above = {b: int(model.body_weldid[model.body_parentid[b]]) for b in moving}
        waists = [b for b in moving if above[b] == 1 and sum(above[c] == b for c in moving) > 1]
        if len(waists) > 1 or model.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE:
            raise ValueError("An articulated robot has a free root and at most one waist.")
        trunk = [1, *waists]
        self._waist = waists[0] if waists else None
        tips = [b for b in moving if b not in trunk and b not in above.values()]
        chains = []
        for tip in tips:
            chain = [tip]
            while above[chain[0]] not in trunk:
                chain.insert(0, above[chain[0]])
            chains.append(chain)
        # Most degrees of freedom first: limbs that are free at a level are then the first ones.
        chains.sort(key=lambda chain: sum(model.body_dofnum[body] for body in chain), reverse=True)
        self._starts = np.array([trunk.index(above[chain[0]]) for chain in chains])
        num = len(chains)
        # Degrees of freedom fill a limb from its end, so that a locked one never lies between two free ones.
        self._dof = np.full((DOFS, num), -1)
        self._axis, self._offset = np.zeros((DOFS, 3, num)), np.zeros((DOFS, 3, num))
        self._axis[:, 0] = 1.0
        nodes: dict[int, Node] = {body: Node(t) for t, body in enumerate(trunk)}
        for i, chain in enumerate(chains):
            dofs = [(body, d) for body in chain for d in range(model.body_dofnum[body])]
            for j, (body, d) in enumerate(dofs, start=DOFS - len(dofs)):
                joint = model.dof_jntid[model.body_dofadr[body] + d]
                self._dof[j, i] = model.body_dofadr[body] + d
                ball = model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_BALL
                self._axis[j, :, i] = np.eye(3)[d] if ball else model.jnt_axis[joint]
                if d == 0:
                    self._offset[j, :, i] = model.body_pos[body]
                nodes[body] = Node(int(self._starts[i]), i, j)
            first = model.body_parentid[chain[0]]
            self._offset[DOFS - len(dofs), :, i] += 0 if first in trunk else model.body_pos[first]
        for body in range(1, model.nbody):
            if body not in nodes:
                nodes[body] = dataclasses.replace(
                    nodes[int(model.body_parentid[body])], pos=tuple(model.body_pos[body])
                )
        self._nodes = [nodes[body] for body in range(1, model.nbody)]
        self._free = self._dof >= 0
        self._num_free = self._free.sum(1).tolist()
        self._starts = self._starts.astype(np.float32)[:, None]
        self._axis, self._offset = (x.astype(np.float32)[..., None] for x in (self._axis, self._offset))
        self._waist_dof = -1 if self._waist is None else int(model.body_dofadr[self._waist])
        self._waist_axis = [np.float32(x) for x in model.jnt_axis[model.dof_jntid[self._waist_dof]]]
        order = np.zeros(model.nv, np.int32)
        order[:6] = [3, 4, 5, 0, 1, 2]
        if self._waist is not None:
            order[self._waist_dof] = 6
        order[self._dof[self._free]] = 7 + np.arange(self._dof.size).reshape(self._dof.shape)[self._free]
        self._order = order

    def _read_joints(self, model):
        joint = model.dof_jntid
        hinge = (model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE)[joint]
        limited = model.jnt_limited.astype(bool)[joint]
        self._limits = None
        if limited.any():
            low, high = (np.where(limited, model.jnt_range[joint, i], (-_UNLIMITED, _UNLIMITED)[i]) for i in range(2))
            self._limits = (
                self._sorted(low, -_UNLIMITED),
                self._sorted(high, _UNLIMITED),
                self._sorted(model.dof_invweight0, 1.0),
            )
        self._damping = self._sorted(model.dof_damping, 0.0)
        self._qpos_index = np.where(hinge, model.jnt_qposadr[joint], -1)
        self._stiffness = self._sorted(np.where(hinge, model.jnt_stiffness[joint], 0.0), 0.0)
        self._rest = self._sorted(model.qpos_spring[np.maximum(self._qpos_index, 0)], 0.0)
        motor = np.full(model.nv, -1)
        motor[model.jnt_dofadr[model.actuator_trnid[:, 0]]] = np.arange(model.nu)
        self._motor = np.where(self._free, motor[self._dof], -1)
        forced = model.actuator_forcelimited.astype(bool)
        force = np.where(forced[:, None], model.actuator_forcerange, [-np.inf, np.inf])
        self._ctrl_range, self._force_range = (
            x.T[..., None].astype(np.float32) for x in (model.actuator_ctrlrange, force)
        )
        self._gear, self._gain = (
            x.astype(np.float32) for x in (model.actuator_gear[:, :1], model.actuator_gainprm[:, :1])
        )
        self._balls = [
            (int(model.jnt_qposadr[j]), int(model.jnt_dofadr[j]))
            for j in range(model.njnt)
            if model.jnt_type[j] == mujoco.mjtJoint.mjJNT_BALL
        ]

    def _read_inertias(self, model):
        """Mass, centre and inertia about it of every node, [limbs] for links."""
        mats = np.zeros((model.nbody, 9))
        for body in range(model.nbody):
            mujoco.mju_quat2Mat(mats[body], model.body_iquat[body])
        parts = {}
        for body, node in enumerate(self._nodes, start=1):
            mat = mats[body].reshape(3, 3)
            about = mat @ np.diag(model.body_inertia[body]) @ mat.T
            centre = model.body_ipos[body] + np.array(node.pos)
            parts.setdefault((node.trunk if node.limb < 0 else -1, node.limb, node.dof), []).append(
                (model.body_mass[body], centre, about)
            )

        def joined(key):
            mass = sum(m for m, _, _ in parts[key])
            centre = sum(m * c for m, c, _ in parts[key]) / mass
            about = sum(
                i + m * (((c - centre) @ (c - centre)) * np.eye(3) - np.outer(c - centre, c - centre))
                for m, c, i in parts[key]
            )
            return mass, centre, about

        none = (0.0, np.zeros(3), np.zeros((3, 3)))
        self._bodies: list = [joined((t, -1, -1)) for t in range(1 if self._waist is None else 2)]
        for dof in range(DOFS):
            limbs = [(-1, i, dof) for i in range(len(self._starts))]
            if any(key in parts for key in limbs):
                mass, centre, about = zip(*(joined(key) if key in parts else none for key in limbs), strict=True)
                self._bodies.append(
                    (np.array(mass)[:, None], np.stack(centre, -1)[..., None], np.stack(about, -1)[..., None])
                )
            else:
                self._bodies.append(None)
        self._bodies = jax.tree.map(np.float32, self._bodies)
        self._num_trunk, self._num_limbs = len(self._bodies) - DOFS, len(self._starts)
        self._levels = [level for level, body in enumerate(self._bodies) if body is not None]
        # Where the links behind each degree of freedom are among the bodies in the solver.
        self._part, at = [], self._num_trunk
        for body in self._bodies[self._num_trunk :]:
            self._part.append(None if body is None else slice(at, at + self._num_limbs))
            at += 0 if body is None else self._num_limbs
        self._waist_twist: list = [*self._waist_axis, *[np.float32(0.0)] * 3]
        self._waist_motion: Any = np.stack(self._waist_twist)[:, None]

    def _read_shapes(self, model):
        """Shapes of one kind on one node level, side by side; and which bodies of the solver they are on."""
        groups: dict[tuple, list[int]] = {}
        for i, shape in enumerate(self.shapes):
            node = self._nodes[shape.body]
            groups.setdefault((shape.kind, node.trunk if node.limb < 0 else -1, node.dof), []).append(i)
        num_bodies = self._num_trunk + self._num_limbs * (len(self._levels) - self._num_trunk)
        self._groups = []
        on: list[list[tuple[int, int]]] = [[] for _ in range(num_bodies)]  # each body's shapes: group, row
        self._shape_body = np.zeros(len(self.shapes), int)
        for (kind, trunk, dof), members in groups.items():
            shapes = [self.shapes[i] for i in members]
            nodes = [self._nodes[shape.body] for shape in shapes]
            mats = np.zeros((len(shapes), 9))
            for mat, shape in zip(mats, shapes, strict=True):
                mujoco.mju_quat2Mat(mat, np.array(shape.quat))
            pos = np.array([shape.pos for shape in shapes]) + np.array([node.pos for node in nodes])
            level = trunk if trunk >= 0 else self._num_trunk + dof
            limbs = np.array([node.limb for node in nodes])
            for row, limb in enumerate(limbs):
                body = trunk if trunk >= 0 else self._part[dof].start + limb
                on[body].append((len(self._groups), row))
                self._shape_body[members[row]] = body
            size = np.array([shape.size for shape in shapes])
            solid = (pos.T, mats.reshape(-1, 3, 3).T, size.T)
            at = None if trunk >= 0 or np.array_equal(limbs, np.arange(len(self._starts))) else limbs
            self._groups.append((kind, level, at, *(x.astype(np.float32)[..., None] for x in solid)))

        self._seats: list[Seats] = []
        for body, shapes in enumerate(on):
            last = self._seats[-1] if self._seats else None
            rows = [(group, slice(row, row + 1)) for group, row in shapes]
            if last and body > self._num_trunk and [(g, s.stop) for g, s in last.shapes] == shapes:
                wider = [(group, slice(s.start, s.stop + 1)) for group, s in last.shapes]
                self._seats[-1] = last._replace(bodies=slice(last.bodies.start, body + 1), shapes=wider)
                continue
            obstacle_contacts = OBSTACLE_CONTACTS if body < self._num_trunk else 1
            self._seats.append(Seats(slice(body, body + 1), rows, obstacle_contacts))
        # Where a contact weighs, MuJoCo's translational invweight: of each body of the solver that has shapes.
        weight = np.zeros(num_bodies)
        weight[self._shape_body] = model.body_invweight0[[shape.body + 1 for shape in self.shapes], 0]
        self._weight = weight.astype(np.float32)[:, None]

    def _read_sites(self, model):
        touch = model.sensor_objid[model.sensor_type == mujoco.mjtSensor.mjSENS_TOUCH]
        bodies = model.site_bodyid[touch] - 1
        nodes = [self._nodes[body] for body in bodies]
        self._site_node = np.array([self._num_trunk + node.dof for node in nodes], int)
        self._site_limb = np.array([node.limb for node in nodes], int)
        self._site_pos = (model.site_pos[touch] + np.array([node.pos for node in nodes]).reshape(-1, 3)).astype(
            np.float32
        )
        self._site_radius = model.site_size[touch, 0].astype(np.float32)
        self._site_body = np.array(
            [node.trunk if node.limb < 0 else self._part[node.dof].start + node.limb for node in nodes], int
        )

    # Coordinates.

    def _sorted(self, values, fill: float) -> tuple[Any, Any]:
        """Of constants in the model's order, the waist's and the limbs'."""
        values = np.asarray(values, np.float32)
        waist = values[self._waist_dof] if self._waist is not None else np.float32(fill)
        return waist, np.where(self._free, values[self._dof], np.float32(fill))[..., None]

    def _pick(self, values: jax.Array, index: np.ndarray, free: np.ndarray) -> jax.Array:
        return jnp.where(free[..., None], values[np.maximum(index, 0)], 0.0)

    def _joints(self, root: jax.Array, vec: jax.Array) -> Joints:
        """Sorts what the model orders by degree of freedom."""
        waist = vec[self._waist_dof] if self._waist is not None else jnp.zeros_like(vec[0])
        return Joints(root, waist, self._pick(vec, self._dof, self._free))

    def _rates(self, qpos: jax.Array, qvel: jax.Array, mat: list) -> Joints:
        """Rates in the root's frame."""
        root = jnp.stack([*(qvel[i] for i in (3, 4, 5)), *back(mat, list(qvel[:3]))])
        for at, dof in self._balls:
            ball = rotate(spatial.quat_mat(list(qpos[at : at + 4])), list(qvel[dof : dof + 3]))
            qvel = jnp.concatenate([qvel[:dof], jnp.stack(ball), qvel[dof + 3 :]])
        return self._joints(root, qvel)

    def _unsorted(self, qpos: jax.Array, mat: list, acc: Joints) -> jax.Array:
        """Joint accelerations in the model's order and frames, from those in the root's frame."""
        flat = jnp.concatenate([acc.root, acc.waist[None], acc.limbs.reshape(-1, acc.limbs.shape[-1])])[self._order]
        flat = flat.at[:3].set(jnp.stack(rotate(mat, list(acc.root[3:]))))
        for at, dof in self._balls:
            ball = back(spatial.quat_mat(list(qpos[at : at + 4])), list(flat[dof : dof + 3]))
            flat = flat.at[dof : dof + 3].set(jnp.stack(ball))
        return flat

    def _integrate(self, qpos: jax.Array, qvel: jax.Array) -> jax.Array:
        dt = self.timestep
        quat = spatial.quat_integrate(qpos[3:7], qvel[3:6], dt)
        parts, at, dof = [qpos[:3] + dt * qvel[:3], quat], 7, 6
        for ball_at, ball_dof in self._balls:
            parts.append(qpos[at:ball_at] + dt * qvel[dof:ball_dof])
            parts.append(spatial.quat_integrate(qpos[ball_at : ball_at + 4], qvel[ball_dof : ball_dof + 3], dt))
            at, dof = ball_at + 4, ball_dof + 3
        parts.append(qpos[at:] + dt * qvel[dof:])
        return jnp.concatenate(parts)

    def _angles(self, qpos: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of the waist and the limbs; a ball joint's are left at 0."""
        hinged = self._free & (self._qpos_index[self._dof] >= 0)
        limbs = self._pick(qpos, self._qpos_index[self._dof], hinged)
        waist = qpos[self._qpos_index[self._waist_dof]] if self._waist is not None else jnp.zeros_like(qpos[0])
        return waist, limbs

    # Smooth dynamics.

    def _configuration(self, qpos: jax.Array) -> Links:
        return self._links(qpos) if self._constant is None else self._constant

    def _links(self, qpos: jax.Array) -> Links:
        """The configuration, from joint positions."""
        angle, angles = self._angles(qpos)
        unit = [[np.float32(i == j) for j in range(3)] for i in range(3)]
        none = [np.float32(0.0)] * 3
        pos, mats = [none], [unit]
        link, origin = [list(row) for row in unit], list(none)
        if self._waist is not None:
            pos.append(none)
            mats.append(spatial.turn(self._waist_axis, angle))
            link = spatial.turn(self._waist_axis, angle * self._starts)
        motions = []
        for j in range(DOFS):
            origin = add(origin, rotate(link, self._offset[j]))
            axis = rotate(link, self._axis[j])
            motions.append([*axis, *cross(origin, axis)])
            link, origin = keep((mul(link, spatial.turn(self._axis[j], angles[j])), origin))
            pos.append(origin)
            mats.append(link)
        inertias = []
        for body, origin, mat in zip(self._bodies, pos, mats, strict=True):
            if body is None:
                inertias.append(None)
                continue
            mass, centre, about = body
            centre = add(origin, rotate(mat, centre))
            turned = mul(mul(mat, about), [[mat[j][i] for j in range(3)] for i in range(3)])
            square = dot(centre, centre)
            about = [
                [turned[i][j] + mass * ((square if i == j else 0.0) - centre[i] * centre[j]) for j in range(3)]
                for i in range(3)
            ]
            inertias.append((mass, scale(centre, mass), about))
        return Links(pos, mats, motions, inertias)

    def _twists(self, links: Links, joints: Joints) -> list[Twist]:
        """Of the trunk's bodies and the limbs' links."""
        root = list(joints.root)
        twists = [root]
        base = root
        if self._waist is not None:
            twists.append(add(root, scale(self._waist_twist, joints.waist)))
            base = add(root, scale(self._waist_twist, joints.waist * self._starts))
        for motion, rate in zip(links.motions, joints.limbs, strict=True):
            base = keep(add(base, scale(motion, rate)))
            twists.append(base)
        return twists

    def _bias(self, links: Links, rates: Joints, up: list) -> list:
        """Wrenches that bodies need to keep their rates, against gravity."""
        root = list(rates.root)
        gravity = [GRAVITY * x for x in up]
        change = [*(0.0 * x for x in root[:3]), *add(gravity, cross(root[3:], root[:3]))]
        twists = self._twists(links, rates)
        changes = [change]
        if self._waist is not None:
            turn = scale(spatial.cross_motion(root, self._waist_twist), rates.waist)
            changes.append(add(change, turn))
            change = add(change, scale(turn, self._starts))
            before = add(root, scale(self._waist_twist, rates.waist * self._starts))
        else:
            before = root
        for motion, rate, twist in zip(links.motions, rates.limbs, twists[-DOFS:], strict=True):
            change = keep(add(change, scale(spatial.cross_motion(before, motion), rate)))
            changes.append(change)
            before = twist
        return [
            None if inertia is None else add(apply(inertia, change), spatial.cross_force(twist, apply(inertia, twist)))
            for inertia, change, twist in zip(links.inertias, changes, twists, strict=True)
        ]

    def _torques(self, qpos: jax.Array, rates: Joints, ctrl: jax.Array) -> Joints:
        """Motors, springs and dampers."""
        force = self._gain * jnp.clip(ctrl, *self._ctrl_range)
        force = self._gear * jnp.clip(force, *self._force_range)
        waist, limbs = self._angles(qpos)
        limbs = self._pick(force, self._motor, self._motor >= 0) - self._stiffness[1] * (limbs - self._rest[1])
        waist = -self._stiffness[0] * (waist - self._rest[0]) - self._damping[0] * rates.waist
        return Joints(rates.root, waist, limbs - self._damping[1] * rates.limbs)

    def _system(self, links: Links) -> System:
        """The configuration as the solver wants it."""
        bodies = [spatial.columns(links.inertias[level]) for level in self._levels]
        inertias = [self._bodies_array(list(column)) for column in zip(*bodies, strict=True)]
        return System(inertias, jnp.stack([jnp.stack(motion) for motion in links.motions]))

    def _bodies_array(self, parts: list) -> jax.Array:
        """One array [..., bodies, envs] of nested lists for each level of bodies."""
        size = max(np.shape(x)[-1] if np.ndim(x) else 1 for x in jax.tree.leaves(parts))

        def stack(part, num):
            if isinstance(part, list):
                return jnp.stack([stack(x, num) for x in part])
            return jnp.broadcast_to(part, (num, size))  # [envs] of a trunk's body, [limbs, envs] of links

        sizes = [1 if level < self._num_trunk else self._num_limbs for level in self._levels]
        return jnp.concatenate([stack(part, num) for part, num in zip(parts, sizes, strict=True)], axis=-2)

    def _solve(self, system: System, added: Columns, wrenches, torques: Joints, stiff: tuple) -> Joints:
        """Articulated-body algorithm: accelerations at which the bodies' momenta change by what they feel.

        Args:
          system: configuration.
          added: to each body's inertia, columns [6 - j, bodies, envs].
          wrenches: taken from each body [6, bodies, envs].
          torques: of the joints.
          stiff: to add to the joints' inertias: waist's, limbs'.
        """
        felt = add(system.inertias, added), wrenches
        trunk = [_of_bodies(felt, body) for body in range(self._num_trunk)]
        limbs, steps = _of_bodies(felt, self._part[-1]), []
        for j in reversed(range(DOFS)):
            # Limbs with fewer degrees of freedom come last, and end on the trunk before the others do.
            num, part = self._num_free[j], self._part[j]
            trunk, limbs = self._land(trunk, limbs, num), _of_bodies(limbs, slice(num))
            if j < DOFS - 1 and part is not None:
                limbs = jax.tree.map(jnp.add, limbs, _of_bodies(felt, slice(part.start, part.start + num)))
            joints = system.motions[j][:, :num], torques.limbs[j][:num], stiff[1][j][:num]
            limbs, step = spatial.eliminate(limbs, *joints)
            steps.append(step)
        root, *rear = self._land(trunk, limbs, 0)
        if self._waist is not None:
            rear, waist_step = spatial.eliminate(rear[0], self._waist_motion, torques.waist, stiff[0])
            root = jax.tree.map(jnp.add, root, rear)
        inertia, wrench = keep(root)
        root = keep(jnp.stack(spatial.solve(spatial.lower(inertia), list(-wrench))))
        base, waist = root[:, None], jnp.zeros_like(root[0])
        if self._waist is not None:
            waist = waist_step[1] - short.sum(waist_step[0] * root, 0)
            base = base + (self._waist_motion * waist)[:, None] * self._starts
        limbs = []
        for (share, rest), motion in zip(reversed(steps), system.motions, strict=True):
            free = rest - short.sum(share * base[:, : len(rest)], 0)
            locked = jnp.zeros((self._num_limbs - len(rest), free.shape[-1]))
            limbs.append(jnp.concatenate([free, locked]))
            base = base + motion * limbs[-1]
        return Joints(root, waist, jnp.stack(limbs))

    def _land(self, trunk: list, limbs: Any, first: int) -> list:
        """What the trunk's bodies feel, inertia and wrench, with the limbs from the `first` on, which start on them."""
        trunk = list(trunk)
        for limb in range(first, limbs[1].shape[1]):
            start = int(self._starts[limb, 0])
            trunk[start] = jax.tree.map(jnp.add, trunk[start], _of_bodies(limbs, limb))
        return trunk

    def _body_twists(self, system: System, joints: Joints) -> jax.Array:
        """Of the bodies in the solver, [6, bodies, envs]."""
        base = joints.root[:, None]
        twists = [base]
        if self._waist is not None:
            turn = (self._waist_motion * joints.waist)[:, None]
            twists.append(base + turn)
            base = base + turn * self._starts
        for motion, rate, part in zip(system.motions, joints.limbs, self._part, strict=True):
            base = base + motion * rate
            if part is not None:
                twists.append(base)
        return jnp.concatenate(twists, axis=1)

    # Contact.

    def _solids(self, links: Links) -> list[Solid]:
        """The robot's shapes in the root's frame, arrays [shapes, 1, ...] to broadcast against obstacles."""
        solids = []
        for kind, level, limbs, pos, axes, size in self._groups:
            origin, mat = links.pos[level], links.mat[level]
            if limbs is not None:
                origin, mat = jax.tree.map(lambda x, at=limbs: x[at] if len(x) > 1 else x, (origin, mat))
            solid = add(origin, rotate(mat, pos)), [rotate(mat, axis) for axis in axes], list(size)
            solids.append(Solid(kind, *jax.tree.map(lambda x: x[:, None], solid)))
        return solids

    def _candidates(self, links: Links, height, axes: list, places: tuple) -> tuple[Candidates, list[slice]]:
        """The deepest points of each body, [contacts, envs], and the bodies that they are on, run by run."""
        solids, seated, owners = self._solids(links), [], []
        floor = [collide.floor(solid, height, axes) for solid in solids]
        things = [
            [
                jax.tree.map(lambda x, i=i: x[:, i : i + 1], c)
                for thing, at in zip(self._obstacles, places, strict=False)  # no places: the floor alone
                for c in collide.obstacle(solid, thing.kind, thing.size, at, axes)
                for i in range(at[0].shape[0])
            ]
            for solid in solids
        ]
        for seats in self._seats:
            for found, most in ((floor, self._contacts), (things, seats.obstacle_contacts)):
                points = [
                    jax.tree.map(lambda x, rows=rows: x[rows, 0], c)
                    for group, rows in seats.shapes
                    for c in found[group]
                ]
                deepest = collide.deepest(points, most)
                seated += deepest
                owners += [seats.bodies] * len(deepest)
        return keep(jax.tree.map(lambda *x: jnp.concatenate(x), *seated)), owners

    def _touch(self, links: Links, system: System, rates: Joints, height, axes: list, places: tuple):
        """The contacts for the solver, where they are, and the bodies that they are on."""
        candidates, owners = self._candidates(links, height, axes, places)
        directions = [candidates.normal, candidates.tangent, cross(candidates.normal, candidates.tangent)]
        rows = [[*cross(candidates.pos, axis), *axis] for axis in directions]
        rows += [[*axis, *[jnp.zeros_like(candidates.dist)] * 3] for axis in directions]
        rows = jnp.stack([jnp.stack(row) for row in rows[: 1 + len(self._friction)]])
        spring, damping = contact.spring(self.timestep)
        reference = damping * short.sum(rows * _at_contacts(self._body_twists(system, rates), owners), 1)
        touch = Touch(
            rows=rows,
            stiffness=contact.edge_stiffness(candidates.dist, _at_contacts(self._weight, owners)),
            reference=reference.at[0].add(spring * contact.impedance(candidates.dist) * candidates.dist),
        )
        return keep(touch), candidates.pos, owners

    def _limit(self, qpos: jax.Array, rates: Joints):
        """Joint limits: side, stiffness and offset of waist and limbs."""
        if self._limits is None:
            return None
        spring, damping = contact.spring(self.timestep)
        out = []
        for angle, rate, low, high, weight in zip(self._angles(qpos), rates[1:], *self._limits, strict=True):
            side = jnp.where(angle - low < high - angle, 1.0, -1.0)
            beyond = jnp.minimum(angle - low, high - angle)
            impedance = contact.impedance(beyond)
            stiffness = jnp.where(beyond < 0, impedance / ((1 - impedance) * weight), 0.0)
            out.append((side, stiffness, side * damping * rate + spring * impedance * beyond))
        return out

    def _edges(self, touch: Touch, twists: jax.Array):
        """What the contacts' edges do at accelerations of the bodies at them `twists` [6, contacts, envs]."""
        along = keep(short.sum(touch.rows * twists, 1) + touch.reference)
        return contact.edges(along, touch.stiffness, self._friction)

    def _settle(self, system: System, bias, torques: Joints, touch: Touch, owners, limit, acc: Joints, iterations: int):
        """Newton's method on the accelerations, from `acc`."""

        def newton(_, acc):
            twists = keep(self._body_twists(system, acc))
            forces, *fall = self._edges(touch, _at_contacts(twists, owners))
            stiffer, forces = keep((contact.stiffen(list(touch.rows), *fall), forces))
            added = [dot([x[j:] for x in stiffer], [row[j] for row in touch.rows]) for j in range(len(bias))]
            added, pull = keep(jax.tree.map(lambda x: self._per_body(x, owners), (added, dot(forces, touch.rows))))
            wrenches = spatial.product(system.inertias, twists) + bias - pull

            waist, limbs = torques.waist, torques.limbs
            stiff = 0.0, np.zeros((DOFS, 1, 1), np.float32)
            if limit is not None:
                held = []
                for (side, stiffness, offset), value in zip(limit, acc[1:], strict=True):
                    gap = side * value + offset
                    active = jnp.where(gap < 0, stiffness, 0.0)
                    held.append((active, -side * active * gap))
                stiff = held[0][0], held[1][0]
                waist, limbs = waist + held[0][1], limbs + held[1][1]
            change = self._solve(system, added, wrenches, Joints(acc.root, waist, limbs), stiff)
            return jax.tree.map(jnp.add, acc, change)

        def iterate(acc):
            return jax.lax.fori_loop(0, iterations, newton, acc)

        return spatial.in_one_go(iterate)(acc)

    def _per_body(self, values: jax.Array, owners: list[slice]) -> jax.Array:
        """Sums over the contacts of each body, [..., bodies, envs]."""
        sums, at = [], 0
        for seats in self._seats:
            size, mine = seats.bodies.stop - seats.bodies.start, owners.count(seats.bodies)
            runs = [values[..., at + i * size : at + (i + 1) * size, :] for i in range(mine)]
            none = jnp.zeros((*values.shape[:-2], size, values.shape[-1]))
            sums.append(sum(runs[1:], start=runs[0]) if runs else none)
            at += mine * size
        return jnp.concatenate(sums, axis=-2)

    # What the rest of the world calls.

    def _still(self, num: int) -> Joints:
        return Joints(jnp.zeros((6, num)), jnp.zeros(num), jnp.zeros((*self._dof.shape, num)))

    def _forward(self, qpos, qvel, ctrl, places, push, acc: Joints, iterations: int):
        """Accelerations in the root's frame, the same in the model's order, touch sensors, and the system."""
        mat = spatial.quat_mat(list(qpos[3:7]))
        links = self._configuration(qpos)
        mat, rates = keep((mat, self._rates(qpos, qvel, mat)))
        axes = [list(row) for row in mat]  # the world's axes in the root's frame
        bias = self._bias(links, rates, axes[2])
        if push is not None:
            bias[0] = add(bias[0], scale([*back(mat, list(push[3:])), *back(mat, list(push[:3]))], -1.0))
        system = keep(self._system(links))
        bias = keep(self._bodies_array([x for x in bias if x is not None]))
        touch, at, owners = self._touch(links, system, rates, qpos[2], axes, self._local(mat, qpos, places))
        torques = self._torques(qpos, rates, ctrl)
        acc = self._settle(system, bias, torques, touch, owners, self._limit(qpos, rates), acc, iterations)
        forces = Forces(keep(self._unsorted(qpos, mat, acc)), self._sense(links, system, touch, at, owners, acc))
        return acc, forces, mat, system

    def _local(self, mat: list, qpos: jax.Array, places: tuple) -> tuple:
        """Centres of the obstacles in the root's frame."""
        local = []
        for thing, place in zip(self._obstacles, places, strict=False):
            offset = [place[:, 0] - qpos[0], place[:, 1] - qpos[1], thing.height - qpos[2]]
            local.append(back(mat, offset))
        return tuple(local)

    @functools.partial(spatial.traced_once, static=("iterations",))
    def _step(self, qpos, qvel, ctrl, places, push, acc, iterations):
        """One physics step; also the accelerations in the root's frame and the forces that it starts from."""
        acc, forces, mat, system = self._forward(qpos, qvel, ctrl, places, push, acc, iterations)
        used = forces.qacc
        if any(np.any(damping) for damping in self._damping):
            # MuJoCo integrates the damping implicitly: (M + h B) x = M a, here solved for x - a.
            stiff = jax.tree.map(lambda x: x * np.float32(self.timestep), self._damping)
            lost = jax.tree.map(lambda x, y: -x * y, stiff, tuple(acc[1:]))
            none = jax.tree.map(jnp.zeros_like, system.inertias)
            change = self._solve(system, none, none[0], Joints(acc.root, *lost), stiff)
            used = self._unsorted(qpos, mat, jax.tree.map(jnp.add, acc, change))
        qvel = qvel + self.timestep * used
        return self._integrate(qpos, qvel), qvel, acc, forces

    def roll(self, qpos: jax.Array, qvel: jax.Array, ctrl: jax.Array, num_steps: int, places: tuple = ()):
        """Physics steps under one command.

        Args:
          qpos: float32 [nq].
          qvel: float32 [nv].
          ctrl: float32 [action_size].
          num_steps: how many.
          places: for each kind of obstacle float32 [num, 2], where they stand; empty for the floor alone.

        Returns:
          Joint positions [num_steps + 1, nq] and velocities [num_steps + 1, nv], the first ones included, and the
          `Forces` at the last state.
        """
        return spatial.lanes(functools.partial(self._roll, num_steps))(qpos, qvel, ctrl, places)

    def _roll(self, num_steps: int, qpos, qvel, ctrl, places):
        def substep(carry, _):
            qpos, qvel, acc, _ = carry
            after, rates, acc, forces = self._step(qpos, qvel, ctrl, places, None, acc, self._iterations)
            return (after, rates, acc, forces), (qpos, qvel)

        num = qpos.shape[-1]
        forces = Forces(jnp.zeros((self.nv, num)), jnp.zeros((len(self._site_radius), num)))
        # The forces at the last state take a step more, whose outcome is thrown away: one traced forward pass.
        carry, (qpos, qvel) = jax.lax.scan(substep, (qpos, qvel, self._still(num), forces), length=num_steps + 1)
        return qpos, qvel, carry[-1]

    def advance(self, qpos: jax.Array, qvel: jax.Array, ctrl: jax.Array, places: tuple, push: jax.Array):
        """One physics step among obstacles.

        Args:
          qpos: float32 [nq].
          qvel: float32 [nv].
          ctrl: float32 [action_size].
          places: for each kind of obstacle float32 [num, 2], where they stand.
          push: float32 [6], force and torque about the root's origin on the root, world axes.

        Returns:
          Positions and velocities afterwards, and the true accelerations, damping not integrated: float32 [nv].
        """

        def step(qpos, qvel, ctrl, places, push):
            still = self._still(qpos.shape[-1])
            qpos, qvel, _, forces = self._step(qpos, qvel, ctrl, places, push, still, COLD_ITERATIONS)
            return qpos, qvel, forces.qacc

        return spatial.lanes(step)(qpos, qvel, ctrl, places, push)

    def forces(self, qpos: jax.Array, qvel: jax.Array, ctrl: jax.Array, places: tuple, push: jax.Array) -> Forces:
        """What this very state feels; arguments as of `advance`."""
        return spatial.lanes(self._forces)(qpos, qvel, ctrl, places, push)

    @spatial.traced_once
    def _forces(self, qpos, qvel, ctrl, places, push):
        return self._forward(qpos, qvel, ctrl, places, push, self._still(qpos.shape[-1]), COLD_ITERATIONS)[1]

    def _sense(self, links: Links, system: System, touch: Touch, at: list, owners, acc: Joints) -> jax.Array:
        """Touch sensors: the normal forces of the contacts of the site's body inside the site."""
        if not len(self._site_radius):
            return jnp.zeros((0, acc.root.shape[-1]))
        forces = self._edges(touch, _at_contacts(self._body_twists(system, acc), owners))[0]
        body = np.concatenate([np.arange(run.start, run.stop) for run in owners])
        inside = (self._site_body[:, None] == body)[..., None]
        square = 0.0
        for i in range(3):
            site = [
                links.pos[node][i][limb] + dot([x[limb] for x in links.mat[node][i]], place)
                for node, limb, place in zip(self._site_node, self._site_limb, self._site_pos, strict=True)
            ]
            site = keep(jnp.stack(site))  # else each distance would first find out which site it is of
            square = square + (site[:, None] - at[i]) ** 2
        inside = inside & (square < self._site_radius[:, None, None] ** 2)
        return short.sum(jnp.where(inside, forces[0], 0.0), 1)

    def touching(self, qpos: jax.Array, places: tuple) -> tuple[jax.Array, ...]:
        """The robot's contact points with each obstacle: for each kind float32 [num]."""
        return spatial.lanes(self._touching)(qpos, places)

    @spatial.traced_once
    def _touching(self, qpos, places):
        mat = spatial.quat_mat(list(qpos[3:7]))
        axes = [list(row) for row in mat]
        links = self._configuration(qpos)
        counts = []
        for thing, at in zip(self._obstacles, self._local(mat, qpos, places), strict=True):
            count = jnp.zeros(at[0].shape)
            for solid in self._solids(links):
                for candidates in collide.obstacle(solid, thing.kind, thing.size, at, axes):
                    count = count + short.sum((candidates.dist < 0).astype(jnp.float32), 0)
            counts.append(count)
        return tuple(counts)

    def reach(self, path: jax.Array) -> Reach:
        """What the ball round the whole robot reaches on a path, joint positions [steps, nq]."""
        middle = (path[0, :3] + path[-1, :3]) / 2
        way = jnp.sqrt(short.max(short.sum((path[:, :3] - middle) ** 2, -1), 0))
        return Reach(middle[None], self._radius + way[None])

    def frames(self, qpos: jax.Array, qvel: jax.Array) -> Frames:
        """Poses and velocities of the model's bodies; a body on a ball joint is shown unturned."""
        return spatial.lanes(self._frames)(qpos, qvel)

    @spatial.traced_once
    def _frames(self, qpos, qvel):
        mat = spatial.quat_mat(list(qpos[3:7]))
        links = self._links(qpos)
        twists = self._twists(links, self._rates(qpos, qvel, mat))
        pos, mats, linvel, angvel = [], [], [], []
        for node in self._nodes:
            level = node.trunk if node.limb < 0 else self._num_trunk + node.dof
            origin, turn, twist = jax.tree.map(
                lambda x, limb=node.limb: x[limb if len(x) > 1 else 0] if limb >= 0 else x,
                (links.pos[level], links.mat[level], twists[level]),
            )
            origin = add(origin, rotate(turn, [np.float32(x) for x in node.pos]))
            pos.append(jnp.stack(rotate(mat, origin)) + qpos[:3])
            mats.append(jnp.stack([jnp.stack(row) for row in mul(mat, turn)]))
            linvel.append(jnp.stack(rotate(mat, add(twist[3:], cross(twist[:3], origin)))))
            angvel.append(jnp.stack(rotate(mat, twist[:3])))
        return Frames(*map(jnp.stack, (pos, mats, linvel, angvel)))


def _of_bodies(felt: Any, which: int | slice) -> Any:
    """Some bodies' part of arrays [..., bodies, envs]."""
    return jax.tree.map(lambda x: x[..., which, :], felt)


def _at_contacts(values: Any, owners: list[slice]) -> jax.Array:
    """Of bodies [..., bodies, envs], for each of their contacts."""
    return jnp.concatenate([_of_bodies(values, run) for run in owners], axis=-2)
