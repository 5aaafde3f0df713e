// What is known of one training run, built up event by event. Pure.
import { mergePoints } from './points.js'

export const LOCK = 0.18

export function emptyTraining() {
  return { step: 0, total: 0, phase: '', phases: [], loss: [], probe: [], drift: [], note: '', report: '', final: false }
}

/** The run after one more event; an event with `reset`, or the final summary, begins anew. */
export function mergeTraining(run, event) {
  const from = !run || event.reset || event.final ? emptyTraining() : run
  return {
    step: event.step ?? from.step,
    total: event.total ?? from.total,
    phase: event.phase ?? from.phase,
    phases: event.phases ?? from.phases,
    loss: mergePoints(from.loss, event.loss),
    probe: mergePoints(from.probe, event.probe),
    drift: mergePoints(from.drift, event.drift),
    note: event.note || from.note,
    report: event.report ?? from.report,
    final: Boolean(event.final),
  }
}

/** The point of lowest drift, [step, drift, detected share]; null before the first probe. */
export function bestDrift(run) {
  return run.drift.reduce((best, point) => (best === null || point[1] < best[1] ? point : best), null)
}

/** Steps that the x axis covers: the plan while it runs, what was run once it has ended. */
export function stepDomain(run) {
  const last = Math.max(run.step, ...[run.loss, run.probe, run.drift].map((series) => series.at(-1)?.[0] ?? 0))
  return [0, Math.max(1, run.final ? last : Math.max(last, run.total))]
}

/** Phases as { name, from, to } in steps, clipped to `end`; a phase that is still running reaches to the next or `end`. */
export function phaseBands(run, end) {
  const bands = run.phases.filter((phase) => Array.isArray(phase) && Number.isFinite(phase[1]))
  return bands
    .map(([name, first, last], index) => ({
      name: String(name),
      from: Math.max(0, first),
      to: Math.min(end, last ?? bands[index + 1]?.[1] ?? end),
    }))
    .filter((band) => band.to > band.from)
}
