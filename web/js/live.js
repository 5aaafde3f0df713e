// What this page has seen of the runs: per job and node the state built up from events, so that a workflow that is left
// and opened again shows its run. Knows the server only through `ask(path)`, which gives parsed JSON.
import { isSameGraph, jobOf, nodeAt } from './graph.js'
import { mergeSearch } from './search.js'
import { mergeTraining } from './training.js'

/** Jobs remembered. */
const JOBS = 8

const MERGE = { training: mergeTraining, search: mergeSearch, drifts: (_, event) => event }

/** The state of a node after one more event or result; null for a kind that is not ours. */
export function merge(state, data) {
  const next = MERGE[data?.kind]
  return next ? { kind: data.kind, value: next(state?.kind === data.kind ? state.value : null, data) } : null
}

export function createMemory(ask) {
  const jobs = new Map()
  let runningId = null
  let isTold = false

  function keep(job) {
    if (!job) return null
    if (!jobs.has(job.id)) jobs.set(job.id, { job, states: new Map() })
    while (jobs.size > JOBS) jobs.delete(jobs.keys().next().value)
    return jobs.get(job.id)
  }

  /** The job with this id, or the one that runs now when `id` is null; asks the server once for each. */
  async function find(id) {
    if (id && jobs.has(id)) return jobs.get(id)
    const running = ((await ask('/queue'))?.queue_running ?? []).map(jobOf)
    const job = running.find((one) => one?.id === id) ?? (id ? null : running[0])
    if (job) return keep(job)
    return id ? keep(jobOf((await ask(`/history/${id}`))?.[id]?.prompt)) : null
  }

  return {
    get runningId() {
      return runningId
    },
    seen: () => [...jobs.values()],
    started(id) {
      runningId = id ?? null
      isTold = Boolean(id)
    },
    /** One event or result of node `nodeId`: [node, state] where it belongs to the open graph, else null. */
    async take(nodeId, data, root, jobId = null) {
      // Only the page that queued a job is told its id; a run's first event is the moment to ask anew.
      if (data.reset && !jobId && !isTold) runningId = null
      const known = await find(jobId ?? runningId).catch(() => null)
      if (known && !jobId) runningId = known.job.id
      const state = merge(known?.states.get(String(nodeId)), data)
      if (!state) return null
      known?.states.set(String(nodeId), state)
      const here = root()
      const node = nodeAt(here, nodeId)
      return node && (!known || isSameGraph(known.job, here)) ? [node, state] : null
    },
  }
}
