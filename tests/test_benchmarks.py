"""The throughput benchmark on a tiny setting: what it writes, and what it refuses."""

import json
import math

import jax
import mujoco
import numpy as np
import pytest

from benchmarks import c_mujoco, throughput
from tests.conftest import compiled


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
def test_throughput_appends_one_line_per_measurement(measure):
    rows = measure("--tasks", "PointGoal0") + measure("--tasks", "PointGoal1", "--no-training")

    both = ["stepping", "no_auto_reset", "training", "c_mujoco", "stepping", "no_auto_reset", "c_mujoco"]
    assert [row["benchmark"] for row in rows] == both
    assert [row["task"] for row in rows] == 4 * ["PointGoal0"] + 3 * ["PointGoal1"]
    for row in rows:
        assert row["num_envs"] == 8
        assert row["rounds"] == 2
        low, median, high = (row["env_steps_per_s" + end] for end in ("_min", "", "_max"))
        assert 0 < low <= median <= high < math.inf
        assert row["physics_steps_per_s"] == pytest.approx(10 * median)
        assert row["compile_s"] > 0 or row["benchmark"] == "c_mujoco"
        assert 0 < row["ratio_to_c_mujoco"] < math.inf
        assert row["ratio_to_c_mujoco"] == 1 or row["benchmark"] != "c_mujoco"
        assert (row["auto_reset_cost"] is not None) == (row["benchmark"] == "stepping")
        assert row["cpu_count"] >= 1
        assert row["backend"] == jax.default_backend()
        assert row["versions"].keys() == {"python", "jax", "jaxlib", "mujoco", "mujoco-mjx", "mjx_safety"}
        assert row["versions"]["jax"] == jax.__version__
        assert row["date"].endswith("+00:00")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tasks", "PointGaol1"], "Did you mean 'PointGoal1'"),
        (["--num-envs", "0"], "num_envs is 0"),
        (["--rounds", "0"], "rounds is 0"),
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
