"""One environment's physics: the robot, what it bumps into and what it pushes, computed only where they can touch."""

from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mjx_safety import scene, short, sparse, spatial
from mjx_safety.articulated import Articulated
from mjx_safety.boxes import Accelerations, Boxes, BoxPhysics
from mjx_safety.contact import Forces, Frames, Obstacle, Reach
from mjx_safety.objects import Objects
from mjx_safety.planar import PlanarBody
from mjx_safety.robots import Robot

NEAREST = 2  # obstacles of a kind that anything can touch within one environment step
REBOUND = 1.5  # m/s by which an obstacle may throw the Point off its free way: its top speed, thrust over drag
MOST_LIGHT = 0.02  # of the robot's mass: what is solved beside it weighs less, in Safety Gym 0.3 % at most
SELDOM = 320  # environment steps of the Point in which it meets a given thing about once, measured under random actions


@flax.struct.dataclass
class PhysicsState:
    """What moves, and no more.

    Attributes:
      qpos: float32 [nq], the robot's joint positions.
      qvel: float32 [nv], its joint velocities.
      boxes: what it pushes, by kind.
      home: of the kinds that circle, centres (x, y) and headings, float32 [num, 3].
      time: float32 [], seconds since reset.
    """

    qpos: jax.Array
    qvel: jax.Array
    boxes: dict[str, Boxes]
    home: dict[str, jax.Array]
    time: jax.Array


class Motion(NamedTuple):
    """What a step of the physics tells beside the new state.

    Attributes:
      forces: on the robot at the new state.
      contacts: the robot's contact points at the new state with each thing of the counted kinds, float32 [num].
    """

    forces: Forces
    contacts: dict[str, jax.Array]


class Physics:
    """Steps one environment.

    Most steps touch nothing but the floor. Every environment pays for the robot's free motion only; where something
    is in reach or still moving, the step is computed again with all contacts, see `sparse.cond`. A CPU takes
    a physics step with boxes in one go, and all those of a Point, see `spatial.in_one_go`.

    Args:
      robot: who moves.
      objects: the kinds around it.
      frame_skip: physics steps of an environment step.
      counted: names of kinds that collide, whose contacts with the robot are counted.

    Raises:
      ValueError: something pushed is too heavy to be solved beside the robot.
    """

    def __init__(self, robot: Robot, objects: Sequence[Objects], frame_skip: int, counted: Set[str]):
        model = scene.robot_model(robot)
        self._obstacles: dict[str, Obstacle] = {}
        kinds = {}
        for kind in objects:
            obstacle, pushed = kind.obstacle(), kind.boxes()
            if obstacle and kind.num:
                self._obstacles[kind.name] = obstacle
            if pushed and kind.num:
                kinds[kind.name] = pushed
        obstacles = tuple(self._obstacles.values())
        body = PlanarBody if robot.planar else Articulated
        self._robot: Any = body(model, obstacles)  # alike, but for how they move with nothing about
        invweight = tuple(model.body_invweight0[1:, 0].tolist())
        self._boxes = {
            name: BoxPhysics(
                kind,
                self._robot.shapes,
                obstacles,
                self._robot.timestep,
                frame_skip,
                invweight,
                model.body_mass.sum(),
            )
            for name, kind in kinds.items()
        }
        # A robot on the plane feels what it pushes, and is solved together with what is heavy.
        self._robot_first = not robot.planar
        heavy = [name for name, physics in self._boxes.items() if robot.planar and physics.heavy]
        self._heavy = max(heavy, key=lambda name: self._boxes[name].mass, default=None)
        self._light = tuple(name for name in self._boxes if name != self._heavy)
        self._check_weights(robot, model.body_mass.sum())
        self._counted = counted
        num_things = sum(kind.num for kind in objects if kind.obstacle() or kind.boxes())
        # Random actions seldom meet what is heavy, policies push it most of the time.
        light = {"fraction": max(16, SELDOM // max(2, num_things))}
        self._chunks = {"fraction": 128, "larger": 8} if self._heavy else light
        self._frame_skip = frame_skip
        self._mass_centres = model.body_ipos[1:].astype(np.float32)
        self._mass_shares = (model.body_mass[1:] / model.body_mass.sum()).astype(np.float32)
        self.step_time = frame_skip * self._robot.timestep
        self.action_size: int = model.nu
        self.default_joints = model.qpos0[3 if robot.planar else 7 :].astype(np.float32)
        self.num_joint_velocities: int = model.nv - (3 if robot.planar else 6)

    def _check_weights(self, robot: Robot, robot_mass: float) -> None:
        """Refuses what the robot ought to feel, but would hardly."""
        for name in self._light:
            share = self._boxes[name].mass / robot_mass
            if share > MOST_LIGHT:
                raise ValueError(
                    f"One of {name} weighs {share:.1%} of the {robot.name}, which is solved as if it hardly felt them: "
                    f"{MOST_LIGHT:.1%} at most. Lower its density or size, or choose impl='warp', which solves all "
                    "at once."
                )

    def centre_of_mass(self, state: PhysicsState) -> jax.Array:
        """Of the whole robot, float32 [3], metres."""
        frames = self._robot.frames(state.qpos, state.qvel)
        centres = frames.pos + short.sum(frames.mat * self._mass_centres[:, None], -1)
        return short.sum(self._mass_shares[:, None] * centres, 0)

    def settle(self, state: PhysicsState) -> PhysicsState:
        """Lays boxes still that hardly move; a gremlin never rests."""
        still = {
            name: physics.settle(state.boxes[name]) for name, physics in self._boxes.items() if name not in state.home
        }
        return state.replace(boxes=state.boxes | still)

    def first_yaws(self, state: PhysicsState) -> dict[str, jax.Array]:
        """Headings to which what circles turns back, radians [num] by kind, worked out from everything else."""
        frames = self._robot.frames(state.qpos, state.qvel)
        return {
            name: self._boxes[name].first_yaw(state.boxes[name], frames, home[:, :2], state.time)
            for name, home in state.home.items()
        }

    def look(self, state: PhysicsState, ctrl: jax.Array, places: dict[str, jax.Array]) -> Motion:
        """What there is to tell of a state in which an episode begins; forces as if the robot touched but the floor.

        Args:
          state: now.
          ctrl: float32 [action_size], clipped.
          places: float32 [num, 2], where the kinds that stand still are.
        """
        nowhere = tuple(jnp.zeros((0, 2)) for _ in self._obstacles)
        forces = self._robot.forces(state.qpos, state.qvel, ctrl, nowhere, jnp.zeros(6))
        return Motion(forces, self._contacts(state, places))

    def _contacts(self, state: PhysicsState, places: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The robot's contact points with each thing of the counted kinds, float32 [num]."""
        contacts = self._touching(state.qpos, places)
        if self._boxes:
            contacts |= self._touching_boxes(state.boxes, self._robot.frames(state.qpos, state.qvel))
        return contacts

    def step(
        self, state: PhysicsState, ctrl: jax.Array, places: dict[str, jax.Array], count: jax.Array | None = None
    ) -> tuple[PhysicsState, Motion]:
        """One environment step.

        Args:
          state: before.
          ctrl: float32 [action_size], clipped.
          places: float32 [num, 2], where the kinds that stand still are.
          count: int32 [], how many physics steps are taken; None: all of the frame skip.
        """
        if self._robot_first:
            return self._step_apart(state, ctrl, places, count)
        return self._step_together(state, ctrl, places, count)

    def _step_together(self, state, ctrl, places, count):
        """One environment step of a robot that feels what it pushes: where they meet, all are solved at once."""
        end, reach = self._robot.coast(state.qpos, state.qvel, ctrl, self._frame_skip)
        if count is not None:
            return self._interact(state, ctrl, places, reach, count)
        meets = self._meets_obstacles(reach, places)
        if self._heavy:  # it takes long to solve, and is rarely where the robot meets an obstacle
            rebound = REBOUND * self.step_time
            obstructed, meets = meets, self._meets_boxes(state, reach, jnp.where(meets, rebound, 0.0))
            end, contacts = self._pass(self._arrive, obstructed & ~meets, state, ctrl, places, end, fraction=64)
        else:
            meets |= self._meets_boxes(state, reach)
            contacts = self._untouched(places)
        qpos, qvel, forces = end
        boxes = state.boxes | self._glide(state)
        contacts |= self._untouched_boxes(boxes)
        after = PhysicsState(qpos, qvel, boxes, state.home, state.time + self.step_time)
        alone = after, Motion(forces, contacts)
        if not (self._obstacles or self._boxes):
            return alone
        args = state, ctrl, places, reach
        return sparse.cond(meets, self._interact, args, alone, **self._chunks)

    def _step_apart(self, state, ctrl, places, count):
        """One environment step of a robot too heavy to feel what it pushes: it moves first, then boxes beside it."""
        path = self._robot.roll(state.qpos, state.qvel, ctrl, self._frame_skip)
        obstructed = self._meets_obstacles(self._robot.reach(path[0]), places)
        path, contacts = self._pass(self._roll_among, obstructed, state, ctrl, places, path, fraction=16)
        qpos, qvel, forces = path
        time = state.time + self.step_time
        if count is not None:
            taken = jnp.minimum(jnp.arange(self._frame_skip + 1, dtype=jnp.int32), count)
            qpos, qvel, time = qpos[taken], qvel[taken], self._later(state.time, count)
            near = self._near_places(qpos[-1, :2], places)
            forces = self._robot.forces(qpos[-1], qvel[-1], ctrl, near, jnp.zeros(6))
            contacts = self._touching(qpos[-1], places)
        boxes = state.boxes | self._glide(state)
        touched = self._untouched_boxes(boxes)
        if boxes:
            reach = self._robot.reach(qpos)
            args = state, qpos, qvel, reach, places, count
            meets = self._meets_boxes(state, reach) | (count is not None)
            boxes, touched = sparse.cond(meets, self._push, args, (boxes, touched), fraction=16)
        after = PhysicsState(qpos[-1], qvel[-1], boxes, state.home, time)
        return after, Motion(forces, contacts | touched)

    def _pass(self, among, obstructed, state, ctrl, places, free, fraction):
        """What `among` tells where something stands in the robot's way, else `free`; and no contact points with it."""
        contacts = self._untouched(places)
        if not self._obstacles:
            return free, contacts
        args = state.qpos, state.qvel, ctrl, places
        return sparse.cond(obstructed, among, args, (free, contacts), fraction=fraction)

    def _untouched(self, places):
        """As `_touching`, without a contact."""
        return {name: jnp.zeros(len(places[name])) for name in self._obstacles if name in self._counted}

    def _untouched_boxes(self, boxes: dict[str, Boxes]) -> dict[str, jax.Array]:
        """As `_touching_boxes`, without a contact."""
        return {name: jnp.zeros(len(x.pos)) for name, x in boxes.items() if name in self._counted}

    def _roll_among(self, qpos, qvel, ctrl, places):
        """The robot's path among obstacles, and its contact points with them in the end."""
        path = self._robot.roll(qpos, qvel, ctrl, self._frame_skip, self._near_places(qpos[:2], places))
        return path, self._touching(path[0][-1], places)

    def _arrive(self, qpos, qvel, ctrl, places):
        """The last of `_roll_among`."""
        (path, vels, forces), contacts = self._roll_among(qpos, qvel, ctrl, places)
        return (path[-1], vels[-1], forces), contacts

    def _push(self, state, qpos, qvel, reach, places, count):
        """The boxes beside a robot on its path, and its contact points with them in the end."""
        near, around, homes, put_back = self._choose(state, reach, places, count)

        path, fixed = (qpos[:-1], qvel[:-1], qvel[1:]), (around, homes, state.time)
        near = self._repeat(self._advance_beside, near, path, fixed, count)
        boxes = self.settle(state.replace(boxes=put_back(near))).boxes
        frames = self._robot.frames(qpos[-1], qvel[-1])
        return boxes, self._touching_boxes(boxes, frames)

    @spatial.traced_once
    def _advance_beside(self, near, index, robot, around, homes, time):
        """One physics step of boxes beside a robot on its path; for `_repeat`."""
        qpos, qvel, later = robot
        frames = self._robot.frames(qpos, qvel)
        acc = self._body_accelerations(frames, qpos, later)
        return self._advance_boxes(near, around, homes, self._later(time, index), frames, acc)[0]

    @spatial.traced_once
    def _advance_all(self, moving, index, _, ctrl, obstacles, around, homes, time):
        """One physics step of the robot and everything near it, which feel each other; for `_repeat`."""
        qpos, qvel, near, _ = moving
        time, frames = self._later(time, index), self._robot.frames(qpos, qvel)
        surroundings = ctrl, obstacles, frames, near, around, homes, time
        *after, qacc, heavy, push = self._advance_robot(qpos, qvel, jnp.zeros(6), *surroundings)
        light = {}
        if self._light:
            acc = self._body_accelerations(frames, qpos, qvel + self._robot.timestep * qacc)
            light, felt = self._advance_boxes(near, around, homes, time, frames, acc)
            *after, _, heavy, push = self._advance_robot(qpos, qvel, felt, *surroundings)
        return *after, light | heavy, push

    def _repeat(self, advance: Callable, moving: Any, each: Any, fixed: tuple, count: jax.Array | None) -> Any:
        """`advance(moving, index, each[index], *fixed)` in place of `moving` for `count` physics steps, or all."""

        def substep(moving, step, fixed, count):
            index, each = step
            after = advance(moving, index, each, *fixed)
            if count is None:
                return after
            return jax.tree.map(lambda new, old: jnp.where(index < count, new, old), after, moving)

        def all_steps(moving, each, fixed, count):
            steps = jnp.arange(self._frame_skip, dtype=jnp.int32), each
            return jax.lax.scan(lambda moving, step: (substep(moving, step, fixed, count), None), moving, steps)[0]

        # With its loop the call takes half as long again to compile; it saves the Point a tenth, the Car nothing.
        if self._robot_first:
            substep = spatial.all_in_one_go(substep)
        else:
            all_steps = spatial.all_in_one_go(all_steps)
        return all_steps(moving, each, fixed, count)

    def _choose(self, state: PhysicsState, reach: Reach, places: dict[str, jax.Array], count: jax.Array | None):
        """What is worth solving in the robot's reach: boxes, obstacles round the foremost of a kind, and homes.

        Also a function that puts them back among the others, which `count` physics steps, or all, have passed by.
        """
        near, around, homes, slots = {}, {}, {}, {}
        for name, physics in self._boxes.items():
            boxes = state.boxes[name]
            slots[name] = physics.choose(boxes, self._clearance(state, name, reach))
            near[name] = jax.tree.map(lambda x, at=slots[name]: x[at], boxes)
            around[name] = self._near_places(near[name].pos[0, :2], places)
            homes[name] = state.home.get(name, jnp.zeros((len(boxes.pos), 3)))[slots[name]]

        def put_back(near: dict[str, Boxes]) -> dict[str, Boxes]:
            boxes = state.boxes | self._glide(state, count)
            return {
                name: jax.tree.map(lambda x, y, at=slots[name]: x.at[at].set(y), boxes[name], near[name])
                for name in boxes
            }

        return near, around, homes, put_back

    def _body_accelerations(self, frames, qpos, later):
        """Those that give the bodies at `frames` joint velocities `later` a physics step later."""
        dt = self._robot.timestep
        after = self._robot.frames(qpos, later)  # at the same place: MuJoCo's contacts leave out J'v
        return Accelerations((after.linvel - frames.linvel) / dt, (after.angvel - frames.angvel) / dt)

    def _advance_boxes(self, near, around, homes, time, frames, acc):
        """Light boxes after one physics step beside a robot that accelerates by `acc`, and what they do to it."""
        after, felt = {}, jnp.zeros(6)
        for name in self._light:
            after[name], push = self._boxes[name].advance(near[name], frames, acc, around[name], homes[name], time)
            felt += push
        return after, felt

    def _advance_robot(self, qpos, qvel, push, ctrl, obstacles, frames, near, around, homes, time):
        """One physics step of the robot and the heavy boxes: its state and accelerations, them, and all that pushes."""
        if self._heavy is None:
            return *self._robot.advance(qpos, qvel, ctrl, obstacles, push), {}, push
        boxes = near[self._heavy], frames, around[self._heavy], homes[self._heavy], time
        *after, heavy, felt = spatial.lanes(self._advance_together)(qpos, qvel, ctrl, obstacles, push, boxes)
        return *after, {self._heavy: heavy}, push + felt

    @spatial.traced_once
    def _advance_together(self, qpos, qvel, ctrl, obstacles, push, boxes):
        robot = self._robot.system(qpos, qvel, ctrl, obstacles, push)
        acc, heavy, felt = self._boxes[self._heavy].advance_with(robot, *boxes)
        return *self._robot.integrate(qpos, qvel, acc), acc, heavy, felt

    def _glide(self, state: PhysicsState, count: jax.Array | None = None) -> dict[str, Boxes]:
        """The kinds that circle, some physics steps later, or all of a step, and as if nothing touched them."""
        num_steps = self._frame_skip if count is None else count
        return {
            name: self._boxes[name].glide(state.boxes[name], home, state.time, num_steps)
            for name, home in state.home.items()
        }

    def _later(self, time: jax.Array, count: jax.Array | None) -> jax.Array:
        """The time some physics steps later, or all of a step, seconds."""
        return time + (self.step_time if count is None else self._robot.timestep * count.astype(jnp.float32))

    def _nearest(self, position: jax.Array, places: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The nearest few of every kind that stands still, int32 [nearest] by kind."""
        near = {}
        for name in self._obstacles:
            distance = short.sum((places[name] - position) ** 2, 1)
            near[name] = jax.lax.top_k(-distance, min(NEAREST, len(distance)))[1]
        return near

    def _meets_obstacles(self, reach: Reach, places: dict[str, jax.Array]) -> jax.Array:
        """Whether what stands still is in the robot's reach, bool []."""
        meets = jnp.zeros((), bool)
        for name, obstacle in self._obstacles.items():
            distance = short.norm(places[name][:, None] - reach.centres[:, :2], -1)
            meets |= short.any(short.any(distance < reach.radii + obstacle.radius, -1), 0)
        return meets

    def _meets_boxes(self, state: PhysicsState, reach: Reach, margin: float | jax.Array = 0.0) -> jax.Array:
        """Whether boxes come within a margin of the robot's reach, or are awake: bool []."""
        meets = jnp.zeros((), bool)
        for name, physics in self._boxes.items():
            near = self._clearance(state, name, reach) < margin
            meets |= short.any(near | physics.awake(state.boxes[name]), 0)
        return meets

    def _clearance(self, state: PhysicsState, name: str, reach: Reach) -> jax.Array:
        """Room that is left between the robot and each box of a kind within the step, metres [n]."""
        physics, boxes = self._boxes[name], state.boxes[name]
        clearance = physics.clearance(boxes, reach)
        if name in state.home:
            clearance -= physics.drift(boxes, self._glide(state)[name], self.step_time)
        return clearance

    def _interact(
        self,
        state: PhysicsState,
        ctrl: jax.Array,
        places: dict[str, jax.Array],
        reach: Reach,
        count: jax.Array | None = None,
    ) -> tuple[PhysicsState, Motion]:
        """One environment step with everything that can touch a robot whose reach would be this if nothing did."""
        obstacles = self._near_places(state.qpos[:2], places)
        near, around, homes, put_back = self._choose(state, reach, places, count)

        moving, fixed = (state.qpos, state.qvel, near, jnp.zeros(6)), (ctrl, obstacles, around, homes, state.time)
        qpos, qvel, near, push = self._repeat(self._advance_all, moving, None, fixed, count)
        state = self.settle(PhysicsState(qpos, qvel, put_back(near), state.home, self._later(state.time, count)))
        obstacles = self._near_places(qpos[:2], places)
        forces = self._robot.forces(qpos, qvel, ctrl, obstacles, push)
        return state, Motion(forces, self._contacts(state, places))

    def _touching(self, qpos: jax.Array, places: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Those of `_contacts` with what stands still."""
        if not self._counted & self._obstacles.keys():
            return {}
        near = self._nearest(qpos[:2], places)
        touching = self._robot.touching(qpos, tuple(places[name][index] for name, index in near.items()))
        return {
            name: jnp.zeros(len(places[name])).at[index].set(points)
            for (name, index), points in zip(near.items(), touching, strict=True)
            if name in self._counted
        }

    def _touching_boxes(self, boxes: dict[str, Boxes], frames: Frames) -> dict[str, jax.Array]:
        """Those of `_contacts` with what moves."""
        return {name: self._boxes[name].contacts(x, frames) for name, x in boxes.items() if name in self._counted}

    def _near_places(self, position: jax.Array, places: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
        return tuple(places[name][index] for name, index in self._nearest(position, places).items())
