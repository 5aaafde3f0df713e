// Finds, in the server's history, the newest result of each of our nodes in the open workflow. Pure.
import { classOf, isSameGraph, jobOf, nodeAt } from './graph.js'

/** How far back to look: a history entry carries its whole workflow, so this bounds the download. */
export const LOOK_BACK = 16

export const KEY = 'identity_lock'

/** The data that a node put into its UI output; null when there is none. */
export function resultIn(output) {
  const data = output?.[KEY]
  const first = Array.isArray(data) ? data[0] : data
  return first && typeof first === 'object' ? first : null
}

/**
 * [[node, data], ...]: the newest result of each node in the open workflow. `history` is the answer of /history, oldest
 * first. `seen` is what live.js saw in this page, [{ job, states: Map(execution id -> data) }, ...], oldest first: it has
 * what the history has not, a run that goes on (`runningId`), or one that was stopped.
 */
export function newestResults(history, root, seen = [], runningId = null) {
  const ids = Object.keys(history ?? {})
  const finished = ids.map((id, order) => {
    const entry = history[id]
    const results = Object.entries(entry?.outputs ?? {}).map(([node, output]) => [node, resultIn(output)])
    return { order, job: jobOf(entry?.prompt), results: results.filter(([, data]) => data) }
  })
  const live = seen.map(({ job, states }) => {
    const order = job.id === runningId ? Infinity : ids.indexOf(job.id)
    // What a finished node left in the history is complete; what this page saw may have gaps.
    const results = [...states].filter(([node]) => !resultIn(history?.[job.id]?.outputs?.[node]))
    return { order, job, results }
  })
  const found = new Map()
  for (const { order, job, results } of [...finished, ...live]) {
    if (!results.length || !isSameGraph(job, root)) continue
    for (const [id, data] of results) {
      const node = nodeAt(root, id)
      if (!node || classOf(node) !== job.prompt[id]?.class_type) continue
      if (!found.has(node) || found.get(node).order <= order) found.set(node, { order, data })
    }
  }
  return [...found].map(([node, { data }]) => [node, data])
}
