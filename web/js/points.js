// Series of [step, value, ...] points: pure functions, no DOM. Points are sorted by step.

/** At most `limit` points: the first, the last, and of each bucket between them its lowest and its highest. */
export function thin(points, limit) {
  if (points.length <= limit || points.length < 4) return points
  const inner = points.slice(1, -1)
  const buckets = Math.max(1, Math.floor((limit - 2) / 2))
  const kept = [points[0]]
  for (let bucket = 0; bucket < buckets; bucket++) {
    const from = Math.floor((bucket * inner.length) / buckets)
    const to = Math.floor(((bucket + 1) * inner.length) / buckets)
    let low = from
    let high = from
    for (let index = from; index < to; index++) {
      if (inner[index][1] < inner[low][1]) low = index
      if (inner[index][1] > inner[high][1]) high = index
    }
    kept.push(inner[Math.min(low, high)])
    if (low !== high) kept.push(inner[Math.max(low, high)])
  }
  kept.push(points[points.length - 1])
  return kept
}

/** `old` with `fresh` added. A step that comes again (a resumed run) replaces what was drawn from there on. */
export function mergePoints(old, fresh, limit = 2000) {
  const added = (fresh ?? []).filter(isPoint).sort((a, b) => a[0] - b[0])
  if (!added.length) return old
  const kept = old.filter((point) => point[0] < added[0][0])
  const merged = kept.concat(added)
  return merged.length > limit ? thin(merged, Math.floor(limit / 2)) : merged
}

function isPoint(point) {
  return Array.isArray(point) && Number.isFinite(point[0]) && Number.isFinite(point[1])
}

/**
 * An exponential mean of the values, begun anew at each of `breaks` (first steps of phases): the losses of two
 * phases are different functions, so a mean across the border would mean nothing.
 */
export function smooth(points, breaks = [], span = Math.max(8, points.length / 25)) {
  const weight = 1 - 2 / (span + 1)
  const starts = [...breaks].sort((a, b) => a - b)
  const runs = []
  let run = null
  let mean = 0
  let norm = 0
  let next = 0
  for (const [step, value] of points) {
    let begins = run === null
    while (next < starts.length && step >= starts[next]) {
      begins = true
      next++
    }
    if (begins) {
      run = []
      runs.push(run)
      mean = 0
      norm = 0
    }
    mean = weight * mean + (1 - weight) * value
    norm = weight * norm + (1 - weight)
    run.push([step, mean / norm])
  }
  return runs
}

/** The value below which `share` (0..1) of `values` lie; null for none. */
export function percentile(values, share) {
  if (!values.length) return null
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(share * (sorted.length - 1))))]
}

/** The point whose step is nearest to `step`; null for none. */
export function nearest(points, step) {
  let best = null
  for (const point of points) {
    if (best === null || Math.abs(point[0] - step) < Math.abs(best[0] - step)) best = point
  }
  return best
}
