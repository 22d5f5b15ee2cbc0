"""What the throughput benchmark times: compiled programs that step, and that train."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from agents import preset
from agents.loop import Trainer, TrainState, make_fleet
from agents.mesh import compile_on, make_mesh
from mjx_safety import AutoReset, Env, State, VecState

WARM_UP = 250
"""Steps before anything is timed: nothing touches in a fresh layout, which makes its first steps the cheapest."""


@dataclasses.dataclass
class Program:
    """Something to time.

    Attributes:
      name: for the record.
      steps: environment steps of a unit of work.
      work: does that many units and waits for their end.
      compile_s: seconds of tracing and compiling.
      units: done in a round.
    """

    name: str
    steps: int
    work: Callable[[int], None]
    compile_s: float = 0.0
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


def begin(env: Env, num_envs: int) -> TrainState:
    """A fresh agent [1], and environments [1, 1, num_envs] spread over the phases of their episodes."""
    config = dataclasses.replace(preset(), num_envs=num_envs)
    return compile_on(make_mesh(1, 1), Trainer(env, config)).init(*make_fleet(config))


def stepping(name: str, name_without: str | None, env: Env, states: VecState) -> tuple[list[Program], VecState]:
    """Random actions with auto-reset; and, if it is named, without it, each time from where the former has come to.

    Robots that are never reset wander away from everything that they could touch, and step faster there.

    Returns:
      The programs, and the states after `WARM_UP` steps.
    """
    num_envs = len(states.reward)

    def compiled(step: Callable, states: State) -> tuple[Callable, float]:
        def run(carry: Any, steps: jax.Array) -> Any:
            def body(_: jax.Array, carry: Any) -> Any:
                states, key = carry
                key, action_key = jax.random.split(key)
                shape = num_envs, env.action_size
                return step(states, jax.random.uniform(action_key, shape, jnp.float32, -1.0, 1.0)), key

            return jax.lax.fori_loop(0, steps, body, carry)

        return _compile(jax.jit(run), (states, jax.random.key(0)), jnp.int32(1))

    def plain(states: VecState) -> State:
        return State(**{field.name: getattr(states, field.name) for field in dataclasses.fields(State)})

    with_reset, with_reset_s = compiled(AutoReset(env, num_envs).step, states)
    carry = with_reset((states, jax.random.key(0)), jnp.int32(WARM_UP))
    warm = carry[0]

    def work(units: int) -> None:
        nonlocal carry
        carry = jax.block_until_ready(with_reset(carry, jnp.int32(units)))

    timed = [Program(name, num_envs, work, with_reset_s)]
    if name_without is not None:
        without_reset, without_reset_s = compiled(jax.vmap(env.step), plain(states))

        def work_without(units: int) -> None:
            states, key = carry
            jax.block_until_ready(without_reset((plain(states), key), jnp.int32(units)))

        timed.append(Program(name_without, num_envs, work_without, without_reset_s))
    return timed, warm


def training(name: str, env: Env, agent: TrainState) -> Program:
    """Updates of the default preset on a batch of its size: the more environments, the fewer steps of each."""
    config, num_envs = preset(), agent.env.reward.shape[2]
    num_steps = max(1, config.batch_size // num_envs // config.num_minibatches) * config.num_minibatches
    config = dataclasses.replace(config, num_envs=num_envs, num_steps=num_steps, updates_per_chunk=1)
    _, hypers = make_fleet(config)
    agent = jax.tree.map(jnp.copy, agent)  # buffers that are shared cannot be donated
    update = compile_on(make_mesh(1, 1), Trainer(env, config)).chunk
    update, compile_s = _compile(update, agent, hypers, jnp.int32(1))

    def work(units: int) -> None:
        nonlocal agent
        for _ in range(units):
            agent, _ = update(agent, hypers, jnp.int32(1))
        jax.block_until_ready(agent)

    return Program(name, config.batch_size, work, compile_s)


def _compile(function: Any, *args: Any) -> tuple[Callable, float]:
    start = time.perf_counter()
    return function.lower(*args).compile(), time.perf_counter() - start
