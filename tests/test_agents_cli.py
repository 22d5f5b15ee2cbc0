"""The command lines on a toy environment: files, tables, and one sentence for every mistake."""

import json
import sys
import types

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import agents
import mjx_safety
from agents import aggregate, cli, evaluation, loggers, networks, run_directory
from agents.policy import Policy
from agents.runner import prepare
from tests.toy_env import ToyEnv, ToyTask

SIZES = {"num-envs": 16, "num-steps": 16, "total-steps": 1024, "num-minibatches": 4}
SMALL = ["--preset", "cpu", *(word for name, size in SIZES.items() for word in (f"--{name}", str(size)))]


@pytest.fixture
def toy(monkeypatch):
    """`make` knows the toy environment alone; its frames are grey."""

    def make(task):
        if task != "Toy":
            raise ValueError(f"Unknown task {task!r}. Did you mean 'Toy'?")
        return ToyEnv()

    def render(env, states, camera, width, height):
        return np.full((states.obs.shape[0], height, width, 3), 128, np.uint8)

    monkeypatch.setitem(loggers.PACKAGES, "wandb", "missing_wandb")
    monkeypatch.setattr(mjx_safety, "make", make)
    monkeypatch.setattr(mjx_safety, "render", render, raising=False)


@pytest.mark.filterwarnings("ignore:os.fork")  # reading the video back
def test_train_evaluate_and_resume(toy, tmp_path, capsys):
    run_dir = tmp_path / "run"
    options = ["--eval-episodes", "7", "--video-steps", "10", "--seeds", "0", "1", "--cost-limit", "5"]
    assert cli.train_command(["Toy", "--run-dir", str(run_dir), *SMALL, *options]) == 0
    out = capsys.readouterr().out
    assert "1,024 / 1,024 steps" in out
    assert "sampled" in out
    assert f"run directory: {run_dir}" in out

    config = json.loads((run_dir / "config.json").read_text())
    assert config["task"] == "Toy"
    assert config["config"]["cost_limits"] == [5.0]
    assert config["config"]["seeds"] == [0, 1]
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [(row["update"], row["seed"]) for row in rows] == [(i, seed) for i in range(1, 5) for seed in (0, 1)]
    assert "steps_per_second" not in rows[0]
    assert json.loads((run_dir / "timing.jsonl").read_text().splitlines()[-1])["update"] == 4
    assert iio.imread(run_dir / "curves.png").shape[2] == 4
    assert len(iio.imread(run_dir / "video.mp4")) == 10
    report = json.loads((run_dir / "evaluation.json").read_text())
    assert [agent["seed"] for agent in report["agents"]] == [0, 1]
    assert report["agents"][1]["stochastic"]["episodes"] == 7
    assert report["agents"][1]["cost_rate"] == pytest.approx(rows[-1]["cost_rate"])

    assert cli.evaluate_command([str(run_dir), "--episodes", "5", "--deterministic"]) == 0
    report = json.loads((run_dir / "evaluation.json").read_text())
    assert report["agents"][0]["deterministic"]["episodes"] == 5
    assert "stochastic" not in report["agents"][0]

    metrics = (run_dir / "metrics.jsonl").read_text()
    assert cli.train_command(["--run_dir", str(run_dir), "--resume"]) == 0  # task and settings are those saved
    assert (run_dir / "metrics.jsonl").read_text() == metrics
    capsys.readouterr()
    for argv, message in (
        (["Toy", "--resume", "--lr", "0.1"], "lr is 0.0003 there but 0.1 here"),
        (["Toy", "--resume", "--preset", "gpu"], "num_envs is 16 there but 16384 here"),
        (["Toy"], f"{run_dir} is not empty: add --resume to continue its run, or name another --run-dir"),
    ):
        assert cli.train_command([*argv, "--run-dir", str(run_dir)]) == 2
        assert message in capsys.readouterr().err
    (run_dir / "metrics.jsonl").write_text("")
    assert cli.train_command(["--run-dir", str(run_dir), "--resume"]) == 2
    assert "has lost rows: the last checkpoint follows 8, only 0 are left" in capsys.readouterr().err


def test_fleet_of_settings(toy, tmp_path, capsys):
    run_dir = tmp_path / "run"
    options = ["--eval-episodes", "5", "--video-steps", "0", "--seeds", "0", "1", "2", "--cost-limits", "5", "50"]
    argv = ["Toy", "--run-dir", str(run_dir), *SMALL, *options, "--sweep", "critic_lr=1e-4,1e-3", "--tensorboard"]
    assert cli.train_command(argv) == 0
    out = capsys.readouterr().out
    assert "(interquartile mean over seeds, 95 % bootstrap interval)" in out

    settings = [(5.0, 1e-4), (5.0, 1e-3), (50.0, 1e-4), (50.0, 1e-3)]
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    expected = [(seed, *setting) for setting in settings for seed in (0, 1, 2)]
    assert [(row["seed"], row["cost_limit"], row["critic_lr"]) for row in rows[:12]] == expected
    report = json.loads((run_dir / "evaluation.json").read_text())
    assert [(agent["seed"], agent["cost_limit"], agent["critic_lr"]) for agent in report["agents"]] == expected
    assert [(setting["cost_limit"], setting["critic_lr"]) for setting in report["settings"]] == settings
    obs = np.ones((2, 4), np.float32)
    for i, setting in enumerate(report["settings"]):
        seeds = report["agents"][3 * i : 3 * i + 3]
        for name in ("return", "cost"):
            values = [agent["stochastic"][name] for agent in seeds]
            assert setting["stochastic"][name] == pytest.approx(np.mean(values))
            low, high = setting["stochastic"][name + "_low"], setting["stochastic"][name + "_high"]
            assert min(values) <= low <= setting["stochastic"][name] <= high <= max(values)
        assert 3 * i <= setting["best"] < 3 * i + 3
        name = f"cost_limit={setting['cost_limit']:g},critic_lr={setting['critic_lr']:g}.npz"
        best = agents.load_policy(run_dir / "best" / name)
        np.testing.assert_array_equal(best(obs), agents.load_policy(run_dir, setting["best"])(obs))
    assert len(list((run_dir / "best").iterdir())) == 4
    events = run_dir / "tensorboard" / "seed=2,cost_limit=50,critic_lr=0.001"
    assert b"return_estimate" in next(events.iterdir()).read_bytes()
    assert len(list((run_dir / "tensorboard").iterdir())) == 12
    assert cli.evaluate_command([str(run_dir), "--episodes", "3", "--deterministic"]) == 0
    assert "interquartile" in capsys.readouterr().out


def test_weights_and_biases_gets_one_run_per_agent(tmp_path, monkeypatch):
    runs = []

    class Run:
        def __init__(self, **settings):
            runs.append(self)
            self.settings, self.rows, self.finished = settings, [], False

        def log(self, numbers, step):
            self.rows.append((step, numbers))

        def finish(self):
            self.finished = True

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=Run))
    config = agents.preset("cpu", seeds=(0, 1), **{name.replace("-", "_"): size for name, size in SIZES.items()})
    rows = [{"seed": seed, "cost_limit": 25.0, "env_steps": 256, "return": None, "kl": 0.5} for seed in (0, 1)]
    for _ in range(2):  # the second one resumes
        (logger,) = loggers.open_loggers(("wandb",), tmp_path, "Toy", config, done=0)
        logger.write(rows)
        logger.close()
    assert [run.settings["config"]["seed"] for run in runs] == [0, 1, 0, 1]
    assert [run.settings["id"] for run in runs[:2]] == [run.settings["id"] for run in runs[2:]]
    assert runs[0].settings["id"] != runs[1].settings["id"]
    assert runs[1].rows == [(256, {"cost_limit": 25.0, "kl": 0.5})]
    assert all(run.finished for run in runs)


def test_train_from_python(toy, tmp_path, capsys):
    config = agents.preset(
        "cpu", num_envs=16, num_steps=16, total_steps=1024, num_minibatches=4, eval_episodes=3, video_steps=0
    )
    result = agents.train("Toy", config, run_dir=tmp_path / "run", progress=False)
    assert capsys.readouterr().out == ""
    assert result.metrics["cost_estimate"].shape == (4,)
    assert np.isnan(result.metrics["return"][0])
    assert result.policy(np.zeros(4)).shape == (2,)
    assert result.evaluation[0]["deterministic"]["episodes"] == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["Toi"], "Unknown task 'Toi'. Did you mean 'Toy'?"),
        (["Toy", "--num-envs", "-4"], "num_envs must be a positive integer, got -4"),
        (["Toy", "--num-envs", "many"], "Error parsing --num-envs: invalid literal for int() with base 10: 'many'"),
        (["Toy", "--num-env", "4"], "unknown option --num-env; did you mean --num-envs?"),
        (["--task", "Toy"], "unknown option --task"),
        (["Toy", "--episodes", "4"], "unknown option --episodes; did you mean --eval-episodes?"),
        (["Toy", "--lr", "0"], "lr must be a positive number, got 0.0"),
        (["Toy", "--preset", "cpus"], "unknown preset 'cpus': choose one of cpu, gpu, paper; did you mean 'cpu'?"),
        (["Toy", "--num-minibatches", "7"], "num_minibatches=7 does not divide the batch"),
        (["Toy", "--resume"], "--resume needs the --run-dir of the run to continue"),
        (["Toy", "--lr"], "Missing value for argument '--lr'"),
        (["Toy", "--sweep", "lr"], "Error parsing --sweep: 'lr' is not of the form lr=VALUE,VALUE"),
        (["Toy", "--sweep", "lr=1e-4,fast"], "'lr=1e-4,fast' is not of the form lr=VALUE,VALUE"),
        (["Toy", "--sweep", "steps=1,2"], "unknown swept setting 'steps': choose one of lr, critic_lr"),
        (["Toy", "--sweep", "lr=1e-4,1e-3"], "sweep of lr: trpo_lagrangian with multiplier=pid does not use it"),
        (
            ["Toy", "--multiplier", "adam", "--sweep", "pid_kp=0,1"],
            "it uses critic_lr, max_grad_norm, gamma, gae_lambda, target_kl, multiplier_init, dual_lr",
        ),
        (["Toy", "--wandb"], "--wandb needs missing_wandb, which is not installed: pip install missing_wandb"),
        (["Toy", "--hidden-sizes"], "hidden_sizes needs at least one layer"),
        ([], "name a task, for example: python -m agents.train PointGoal1"),
        (["--lr", "0.1"], "name a task, for example: python -m agents.train PointGoal1"),
    ],
)
def test_mistakes_are_one_sentence(toy, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "execute", lambda *_, **__: pytest.fail("training started"))
    assert cli.train_command(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: agents.train(None), "env is None; it must be a task id"),
        (lambda: agents.train("Toy", {"lr": 1.0}), "it must be an agents.Config"),
        (lambda: agents.Config(seeds=0), "seeds is 0; it must be a list of numbers"),
        (lambda: agents.Config(sweep={"lr": 0.1}), "sweep is .*; it must be like {'lr': \\(1e-4, 3e-4\\)}"),
    ],
)
def test_mistakes_in_python_are_one_sentence(toy, tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=message):
        call()
    assert not any(tmp_path.iterdir())


def test_a_run_killed_while_its_settings_were_written_is_begun_again(tmp_path):
    (tmp_path / ".config.json.partial").write_text("{")
    run_directory.open_run(tmp_path, "Toy", agents.Config(), resume=True)
    assert run_directory.read_config(tmp_path)[0] == "Toy"


def test_other_partial_files_are_not_overlooked(tmp_path):
    (tmp_path / "notes.partial").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        run_directory.open_run(tmp_path, "Toy", agents.Config(), resume=False)


def test_resume_from_python_takes_the_saved_settings(toy, tmp_path):
    config = agents.preset("paper", seeds=(3,))
    run_directory.open_run(tmp_path, "Toy", config, resume=False)
    assert prepare("Toy", None, tmp_path, resume=True).config == config
    with pytest.raises(ValueError, match="seeds is \\(3,\\) there but \\(0,\\) here"):
        prepare("Toy", agents.preset("paper"), tmp_path, resume=True)


def test_timing_of_lost_updates_is_dropped(tmp_path):
    path = tmp_path / "timing.jsonl"
    path.write_text('{"update": 2}\n{"update": 4}\n{"upd')
    run_directory.truncate_timing(path, done=2)
    assert path.read_text() == '{"update": 2}\n'


def test_unwritable_directory(toy, tmp_path, capsys):
    (tmp_path / "file").touch()
    run_dir = tmp_path / "file" / "run"
    assert cli.train_command(["Toy", "--run-dir", str(run_dir)]) == 2
    assert f"error: cannot write to run directory {run_dir}: Not a directory" in capsys.readouterr().err


def test_resume_refuses_what_is_no_run(toy, tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    assert cli.train_command(["Toy", "--run-dir", str(tmp_path), "--resume"]) == 2
    assert "holds no run to resume (config.json is missing)" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"task": "Toy", "config": {"lr"')
    assert cli.train_command(["Toy", "--run-dir", str(tmp_path), "--resume"]) == 2
    assert "config.json is damaged" in capsys.readouterr().err


def test_evaluate_refuses_what_is_no_run(toy, tmp_path, capsys):
    for argv, message in (
        ([str(tmp_path)], "is not a run directory: it has no config.json"),
        ([str(tmp_path), "--episodes", "0"], "episodes must be a positive integer, got 0"),
    ):
        assert cli.evaluate_command(argv) == 2
        assert message in capsys.readouterr().err


def test_lost_metrics_are_not_papered_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"update": 1}\n{"upda')
    run_directory.truncate_rows(path, 1)
    assert path.read_text() == '{"update": 1}\n'
    with pytest.raises(ValueError, match="has lost rows: the last checkpoint follows 2, only 1 are left"):
        run_directory.truncate_rows(path, 2)


def test_interquartile_mean_by_hand():
    assert aggregate.iqm(np.array([9.0, 1.0, 2.0, 100.0])) == 5.5
    assert aggregate.iqm(np.array([9.0, 1.0, 2.0])) == 4.0
    scores = np.random.default_rng(0).normal(size=(5, 11))
    np.testing.assert_allclose(aggregate.iqm(scores), scipy.stats.trim_mean(scores, 0.25, axis=-1))


def test_bootstrap_draws_the_runs_of_each_task_again():
    """Two tasks far apart: a bootstrap across tasks would mix them, the stratified one only varies runs."""
    scores = np.random.default_rng(0).normal(size=(2, 50)) + np.array([[0.0], [100.0]])
    low, high = aggregate.interval(scores)
    assert low < aggregate.iqm(scores.ravel()) < high
    assert aggregate.interval(scores[:, :1]) is None
    one = scores[:1]
    expected = scipy.stats.bootstrap(one, lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis), method="percentile")
    np.testing.assert_allclose(aggregate.interval(one), expected.confidence_interval, atol=0.05)


def test_band_is_missing_where_a_run_is():
    curves = np.array([[np.nan, 1.0, 5.0], [2.0, 3.0, 5.0]])
    middle, low, high = aggregate.band(curves)
    np.testing.assert_array_equal(middle, [np.nan, 2.0, 5.0])
    np.testing.assert_array_equal(low, [np.nan, 1.0, 5.0])
    np.testing.assert_array_equal(high, [np.nan, 3.0, 5.0])


def test_best_agent_keeps_the_limit():
    def agent(returns: float, cost: float) -> dict:
        summary = {"return": returns, "cost": cost, "goals": 0.0}
        return {"cost_limit": 25.0, "cost_rate": 0.02, "stochastic": summary}

    safe, better, broken, worse = agent(1.0, 20.0), agent(2.0, 25.0), agent(9.0, 30.0), agent(9.5, 40.0)
    settings = [{"cost_limit": 25.0}, {"cost_limit": 25.0}]
    first, second = evaluation.summarize_settings(settings, [safe, better, broken, worse])
    assert (first["best"], second["best"]) == (1, 2)
    assert first["stochastic"]["return"] == 1.5
    assert first["seeds"] == 2


def test_summary_by_hand():
    summary = evaluation.summarize({"return": np.array([1.0, 3.0]), "cost": np.array([10.0, 30.0])}, cost_limit=25.0)
    assert summary["return"] == 2.0
    assert summary["return_std"] == pytest.approx(2.0**0.5)
    assert summary["return_ci95"] == pytest.approx(1.96)
    assert summary["within_limit"] == 0.5


def test_evaluation_counts_an_episode_once():
    """Steps after the end of an episode do not count."""
    env = ToyEnv(ToyTask(num_steps=30, terminate_at_goal=True))
    layers = networks.init_mlp(jax.random.key(0), (4, 2), 0.01)
    policy = Policy(layers, log_std=jnp.zeros(2), obs_mean=jnp.zeros(4), obs_std=jnp.ones(4))
    policies = jax.tree.map(lambda x: x[None], policy)
    (modes,), states = evaluation.run_episodes(env, policies, jax.random.key(0), episodes=40, frames=30)
    episodes = modes["stochastic"]
    assert set(episodes["goals"]) == {0.0, 1.0}
    assert (episodes["length"][episodes["goals"] == 0] == 30).all()
    assert (episodes["length"] <= 30).all()
    assert len(states.obs) == episodes["length"][0]
    assert states.truncated[-1] | states.terminated[-1]
