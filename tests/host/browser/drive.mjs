// Drives ComfyUI's own front end in headless Chromium. Reads one JSON request on stdin, prints one JSON answer.
//
// request: {url, playwright, chromium, shots, size: [w, h], settings: {id: value}, steps: [{do, ...}]}
// answer:  {results: [one for each step], errors: [what the page or the pack complained of], all: [every complaint]}
// A step that fails ends the run with exit code 1 and its reason in `failed`; what was seen until then is in the answer.
import { createRequire } from 'node:module'
import { mkdirSync } from 'node:fs'
import path from 'node:path'

const PACK = /identity_lock|identity-lock/i
const json = { 'Content-Type': 'application/json' }

// What a test may ask for, in order.
const steps = {
  // {graph, name}: open a workflow as the front end's own "open" does -> what is in it
  open: async (page, { graph, name }) => {
    await page.evaluate(async ([graph, name]) => {
      const { app } = window.comfyAPI.app
      await app.loadGraphData(graph, true, true, name ?? null)
    }, [graph, name])
    await page.waitForTimeout(800)
    return nodesOf(page)
  },
  // {changes: {"NodeType.widget": value}}: set widgets by hand
  set: (page, { changes }) =>
    page.evaluate((changes) => {
      const { app } = window.comfyAPI.app
      const missed = []
      for (const [place, value] of Object.entries(changes)) {
        const [type, name] = place.split('.')
        const widgets = app.graph.nodes.filter((n) => n.type === type || String(n.id) === type)
          .flatMap((n) => n.widgets ?? []).filter((w) => w.name === name)
        if (!widgets.length) missed.push(place)
        for (const widget of widgets) {
          widget.value = value
          widget.callback?.(value)
        }
      }
      return missed
    }, changes),
  // {timeout, watch: {type: name}}: press Run and wait until it is done, and count how often the widgets of these node
  // types change; when one has moved a few times, a screenshot is kept under its name
  run: async (page, { timeout = 300, watch = {} }) => {
    const refused = new Promise((resolve) => {
      const listen = async (answer) => {
        if (!/\/prompt$/.test(new URL(answer.url()).pathname) || answer.request().method() !== 'POST') return
        page.off('response', listen)
        if (answer.status() >= 400) resolve(await answer.text())
      }
      page.on('response', listen)
    })
    await page.evaluate(() => {
      const { api } = window.comfyAPI.api
      window.identityLockRun = new Promise((resolve) => {
        for (const kind of ['execution_success', 'execution_error', 'execution_interrupted']) {
          api.addEventListener(kind, ({ detail }) => resolve({ kind, detail }), { once: true })
        }
      })
      const { app } = window.comfyAPI.app
      app.queuePrompt(0, 1)
    })
    const moved = Object.fromEntries(Object.keys(watch).map((type) => [type, []]))
    let over = null
    const done = page.evaluate(() => window.identityLockRun).then((end) => (over = end))
    refused.then((body) => (over = { kind: 'refused', detail: body }))
    const deadline = Date.now() + timeout * 1000
    while (!over && Date.now() < deadline) {
      for (const [type, name] of Object.entries(watch)) {
        const look = JSON.stringify(await widgetsOf(page, type))
        if (look === moved[type].at(-1)) continue
        moved[type].push(look)
        if (moved[type].length === ENOUGH_MOVED) await shoot(page, name)
      }
      await Promise.race([done, refused, page.waitForTimeout(250)])
    }
    if (!over) throw new Error(`the run is not done after ${timeout} s`)
    await page.waitForTimeout(700)
    const looks = Object.fromEntries(Object.entries(moved).map(([type, all]) => [type, all.length]))
    return { kind: over.kind, detail: over.kind === 'execution_success' ? null : over.detail, looks }
  },
  // {type}: the DOM widgets of the nodes of a type, as a reader sees them
  widgets: (page, { type }) => widgetsOf(page, type),
  // {type, timeout}: wait until a node of the type shows a picture, a drawing or text in a DOM widget
  shows: async (page, { type, timeout = 20 }) => {
    const deadline = Date.now() + timeout * 1000
    for (;;) {
      const widgets = await widgetsOf(page, type)
      if (widgets.some((one) => one.filled) || Date.now() > deadline) return widgets
      await page.waitForTimeout(250)
    }
  },
  nodes: (page) => nodesOf(page),
  reload: async (page) => {
    await page.waitForTimeout(2500) // the front end keeps the open workflow a moment after the last change
    await page.reload()
    await ready(page)
    return nodesOf(page)
  },
  // {command}: one of the front end's own commands
  command: async (page, { command }) => {
    await page.evaluate((id) => window.comfyAPI.app.app.extensionManager.command.execute(id), command)
    await page.waitForTimeout(1500)
  },
  // {text, within}: is this text to be seen on the page?
  sees: async (page, { text }) => page.getByText(text, { exact: false }).first().isVisible(),
  type: async (page, { selector, text }) => {
    await page.locator(selector).last().fill(text)
    await page.waitForTimeout(1000)
  },
  // {selector, nth}: click
  click: async (page, { selector, nth = 0 }) => page.locator(selector).nth(nth).click({ timeout: 5000 }),
  text: (page, { selector = 'body' }) => page.locator(selector).first().innerText(),
  keys: async (page, { keys }) => page.keyboard.press(keys),
  clipboard: (page) => page.evaluate(() => navigator.clipboard.readText()),
  evaluate: (page, { code }) => page.evaluate(`(async () => { ${code} })()`),
  wait: (page, { seconds }) => page.waitForTimeout(seconds * 1000),
  // {name, fit, type}: a screenshot; fit shows the whole graph, `type` brings the first node of that type close
  shot: async (page, { name, fit = true, type = null }) => {
    await page.evaluate(([fit, type]) => {
      const { app } = window.comfyAPI.app
      const node = type && app.graph.nodes.find((one) => one.type === type)
      if (node) {
        const scale = Math.min((window.innerWidth - 120) / node.size[0], (window.innerHeight - 160) / node.size[1], 1.5)
        app.canvas.ds.scale = scale
        app.canvas.ds.offset[0] = -node.pos[0] + (window.innerWidth / scale - node.size[0]) / 2
        app.canvas.ds.offset[1] = -node.pos[1] + (window.innerHeight / scale - node.size[1]) / 2
        app.canvas.setDirty(true, true)
      } else if (fit) {
        const bounds = [Infinity, Infinity, -Infinity, -Infinity]
        for (const one of [...app.graph.nodes, ...(app.graph.groups ?? [])]) {
          bounds[0] = Math.min(bounds[0], one.pos[0])
          bounds[1] = Math.min(bounds[1], one.pos[1] - 40)
          bounds[2] = Math.max(bounds[2], one.pos[0] + one.size[0])
          bounds[3] = Math.max(bounds[3], one.pos[1] + one.size[1])
        }
        const [w, h] = [bounds[2] - bounds[0], bounds[3] - bounds[1]]
        const scale = Math.min((window.innerWidth - 160) / w, (window.innerHeight - 140) / h, 1.2)
        app.canvas.ds.scale = scale
        app.canvas.ds.offset[0] = -bounds[0] + (window.innerWidth / scale - w) / 2
        app.canvas.ds.offset[1] = -bounds[1] + (window.innerHeight / scale - h) / 2
        app.canvas.setDirty(true, true)
      }
    }, [fit, type])
    await page.waitForTimeout(900)
    return shoot(page, name)
  },
}

const request = JSON.parse(await readStdin())
const { chromium } = createRequire(import.meta.url)(request.playwright)
const ENOUGH_MOVED = 4
const complaints = []
const results = []

const browser = await chromium.launch({
  executablePath: request.chromium,
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
})
let failed = ''
try {
  const [width, height] = request.size ?? [1600, 1000]
  const context = await browser.newContext({ viewport: { width, height } })
  await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: request.url })
  const page = await context.newPage()
  await page.route('**/*', (route) =>
    route.request().url().startsWith(request.url) || /^(data|blob):/.test(route.request().url())
      ? route.continue()
      : route.abort(),
  )
  page.on('console', (message) => {
    if (message.type() !== 'error') return
    complain('console', message.text(), message.location().url)
  })
  page.on('pageerror', (error) => complain('page', error.message, error.stack ?? ''))
  page.on('response', (answer) => {
    if (answer.status() >= 400 && PACK.test(answer.url())) complain('http', `${answer.status()}`, answer.url())
  })
  for (const [id, value] of Object.entries({ 'Comfy.TutorialCompleted': true, ...request.settings })) {
    await context.request.post(`${request.url}/api/settings/${id}`, { data: JSON.stringify(value), headers: json })
  }
  await openPage(page)
  for (const step of request.steps) {
    const act = steps[step.do]
    if (!act) throw new Error(`no such step: ${step.do}`)
    results.push((await act(page, step)) ?? null)
  }
} catch (error) {
  failed = `step ${results.length} (${request.steps[results.length]?.do ?? 'start'}): ${error.stack ?? error}`
} finally {
  await browser.close()
}
const errors = complaints.filter((one) => PACK.test(one.text) || PACK.test(one.where)).map(told)
console.log(JSON.stringify({ results, errors, all: complaints.map(told), failed }))
process.exit(failed ? 1 : 0)

async function openPage(page) {
  await page.goto(request.url)
  await ready(page)
}

async function ready(page) {
  await page.waitForFunction(() => window.comfyAPI?.app?.app?.graph && window.comfyAPI.app.app.canvas, null, {
    timeout: 120000,
  })
  await page.waitForFunction(() => !document.querySelector('#vue-app .p-progressspinner'), null, { timeout: 60000 })
  await page.waitForTimeout(2000)
}

// Every node, those inside subgraphs too, and whether the front end knows its type.
function nodesOf(page) {
  return page.evaluate(() => {
    const { app } = window.comfyAPI.app
    const known = window.LiteGraph.registered_node_types
    const walk = (graph) => graph.nodes.flatMap((node) => [node, ...(node.subgraph ? walk(node.subgraph) : [])])
    return walk(app.graph).map((node) => ({
      id: String(node.id),
      type: node.type,
      known: Boolean(node.subgraph) || node.type in known,
      red: Boolean(node.has_errors),
      widgets: (node.widgets ?? []).map((widget) => widget.name),
    }))
  })
}

// Each DOM widget of the nodes of a type: its text, and marks of its drawings that change when they do.
function widgetsOf(page, type) {
  return page.evaluate((type) => {
    const { app } = window.comfyAPI.app
    const mark = (text) => {
      let sum = 7
      for (let i = 0; i < text.length; i += 1) sum = (sum * 31 + text.charCodeAt(i)) | 0
      return sum
    }
    const walk = (graph) => graph.nodes.flatMap((node) => [node, ...(node.subgraph ? walk(node.subgraph) : [])])
    return walk(app.graph)
      .filter((node) => node.type === type)
      .flatMap((node) => (node.widgets ?? []).filter((w) => w.element && w.element.tagName !== 'TEXTAREA')
        .map((widget) => {
          const box = widget.element.getBoundingClientRect()
          const drawings = [...widget.element.querySelectorAll('canvas')]
          const own = widget.element.tagName === 'CANVAS' ? [widget.element] : []
          const pictures = [...widget.element.querySelectorAll('img')]
          const lines = [...widget.element.querySelectorAll('svg path, svg polyline, svg circle, svg rect')]
          const inked = (canvas) => {
            const area = canvas.width && canvas.getContext('2d')?.getImageData(0, 0, canvas.width, canvas.height).data
            return Boolean(area) && new Set(new Uint32Array(area.buffer)).size > 2
          }
          const text = widget.element.innerText?.trim() ?? ''
          return {
            node: String(node.id),
            name: widget.name,
            text,
            onPage: widget.element.isConnected && box.width > 0 && box.height > 0,
            pictures: pictures.filter((one) => one.complete && one.naturalWidth > 1).length,
            drawings: [...own, ...drawings].map((canvas) => mark(canvas.toDataURL())),
            lines: lines.map((one) => mark(one.outerHTML)).slice(0, 200),
            filled: pictures.some((one) => one.naturalWidth > 1) || [...own, ...drawings].some(inked) || lines.length > 6,
          }
        }))
  }, type)
}

async function shoot(page, name) {
  mkdirSync(request.shots, { recursive: true })
  const file = path.join(request.shots, `${name}.png`)
  await page.screenshot({ path: file })
  return file
}

function complain(kind, text, where) {
  complaints.push({ kind, text, where })
}

function told({ kind, text, where }) {
  return `${kind}: ${text} (${where.slice(0, 300)})`
}

function readStdin() {
  return new Promise((resolve) => {
    const parts = []
    process.stdin.on('data', (part) => parts.push(part))
    process.stdin.on('end', () => resolve(Buffer.concat(parts).toString('utf8')))
  })
}
