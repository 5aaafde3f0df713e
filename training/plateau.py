"""When has a phase stopped paying? An early exit by an equivalence test on a fixed probe (paper, section 3.3).

"No significant trend, so a plateau" is not evidence: on raw step losses the noise of the random timesteps swamps any
trend, and such a rule stops nearly every improving run at its first look. The burden is turned round here. The null
hypothesis is that the loss still improves by `relative_delta` or more per window; a phase ends only when that has been
*refuted* in several windows in a row. Noise then keeps a run going, and never ends it.

The probe is K fixed (timestep, noise) pairs, the same at every check, so that what differs between two checks is the
weights and nothing else. A window is `window` checks in a row; windows do not overlap, so that their verdicts are
close to independent and "passes in a row" multiply: with alpha 0.05 and two passes, a run that improves by
exactly the delta is stopped by a given pair of windows with a probability of 0.05^2, and the 11 pairs of a run of 12
windows add up to 2.75 % where a window's test holds its level exactly.

One window's test. Each pair's losses are divided by that pair's mean in the window (losses differ a hundredfold across
timesteps; after that every pair counts the same) and regressed on the step. The slope is the mean of the K pair slopes.
Its variance is the sum of two estimates, because either alone is too small:

- between pairs: variance of the K slopes / K. It sees noise of a single pair, heavy tails and timesteps that learn at
  different speeds (which widen the interval, and so keep the run going), but not what moves all pairs together;
- along time: residual variance of the mean curve about its line. It sees the shocks that SGD's wandering weights give
  to all pairs at once. These are correlated from check to check, so it is inflated by the exact factor for an AR(1)
  process of the estimated lag-one correlation (moment-matched, so that the bias from detrending few points is undone;
  pooled over the phase's windows, and shrunk to 0.5 with the weight of one window, as one window cannot show it).

The noise of single pairs is in both, which errs on the side of training on. t quantiles use Welch-Satterthwaite degrees
of freedom. A rising loss refutes improvement as well, and ends the phase with the reason 'worse'.

Operating characteristic of the defaults (window 12, delta 2 %, alpha 0.05, two passes), measured on 1,000 simulated
streams per cell: 24 pairs, losses spread a hundredfold, t5-distributed noise of 0.3 to 3 % per pair and a shock common
to all pairs, both AR(1) in the checks. Stopped within 3 windows / within 12 windows, in percent of the runs, by the
true improvement per window (negative: getting worse):

    shock, correlation     5 %        3 %        2 %        1.5 %      1 %       0.5 %      0 %        -1 %
    0.2 %, 0.5           0 / 0      0 / 0      0 / 0      4 / 16    26 / 81   69 / 99    89 / 100   99 / 100
    0.3 %, 0.5           0 / 0      0 / 0      0 / 0.2    3 / 15    22 / 69   56 / 98    79 / 100   98 / 100
    0.3 %, 0.8           0 / 0      0 / 0      0 / 1.0    4 / 15    23 / 72   56 / 97    80 / 100   98 / 100
    0.5 %, 0.5           0 / 0      0 / 0    0.4 / 0.8    3 / 12    12 / 47   35 / 86    55 / 98    88 / 100
    1 %,   0.8           0 / 0    0.1 / 0.2  1.4 / 5.3    4 / 14     8 / 32   17 / 56    27 / 78    56 / 96

So a run that improves by delta or more is stopped in at most 5 % of cases until the probe's own noise nears half of
delta; noise costs steps after the plateau, and not unfinished phases. Where shocks exceed 0.2 to 0.3 % of the loss,
flat runs are 'unclear' for longer: a longer window, or a larger delta, stops them as soon again.
"""

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import TrainingError
from ..safety.untrusted import from_json
from .welford import Welford

_PRIOR_CORRELATION = 0.5
_PRIOR_WINDOWS = 1.0
_HIGHEST_CORRELATION = 0.9


@dataclass(frozen=True)
class PlateauSpec:
    """When a phase counts as finished.

    window: checks in a window, 6 or more. relative_delta: the fall in probe loss per window, relative to the loss, from
    which on training is worth going on with. alpha: level of each window's test. passes: windows in a row that must
    pass. min_checks, min_steps: never a plateau before so many checks, and so many steps after the phase's first check.
    """

    window: int = 12
    relative_delta: float = 0.02
    alpha: float = 0.05
    passes: int = 2
    min_checks: int = 24
    min_steps: int = 100

    def __post_init__(self) -> None:
        allowed = {
            "window": self.window >= 6,
            "relative_delta": 0 < self.relative_delta < 1,
            "alpha": 0 < self.alpha < 0.5,
            "passes": self.passes >= 1,
            "min_checks": self.min_checks >= 0,
            "min_steps": self.min_steps >= 0,
        }
        for name, good in allowed.items():
            if not good:
                raise TrainingError(f"Plateau test: {name} = {getattr(self, name)} is out of range; see PlateauSpec.")


@dataclass(frozen=True)
class WindowTest:
    """What one full window says about the relative slope of the probe loss, per step (negative: improving)."""

    slope_per_step: float
    slope_low: float
    slope_high: float
    improvement: float
    """Relative fall of the loss over one window at that slope."""
    p_equivalence: float


@dataclass(frozen=True)
class PlateauVerdict:
    """The detector's opinion after a check.

    mean, variance: of the mean probe loss (MSE, raw units) over the checks of the current window, this one included.
    slope_per_step: relative change of the loss per step (negative: improving) in the last *full* window, with its
    1 - 2 alpha confidence interval slope_low..slope_high; p_equivalence: of the test that the improvement per window
    is below relative_delta (small: refuted that it is worth going on). These four are None until a window is full.
    passes_in_a_row: full windows in a row that passed, this far. plateau: stop the phase.

    reason is one of: 'collecting' (no window is full yet), 'improving' (the interval lies below zero, and the test
    does not pass), 'unclear' (noise hides the trend: the run goes on; a longer window would tell), 'passing' (passed,
    more passes wanted), 'too early' (enough passes, but min_checks or min_steps not reached), 'flat' and 'worse'
    (plateau; 'worse' where the interval of the last window lies above zero: the probe loss rises).
    """

    step: int
    mean: float
    variance: float
    slope_per_step: float | None
    slope_low: float | None
    slope_high: float | None
    p_equivalence: float | None
    passes_in_a_row: int
    plateau: bool
    reason: str


@dataclass(frozen=True)
class _State:
    """PlateauDetector.state_dict, with its types."""

    spec: PlateauSpec
    steps: list[int]
    losses: list[list[float]]
    level: Welford
    first_step: int | None
    last_step: int | None
    pairs: int | None
    checks: int
    passes: int
    correlation_sum: float
    windows: int
    test: WindowTest | None

    def makes_sense(self) -> bool:
        known = [one is not None for one in (self.first_step, self.last_step, self.pairs)]
        return (
            known == [self.checks > 0] * 3
            and len(self.steps) == len(self.losses) == self.level.count <= self.spec.window
            and all(one < other for one, other in zip(self.steps, self.steps[1:], strict=False))
            and all(len(row) == self.pairs and all(0 < loss < math.inf for loss in row) for row in self.losses)
            and self.windows >= 0
            and math.isfinite(self.correlation_sum)
        )


class PlateauDetector:
    """Watches the probe losses of one phase; begin a new one at each phase, with the same probe."""

    def __init__(self, spec: PlateauSpec | None = None):
        self.spec = spec or PlateauSpec()
        self._steps: list[int] = []
        self._losses: list[list[float]] = []
        self._level = Welford()
        self._first_step: int | None = None
        self._last_step: int | None = None
        self._pairs: int | None = None
        self._checks = 0
        self._passes = 0
        self._correlation_sum = 0.0
        self._windows = 0
        self._test: WindowTest | None = None

    def update(self, step: int, losses: np.ndarray) -> PlateauVerdict:
        """Take in one check: the probe losses (K,) at a global step; K >= 4 (16 to 32 are sensible), always the same.

        Raises TrainingError where steps do not rise, K changes, or a loss is not a positive finite number.
        """
        row = self._checked(step, losses)
        if self._first_step is None:
            self._first_step = step
        if len(self._steps) == self.spec.window:
            self._steps, self._losses, self._level = [], [], Welford()
        self._last_step, self._pairs = step, len(row)
        self._checks += 1
        self._steps.append(step)
        self._losses.append(row)
        self._level.update(math.fsum(row) / len(row))
        if len(self._steps) == self.spec.window:
            self._close_window()
        return self._verdict(step)

    def state_dict(self) -> dict[str, Any]:
        """All there is to know, in plain JSON types; floats survive json.dumps and json.loads bit by bit."""
        return {
            "spec": asdict(self.spec),
            "steps": list(self._steps),
            "losses": [list(row) for row in self._losses],
            "level": asdict(self._level),
            "first_step": self._first_step,
            "last_step": self._last_step,
            "pairs": self._pairs,
            "checks": self._checks,
            "passes": self._passes,
            "correlation_sum": self._correlation_sum,
            "windows": self._windows,
            "test": asdict(self._test) if self._test else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`: every later verdict is the one an uninterrupted run would have given.

        Raises TrainingError if the state was made with another PlateauSpec; ValueError for what is no such state.
        """
        if state["spec"] != asdict(self.spec):
            raise TrainingError(
                f"Plateau test: the checkpoint was made with {state['spec']} and this run asks for "
                f"{asdict(self.spec)}; resume with the same settings, or start the phase anew."
            )
        told = from_json(_State, state)
        if not told.makes_sense():
            raise ValueError("the state of its plateau test contradicts itself")
        self._steps, self._losses, self._level = told.steps, told.losses, told.level
        self._first_step, self._last_step = told.first_step, told.last_step
        self._pairs, self._checks, self._passes = told.pairs, told.checks, told.passes
        self._correlation_sum, self._windows, self._test = told.correlation_sum, told.windows, told.test

    def _checked(self, step: int, losses: np.ndarray) -> list[float]:
        row = np.asarray(losses, dtype=np.float64)
        if row.ndim != 1 or len(row) < 4 or (self._pairs is not None and len(row) != self._pairs):
            wanted = self._pairs or "at least 4"
            raise TrainingError(
                f"Plateau probe: losses of shape {row.shape} at step {step}; "
                f"one loss per probe pair is wanted ({wanted}), the same pairs at every check."
            )
        if not (np.isfinite(row).all() and (row > 0).all()):
            pair = int(np.argmin(np.isfinite(row) & (row > 0)))
            raise TrainingError(
                f"Plateau probe: the loss of pair {pair} at step {step} is {row[pair]}; it must be positive and "
                "finite. Training has diverged or the model's output is broken: lower the learning rate."
            )
        if self._last_step is not None and step <= self._last_step:
            raise TrainingError(f"Plateau probe: step {step} comes after step {self._last_step}; steps must rise.")
        return row.tolist()

    def _close_window(self) -> None:
        steps, losses = np.array(self._steps, dtype=np.float64), np.array(self._losses)
        line = _fit_line(steps, losses)
        self._correlation_sum += line.residual_correlation
        self._windows += 1
        self._test = _test_window(line, len(self._steps), self._correlation(line.times), self.spec)
        self._passes = self._passes + 1 if self._test.p_equivalence < self.spec.alpha else 0

    def _correlation(self, times: tuple[float, ...]) -> float:
        """AR(1) coefficient of the shocks, from the residuals of all windows of the phase."""
        grid, expected, _ = _autocorrelation_moments(times)
        prior = float(np.interp(_PRIOR_CORRELATION, grid, expected))
        observed = (self._correlation_sum + _PRIOR_WINDOWS * prior) / (self._windows + _PRIOR_WINDOWS)
        return float(np.interp(observed, expected, grid))

    def _verdict(self, step: int) -> PlateauVerdict:
        test, spec, level = self._test, self.spec, self._level
        enough = self._passes >= spec.passes
        first = step if self._first_step is None else self._first_step
        late = self._checks >= spec.min_checks and step - first >= spec.min_steps
        return PlateauVerdict(
            step=step,
            mean=level.mean,
            variance=level.variance,
            slope_per_step=test.slope_per_step if test else None,
            slope_low=test.slope_low if test else None,
            slope_high=test.slope_high if test else None,
            p_equivalence=test.p_equivalence if test else None,
            passes_in_a_row=self._passes,
            plateau=enough and late,
            reason=_reason(test, self._passes > 0, enough, late),
        )


@dataclass(frozen=True)
class _Line:
    """Least-squares lines through the relative losses of a window, against time in units of the window's length."""

    times: tuple[float, ...]
    steps_per_window: float
    slope: float
    pair_variance: float
    residual_variance: float
    residual_correlation: float
    pairs: int


def _fit_line(steps: np.ndarray, losses: np.ndarray) -> _Line:
    """Steps (W,), losses (W, K): the mean of the K pair slopes, and what is needed for its variance."""
    checks, pairs = losses.shape
    # W checks span W - 1 intervals, and the next window begins one later: a window is W intervals long.
    steps_per_window = float(steps[-1] - steps[0]) * checks / (checks - 1)
    times = (steps - steps.mean()) / steps_per_window
    relative = losses / losses.mean(axis=0)
    slopes = times @ relative / (times @ times)
    curve = relative.mean(axis=1)
    residual = curve - curve.mean() - slopes.mean() * times
    total = float(residual @ residual)
    return _Line(
        # Rounded, because they are the key of a cache.
        times=tuple(np.round(times, 9).tolist()),
        steps_per_window=steps_per_window,
        slope=float(slopes.mean()),
        pair_variance=float(slopes.var(ddof=1)) / pairs,
        residual_variance=total / (checks - 2),
        residual_correlation=float(residual[1:] @ residual[:-1]) / total if total > 0 else 0.0,
        pairs=pairs,
    )


def _test_window(line: _Line, checks: int, correlation: float, spec: PlateauSpec) -> WindowTest:
    """One-sided test of 'the loss falls by relative_delta or more per window', and the interval that goes with it."""
    from scipy.special import stdtr, stdtrit

    grid, _, inflation = _autocorrelation_moments(line.times)
    spread = sum(time * time for time in line.times)
    time_variance = line.residual_variance / spread * float(np.interp(correlation, grid, inflation))
    variance = line.pair_variance + time_variance
    improvement = -line.slope
    if variance > 0:
        freedom = variance**2 / (line.pair_variance**2 / (line.pairs - 1) + time_variance**2 / (checks - 2))
        p = float(stdtr(freedom, (improvement - spec.relative_delta) / math.sqrt(variance)))
        half = float(stdtrit(freedom, 1 - spec.alpha)) * math.sqrt(variance)
    else:  # The weights have not moved at all, or every pair lies on the same line.
        p, half = (0.0 if improvement < spec.relative_delta else 1.0), 0.0
    per_step = 1 / line.steps_per_window
    return WindowTest(
        slope_per_step=line.slope * per_step,
        slope_low=(line.slope - half) * per_step,
        slope_high=(line.slope + half) * per_step,
        improvement=improvement,
        p_equivalence=p,
    )


@functools.lru_cache(maxsize=64)
def _autocorrelation_moments(times: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For AR(1) noise about a line through these times, on a grid of its coefficient rho:

    the ratio of expected lag-one product to expected square of the residuals, and the factor by which the variance of
    the fitted slope exceeds what least squares believes. Both are exact expectations of quadratic forms, so that the
    losses of correlation to detrending (Kendall 1954), which is large for a dozen points, are accounted for.
    """
    n, x = len(times), np.array(times)
    design = np.stack([np.ones(n), x], axis=1)
    residual_maker = np.eye(n) - design @ np.linalg.solve(design.T @ design, design.T)
    neighbour = (np.eye(n, k=1) + np.eye(n, k=-1)) / 2
    lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    grid = np.linspace(0.0, _HIGHEST_CORRELATION, 37)
    expected, inflation = [], []
    for rho in grid:
        covariance = rho**lag
        square = np.trace(residual_maker @ covariance)
        expected.append(np.trace(residual_maker @ neighbour @ residual_maker @ covariance) / square)
        inflation.append((x @ covariance @ x / (x @ x)) / (square / (n - 2)))
    return grid, np.array(expected), np.array(inflation)


def _reason(test: WindowTest | None, passed: bool, enough: bool, late: bool) -> str:
    if test is None:
        return "collecting"
    if not passed:
        return "improving" if test.slope_high < 0 else "unclear"
    if not enough:
        return "passing"
    if not late:
        return "too early"
    return "worse" if test.slope_low > 0 else "flat"
