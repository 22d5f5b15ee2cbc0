"""The throughput benchmark on a tiny setting: what it writes, and what it refuses."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import shutil
import subprocess

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import agents
import mjx_safety
from agents.config import validate
from benchmarks import c_mujoco, first_step, kernels, programs, throughput
from benchmarks.programs import Program, Stepping
from mjx_safety.suite import TASKS
from tests.conftest import compiled
from tests.toy_env import ToyEnv, ToyTask


@pytest.fixture
def output(tmp_path):
    return tmp_path / "results" / "throughput.jsonl"


@pytest.fixture
def measure(output):
    """Runs the command line and gives the rows that it appended."""

    def run(*arguments):
        before = len(output.read_text().splitlines()) if output.exists() else 0
        tiny = ["--num-envs", "8", "--rounds", "2", "--round-seconds", "0.001", "--output", str(output)]
        assert throughput.main([*tiny, *arguments]) == 0
        return [json.loads(line) for line in output.read_text().splitlines()[before:]]

    yield run
    jax.config.update("jax_enable_compilation_cache", True)  # the benchmark switches it off for its process


@pytest.mark.slow
def test_throughput_appends_one_line_per_measurement(measure, monkeypatch):
    monkeypatch.setattr(first_step, "measure", lambda *_: {"first_step_s": 9.0, "first_step_cached_s": 2.0})

    monkeypatch.setattr(programs, "COPIES", 2)

    beside = ["no_auto_reset", "physics", "training", "fleet", "copies", "c_mujoco"]
    threads = ["--compile-threads", "2"]
    rows = measure("--tasks", "PointGoal0", "--devices", "1", "--compile", "--profile", *threads, "--programs", *beside)
    first, rows = rows[0], rows[1:]
    rows += measure("--tasks", "PointGoal1", "--programs", "physics", "more_hazards")

    everything = ["stepping", "no_auto_reset", "physics", "stepping_on_1", "training", "fleet", "copies", "c_mujoco"]
    assert [row["benchmark"] for row in rows] == [*everything, "stepping", "physics", "more_hazards"]
    assert [row["task"] for row in rows] == 8 * ["PointGoal0"] + 3 * ["PointGoal1"]
    assert (first["benchmark"], first["first_step_cached_s"]) == ("first_step", 2.0)
    for row in rows:
        name = row["benchmark"]
        assert (row["rounds"], row["impl"]) == (2, "jax")
        assert row["compile_threads"] == (2 if row["task"] == "PointGoal0" else 1)
        assert row["on_gpu"] is None or row["backend"] == "gpu"
        low, median, high = (row["env_steps_per_s" + end] for end in ("_min", "", "_max"))
        assert 0 < low <= median <= high < math.inf
        assert row["physics_steps_per_s"] == pytest.approx(10 * median)
        assert name == "c_mujoco" or (row["compile_s"] > 0 and row["temp_bytes_per_env"] > 0)
        assert ("kernels" in row) == (name in ("stepping", "more_hazards"))
        assert (row["ratio_to_c_mujoco"] is not None) == (row["task"] == "PointGoal0")
        assert 0 < row["ratio_to_physics"] < math.inf
        assert (row["ratio_to_training"] is not None) == (row["task"] == "PointGoal0")
        assert row["ratio_to_stepping"] == 1 or name != "stepping"
        assert (row["auto_reset_share"] is not None) == (name == "stepping" and row["task"] == "PointGoal0")
    few, more = rows[-3], rows[-1]
    assert more["state_bytes_per_env"] >= few["state_bytes_per_env"] + 10 * 2 * 4
    for row in (first, *rows):
        assert row["num_envs"] == 8
        assert row["cpu_count"] >= 1
        assert row["backend"] == jax.default_backend()
        assert row["versions"].keys() == {"python", "jax", "jaxlib", "mujoco", "mujoco-mjx", "warp-lang", "mjx_safety"}
        assert row["versions"]["jax"] == jax.__version__
        assert row["date"].endswith("+00:00")


@pytest.mark.slow
def test_both_engines_are_measured(measure, monkeypatch):
    pytest.importorskip("warp")
    monkeypatch.setattr("mjx_safety.registry._TASKS", {"Short": dataclasses.replace(TASKS["PointRun"], num_steps=4)})
    monkeypatch.setattr(programs, "WARM_UP", 4)  # Warp is slow on CPUs
    rows = measure("--tasks", "Short", "--impls", "jax", "warp", "--programs", "physics")

    assert [(row["impl"], row["benchmark"]) for row in rows] == [
        (impl, benchmark) for impl in ("jax", "warp") for benchmark in ("stepping", "physics")
    ]
    assert all(row["env_steps_per_s"] > 0 for row in rows)


@pytest.mark.slow
def test_first_steps_are_those_of_an_engine():
    pytest.importorskip("warp")
    seconds = first_step.measure("PointRun", "warp", 8)

    assert seconds.keys() == {"first_step_s", "first_step_cached_s"}
    assert all(0 < s < math.inf for s in seconds.values())


def test_ratios_are_medians_within_rounds():
    class Timed(Program):
        def fill(self, seconds):
            self.rates = iter({"stepping": [2.0, 9.0, 4.0], "no_auto_reset": [4.0, 10.0, 5.0]}[self.name])

        def rate(self):
            return next(self.rates)

    timed = [Timed(name, 1, lambda _: None, {"fact": 1}) for name in ("stepping", "no_auto_reset")]
    stepping, without = throughput.measure(timed, throughput.Args(rounds=3), frame_skip=10)

    assert stepping["auto_reset_share"] == pytest.approx(0.2)
    assert without["ratio_to_stepping"] == pytest.approx(1.25)
    assert (stepping["env_steps_per_s"], without["env_steps_per_s"]) == (4.0, 5.0)
    assert (stepping["ratio_to_physics"], without["auto_reset_share"]) == (None, None)
    assert stepping["fact"] == 1


@pytest.fixture
def toy_stepping():
    env = ToyEnv(ToyTask(num_steps=50))
    states = jax.jit(lambda key: mjx_safety.AutoReset(env, 4).reset(key, stagger=True))(jax.random.key(0))
    return Stepping(env, states)  # type: ignore[arg-type]


def test_a_round_of_stepping_sees_the_bank_refilled_about_once(toy_stepping):
    program = toy_stepping.with_reset("stepping")
    before = jax.random.key_data(toy_stepping.states.bank.key)
    program.work(2 * program.units)

    assert program.units == 50
    assert program.steps == 4
    assert (jax.random.key_data(toy_stepping.states.bank.key) != before).any()
    assert program.facts["state_bytes_per_env"] * 4 == sum(x.nbytes for x in jax.tree.leaves(toy_stepping.states))


def test_what_is_never_reset_goes_back_to_where_stepping_has_come(toy_stepping):
    seen = []

    def step(state, _):
        jax.debug.callback(seen.append, state.steps)
        return state.replace(steps=state.steps + 1)

    before = toy_stepping.states
    toy_stepping._env = type("Counted", (ToyEnv,), {"step": staticmethod(step)})()
    toy_stepping.without_reset("no_auto_reset").work(programs.SPAN + 3)
    jax.effects_barrier()

    lengths = np.array([*range(programs.SPAN), *range(3)])
    assert sorted(map(int, seen)) == sorted(np.add.outer(before.steps, lengths).ravel().tolist())
    assert toy_stepping.states is before


@pytest.mark.slow
def test_bare_physics_is_that_of_the_environment():
    env = compiled("PointButton0")
    states = env.resets(jax.random.split(jax.random.key(0), 3))
    actions = jax.random.uniform(jax.random.key(1), (3, 2), jnp.float32, -1.0, 1.0)
    start, step = programs.bare_physics(env.env)

    state, motion, places = step(start(states), actions)

    alike = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(alike, state, env.steps(states, actions).physics)
    assert places["buttons"].shape == (3, 4, 2)
    assert motion.forces.qacc.any()


def test_ten_hazards_more_leave_the_rest_of_the_task():
    for name in ("PointGoal0", "CarPush2"):
        task, more = TASKS[name], programs.more_hazards(TASKS[name])
        before, after = ({kind.name: kind for kind in t.objects} for t in (task, more))
        assert after.pop("hazards").num == (before.pop("hazards").num if name == "CarPush2" else 0) + 10
        assert before == after
        assert (task.objective, task.extents) == (more.objective, more.extents)


def test_kernels_are_counted_inside_and_outside_of_loops():
    def program(x, steps):
        def body(_, x):
            x = jnp.sin(x) @ x  # two kernels
            return jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: jnp.cos(x) @ x, x)

        return jax.lax.fori_loop(0, steps, body, x)

    text = """
%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %sine = f32[8]{0} sine(%p)
}

%inner (i: (f32[8], /*index=1*/s32[])) -> (f32[8], s32[]) {
  %i = (f32[8]{0}, s32[]) parameter(0)
  %dot.1 = f32[8]{0:T(8)S(1)} dot(%i, %i), metadata={op_name="jit(f)/while/body"}
  ROOT %tuple.2 = (f32[8]{0}, /*index=1*/s32[]) tuple(%dot.1, %i)
}

%less (i: (f32[8], s32[])) -> pred[] {
  ROOT %fusion.1 = pred[] fusion(%i), kind=kLoop, calls=%fused
}

%parallel (p: f32[8]) -> f32[8] {
  ROOT %fusion.2 = f32[8]{0} fusion(%p), kind=kLoop, calls=%fused
}

%body (c: (f32[8], s32[])) -> (f32[8], s32[]) {
  %call = f32[8]{0} call(%c), to_apply=%parallel
  %go = f32[8]{0} call(%c), to_apply=%inner, frontend_attributes={inlineable="false",xla_cpu_small_call="true"}
  %copy-start = (f32[8]{0}, f32[8]{0}, u32[]) copy-start(%call)
  %copy-done = f32[8]{0} copy-done(%copy-start)
  %if = f32[8]{0} conditional(%c), branch_computations={%parallel, %parallel}
  ROOT %while.1 = (f32[8]{0}, s32[]) while(%call), condition=%less, body=%inner
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %copy = f32[8]{0} copy(%x)
  ROOT %while = (f32[8]{0}, s32[]) while(%copy), condition=%less, body=%body
}
"""
    # Outside: the outer condition, both calls, the copy and two branches. Inside: the inner condition and the dot.
    assert kernels.of_loop(text) == (6, 2)

    compiled = jax.jit(program).lower(jnp.ones((8, 8)), 3).compile()
    outside, inside = kernels.of_loop(compiled.as_text())
    assert 2 <= outside <= 12
    assert 2 <= inside <= 12
    with pytest.raises(ValueError, match="0 loops"):
        kernels.of_loop(jax.jit(jnp.sin).lower(1.0).compile().as_text())


def test_what_a_gpu_ran_is_read_from_its_streams():
    names = [
        {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "/device:GPU:0"}},
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 7, "args": {"name": "Stream #14(Compute,MemcpyD2H)"}},
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 8, "args": {"name": "XLA Modules"}},
        {"ph": "M", "name": "process_name", "pid": 2, "args": {"name": "/host:CPU"}},
        {"ph": "M", "name": "thread_name", "pid": 2, "tid": 7, "args": {"name": "Stream of thought"}},
    ]
    ran = [{"ph": "X", "name": f"fusion_{i}", "pid": 1, "tid": 7, "ts": i, "dur": 2.5} for i in range(3)]
    others = [{"ph": "X", "name": "call", "pid": pid, "tid": tid, "ts": 0, "dur": 9.0} for pid, tid in ((1, 8), (2, 7))]

    assert kernels.of_gpu([*names, *others, *ran, {}]) == ran


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is one")
def test_without_a_gpu_there_is_nothing_to_profile():
    worked = []
    assert kernels.launched(worked.append, units=3) is None
    assert worked == [3]


@pytest.mark.slow
def test_a_second_process_takes_the_first_step_from_the_cache(monkeypatch):
    run, cached = first_step.subprocess.run, []

    def watched(command, **settings):
        result = run(command, **settings)
        programs = pathlib.Path(settings["env"]["JAX_COMPILATION_CACHE_DIR"]).glob("*-cache")
        cached.append({path.name for path in programs})
        return result

    monkeypatch.setattr(first_step.subprocess, "run", watched)
    monkeypatch.delenv("XLA_FLAGS")  # JAX keeps what takes a second to compile
    seconds = first_step.measure("PointGoal0", "jax", 8)

    assert min(seconds["first_step_cached_s"], seconds["first_step_s"]) > 0
    assert {name.split("-")[0] for name in cached[0]} >= {"jit_reset", "jit_step"}
    assert cached[1] == cached[0]  # nothing had to be compiled


def test_results_name_the_cpu(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n\nprocessor\t: 1\nmodel name\t: Some CPU @ 2 GHz\n"
    )

    assert throughput.processor(info) == "Some CPU @ 2 GHz"
    assert throughput.processor(tmp_path / "none")
    assert (throughput.circumstances()["device"] == throughput.processor()) == (jax.default_backend() == "cpu")


def test_results_name_the_flags_of_the_compiler(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_some=1")
    assert throughput.circumstances()["xla_flags"] == "--xla_some=1"
    monkeypatch.delenv("XLA_FLAGS")
    assert throughput.circumstances()["xla_flags"] is None


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_results_name_the_commit_and_whether_more_than_results_and_texts_has_changed(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # a hook's, which would point at the checkout that it runs in

    def git(*words):
        me = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", "-C", str(tmp_path), *me, *words], capture_output=True, text=True, check=True)

    code, text = tmp_path / "code.py", tmp_path / "README.md"
    results = tmp_path / "benchmarks" / "results" / "rows.jsonl"
    results.parent.mkdir(parents=True)
    git("init")
    assert throughput.commit(tmp_path) is None  # nothing to name yet
    code.write_text("1")
    results.write_text("1")
    text.write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    name = git("rev-parse", "--short", "HEAD").stdout.strip()

    results.write_text("2")
    text.write_text("2")
    assert throughput.commit(tmp_path) == name
    code.write_text("2")
    assert throughput.commit(tmp_path) == f"{name}-dirty"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tasks", "PointGaol1"], "Did you mean 'PointGoal1'"),
        (["--num-envs", "0"], "num_envs is 0"),
        (["--rounds", "0"], "rounds is 0"),
        (["--compile-threads", "0"], "compile_threads is 0"),
        (["--num-envs", "60", "--programs", "fleet"], "num_envs is (60,); 8 agents must share them evenly"),
        (["--devices", "64"], "devices is 64; there are 1. JAX_NUM_CPU_DEVICES=N splits a CPU"),
        (["--round-seconds", "nan"], "round_seconds is nan"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(arguments, complaint, output, capsys, monkeypatch):
    monkeypatch.setattr(throughput, "run", lambda *_: pytest.fail("it ran"))

    assert throughput.main([*arguments, "--output", str(output)]) == 2

    assert complaint in capsys.readouterr().err
    assert not output.exists()


def test_an_output_that_cannot_be_written_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(throughput, "run", lambda *_: pytest.fail("it ran"))
    (tmp_path / "file").touch()

    output = tmp_path / "file" / "throughput.jsonl"

    assert throughput.main(["--output", str(output)]) == 2

    assert capsys.readouterr().err.startswith(f"error: cannot write to {output}: ")


def test_the_reference_scene_is_the_tasks_own():
    env = compiled("PointGoal2").env
    model = c_mujoco.scene_model(env)

    assert model.opt.timestep == 0.002
    assert (model.jnt_type == mujoco.mjtJoint.mjJNT_FREE).sum() == 10
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    mujoco.mj_step(model, data, 50)
    assert data.ncon >= 40  # ten boxes rest on four corners each
    assert abs(data.qvel).max() < 0.1


def test_gremlins_of_the_reference_hover():
    model = c_mujoco.scene_model(compiled("PointButton1").env)
    data = mujoco.MjData(model)
    start = data.qpos.copy()
    mujoco.mj_step(model, data, 500)
    for i in range(4):
        place = model.joint(f"gremlins{i}").qposadr[0]
        np.testing.assert_allclose(data.qpos[place : place + 2], start[place : place + 2], atol=1e-3)
        np.testing.assert_allclose(data.qpos[place + 2], 0.2, atol=1e-3)


def test_the_reference_robot_drives():
    env = compiled("PointGoal0").env
    model = c_mujoco.scene_model(env)
    assert model.nu == env.action_size

    data = mujoco.MjData(model)
    data.ctrl[0] = 1.0
    mujoco.mj_step(model, data, 10 * c_mujoco.LENGTH)

    assert math.hypot(*data.qpos[:2]) > 0.01


def test_a_round_of_the_reference_counts_environment_steps(monkeypatch):
    monkeypatch.setattr(c_mujoco.os, "cpu_count", lambda: 2)
    shapes = []

    class Pool:
        def __init__(self, nthread):
            assert nthread == 2

        def rollout(self, model, data, start, control):
            shapes.append(control.shape)

    monkeypatch.setattr(mujoco.rollout, "Rollout", Pool)
    steps, work = c_mujoco.rollouts(compiled("PointGoal0").env)
    work(3)

    assert shapes == [(32, 10 * c_mujoco.LENGTH, 2)] * 3
    assert steps == 32 * c_mujoco.LENGTH


@pytest.mark.parametrize("name", ["cpu", "gpu"])
@pytest.mark.parametrize("num_envs", [3, 64, 512, 4096, 8192])
def test_training_takes_the_presets_batch_whatever_the_number_of_environments(name, num_envs):
    config = agents.preset(name)
    resized = programs.resized(config, num_envs, 1.0)
    validate(resized)
    assert 0.99 * config.batch_size <= resized.batch_size <= config.batch_size
    assert resized.num_envs == num_envs
