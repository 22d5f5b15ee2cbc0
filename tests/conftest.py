"""Strict JAX, a compilation cache that outlives the run, and environments compiled once for all tests of a worker."""

import functools
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mjx_safety

# Compiling is most of the work. LLVM optimises nothing but environments that are `Compiled` in full, which takes most
# of the time away and rounds otherwise by fused products alone.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
FULL = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
if jax.__version_info__ < (0, 11):
    # XLA's older emitters compile these programs with up to a fifth less work; without them it ends at the flag.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
given = os.environ.get("XLA_FLAGS", "").split()  # a worker inherits them
os.environ["XLA_FLAGS"] = " ".join([*(flag for flag in FLAGS if flag not in given), *given])
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(tempfile.gettempdir()) / "mjx_safety_test_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.devices()  # in use from here on, so that no command line splits the CPU for the tests after it

LONGEST = "test_notebook.py", "test_warp.py"  # minutes each, some of them if slow tests run
GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items):
    """What shares compiled functions runs on one worker: a file, or an id's tests of test_tasks; the longest first."""
    items.sort(key=lambda item: item.path.name not in LONGEST)  # lest a worker waits for them in the end
    for item in items:
        shared = item.path.name
        if shared == "test_tasks.py" and hasattr(item, "callspec"):
            shared = item.callspec.params.get("task", shared)
        item.add_marker(pytest.mark.xdist_group(shared))


class Compiled:
    """An environment with its functions compiled, single ones and batched ones: as users have them, or `quickly`.

    Not for use within other compiled functions: those bring options of their own.
    """

    def __init__(self, task_id: str, quickly: bool = False, impl: str = "jax"):
        jit = functools.partial(jax.jit, compiler_options=None if quickly else FULL)
        self.env = mjx_safety.make(task_id, impl=impl)
        self.reset = jit(self.env.reset)
        self.step = jit(self.env.step)
        self.resets = jit(jax.vmap(self.env.reset))
        self.steps = jit(jax.vmap(self.env.step))
        self.set_world = jit(self.env.set_world)
        self.get_world = jit(self.env.get_world)
        self.set_worlds = jit(jax.vmap(self.env.set_world))
        self.get_worlds = jit(jax.vmap(self.env.get_world))


@functools.cache
def compiled(task_id: str) -> Compiled:
    return Compiled(task_id)


@pytest.fixture(params=["PointGoal0", "PointGoal1", "PointGoal2"])
def goal(request) -> Compiled:
    return compiled(request.param)


@pytest.fixture
def goal1() -> Compiled:
    return compiled("PointGoal1")


@pytest.fixture
def goal2() -> Compiled:
    return compiled("PointGoal2")


@pytest.fixture(scope="session")
def windows() -> dict[str, dict[str, np.ndarray]]:
    """Recordings by task and name; see golden/README.md."""
    tasks: dict[str, dict[str, np.ndarray]] = {}
    for name, array in np.load(GOLDEN / "windows.npz").items():
        task, _, name = name.partition(".")
        tasks.setdefault(task, {})[name] = array
    return tasks


def actions(key: int, *shape: int) -> jax.Array:
    """Uniform random actions."""
    return jax.random.uniform(jax.random.key(key), (*shape, 2), minval=-1.0, maxval=1.0, dtype=jnp.float32)
