// Between the host's execution ids ("7", or "12:3" for node 3 in subgraph node 12) and the nodes on the canvas. Pure.

/** The node of an execution id, from the root graph down; null when the open workflow has no such node. */
export function nodeAt(root, executionId) {
  let graph = root
  let node = null
  for (const part of String(executionId).split(':')) {
    node = graph?.getNodeById?.(/^-?\d+$/.test(part) ? Number(part) : part) ?? null
    if (!node) return null
    graph = node.subgraph
  }
  return node
}

/** The id of a node's class, as the server knows it. */
export function classOf(node) {
  return node?.comfyClass ?? node?.constructor?.comfyClass ?? node?.type
}

/**
 * Whether a queued job was made from the graph that is open now: the same workflow id, or (a job from the API, a copy,
 * a file without an id) each of its nodes is here with the same class. Node numbers alone repeat from workflow to workflow.
 */
export function isSameGraph(job, root) {
  if (!job || !root) return false
  if (job.workflowId && root.id && job.workflowId === root.id) return true
  const entries = Object.entries(job.prompt ?? {})
  return entries.length > 0 && entries.every(([id, entry]) => classOf(nodeAt(root, id)) === entry?.class_type)
}

/** A job from the tuple that the server's queue and history hold: [number, prompt_id, prompt, extra_data, ...]. */
export function jobOf(tuple) {
  if (!Array.isArray(tuple)) return null
  return { id: tuple[1], prompt: tuple[2] ?? {}, workflowId: tuple[3]?.extra_pnginfo?.workflow?.id ?? null }
}
