"""The README's Python runs as it stands there."""

import pathlib
import re

import pytest

from mjx_safety import suite

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_environment_examples_run(monkeypatch):
    monkeypatch.setattr("mjx_safety.registry._TASKS", dict(suite.TASKS))
    names = {}
    for block in BLOCKS[:3]:
        exec(block.replace("4096", "8").replace("num_envs=64", "num_envs=8"), names)
    assert names["states"].obs.shape == (8, 60)
    assert names["info"]["final_obs"].shape == (8, 60)
    assert "Warehouse" in names["mjx_safety"].registered()
    assert names["env"].task.num_steps == 500


def test_the_training_example_runs(monkeypatch, tmp_path):
    agents = pytest.importorskip("agents")
    from tests.conftest import compiled

    state = compiled("PointGoal1").reset(__import__("jax").random.key(0))
    monkeypatch.chdir(tmp_path)
    tiny = agents.preset("cpu", total_steps=512, num_envs=16, num_steps=16, eval_episodes=0, video_steps=0)
    monkeypatch.setattr(agents, "preset", lambda *_, **__: tiny)
    names = {"state": state}
    exec(BLOCKS[3], names)
    assert names["action"].shape == (2,)
