"""What several seeds say together: interquartile means with bootstrap intervals (Agarwal et al. 2021, section 4)."""

from collections.abc import Callable

import numpy as np


def iqm(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of the scores along the last axis; of all of them where there are fewer than four."""
    ordered = np.sort(scores, -1)
    cut = scores.shape[-1] // 4
    return np.mean(ordered[..., cut : scores.shape[-1] - cut], -1)


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean along the last axis."""
    return np.mean(scores, -1)


def interval(
    scores: np.ndarray, resamples: int = 2000, level: float = 0.95, statistic: Callable[[np.ndarray], np.ndarray] = iqm
) -> tuple[float, float] | None:
    """Stratified percentile bootstrap: every task's runs are drawn again with replacement.

    Args:
        scores: float [tasks, runs].
        resamples: how many times.
        level: of confidence.
        statistic: along the last axis, such as `iqm` or `mean`.

    Returns:
        The ends of the interval of the statistic over all scores, None where there is only one run.
    """
    num_tasks, num_runs = scores.shape
    if num_runs < 2:
        return None
    drawn = np.random.default_rng(0).integers(num_runs, size=(resamples, num_tasks, num_runs))
    samples = np.take_along_axis(scores[None], drawn, -1).reshape(resamples, -1)
    low, high = np.quantile(statistic(samples), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IQM of curves [runs, points] at every point, and the ends of its 95 % interval; NaN where a run has none."""
    num_runs = len(curves)
    drawn = np.random.default_rng(0).integers(num_runs, size=(500, num_runs))
    samples = iqm(np.moveaxis(curves[drawn], 1, -1))
    missing = np.isnan(curves).any(0)
    ends = np.where(missing, np.nan, np.quantile(np.where(missing, 0.0, samples), [0.025, 0.975], axis=0))
    return np.where(missing, np.nan, iqm(curves.T)), ends[0], ends[1]
