"""What the throughput benchmark times: compiled programs that step, and that train."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agents import Config, preset
from agents.loop import Trainer
from agents.mesh import compile_on, make_mesh, place_fleet
from benchmarks import kernels
from mjx_safety import AutoReset, Env, State, Task, VecState
from mjx_safety.objects import Hazards
from mjx_safety.physics import Motion, PhysicsState

WARM_UP = 250
"""Steps before anything is timed: nothing touches in a fresh layout, which makes its first steps the cheapest."""
SPAN = 32
"""Steps after which robots that are never reset go back: they would wander away from all that they could touch."""
MORE_HAZARDS = 10
FLEET = 8
"""Agents that share the environments of the one beside which they are timed."""
COPIES = 16
"""Agents that have as many environments each as the one beside which they are timed."""


@dataclasses.dataclass
class Program:
    """Something to time.

    Attributes:
      name: for the record.
      steps: environment steps of a unit of work.
      work: does that many units and waits for their end.
      facts: for the record: what compiling it took and gave.
      units: done in a round, at least.
    """

    name: str
    steps: int
    work: Callable[[int], None]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    units: int = 1

    def fill(self, seconds: float) -> None:
        """Warm up, and make a round last at least that long."""
        self.work(1)
        while self._time() < seconds:
            self.units *= 2

    def rate(self) -> float:
        """Environment steps per second of one round."""
        return self.units * self.steps / self._time()

    def _time(self) -> float:
        start = time.perf_counter()
        self.work(self.units)
        return time.perf_counter() - start


def begin(env: Env, num_envs: int) -> VecState:
    """A batch spread over the phases of its episodes."""
    return jax.jit(lambda key: AutoReset(env, num_envs).reset(key, stagger=True))(jax.random.key(0))


class Stepping:
    """Random actions with auto-reset, and what can be timed from where they have led.

    Attributes:
      states: of a batch, after `WARM_UP` steps and all that was timed since.
    """

    def __init__(self, env: Env, states: VecState):
        self._env, self._num_envs = env, len(states.reward)
        # Every round sees the bank of new episodes refilled about once: seldom and dear, it would else be in few.
        bank = len(states.bank.starts["steps"])
        self._round = max(1, bank * env.task.num_steps // self._num_envs)

        def run(states: VecState, key: jax.Array, steps: jax.Array) -> tuple[VecState, jax.Array]:
            return jax.lax.fori_loop(0, steps, self._act(AutoReset(env, self._num_envs).step), (states, key))

        self._run = run
        self._compiled, self._facts = _compile(self._num_envs, jax.jit(run), states, jax.random.key(0), jnp.int32(1))
        count = kernels.of_loop(self._compiled.as_text())
        self._facts |= {
            "state_bytes_per_env": sum(x.nbytes for x in jax.tree.leaves(states)) / self._num_envs,
            "kernels": sum(count),
            "kernels_in_loops": count.loops,
        }
        self.states, self._key = states, jax.random.key(0)
        self._advance(WARM_UP)

    def with_reset(self, name: str) -> Program:
        """Goes on from round to round."""
        return Program(name, self._num_envs, self._advance, self._facts, self._round)

    def without_reset(self, name: str) -> Program:
        """The environments' own step."""
        return self._back_and_forth(name, lambda states: states, jax.vmap(self._env.step))

    def physics(self, name: str) -> Program:
        """The physics alone, see `bare_physics`."""
        return self._back_and_forth(name, *bare_physics(self._env))

    def on_devices(self, name: str, num_devices: int) -> Program:
        """With auto-reset on several devices, on each a copy of the batch that takes its own actions."""
        mesh = Mesh(np.array(jax.devices()[:num_devices]), ("data",))
        shared, split = PartitionSpec(), PartitionSpec("data")

        def run(states: VecState, keys: jax.Array, steps: jax.Array) -> tuple[VecState, jax.Array]:
            states, key = jax.tree.map(lambda x: x[0], (states, keys))
            return jax.tree.map(lambda x: x[None], self._run(states, key, steps))

        run = jax.shard_map(run, mesh=mesh, in_specs=(split, split, shared), out_specs=split, check_vma=False)
        states = jax.tree.map(lambda x: jnp.stack([x] * num_devices), self.states)
        carry = jax.device_put((states, jax.random.split(self._key, num_devices)), NamedSharding(mesh, split))
        run, facts = _compile(self._num_envs, jax.jit(run), *carry, jnp.int32(1))

        def work(units: int) -> None:
            nonlocal carry
            carry = jax.block_until_ready(run(*carry, jnp.int32(units)))

        return Program(name, num_devices * self._num_envs, work, facts, self._round)

    def _advance(self, units: int) -> None:
        self.states, self._key = jax.block_until_ready(self._compiled(self.states, self._key, jnp.int32(units)))

    def _back_and_forth(self, name: str, start: Callable, step: Callable) -> Program:
        """A step that knows no reset, every `SPAN` steps from `start(states)` of where the one with reset has come."""

        def run(states: VecState, key: jax.Array, steps: jax.Array) -> Any:
            first = start(states.unbatched())

            def stretch(index: jax.Array, carry: Any) -> Any:
                _, key = carry
                left = jnp.minimum(SPAN, steps - SPAN * index)
                return jax.lax.fori_loop(0, left, self._act(step), (first, key))

            return jax.lax.fori_loop(0, (steps + SPAN - 1) // SPAN, stretch, (first, key))

        compiled, facts = _compile(self._num_envs, jax.jit(run), self.states, self._key, jnp.int32(1))

        def work(units: int) -> None:
            jax.block_until_ready(compiled(self.states, self._key, jnp.int32(units)))

        return Program(name, self._num_envs, work, facts, self._round)

    def _act(self, step: Callable) -> Callable:
        """The body of a loop over (states, key): one random action each."""

        def body(_: jax.Array, carry: Any) -> Any:
            states, key = carry
            key, action_key = jax.random.split(key)
            shape = self._num_envs, self._env.action_size
            return step(states, jax.random.uniform(action_key, shape, jnp.float32, -1.0, 1.0)), key

        return body


def bare_physics(env: Env) -> tuple[Callable, Callable]:
    """The physics of a batch: no observation, reward, cost or goal, but all that it tells those of forces and contacts.

    Every step takes all of its physics steps, and actions have no noise.

    Returns:
      From a batched `State` to what is stepped, (`PhysicsState`, `Motion`, places), and its step under actions.
    """
    physics_step: Callable = jax.jit(jax.vmap(env.physics.step))  # traced once

    def start(states: State) -> tuple[PhysicsState, Motion, dict[str, jax.Array]]:
        world = jax.vmap(env.get_world)(states)
        solid = [kind.name for kind in env.task.objects if kind.num and kind.obstacle()]
        places = {kind: world[f"{kind}_pos"][..., :2] for kind in solid}
        _, motion = jax.eval_shape(physics_step, states.physics, states.ctrl, places)
        return states.physics, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), motion), places

    def step(carry: Any, actions: jax.Array) -> Any:
        state, _, places = carry
        return *physics_step(state, actions, places), places

    return start, step


def more_hazards(task: Task) -> Task:
    """The task with `MORE_HAZARDS` hazards more; they may overlap, for else some tasks had no room for them."""
    kinds = {kind.name: kind for kind in task.objects}
    hazards = kinds.get("hazards", Hazards(0))
    placement = dataclasses.replace(hazards.placement, keepout=0.0)
    kinds["hazards"] = dataclasses.replace(hazards, num=hazards.num + MORE_HAZARDS, placement=placement)
    return dataclasses.replace(task, objects=tuple(kinds.values()))


def training(name: str, env: Env, num_envs: int, num_agents: int = 1, share: float = 1.0) -> Program:
    """Updates of the default preset by agents of `num_envs` each, on as many devices as they or their groups can use.

    An agent's update takes that share of the preset's batch: the more environments, the fewer steps of each. The first
    updates are not timed, see `WARM_UP`.
    """
    config = resized(preset(), num_envs, share)
    config = dataclasses.replace(config, seeds=tuple(range(num_agents)), updates_per_chunk=1)
    mesh = make_mesh(num_agents, config.num_groups)
    init, update = compile_on(mesh, Trainer(env, config))
    keys, hypers = place_fleet(mesh, config)
    fleet = jax.tree.map(jnp.copy, init(keys, hypers))  # buffers that are shared cannot be donated
    update, facts = _compile(num_agents * num_envs // mesh.size, update, fleet, hypers, jnp.int32(1))

    def work(units: int) -> None:
        nonlocal fleet
        for _ in range(units):
            fleet, _ = update(fleet, hypers, jnp.int32(1))
        jax.block_until_ready(fleet)

    work(math.ceil(WARM_UP / config.num_steps))
    return Program(name, num_agents * config.batch_size, work, facts | {"devices": mesh.size})


def resized(config: Config, num_envs: int, share: float) -> Config:
    """The settings with so many environments, and as many steps of each as make that share of their batch."""
    num_groups = math.gcd(config.num_groups, num_envs)
    least = config.num_minibatches // math.gcd(config.num_minibatches, num_envs // num_groups)
    num_steps = max(1, round(share * config.batch_size) // num_envs // least) * least
    return dataclasses.replace(config, num_envs=num_envs, num_groups=num_groups, num_steps=num_steps)


def _compile(num_envs: int, function: Any, *args: Any) -> tuple[Any, dict[str, Any]]:
    """The compiled function, seconds of tracing and compiling it, and the memory that it needs beside `args`.

    `num_envs` is what a device has of them, for its memory is that of a device.
    """
    start = time.perf_counter()
    compiled = function.lower(*args).compile()
    seconds, memory = time.perf_counter() - start, compiled.memory_analysis()
    return compiled, {"compile_s": seconds, "temp_bytes_per_env": memory.temp_size_in_bytes / num_envs}
