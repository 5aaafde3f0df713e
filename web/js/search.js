// What is known of one seed search, built up event by event. Pure.

/** Faces kept in memory and shown: the best ones. */
export const KEPT = 96

export function emptySearch() {
  return { done: 0, total: 0, pruned: 0, threshold: 0.18, results: [], locked: 0, histogram: [], edges: [], note: '', report: '', final: false }
}

/** The search after one more event; an event with `reset`, or the final summary, begins anew. */
export function mergeSearch(search, event) {
  const from = !search || event.reset || event.final ? emptySearch() : search
  const threshold = event.threshold ?? from.threshold
  const known = new Map(from.results.map((result) => [String(result.seed), result]))
  let locked = from.locked
  for (const result of event.results ?? []) {
    if (result?.seed === undefined) continue
    if (!known.has(String(result.seed)) && isLocked(result, threshold)) locked++
    known.set(String(result.seed), result)
  }
  return {
    done: event.done ?? from.done,
    total: event.total ?? from.total,
    pruned: event.pruned ?? from.pruned,
    threshold,
    results: bestFirst([...known.values()]).slice(0, KEPT),
    locked,
    histogram: event.histogram ?? from.histogram,
    edges: event.edges ?? from.edges,
    note: event.note || from.note,
    report: event.report ?? from.report,
    final: Boolean(event.final),
  }
}

/** Lowest drift first; faces that were not found come last; equal ones in the order of their seeds. */
export function bestFirst(results) {
  const rank = (result) => (isDetected(result) && Number.isFinite(result.drift) ? result.drift : Infinity)
  return [...results].sort((a, b) => {
    const difference = rank(a) - rank(b)
    return Number.isNaN(difference) || difference === 0 ? Number(a.seed) - Number(b.seed) : difference
  })
}

export function isDetected(result) {
  return result.detected !== false
}

export function isLocked(result, threshold) {
  return isDetected(result) && (result.locked ?? result.drift <= threshold)
}

/** The best result with a face; null for none yet. */
export function best(search) {
  const first = search.results[0]
  return first && isDetected(first) ? first : null
}

/** The histogram as bars { share 0..1 of the tallest, count, from, to, locked }. */
export function bars(search) {
  const tallest = Math.max(1, ...search.histogram)
  return search.histogram.map((count, index) => ({
    count,
    share: count / tallest,
    from: search.edges[index],
    to: search.edges[index + 1],
    locked: search.edges[index + 1] <= search.threshold + 1e-9,
  }))
}
