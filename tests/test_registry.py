"""Ids, overrides and their errors."""

import dataclasses

import pytest

import mjx_safety
from mjx_safety import suite


def test_original_names_are_the_same_tasks():
    assert (
        mjx_safety.make("Safexp-PointGoal2-v0").task == mjx_safety.make("PointGoal2").task == suite.TASKS["PointGoal2"]
    )


def test_every_id_is_made():
    for task_id in mjx_safety.registered():
        assert mjx_safety.make(task_id).observation_size > 0


def test_unknown_ids_name_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown task 'PointGaol1'\. Did you mean 'PointGoal1'\?"):
        mjx_safety.make("PointGaol1")


def test_fields_are_replaced_and_checked():
    assert mjx_safety.make("PointGoal1", num_steps=5).task.num_steps == 5
    with pytest.raises(ValueError, match=r"Task has no field 'num_step'\. Did you mean 'num_steps'\?"):
        mjx_safety.make("PointGoal1", num_step=5)
    with pytest.raises(ValueError, match="Task.num_steps is 0"):
        mjx_safety.make("PointGoal1", num_steps=0)
    with pytest.raises(ValueError, match="Task.extents"):
        mjx_safety.make("PointGoal1", extents=(1.0, -1.0, -1.0, 1.0))
    with pytest.raises(ValueError, match="Task.extents"):
        mjx_safety.make("PointGoal1", extents=(-float("inf"), -1.0, 1.0, 1.0))


def test_tasks_from_outside(monkeypatch):
    monkeypatch.setattr("mjx_safety.registry._TASKS", dict(suite.TASKS))
    task = dataclasses.replace(suite.TASKS["PointGoal1"], num_steps=7)
    mjx_safety.register("Short", task)
    assert "Short" in mjx_safety.registered()
    assert mjx_safety.make("Short").task == task
    mjx_safety.register("Safexp-Short-v1", task)
    assert mjx_safety.make("Safexp-Short-v1").task == task
    with pytest.raises(TypeError, match=r"Env got 'Short'; it takes a mjx_safety.Task"):
        mjx_safety.Env("Short")
    with pytest.raises(ValueError, match="'Short' is taken"):
        mjx_safety.register("Short", task)
    with pytest.raises(TypeError, match="it takes a mjx_safety.Task"):
        mjx_safety.register("Other", mjx_safety.make("Short"))
    with pytest.raises(TypeError, match="register got the id 5; it takes a string"):
        mjx_safety.register(5, task)


def test_tasks_are_values():
    first, second = mjx_safety.make("PointGoal1").task, mjx_safety.make("PointGoal1").task
    assert hash(first) == hash(second)
    assert "Hazards(num=8" in repr(first)
