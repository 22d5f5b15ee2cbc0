"""The environment: `reset` and `step` of one Safety Gym task, as pure functions."""

from typing import Any, Literal, TypeVar, get_args

import flax.struct
import jax
import jax.numpy as jnp

from mjx_safety import checks, geometry, lidar, robots, scene, short, sparse
from mjx_safety.boxes import Boxes
from mjx_safety.contact import Forces
from mjx_safety.geometry import at_height
from mjx_safety.layout import Layout
from mjx_safety.objects import Placement
from mjx_safety.physics import Physics, PhysicsState
from mjx_safety.robots import Pose
from mjx_safety.task import Task
from mjx_safety.view import View

Impl = Literal["jax", "warp"]
"""What can compute the physics; see `Env`."""


@flax.struct.dataclass
class State:
    """One environment's state: what an agent sees, and what the next step needs. A pytree of about 1 KB.

    Attributes:
      obs: float32 [observation_size], Safety Gym's flat order (see `Env.observation_slices`).
      reward: float32 [].
      cost: float32 [], 0 or 1 with the indicator on.
      costs: float32 [] by Safety Gym's names ("cost_hazards", ...), and "cost_exception".
      terminated: bool [], the physics failed, or no place was left for the next goal (after a reset: for a layout), or
        the goal was reached and there is no next one (`Task.continue_goal`).
      truncated: bool [], the episode reached its last step.
      goal_met: bool [], the goal was reached in this step.
      steps: int32 [], steps taken in this episode.
      ctrl: float32 [action_size], the last clipped action.
      physics: what moves.
      places: float32 [num, 2], metres: where the layout's things are, or were put if they move since.
      target: int32 [], which button is the goal; -1 where none is.
      timer: int32 [], steps for which the buttons stay dark.
      measured: float32 [k], what the objective measures the next reward from.
      key: for the goals to come, and for noise.
    """

    obs: jax.Array
    reward: jax.Array
    cost: jax.Array
    costs: dict[str, jax.Array]
    terminated: jax.Array
    truncated: jax.Array
    goal_met: jax.Array
    steps: jax.Array
    ctrl: jax.Array
    physics: PhysicsState
    places: jax.Array
    target: jax.Array
    timer: jax.Array
    measured: jax.Array
    key: jax.Array


StateT = TypeVar("StateT", bound=State)


class Env:
    """A task as `reset` and `step` of one environment; batch with `jax.vmap`, compile with `jax.jit`.

    Attributes:
      task: the task.
      impl: what computes the physics, "jax" or "warp".
      physics: steps what moves.
      observation_size: length of `State.obs`.
      action_size: length of an action; every entry is clipped to [-1, 1].
      observation_slices: where each sensor and lidar lies in the observation, by name.

    Args:
      task: the task.
      impl: "jax", our own physics of what can touch, on any device; or "warp", MuJoCo Warp's of the whole scene, for
        NVIDIA GPUs, and slowly on CPUs: see docs/physics.md.

    Raises:
      TypeError: `task` is not a Task.
      ValueError: there is no such `impl`, it cannot do what the task asks for, or `jax_enable_x64` is on.
      ImportError: MuJoCo Warp is not installed.
    """

    def __init__(self, task: Task, impl: Impl = "jax"):
        if not isinstance(task, Task):
            raise TypeError(f"Env got {task!r}; it takes a mjx_safety.Task. For an id use mjx_safety.make.")
        if jax.config.jax_enable_x64:
            raise ValueError("jax_enable_x64 is on, but environments compute in float32; leave it off.")
        self.task = task
        self.impl: Impl = impl
        self._kinds = tuple(kind for kind in task.objects if kind.num)
        self._moving = tuple(kind for kind in self._kinds if kind.boxes())
        self._counted = {
            kind.name
            for kind in self._kinds
            if (kind.obstacle() or kind.boxes()) and (kind.constrained or kind.name in task.objective.touches)
        }
        self.physics = _engine(impl)(task.robot, self._kinds, task.frame_skip, self._counted)
        self._joint_sensors = scene.joint_sensors(scene.robot_model(task.robot))
        self.action_size = self.physics.action_size

        spots, self._slots = [], {}
        for name, num, placement in self._things():
            self._slots[name] = slice(len(spots), len(spots) + num)
            spots += placement.split(num)
        self._layout = Layout(spots, task.extents, task.margin)

        readings = jax.eval_shape(self._first_readings, jax.random.key(0))
        self.observation_slices, self.observation_size = {}, 0
        for name, reading in readings.items():
            self.observation_slices[name] = slice(self.observation_size, self.observation_size + reading.size)
            self.observation_size += reading.size

    def reset(self, key: jax.Array) -> State:
        """A new episode with a new layout.

        Args:
          key: random key, `jax.random.key(seed)`.
        """
        physics, places, target, key, found = self._draw(key)
        state = self._begin(physics, places, target, jnp.int32(0), jnp.zeros(self.action_size), jnp.int32(0), key)
        return state.replace(terminated=~found)

    def step(self, state: StateT, action: jax.Array) -> StateT:
        """One environment step: `frame_skip` physics steps, then reward and costs, the next goal, and what is seen.

        Args:
          state: from `reset`, `step` or `set_world`.
          action: [action_size], clipped to [-1, 1].

        Raises:
          ValueError: the action has the wrong shape.
        """
        task = self.task
        ctrl, count, key = self._command(action, state.key)
        physics, motion = self.physics.step(state.physics, ctrl, self._solid(state.places), count)
        failed = _broken((physics, motion))
        physics = jax.tree.map(lambda old, new: jnp.where(failed, old, new), state.physics, physics)
        motion = jax.tree.map(lambda value: jnp.where(failed, 0.0, value), motion)

        view = self._view(physics, state.places, motion.contacts, state.target, state.timer)
        costs = self._costs(view, failed)
        goal_met = task.objective.reached(view) & ~failed
        reward = task.objective.reward(view, state.measured) + task.reward_orientation * view.robot_mat[2, 2]
        reward = jnp.clip(reward, -task.reward_clip, task.reward_clip)
        if task.objective.bonus:
            reward += jnp.where(goal_met, getattr(task.objective, task.objective.bonus), 0.0)

        # The next goal appears now: the observation shows it, and distances are measured anew, so that the next
        # reward does not jump.
        timer = jnp.maximum(state.timer - 1, 0)
        places, target, timer, found, key = self._next_goal(goal_met, physics, state.places, state.target, timer, key)
        view = self._view(physics, places, motion.contacts, target, timer)
        steps = state.steps + 1
        return state.replace(
            obs=self._observe(view, physics, motion.forces, steps),
            reward=jnp.where(failed, task.reward_exception, reward),
            cost=costs.pop("cost"),
            costs=costs,
            terminated=failed | ~found,
            truncated=steps >= task.num_steps,
            goal_met=goal_met,
            steps=steps,
            ctrl=ctrl,
            physics=physics,
            places=places,
            target=target,
            timer=timer,
            measured=task.objective.measure(view),
            key=key,
        )

    def get_world(self, state: State) -> dict[str, jax.Array]:
        """The world as plain arrays: world frame, SI units, quaternions w first, velocities of body origins.

        Returns:
          time [], steps [] of the episode so far, robot_pos [3], robot_quat [4], robot_linvel [3], robot_angvel [3],
          joint_pos and joint_vel [joints], ctrl [action_size], buttons_timer [] (0 where there are no buttons), and for
          each kind its positions, such as hazards_pos [num, 3]; for kinds that move also vases_quat [num, 4],
          vases_linvel [num, 3], vases_angvel [num, 3], and vases_placed [num, 2], where the layout put them. In its
          place gremlins have gremlins_center [num, 3] and gremlins_yaw [num], the heading to which they turn back. The
          goal and the box are single: goal_pos [3], box_pos [3]. In Button tasks goal_button [] is the index of the
          goal.
        """
        task = self.task
        body = robots.pose(task.robot, state.physics.qpos, state.physics.qvel)
        joint_pos, joint_vel = robots.joints(task.robot, state.physics.qpos, state.physics.qvel)
        world = {
            "time": state.physics.time,
            "steps": state.steps.astype(jnp.float32),
            "robot_pos": body.pos,
            "robot_quat": body.quat,
            "robot_linvel": body.linvel,
            "robot_angvel": body.angvel,
            "joint_pos": joint_pos,
            "joint_vel": joint_vel,
            "ctrl": state.ctrl,
            "buttons_timer": state.timer.astype(jnp.float32),
        }
        if task.objective.needs == "buttons":
            world["goal_button"] = state.target.astype(jnp.float32)
        world |= {f"{name}_pos": pos for name, pos in self._things_pos(state.physics, state.places).items()}
        for name, boxes in state.physics.boxes.items():
            world |= {f"{name}_{part}": getattr(boxes, part) for part in ("quat", "linvel", "angvel")}
            if name not in state.physics.home:
                world[f"{name}_placed"] = state.places[self._slots[name]]
        for kind in self._moving:
            if kind.name in state.physics.home:
                home = state.physics.home[kind.name]
                world |= {
                    f"{kind.name}_center": at_height(home[:, :2], kind.height),
                    f"{kind.name}_yaw": home[:, 2],
                }
        return {name: x[0] if name.startswith(("goal_pos", "box_")) else x for name, x in world.items()}

    def set_world(self, world: dict[str, jax.Array], key: jax.Array) -> State:
        """A state that continues from exactly there.

        Args:
          world: arrays as `get_world` gives them. Positions of the robot and of every kind are needed; what else is
            missing is zero: velocities, upright default pose, last action, time, timer. Steps follow from the time.
            What moves was placed where it is; gremlins without a centre circle round it, and a missing yaw is worked
            out from how they are pushed.
          key: for the goals to come.

        Raises:
          ValueError: a key that no world has, or positions that are missing.
        """
        template = jax.eval_shape(lambda k: self.get_world(self.reset(k)), key)
        _check_world(world, template)
        given = frozenset(world)
        world = {name: jnp.asarray(x, jnp.float32) for name, x in world.items()}
        zeros = {name: jnp.zeros(x.shape) for name, x in template.items()}
        upright = {name: x.at[..., 0].set(1.0) for name, x in zeros.items() if name.endswith("_quat")}
        homes = self._homes()
        put = {kind.name: f"{kind.name}_{'center' if kind.name in homes else 'placed'}" for kind in self._moving}
        here = {key: world[f"{name}_pos"][..., : template[key].shape[-1]] for name, key in put.items()}
        world = zeros | upright | {"joint_pos": jnp.asarray(self.physics.default_joints)} | here | world
        world = {name: x[None] if name.startswith(("goal_pos", "box_")) else x for name, x in world.items()}
        pos, quat, linvel, angvel = (world[f"robot_{part}"] for part in ("pos", "quat", "linvel", "angvel"))
        body = Pose(pos, quat, geometry.quat_to_mat(quat), linvel, angvel)
        qpos, qvel = robots.coordinates(self.task.robot, body, world["joint_pos"], world["joint_vel"])
        boxes = {
            kind.name: Boxes(*(world[f"{kind.name}_{part}"] for part in ("pos", "quat", "linvel", "angvel")))
            for kind in self._moving
        }
        home = {
            name: jnp.concatenate([world[f"{name}_center"][:, :2], world[f"{name}_yaw"][:, None]], axis=1)
            for name in homes
        }
        places = [jnp.atleast_2d(world[put.get(name, f"{name}_pos")])[:, :2] for name in self._slots]
        physics = PhysicsState(qpos, qvel, boxes, home, world["time"])
        yaws = {n: yaw for n, yaw in self.physics.first_yaws(physics).items() if f"{n}_yaw" not in given}
        found = {name: home[name].at[:, 2].set(yaw) for name, yaw in yaws.items()}
        physics = self.physics.settle(physics.replace(home=home | found))
        target = world.get("goal_button", -jnp.ones(())).astype(jnp.int32)
        timer = world["buttons_timer"].astype(jnp.int32)
        steps = world["steps"] if "steps" in given else jnp.round(world["time"] / self.physics.step_time)
        return self._begin(physics, jnp.concatenate(places), target, timer, world["ctrl"], steps.astype(jnp.int32), key)

    def _things(self) -> list[tuple[str, int, Placement]]:
        """What a layout holds, in Safety Gym's order: name, number and placement."""
        task = self.task
        kinds = {first: [k for k in self._kinds if k.before_goal == first] for first in (True, False)}
        goal = task.objective.goal_placement
        return [
            ("robot", 1, task.robot_placement),
            *((kind.name, kind.num, kind.placement) for kind in kinds[True]),
            *([(task.objective.name, 1, goal)] if goal else []),
            *((kind.name, kind.num, kind.placement) for kind in kinds[False]),
        ]

    def _homes(self) -> list[str]:
        """The kinds that circle."""
        return [kind.name for kind in self._moving if (boxes := kind.boxes()) and boxes.travel is not None]

    def _draw(self, key: jax.Array) -> tuple[PhysicsState, jax.Array, jax.Array, jax.Array, jax.Array]:
        """A new layout at rest: physics, places, the goal button, a key for what comes, and whether room was found."""
        task = self.task
        key, layout_key, goal_key, turn_key = jax.random.split(key, 4)
        places, found = self._layout.sample(layout_key)
        # As the original does: the first goal only leaves a hole in the others' distribution, and is drawn again.
        places, target, room = self._redraw_goal(places, places, jnp.int32(-1), goal_key)
        turns = jax.random.uniform(turn_key, (len(places),), maxval=2 * jnp.pi)  # of all, also of what never turns
        yaw = turns[0] if task.robot_yaw is None else jnp.float32(task.robot_yaw)
        body = Pose(
            pos=jnp.append(places[0], task.robot.height),
            quat=geometry.yaw_to_quat(yaw),
            mat=geometry.yaw_to_mat(yaw),
            linvel=jnp.zeros(3),
            angvel=jnp.zeros(3),
        )
        joint_pos = jnp.asarray(self.physics.default_joints)
        boxes, home = {}, {}
        for kind in self._moving:
            slots, still = self._slots[kind.name], jnp.zeros((kind.num, 3))
            on_floor, turn = places[slots], turns[slots]
            boxes[kind.name] = Boxes(at_height(on_floor, kind.height), geometry.yaw_to_quat(turn), still, still)
            if kind.name in self._homes():
                home[kind.name] = jnp.concatenate([on_floor, turn[:, None]], axis=1)
        joint_vel = jnp.zeros(self.physics.num_joint_velocities)
        qpos, qvel = robots.coordinates(task.robot, body, joint_pos, joint_vel)
        physics = PhysicsState(qpos, qvel, boxes, home, jnp.zeros(()))
        return physics, places, target, key, found & room

    def _next_goal(self, goal_met, physics, places, target, timer, key):
        """The goal after this step: places, goal button, timer, whether there was room, and a key for what comes."""
        objective = self.task.objective
        if not objective.bonus:
            return places, target, timer, jnp.array(True), key
        if not self.task.continue_goal:
            return places, target, timer, ~goal_met, key

        def redraw(physics, places, target, key):
            key, draw = jax.random.split(key)
            return *self._redraw_goal(self._positions(physics, places), places, target, draw), key

        same, args = (places, target, jnp.array(True), key), (physics, places, target, key)
        places, target, found, key = sparse.cond(goal_met, redraw, args, otherwise=same, fraction=128)
        if objective.needs == "buttons":
            timer = jnp.where(goal_met, jnp.int32(objective.delay), timer)
        return places, target, timer, found, key

    def _redraw_goal(
        self, positions: jax.Array, places: jax.Array, target: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """A new goal among things at `positions`: new places, goal button, and whether there was room."""
        objective = self.task.objective
        found = jnp.array(True)
        if objective.goal_placement:
            index = self._slots[objective.name].start
            goal, found = self._layout.resample(key, index, positions)
            places = places.at[index].set(jnp.where(found, goal, places[index]))
        elif objective.needs == "buttons":
            target = jax.random.randint(key, (), 0, self._slots["buttons"].stop - self._slots["buttons"].start)
        return places, target, found

    def _begin(self, physics, places, target, timer, ctrl, steps, key) -> State:
        """The state from which an episode starts or continues."""
        motion = self.physics.look(physics, ctrl, self._solid(places))
        view = self._view(physics, places, motion.contacts, target, timer)
        no = jnp.zeros((), bool)
        costs = self._costs(view, no)
        return State(
            obs=self._observe(view, physics, motion.forces, steps),
            reward=jnp.zeros(()),
            cost=costs.pop("cost"),
            costs=costs,
            terminated=no,
            truncated=no,
            goal_met=no,
            steps=steps,
            ctrl=ctrl,
            physics=physics,
            places=places,
            target=target,
            timer=timer,
            measured=self.task.objective.measure(view),
            key=key,
        )

    def _command(self, action: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        """What the motors get, how many physics steps are taken (None: all), and a key for what comes."""
        task = self.task
        if jnp.shape(action) != (self.action_size,):
            raise ValueError(
                f"step got an action of shape {jnp.shape(action)}; one environment takes ({self.action_size},). "
                "Use jax.vmap(env.step), or AutoReset, for a batch."
            )
        ctrl, count = jnp.clip(jnp.asarray(action, jnp.float32), -1.0, 1.0), None
        if task.action_noise:
            key, draw = jax.random.split(key)
            ctrl = jnp.clip(ctrl + task.action_noise * jax.random.normal(draw, ctrl.shape), -1.0, 1.0)
        if task.frame_skip_p < 1:
            key, draw = jax.random.split(key)
            count = jnp.sum(jax.random.bernoulli(draw, task.frame_skip_p, (task.frame_skip,)), dtype=jnp.int32)
        return ctrl, count, key

    def _solid(self, places: jax.Array) -> dict[str, jax.Array]:
        """Where the kinds are that collide and stand still, float32 [num, 2]."""
        return {kind.name: places[self._slots[kind.name]] for kind in self._kinds if kind.obstacle()}

    def _positions(self, physics: PhysicsState, places: jax.Array) -> jax.Array:
        """Where the layout's things are now, float32 [num, 2]; those that circle count where their circle is."""
        now = places.at[self._slots["robot"]].set(physics.qpos[None, :2])
        for name, boxes in physics.boxes.items():
            if name not in physics.home:
                now = now.at[self._slots[name]].set(boxes.pos[:, :2])
        return now

    def _things_pos(self, physics: PhysicsState, places: jax.Array) -> dict[str, jax.Array]:
        """Positions of goal and objects by name, float32 [num, 3]."""
        heights = {kind.name: kind.height for kind in self._kinds}
        if self.task.objective.goal_placement:
            heights[self.task.objective.name] = self.task.objective.height
        pos = {name: at_height(places[self._slots[name]], height) for name, height in heights.items()}
        return pos | {name: boxes.pos for name, boxes in physics.boxes.items()}

    def _view(self, physics, places, contacts, target, timer) -> View:
        body = robots.pose(self.task.robot, physics.qpos, physics.qvel)
        return View(
            robot_pos=body.pos,
            robot_mat=body.mat,
            robot_linvel=body.linvel,
            robot_com=self.physics.centre_of_mass(physics),
            pos=self._things_pos(physics, places),
            placed={kind.name: places[self._slots[kind.name]] for kind in self._moving},
            linvel={name: boxes.linvel for name, boxes in physics.boxes.items()},
            contacts=contacts,
            target=target,
            timer=timer,
        )

    def _costs(self, view: View, failed: jax.Array) -> dict[str, jax.Array]:
        """Costs by name and their sum as "cost"; each is 1 if it is positive, with the indicator on."""
        costs = {"cost_exception": failed.astype(jnp.float32)}
        for kind in self._kinds:
            if kind.constrained:
                costs |= kind.raw_costs(view)
        costs["cost"] = sum(costs.values(), start=jnp.zeros(()))
        if self.task.indicator:
            costs = {name: (cost > 0).astype(jnp.float32) for name, cost in costs.items()}
        return costs

    def _readings(self, view: View, physics: PhysicsState, forces: Forces, steps: jax.Array) -> dict[str, jax.Array]:
        """Sensors and lidars by name, sorted as the original's flat observation is."""
        task, objective = self.task, self.task.objective
        body = robots.pose(task.robot, physics.qpos, physics.qvel)
        readings = robots.sensors(body, robots.acceleration(task.robot, forces.qacc))
        readings |= robots.joint_sensors(self._joint_sensors, physics.qpos, physics.qvel, forces.touch)
        for kind in self._kinds:
            if kind.observed:
                seen = task.lidar.read(view.robot_pos, view.robot_mat, view.pos[kind.name])
                readings[f"{kind.name}_lidar"] = jnp.where(kind.visible(view), seen, 0.0)
        if objective.somewhere:
            about = objective.position(view)
            if objective.observed:
                readings[f"{objective.name}_lidar"] = task.lidar.read(view.robot_pos, view.robot_mat, about[None])
            if task.goal_distance:
                readings["goal_dist"] = jnp.exp(-short.norm((about - view.robot_pos)[:2], 0))[None]
        for name in task.compass:
            thing = objective.position(view) if name == objective.name else view.pos[name][0]
            readings[f"{name}_compass"] = lidar.compass(view.robot_pos, view.robot_mat, thing, task.compass_size)
        if task.remaining:
            readings["remaining"] = (steps / task.num_steps).astype(jnp.float32)[None]
        return dict(sorted(readings.items()))

    def _observe(self, view: View, physics: PhysicsState, forces: Forces, steps: jax.Array) -> jax.Array:
        return jnp.concatenate([x.ravel() for x in self._readings(view, physics, forces, steps).values()])

    def _first_readings(self, key: jax.Array) -> dict[str, jax.Array]:
        """Readings of the right shapes, without tracing any physics."""
        physics, places, target, _, _ = self._draw(key)
        contacts = {kind.name: jnp.zeros(kind.num) for kind in self._kinds if kind.name in self._counted}
        view = self._view(physics, places, contacts, target, jnp.int32(0))
        num_touch = sum(sensor.kind == "touch" for sensor in self._joint_sensors)
        forces = Forces(jnp.zeros_like(physics.qvel), jnp.zeros(num_touch))
        return self._readings(view, physics, forces, jnp.int32(0))


def _engine(impl: Impl) -> type[Physics]:
    if impl == "jax":
        return Physics
    if impl == "warp":
        from mjx_safety.warp_physics import WarpPhysics  # it needs an extra

        return WarpPhysics
    known = get_args(Impl)
    raise ValueError(f"Unknown impl {impl!r}.{checks.nearest(str(impl), known)} Known: {', '.join(known)}.")


def _broken(numbers: Any) -> jax.Array:
    """Whether any number is not finite, or beyond what MuJoCo takes for sound (its mjMAXVAL), bool []."""
    return jnp.stack([~(jnp.abs(x) < 1e10).all() for x in jax.tree.leaves(numbers)]).any()


def _check_world(world: dict[str, Any], template: dict[str, Any]) -> None:
    """Raises ValueError where a world's keys or shapes are not those of the task."""
    missing = [name for name in template if name.endswith("_pos") and name != "joint_pos" and name not in world]
    if missing:
        raise ValueError(f"set_world lacks {', '.join(missing)}; it needs the positions of the robot and every kind.")
    for name, value in world.items():
        if name not in template:
            hint = checks.nearest(name, template)
            raise ValueError(f"set_world got {name!r}, which this task lacks.{hint} It has: {', '.join(template)}.")
        if jnp.shape(value) != template[name].shape:
            raise ValueError(f"set_world got {name!r} of shape {jnp.shape(value)}; it must be {template[name].shape}.")
