"""The early exit: its error rates on simulated probes, its arithmetic, and an exact resume."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from identity_lock.errors import TrainingError
from identity_lock.training.plateau import PlateauDetector, PlateauSpec
from identity_lock.training.welford import Welford

SPEC = PlateauSpec()
PAIRS = 24
STEPS_PER_CHECK = 10


def autoregressive(rng, shape, rho, df=None):
    """Unit-variance AR(1) noise along axis 1; t-distributed innovations where df is given."""
    noise = rng.standard_normal(shape) if df is None else rng.standard_t(df, shape) / np.sqrt(df / (df - 2))
    for t in range(1, shape[1]):
        noise[:, t] = rho * noise[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return noise


def probe_streams(rng, runs, curve, *, shock=0.002, rho=0.5):
    """Probe losses (runs, checks, PAIRS) about a mean curve (checks,) or curves (checks, PAIRS).

    The pairs' levels and so their noise span a hundredfold; each has heavy-tailed AR(1) noise of 0.3 to 3 % of its own,
    and all share an AR(1) shock, as the weights wander.
    """
    checks = len(curve)
    level = 10 ** np.linspace(0, -2, PAIRS)
    own = 0.01 * 10 ** rng.uniform(-0.5, 0.5, (runs, 1, PAIRS)) * autoregressive(rng, (runs, checks, PAIRS), rho, df=5)
    common = shock * autoregressive(rng, (runs, checks, 1), rho)
    return level * np.asarray(curve).reshape(checks, -1) * np.exp(own + common)


def decay(improvement_per_window, windows, spec=SPEC):
    """A mean loss that falls by the same part of itself in every window."""
    return (1 - improvement_per_window) ** (np.arange(windows * spec.window) / spec.window)


def first_stop(losses, spec=SPEC):
    """Index of the check at which the run is stopped, and the verdict there; None if it never is."""
    detector = PlateauDetector(spec)
    for check, row in enumerate(losses):
        verdict = detector.update(check * STEPS_PER_CHECK, row)
        if verdict.plateau:
            return check, verdict
    return None


def stopped_fraction(streams, spec=SPEC):
    return np.mean([first_stop(losses, spec) is not None for losses in streams])


def feed(detector, losses, first_step=0, every=STEPS_PER_CHECK):
    return [detector.update(first_step + i * every, row) for i, row in enumerate(losses)]


# --- error rates


@pytest.mark.parametrize(("shock", "rho"), [(0.002, 0.5), (0.005, 0.5)])
def test_at_most_5_percent_of_1000_runs_improving_by_just_delta_are_stopped_in_12_windows(shock, rho):
    streams = probe_streams(np.random.default_rng(11), 1000, decay(SPEC.relative_delta, 12), shock=shock, rho=rho)
    assert stopped_fraction(streams) <= 0.05


def test_runs_that_decay_to_a_floor_are_not_stopped_while_a_window_still_brings_delta():
    checks = np.arange(14 * SPEC.window)
    curve = 0.6 + 0.4 * np.exp(-checks / (2 * SPEC.window))
    brings = 1 - curve[SPEC.window :] / curve[: -SPEC.window]  # what the window after each check brings
    last_worthwhile = int(np.flatnonzero(brings >= SPEC.relative_delta)[-1])
    assert 3 * SPEC.window < last_worthwhile < len(checks) - 3 * SPEC.window
    stops = [first_stop(losses) for losses in probe_streams(np.random.default_rng(12), 300, curve)]
    early = [stop is not None and stop[0] <= last_worthwhile for stop in stops]
    assert np.mean(early) <= 0.05
    assert np.mean([stop is not None for stop in stops]) >= 0.8  # and the floor is noticed in the end


def test_at_least_80_percent_of_1000_flat_runs_are_stopped_within_three_windows():
    streams = probe_streams(np.random.default_rng(13), 1000, decay(0.0, 3))
    stops = [first_stop(losses) for losses in streams]
    assert np.mean([stop is not None for stop in stops]) >= 0.8
    # A little of the noise looks like a rise; nearly all are called flat.
    assert np.mean([stop[1].reason == "flat" for stop in stops if stop]) >= 0.85


def test_an_improvement_in_a_quarter_of_the_timesteps_keeps_runs_going():
    learning = (np.arange(PAIRS) % 4 == 0).astype(float)
    curve = (1 - 4 * SPEC.relative_delta * learning) ** (np.arange(6 * SPEC.window) / SPEC.window)[:, None]
    assert stopped_fraction(probe_streams(np.random.default_rng(14), 300, curve)) <= 0.05


def test_which_timesteps_the_probe_drew_is_part_of_the_uncertainty():
    """A quarter of the pairs learns fast, and fewer by the luck of the draw: still no ground to stop."""
    rng = np.random.default_rng(16)
    passes = []
    for _ in range(300):
        learning = rng.random(PAIRS) < 0.25
        curve = (1 - 4 * SPEC.relative_delta * learning) ** (np.arange(SPEC.window) / SPEC.window)[:, None]
        passes.append(feed(PlateauDetector(), probe_streams(rng, 1, curve)[0])[-1].passes_in_a_row)
    assert np.mean(passes) <= 0.1


def test_the_naive_rule_on_raw_step_losses_stops_improving_runs_at_its_first_look():
    """Why all this: a fresh random timestep at each step, and "p > 0.05 of the trend means plateau"."""
    rng = np.random.default_rng(15)
    runs, steps = 1000, SPEC.window * STEPS_PER_CHECK
    curve = 0.95 ** (np.arange(steps) / steps)  # improving fast: 5 % over the window
    raw = curve * 10 ** rng.uniform(-2, 0, (runs, steps)) * rng.gamma(4, 1 / 4, (runs, steps))
    stopped = [stats.linregress(np.arange(steps), losses).pvalue > 0.05 for losses in raw]
    assert np.mean(stopped) >= 0.9
    # The same improvement on a probe stops nobody.
    assert stopped_fraction(probe_streams(rng, 200, decay(0.05, 3))) <= 0.01


# --- single verdicts


def test_a_rising_loss_ends_the_phase_as_worse():
    losses = probe_streams(np.random.default_rng(21), 1, decay(-0.05, 4))[0]
    check, verdict = first_stop(losses)
    assert check + 1 <= 3 * SPEC.window
    assert verdict.reason == "worse" and verdict.slope_low > 0


def test_verdicts_before_the_first_full_window_make_no_claim():
    verdicts = feed(PlateauDetector(), probe_streams(np.random.default_rng(22), 1, decay(0.0, 1))[0])
    assert {v.reason for v in verdicts[:-1]} == {"collecting"}
    assert verdicts[-2].slope_per_step is None and verdicts[-2].p_equivalence is None
    assert verdicts[-1].slope_low < verdicts[-1].slope_per_step < verdicts[-1].slope_high


def test_the_slope_is_per_step_and_its_interval_covers_the_truth_90_percent_of_the_time():
    improvement = 0.03
    truth = np.log(1 - improvement) / (SPEC.window * STEPS_PER_CHECK)
    streams = probe_streams(np.random.default_rng(23), 400, decay(improvement, 1), shock=0.005)
    last = [feed(PlateauDetector(), losses)[-1] for losses in streams]
    assert np.mean([v.slope_per_step for v in last]) == pytest.approx(truth, rel=0.05)
    assert np.mean([v.slope_low <= truth <= v.slope_high for v in last]) >= 0.9
    # Passing the test and the interval's lower end are one statement.
    bound = -SPEC.relative_delta / (SPEC.window * STEPS_PER_CHECK)
    assert all((v.p_equivalence < SPEC.alpha) == (v.slope_low > bound) for v in last)


def test_the_unit_of_the_loss_and_of_the_steps_does_not_matter():
    losses = probe_streams(np.random.default_rng(24), 1, decay(0.01, 2))[0]
    plain = feed(PlateauDetector(), losses)[-1]
    scaled = feed(PlateauDetector(), 1000 * losses, first_step=5000, every=70)[-1]
    assert scaled.p_equivalence == pytest.approx(plain.p_equivalence, rel=1e-9)
    assert scaled.slope_per_step * 7 == pytest.approx(plain.slope_per_step, rel=1e-9)
    assert scaled.mean == pytest.approx(1000 * plain.mean)


def test_mean_and_variance_are_those_of_the_current_window():
    losses = probe_streams(np.random.default_rng(25), 1, decay(0.05, 2))[0]
    verdict = feed(PlateauDetector(), losses[: SPEC.window + 5])[-1]
    means = losses[SPEC.window : SPEC.window + 5].mean(axis=1)
    assert verdict.mean == pytest.approx(means.mean(), rel=1e-12)
    assert verdict.variance == pytest.approx(means.var(ddof=1), rel=1e-9)


def test_weights_that_never_move_are_a_plateau_without_a_division_by_zero():
    stop = first_stop(np.tile(10 ** np.linspace(0, -2, PAIRS), (3 * SPEC.window, 1)))
    assert stop is not None and stop[0] == 2 * SPEC.window - 1 and stop[1].reason == "flat"


def test_a_pass_is_forgotten_when_the_next_window_improves():
    curve = np.concatenate([decay(0.0, 1), decay(0.1, 1), decay(0.0, 1) * 0.9])
    verdicts = feed(PlateauDetector(), probe_streams(np.random.default_rng(26), 1, curve, shock=0.0005)[0])
    ends = verdicts[SPEC.window - 1 :: SPEC.window]
    assert [v.passes_in_a_row for v in ends] == [1, 0, 1]
    assert [v.reason for v in ends] == ["passing", "improving", "passing"]
    assert not any(v.plateau for v in verdicts)


@pytest.mark.parametrize("bound", [{"min_checks": 50}, {"min_steps": 490}])
def test_no_plateau_before_the_least_number_of_checks_and_of_steps_in_the_phase(bound):
    losses = np.ones((80, PAIRS))
    verdicts = feed(PlateauDetector(replace(SPEC, **bound)), losses, first_step=7000)
    first = next(i for i, v in enumerate(verdicts) if v.plateau)
    assert first == 49
    assert verdicts[first - 1].reason == "too early"


@pytest.mark.parametrize("cut", [1, 11, 12, 13, 30])
def test_resuming_from_json_gives_the_verdicts_of_an_uninterrupted_run(cut):
    losses = probe_streams(np.random.default_rng(27), 1, decay(0.004, 4))[0]
    whole = feed(PlateauDetector(), losses)
    before = PlateauDetector()
    feed(before, losses[:cut])
    after = PlateauDetector()
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert feed(after, losses[cut:], first_step=cut * STEPS_PER_CHECK) == whole[cut:]


# --- refusals


def test_a_state_of_other_settings_is_refused():
    state = PlateauDetector(PlateauSpec(window=8)).state_dict()
    with pytest.raises(TrainingError, match="window"):
        PlateauDetector().load_state_dict(state)


@pytest.mark.parametrize(
    ("step", "row", "words"),
    [
        (20, np.full(PAIRS, np.nan), "pair 0 at step 20"),
        (20, np.r_[np.ones(PAIRS - 1), 0.0], f"pair {PAIRS - 1} at step 20"),
        (20, np.ones(PAIRS + 1), "same pairs"),
        (10, np.ones(PAIRS), "steps must rise"),
    ],
)
def test_probe_losses_that_cannot_be_right_are_refused_and_leave_no_trace(step, row, words):
    detector = PlateauDetector()
    detector.update(10, np.ones(PAIRS))
    state = detector.state_dict()
    with pytest.raises(TrainingError, match=words):
        detector.update(step, row)
    assert detector.state_dict() == state


@pytest.mark.parametrize(
    "bad", [{"window": 3}, {"relative_delta": 0.0}, {"alpha": 0.7}, {"passes": 0}, {"min_steps": -1}]
)
def test_settings_out_of_range_are_named(bad):
    with pytest.raises(TrainingError, match=next(iter(bad))):
        PlateauSpec(**bad)


# --- Welford


def test_welford_keeps_its_digits_on_a_stream_far_from_zero():
    noise = np.random.default_rng(31).standard_normal(10_000)
    stream = 1e9 + noise
    running = Welford()
    for value in stream:
        running.update(float(value))
    assert running.mean == pytest.approx(stream.mean(), rel=1e-14)
    assert running.variance == pytest.approx(np.var(stream - 1e9, ddof=1), rel=1e-6)
    textbook = (np.sum(stream**2) - stream.sum() ** 2 / len(stream)) / (len(stream) - 1)
    assert abs(textbook - 1) > 0.05  # what it saves us from


@pytest.mark.parametrize("cut", [0, 1, 250, 1000])
def test_welford_parts_merge_into_the_whole(cut):
    stream = 1e6 + np.random.default_rng(32).standard_normal(1000)
    parts = [Welford(), Welford()]
    for i, value in enumerate(stream):
        parts[i >= cut].update(float(value))
    merged = parts[0].merge(parts[1])
    assert merged.count == 1000
    assert merged.mean == pytest.approx(stream.mean(), rel=1e-14)
    assert merged.variance == pytest.approx(stream.var(ddof=1), rel=1e-8)


def test_welford_of_nothing_and_of_one_number_has_no_variance():
    assert Welford().merge(Welford()).variance == 0.0
    one = Welford()
    one.update(5.0)
    assert (one.mean, one.variance, one.std) == (5.0, 0.0, 0.0)
