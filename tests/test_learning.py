"""The learning benchmark on a toy budget, and the paper's metrics."""

import dataclasses
import json

import numpy as np
import pytest

import agents
import mjx_safety
from agents import run_directory
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


def test_a_slate_is_trained_evaluated_and_shown(toy, tmp_path, monkeypatch, capsys):
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
        assert row["algorithm"] == "trpo_lagrangian"
        assert "commit" in row
    text = page.read_text()
    assert "| TRPO-PID | cpu | 25 | 1.02e+03 | 2 |" in text
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [
        "PointGoal1-trpo_lagrangian-cpu-1024-seeds=0+1-limits=25"
    ]
    assert "*missing* 6 of 6 tasks" in text  # 1024 steps do not compare
    capsys.readouterr()
    assert learning.main([*words, "--no-train"]) == 0
    assert page.read_text() == text

    # What is in the output is left alone; what is not yet says when it was trained, and the commit it was trained with.
    monkeypatch.setattr(learning, "circumstances", lambda: {"commit": "a later one"})
    lines = output.read_text()
    assert learning.main(words) == 0
    assert output.read_text() == lines
    output.unlink()
    assert learning.main(words) == 0
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert again == rows

    # A directory that holds other settings is refused before anything is trained.
    (config,) = (run.config for run in learning.plan(learning.Args(("PointGoal1",), seeds=(0, 1), steps=1024)))
    (run_dir,) = (tmp_path / "runs").iterdir()
    run_directory.write_atomically(
        run_dir / "config.json",
        json.dumps({"task": "PointGoal1", "config": vars(agents.config.dataclasses.replace(config, lr=1.0))}),
    )
    monkeypatch.setattr(learning, "train", lambda *_: pytest.fail("it ran"))
    capsys.readouterr()
    assert learning.main(words) == 2
    assert f"error: cannot resume {run_dir} with other settings: lr is 1.0 there but" in capsys.readouterr().err


def test_runs_do_not_share_directories():
    args = [
        learning.Args(("PointGoal1",), seeds=seeds, cost_limits=limits, preset=preset)
        for seeds in ((0, 25), (0,))
        for limits in ((25.0,), (10.0, 25.0))
        for preset in ("cpu", "gpu", "paper")
    ]
    assert len({run.run_dir for arg in args for run in learning.plan(arg)}) == len(args)
    (again,) = learning.plan(learning.Args(("PointGoal1", "SGPoint"), ("ppo", "ppo")))[:1]
    assert len(learning.plan(learning.Args(("PointGoal1", "SGPoint"), ("ppo", "ppo")))) == 6
    assert again.preset == "cpu"


def test_trust_regions_have_the_papers_size():
    runs = learning.plan(learning.Args(("PointGoal1",), ("ppo", "trpo", "cpo", "trpo_lagrangian"), preset="paper"))
    assert [run.config.target_kl for run in runs] == [0.012, 0.01, 0.01, 0.01]
    (run,) = learning.plan(learning.Args(("PointGoal1",), ("trpo",), preset="cpu"))
    assert run.config.target_kl == agents.Config().target_kl


def test_the_multipliers_law_is_a_choice():
    """It makes another method, with a directory of its own; what has no multiplier to move stays what it is."""
    args = learning.Args(("PointGoal1",), ("ppo", "trpo_lagrangian"))
    usual, moved = (learning.plan(dataclasses.replace(args, multiplier=multiplier)) for multiplier in (None, "adam"))
    assert [run.config.multiplier for run in usual + moved] == ["pid", "pid", "pid", "adam"]
    assert [a.run_dir == b.run_dir for a, b in zip(usual, moved, strict=True)] == [True, False]
    (paper,) = learning.plan(learning.Args(("PointGoal1",), ("focops",), preset="paper"))
    assert learning.plan(learning.Args(("PointGoal1",), ("focops",), multiplier="adam", preset="paper")) == [paper]
    assert learning.plan(dataclasses.replace(args, multiplier="pid")) == usual
    with pytest.raises(ValueError, match="did you mean 'adam'"):
        learning.plan(learning.Args(("PointGoal1",), ("ppo",), multiplier="adm"))
    with pytest.raises(ValueError, match="of no use to ppo, cpo; it is to ppo_lagrangian"):
        learning.plan(learning.Args(("PointGoal1",), ("ppo", "cpo"), multiplier="adam"))


def test_a_slate_goes_on_after_a_run_that_failed(tmp_path, monkeypatch, capsys):
    def train(run):
        if run.config.algorithm == "ppo":
            raise ValueError("no checkpoint can be read")
        return [row(run.task)]

    monkeypatch.setattr(learning, "train", train)
    output = tmp_path / "rows.jsonl"
    words = ["--tasks", "PointGoal1", "--algorithms", "ppo", "ppo_lagrangian", "--page", str(tmp_path / "page.md")]
    assert learning.main([*words, "--output", str(output), "--run-dir", str(tmp_path / "runs")]) == 1
    assert len(output.read_text().splitlines()) == 1
    assert (
        "error: PointGoal1-ppo-cpu-10000000-seeds=0+1+2-limits=25: no checkpoint can be read" in capsys.readouterr().err
    )


@pytest.mark.parametrize(("algorithm", "cost"), [("ppo", 40.0), ("ppo_early_terminated", 20.0)])
def test_where_episodes_are_broken_off_those_that_finished_count(algorithm, cost):
    """Three episodes of cost 20 weigh as much as they are; a step's cost times an episode's steps would say 40."""
    metrics = {
        "episodes": np.array([0.0, 1.0, 2.0, 0.0]),
        "cost": np.array([np.nan, 26.0, 17.0, np.nan]),
        "return": np.array([np.nan, 1.0, 4.0, np.nan]),
        "cost_estimate": np.full(4, 40.0),
        "return_estimate": np.full(4, 40.0),
        **{name: np.arange(4.0) for name in ("env_steps", "cost_rate", "multiplier")},
    }
    config = agents.Config(algorithm=algorithm)
    assert learning._mean_of_episodes(config, metrics, "cost", slice(0, 4)) == cost
    curve = learning._curve(config, metrics)
    assert curve["cost"] == ([40.0] * 4 if algorithm == "ppo" else [None, 26.0, 17.0, None])
    assert curve["env_steps"] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "SG7"], "SG7"),
        (["--steps", "10"], "total_steps=10 is less than one update"),
        (["--seeds", "1", "1"], "seeds needs at least one value and no repeats"),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.setattr(learning, "train", lambda *_: pytest.fail("it ran"))
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
    assert line.endswith("(cpu, 2 seeds) |  |")
    assert "| PPO-PID | *missing* 12 of 18 tasks |  |" in text
    assert "| PPO-PID | 10.00 / 25.0 / 0.0300 (cpu, 2 seeds) | 11.00 / 24.0 |  | 8.40 / 25.7 | 8.15 / 26.3 |" in text
    assert learning_page.page(rows[1:]).count("*missing*") == text.count("*missing*")
    assert "missing* 1 of 6" in learning_page.page(rows[2:])


def test_presets_and_numbers_of_steps_are_no_seeds():
    other = {"return": 20.0, "cost": 35.0, "cost_rate": 0.04}
    rows = [row("PointGoal1"), row("PointGoal1", seed=1), row("PointGoal1", preset="gpu", train=other)]
    rows += [row("PointGoal1", seed=2, steps=9_990_000, train=other), row("PointGoal1", steps=20_000_000, train=other)]
    text = learning_page.page(rows)
    cells = "10.00 / 25.0 / 0.0300 (cpu, 2 seeds)<br>20.00 / 35.0 / 0.0400 (gpu, 1 seeds)"
    assert f"| PPO-PID | {cells} |" in text
    # A slate of one preset only: half of the tasks with each is no slate.
    tasks = learning_page.SLATES["SG6"]
    mixed = [row(task, preset="gpu" if i < 2 else "cpu") for i, task in enumerate(tasks)]
    assert "| PPO-PID | *missing* 2 of 6 tasks |" in learning_page.page(mixed)
    whole = learning_page.page([*mixed, *(row(task, preset="gpu") for task in tasks)])
    assert "(gpu, 1 seeds) |" in next(line for line in whole.splitlines() if line.startswith("| PPO-PID |"))


def test_a_slate_shows_the_interval_of_what_it_shows():
    """Of a skewed sample, the interquartile mean's interval need not even hold the mean."""
    task = learning_page.SLATES["SG6"][0]
    ends = [{"return": value, "cost": 25.0, "cost_rate": 0.03} for value in (1.0, 1.0, 1.0, 9.0)]
    runs = {task: [row(task, seed, train=end) for seed, end in enumerate(ends)]}
    scores = np.array([end["return"] for end in ends])[None] / learning_page.CHARACTERISTIC[task][0]
    low, high = learning_page.aggregate.interval(scores, statistic=learning_page.aggregate.mean)
    assert low < scores.mean() < high
    start = f"{scores.mean():.3f} [{low:.3f}, {high:.3f}] / "
    assert learning_page._normalized(runs, "cpu").startswith(start)
    assert learning_page.aggregate.interval(scores) != (low, high)


def test_the_newest_row_of_a_seed_counts(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [row("PointGoal1", steps_per_second=1.0), row("PointGoal1", seed=1), row("PointGoal1", steps_per_second=2.0)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["steps_per_second"] for row in learning_page.read(path)] == [2.0, 1e5]


def test_committed_page_is_up_to_date():
    assert learning.PAGE.read_text() == learning_page.page(learning_page.read(learning_page.RESULTS))
