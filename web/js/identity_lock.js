// The entry: registers the extension, listens to the runs, and brings the views back after a reload.
import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'
import { make } from './dom.js'
import { classOf } from './graph.js'
import { KEY, LOOK_BACK, newestResults, resultIn } from './history.js'
import { createMemory, merge } from './live.js'
import { createPanels } from './panels.js'
import { wordsFrom } from './words.js'

const root = () => app.rootGraph ?? app.graph
const memory = createMemory(ask)
let words = wordsFrom({}, 'en')
let restoring = 0

const panels = createPanels({
  word: (key, values) => words(key, values),
  urlOf: ({ filename, subfolder = '', type = 'output' }) =>
    api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`),
  redraw: () => app.graph?.setDirtyCanvas?.(true, true),
  onWheel: passWheel,
  onPointer: passMiddleButton,
})

app.registerExtension({
  name: 'identity_lock.views',
  async init() {
    document.head.append(make('link', { rel: 'stylesheet', href: new URL('../css/identity_lock.css', import.meta.url).href }))
    const language = app.extensionManager?.setting?.get?.('Comfy.Locale') ?? navigator.language
    words = wordsFrom(await ask('/i18n').catch(() => ({})), language)
  },
  async setup() {
    listen(KEY, (data) => take(data.node, data))
    listen('executed', (event) => {
      const data = resultIn(event.output)
      if (data) take(event.node, { ...data, final: true }, event.prompt_id)
    })
    listen('execution_start', (event) => memory.started(event.prompt_id))
    for (const name of ['execution_success', 'execution_error', 'execution_interrupted']) {
      listen(name, () => memory.started(null))
    }
    restore()
  },
  nodeCreated(node) {
    panels.prepare(node, classOf(node))
  },
  afterConfigureGraph() {
    restore()
  },
})

function listen(name, act) {
  api.addEventListener(name, (event) => {
    if (event.detail && typeof event.detail === 'object') act(event.detail)
  })
}

// Events are taken one after the other: the first one of a run waits for the server to say which job it belongs to.
let last = Promise.resolve()
function take(nodeId, data, jobId = null) {
  last = last
    .then(async () => {
      const shown = await memory.take(nodeId, data, root, jobId)
      if (shown) panels.show(...shown)
    })
    .catch((error) => console.warn('Identity Lock: a live result could not be shown.', error))
}

/** Shows the newest results of the workflow that is open, from the server's history and from this page's memory. */
async function restore() {
  const turn = ++restoring
  try {
    if (!hasNodes()) return
    const history = await ask(`/history?max_items=${LOOK_BACK}`)
    // Another workflow was opened meanwhile: that call will do it.
    if (turn !== restoring) return
    const seen = memory.seen().map(({ job, states }) => ({
      job,
      states: new Map([...states].map(([id, state]) => [id, { ready: state }])),
    }))
    for (const [node, data] of newestResults(history, root(), seen, memory.runningId)) {
      const state = data.ready ?? merge(null, { ...data, final: true })
      if (state) panels.show(node, state)
    }
  } catch (error) {
    console.warn('Identity Lock: earlier results could not be shown.', error)
  }
}

function hasNodes() {
  const graph = root()
  return Boolean(graph?.nodes?.length || graph?._nodes?.length)
}

async function ask(path) {
  const answer = await api.fetchApi(path)
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`)
  return answer.json()
}

/** In the canvas renderer a DOM widget lies over the canvas: wheel turns that nothing here scrolls zoom the canvas. */
function passWheel(event) {
  const canvas = app.canvas?.canvas
  if (!canvas || !event.currentTarget.closest('.dom-widget')) return
  const scrolls = event.target.closest('[data-capture-wheel]')
  const room = scrolls && scrolls.scrollHeight > scrolls.clientHeight + 1
  if (room && !event.ctrlKey && scrolls.contains(document.activeElement)) return
  event.preventDefault()
  canvas.dispatchEvent(new WheelEvent('wheel', event))
}

/** There too, a drag with the middle button pans, as it does over the host's own text fields. */
function passMiddleButton(event) {
  const held = event.type === 'pointermove' ? (event.buttons & 4) === 4 : event.button === 1
  const pass = { pointerdown: 'processMouseDown', pointermove: 'processMouseMove', pointerup: 'processMouseUp' }[event.type]
  if (held && event.currentTarget.closest('.dom-widget')) app.canvas?.[pass]?.(event)
}
