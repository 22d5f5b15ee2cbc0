"""A peer's side of `benchmarks.peers`. It runs in the peer's own environment, and imports nothing of this project.

    python -I peer_worker.py safety_gymnasium SafetyPointGoal1-v0 1

The first line of its output, a JSON object, says what was made ready. Every line of its input after that, a number of
seconds, is answered with the environment steps of a round that is at least as long, and its duration; in between it
sleeps. What the peers print goes to the standard error.
"""
# pyright: reportMissingImports=false

import dataclasses
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

UNROLL = 20  # environment steps of a compiled scan


def main() -> None:
    """Serve the peer that the command line names, with its task and its number of environments or steps."""
    global answers
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker, task, number = sys.argv[1:]
    WORKERS[worker](task, int(number))


def safety_gymnasium(task: str, _: int) -> None:
    """Random actions in one environment and one process."""
    env = made(task)
    env.action_space.seed(0)

    def work() -> int:
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
        return 1

    ready(1, *physics(env), "safety-gymnasium", "gymnasium", "mujoco", "numpy")
    serve(work)


def safety_gymnasium_vector(task: str, processes: int) -> None:
    """Random actions in a process for each environment, all stepped at once, each reset by its own process."""
    import safety_gymnasium

    env = safety_gymnasium.vector.make(task, num_envs=processes, asynchronous=True)
    env.reset(seed=0)
    env.action_space.seed(0)

    def work() -> int:
        env.step(env.action_space.sample())
        return processes

    ready(processes, *physics(made(task)), "safety-gymnasium", "gymnasium", "mujoco", "numpy")
    serve(work)
    env.close()


def crax(task: str, num_envs: int) -> None:
    """Random actions in a compiled scan, with the wrappers that its trainer steps through, at level 1."""
    import jax
    from crax import envs

    env = envs.create(task, level=1, batch_size=num_envs)

    @jax.jit
    def scan(state: Any, key: Any) -> Any:
        def step(state: Any, key: Any) -> Any:
            actions = jax.random.uniform(key, (num_envs, env.action_size), minval=-1.0, maxval=1.0)
            return env.step(state, actions), None

        key, draw = jax.random.split(key)
        return jax.lax.scan(step, state, jax.random.split(draw, UNROLL))[0], key

    carry = jax.jit(env.reset)(jax.random.key(0)), jax.random.key(1)

    def work() -> int:
        nonlocal carry
        carry = jax.block_until_ready(scan(*carry))
        return UNROLL * num_envs

    for _ in range(2):  # what reset gives is typed otherwise than what step gives: it compiles twice
        work()
    base = env.unwrapped
    ready(num_envs, base._n_frames, float(base.sys.opt.timestep), "crax-bench", "jax", "mujoco-mjx", "mujoco")
    serve(work)


def omnisafe(task: str, epoch_steps: int) -> None:
    """TRPOLag by OmniSafe's own settings but for threads and the length of an epoch, which is a round."""
    import omnisafe

    settings = {
        "train_cfgs": {"torch_threads": 1},  # theirs is 16; such small networks only wait for each other
        "algo_cfgs": {"steps_per_epoch": epoch_steps},
    }
    agent = omnisafe.Agent("TRPOLag", task, custom_cfgs=settings)
    logger = agent.agent.logger
    end_epoch, requests = logger.dump_tabular, rounds()

    def answer_and_wait() -> None:
        nonlocal start
        end_epoch()
        answer(epoch_steps, time.perf_counter() - start)
        if next(requests, None) is None:
            os._exit(0)
        start = time.perf_counter()

    logger.dump_tabular = answer_and_wait
    ready(1, *physics(made(task)), "omnisafe", "safety-gymnasium", "torch", "mujoco", "numpy")
    if next(requests, None) is not None:
        start = time.perf_counter()
        agent.learn()


WORKERS: dict[str, Callable[[str, int], None]] = {
    work.__name__: work for work in (safety_gymnasium, safety_gymnasium_vector, crax, omnisafe)
}


def made(task: str) -> Any:
    """An environment of safety-gymnasium, reset."""
    import safety_gymnasium

    env = safety_gymnasium.make(task)
    env.reset(seed=0)
    return env


def physics(env: Any) -> tuple[int, float]:
    """Physics steps of an environment step of safety-gymnasium, and their seconds."""
    simulation = env.unwrapped.task
    return simulation.sim_conf.frameskip_binom_n, float(simulation.model.opt.timestep)


def ready(num_envs: int, physics_steps: int, timestep: float, *packages: str) -> None:
    """Say what was made: environments side by side, physics steps of an environment step, their seconds, versions."""
    installed = {package.name: package.version for package in importlib.metadata.distributions()}
    _say(
        num_envs=num_envs,
        physics_steps=physics_steps,
        timestep=round(timestep, 6),  # CRAX has it in float32
        versions={name: installed.get(name) for name in packages},
    )


def serve(work: Callable[[], int]) -> None:
    """Answer every round that is asked for with units of work; each says how many environment steps it was."""
    for seconds in rounds():
        start, steps = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds or not steps:
            steps += work()
        answer(steps, elapsed)


def rounds() -> Iterator[float]:
    """The seconds that are asked for, until there are no more questions."""
    return (float(line) for line in iter(sys.stdin.readline, ""))


def answer(steps: int, seconds: float) -> None:
    """Environment steps of a round, and its duration."""
    _say(steps=steps, seconds=seconds)


def _say(**answer: Any) -> None:
    print(json.dumps(answer), file=answers, flush=True)


def _allow_arrays_as_defaults() -> None:
    """As Python did up to 3.10: safety-gymnasium's dataclasses have colours as defaults, which newer ones refuse."""
    field_of = dataclasses._get_field  # pyright: ignore

    def get_field(cls: type, name: str, *rest: Any) -> Any:
        default = getattr(cls, name, None)
        if type(default).__module__ != "numpy":
            return field_of(cls, name, *rest)
        setattr(cls, name, None)
        field = field_of(cls, name, *rest)
        field.default = default
        setattr(cls, name, default)
        return field

    dataclasses._get_field = get_field  # pyright: ignore


_allow_arrays_as_defaults()  # also in processes that are spawned, which do not come through `main`

if __name__ == "__main__":
    main()
