"""The learning benchmark on a toy budget, and the paper's metrics."""

import json

import numpy as np
import pytest

import agents
import mjx_safety
from benchmarks import learning, learning_page
from tests.toy_env import ToyEnv


@pytest.fixture
def toy(monkeypatch):
    """Every task is the toy environment, every preset small."""
    small = agents.preset("cpu", num_envs=16, num_steps=16, num_minibatches=4, num_epochs=1, eval_episodes=3)
    monkeypatch.setattr(mjx_safety, "make", lambda task: ToyEnv())
    monkeypatch.setattr(agents, "preset", lambda name, **settings: agents.config.dataclasses.replace(small, **settings))


def row(task: str, seed: int = 0, **changes) -> dict:
    end = {"return": 10.0, "cost": 25.0, "cost_rate": 0.03}
    evaluated = {"return": 11.0, "cost": 24.0}
    return {
        "task": task,
        "seed": seed,
        "algorithm": "ppo_lagrangian",
        "multiplier": "pid",
        "preset": "cpu",
        "cost_limit": 25.0,
        "steps": learning_page.budget(task),
        "last_quarter_cost": 25.5,
        "commit": "abc",
        "train": end,
        "stochastic": evaluated,
        "deterministic": evaluated,
        "steps_per_second": 1e5,
    } | changes


def test_a_slate_is_trained_evaluated_and_shown(toy, tmp_path, capsys):
    output, page = tmp_path / "results" / "learning.jsonl", tmp_path / "learning.md"
    words = ["--tasks", "PointGoal1", "--steps", "1024", "--seeds", "0", "1", "--run-dir", str(tmp_path / "runs")]
    words += ["--output", str(output), "--page", str(page)]
    assert learning.main(words) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["task"], row["seed"], row["cost_limit"], row["steps"]) for row in rows] == [
        ("PointGoal1", 0, 25.0, 1024),
        ("PointGoal1", 1, 25.0, 1024),
    ]
    for row in rows:
        assert {"return", "cost", "cost_rate"} == row["train"].keys()
        assert row["stochastic"]["episodes"] == row["deterministic"]["episodes"] == 3
        assert row["curve"]["env_steps"] == [256, 512, 768, 1024]
        assert row["seconds"] > 0
        assert row["algorithm"] == "ppo_lagrangian"
        assert "commit" in row
    text = page.read_text()
    assert "| PPO-PID | default | 25 | 1.02e+03 | 2 |" in text
    assert "*missing* 6 of 6 tasks" in text  # 1024 steps do not compare
    capsys.readouterr()
    assert learning.main([*words, "--no-train"]) == 0
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "SG7"], "SG7"),
        (["--steps", "10"], "total_steps=10 is less than one update"),
        (["--seeds", "1", "1"], "seeds needs at least one value and no repeats"),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.setattr(agents, "train", lambda *_, **__: pytest.fail("it ran"))
    assert learning.main([*words, "--output", str(tmp_path / "rows.jsonl"), "--page", str(tmp_path / "page.md")]) == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_normalised_metrics_by_hand():
    # PointGoal1's reference: return 25.179, cost 53.109, cost rate 0.063.
    normal = learning_page.normalize("PointGoal1", 25.179 / 2, 25.0 + 28.109 / 4, 0.0315)
    np.testing.assert_allclose(normal, [0.5, 0.25, 0.5], rtol=1e-6)
    assert learning_page.normalize("PointGoal1", 0.0, 10.0, 0.0) == (0.0, 0.0, 0.0)


def test_published_numbers_of_a_slate():
    """The starter agents on SG6, worked out by hand from the same table."""
    text = learning_page.page([])
    assert "| PPO-Lagrangian | *missing* 6 of 6 tasks | 0.422 / 0.095 / 0.336 |" in text
    assert "| CPO | *missing* 6 of 6 tasks | 0.825 / 0.640 / 0.683 |" in text
    assert "| TRPO-Lagrangian | *missing* 18 of 18 tasks | 0.331 / 0.018 / 0.265 |" in text
    assert len(learning_page.SLATES["SG18"]) == 18
    assert len(learning_page.SLATES["SG1"]) == len(learning_page.SLATES["SG2"]) == 9


def test_what_was_run_stands_beside_what_was_published():
    rows = [row(task, seed) for task in learning_page.SLATES["SG6"] for seed in (0, 1)]
    text = learning_page.page(rows)
    returns = [10.0 / learning_page.CHARACTERISTIC[task][0] for task in learning_page.SLATES["SG6"]]
    rates = [0.03 / learning_page.CHARACTERISTIC[task][2] for task in learning_page.SLATES["SG6"]]
    line = next(line for line in text.splitlines() if line.startswith("| PPO-PID |"))
    assert f"{np.mean(returns):.3f} [" in line
    assert "/ 0.000 [0.000, 0.000] /" in line
    assert f"/ {np.mean(rates):.3f} [" in line
    assert line.endswith("(2 seeds) |  |")
    assert "| PPO-PID | *missing* 12 of 18 tasks |  |" in text
    assert "| PPO-PID | 10.00 / 25.0 / 0.0300 (2 seeds) |  | 8.40 / 25.7 | 8.15 / 26.3 |" in text
    assert learning_page.page(rows[1:]).count("*missing*") == text.count("*missing*")
    assert "missing* 1 of 6" in learning_page.page(rows[2:])


def test_the_newest_row_of_a_seed_counts(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [row("PointGoal1", steps_per_second=1.0), row("PointGoal1", seed=1), row("PointGoal1", steps_per_second=2.0)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["steps_per_second"] for row in learning_page.read(path)] == [2.0, 1e5]


def test_committed_page_is_up_to_date():
    assert learning.PAGE.read_text() == learning_page.page(learning_page.read(learning_page.RESULTS))
