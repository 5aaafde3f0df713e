import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isSameGraph, nodeAt } from '../../web/js/graph.js'
import { newestResults } from '../../web/js/history.js'
import { createMemory } from '../../web/js/live.js'

const graphOf = (id, nodes) => ({ id, getNodeById: (wanted) => nodes[wanted] ?? null })
const node = (comfyClass, subgraph) => ({ comfyClass, subgraph })
const trainer = node('PhasedLoRATrainer')
const inner = node('DriftSeedSearch')
const root = graphOf('w1', { 5: trainer, 12: node('Group', graphOf('s', { 3: inner })) })
const prompt = { 5: { class_type: 'PhasedLoRATrainer' }, '12:3': { class_type: 'DriftSeedSearch' } }
const entry = (id, outputs, { workflowId = 'w1', graph = prompt } = {}) => ({
  prompt: [0, id, graph, workflowId ? { extra_pnginfo: { workflow: { id: workflowId } } } : {}], outputs,
})
const result = (mark) => ({ identity_lock: [{ kind: 'training', mark }] })

test('execution ids lead into subgraphs', () => {
  assert.equal(nodeAt(root, '5'), trainer)
  assert.equal(nodeAt(root, '12:3'), inner)
  assert.equal(nodeAt(root, '12:4'), null)
  assert.equal(nodeAt(root, '5:1'), null)
  assert.equal(nodeAt(null, '5'), null)
})

test('the newest entry of each node is found', () => {
  const found = newestResults({ a: entry('a', { 5: result(1), '12:3': result(2) }), b: entry('b', { 5: result(3) }) }, root)
  assert.deepEqual(new Map(found.map(([at, data]) => [at, data.mark])), new Map([[trainer, 3], [inner, 2]]))
})

test('another workflow with the same node number is left alone', () => {
  const other = entry('a', { 5: result(1) }, { workflowId: 'w2', graph: { 5: { class_type: 'KSampler' } } })
  assert.deepEqual(newestResults({ a: other }, root), [])
  assert.ok(!isSameGraph({ prompt: {}, workflowId: null }, root))
})

test('a job from the API has no workflow id, and is known by its nodes', () => {
  const found = newestResults({ a: entry('a', { 5: result(1) }, { workflowId: null }) }, root)
  assert.equal(found[0][1].mark, 1)
})

test('odd histories are survived', () => {
  assert.deepEqual(newestResults(null, root), [])
  assert.deepEqual(newestResults({ a: {}, b: { prompt: [], outputs: { 5: null } } }, root), [])
})

const jobs = (running, asked = []) => async (path) => {
  asked.push(path)
  return path === '/queue' ? { queue_running: running.map((one) => one.prompt) } : {}
}

test('live events find their node, add up, and ask the server once', async () => {
  const asked = []
  const memory = createMemory(jobs([entry('a')], asked))
  memory.started('a')
  await memory.take('5', { kind: 'training', reset: true, total: 9 }, () => root)
  const [at, state] = await memory.take('5', { kind: 'training', step: 4, loss: [[4, 1]] }, () => root)
  assert.equal(at, trainer)
  assert.equal(state.value.total, 9)
  assert.deepEqual(asked, ['/queue'])
})

test('events of a workflow that is not open are kept for when it is opened', async () => {
  const memory = createMemory(jobs([entry('a')]))
  const other = graphOf('w9', { 5: node('KSampler') })
  assert.equal(await memory.take('5', { kind: 'training', reset: true, total: 7 }, () => other), null)
  const seen = memory.seen().map(({ job, states }) => ({ job, states: new Map([...states].map(([id, state]) => [id, { ready: state }])) }))
  const [[at, data]] = newestResults({}, root, seen, memory.runningId)
  assert.equal(at, trainer)
  assert.equal(data.ready.value.total, 7)
})

test('a run that goes on wins over a finished one, and a finished one is taken from the history', () => {
  const seen = (id) => [{ job: { id, prompt, workflowId: 'w1' }, states: new Map([['5', { mark: 'live' }]]) }]
  const history = { a: entry('a', { 5: result('old') }) }
  assert.equal(newestResults(history, root, seen('b'), 'b')[0][1].mark, 'live')
  assert.equal(newestResults(history, root, seen('a'))[0][1].mark, 'old')
  assert.equal(newestResults(history, root, seen('gone'))[0][1].mark, 'old')
})

test('a tab that queued nothing asks anew when a run begins', async () => {
  const running = [entry('a')]
  const memory = createMemory(jobs(running))
  await memory.take('5', { kind: 'training', reset: true, total: 1 }, () => root)
  running[0] = entry('b')
  await memory.take('5', { kind: 'training', reset: true, total: 2 }, () => root)
  assert.deepEqual(memory.seen().map(({ job }) => job.id), ['a', 'b'])
})

test('a server that does not answer, an unknown kind and an unknown node do no harm', async () => {
  const memory = createMemory(async () => { throw new Error('gone') })
  const [at] = await memory.take('5', { kind: 'training', reset: true }, () => root)
  assert.equal(at, trainer)
  assert.equal(await memory.take('5', { kind: 'other' }, () => root), null)
  assert.equal(await memory.take('77', { kind: 'training' }, () => root), null)
})
