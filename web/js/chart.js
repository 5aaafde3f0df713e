// The training chart: loss and its mean, the probe, and drift with the lock line, above each other on one step axis.
import { make, makeReport, setText } from './dom.js'
import { nearest, percentile, smooth } from './points.js'
import { driftDomain, driftText, fitName, linear, lossDomain, niceTicks, shortNumber, stepText } from './scales.js'
import { followTheme } from './theme.js'
import { bestDrift, LOCK, phaseBands, stepDomain } from './training.js'

const FONT = '10px Inter, system-ui, sans-serif'
const LEFT = 36
const RIGHT = 8
const TOP = 15
const BOTTOM = 15
const GAP = 11

/** A view { element, minHeight, show(run), attach(), detach() } of the run that training.js describes. */
export function createChart(word) {
  const canvas = make('canvas', { className: 'il-canvas', role: 'img' })
  const state = make('span', { className: 'il-strong' })
  const score = make('span', { className: 'il-number' })
  const legend = make('div', { className: 'il-legend' })
  for (const [key, name] of [['loss', 'loss'], ['mean', 'mean'], ['probe', 'probe'], ['drift', 'drift']]) {
    legend.append(make('span', { className: `il-key il-key-${key}` }, word(name)))
  }
  const idle = make('div', { className: 'il-idle' }, word('chart_idle'))
  const note = make('div', { className: 'il-note', hidden: true })
  const report = makeReport(word)
  const frame = make('div', { className: 'il-plot' }, canvas, idle)
  const header = make('div', { className: 'il-header', hidden: true }, state, score)
  const element = make('div', { className: 'identity-lock il-chart' }, header, legend, frame, note, report.element)
  legend.hidden = true

  let run = null
  let pointed = null
  let scheduled = 0
  let release = null

  const redraw = () => {
    if (!scheduled) scheduled = requestAnimationFrame(() => ((scheduled = 0), draw()))
  }

  function draw() {
    const { clientWidth: width, clientHeight: height } = frame
    if (!run || width < 40 || height < 40) return
    const sharp = Math.min(3, Math.max(2, window.devicePixelRatio || 1))
    if (canvas.width !== Math.round(width * sharp)) canvas.width = Math.round(width * sharp)
    if (canvas.height !== Math.round(height * sharp)) canvas.height = Math.round(height * sharp)
    const pen = canvas.getContext('2d')
    pen.setTransform(sharp, 0, 0, sharp, 0, 0)
    pen.clearRect(0, 0, width, height)
    pen.font = FONT
    paint(pen, width, height, run, colours(element), pointed)
  }

  function describe() {
    const found = bestDrift(run)
    const last = run.drift.at(-1)
    const at = pointed === null ? null : nearest(run.loss.length ? run.loss : run.drift, pointed)
    if (at) {
      const probe = nearest(run.probe, at[0])
      const drift = nearest(run.drift, at[0])
      setText(state, word('step_at', { step: stepText(at[0]) }))
      setText(score, [
        run.loss.length ? `${word('loss')} ${shortNumber(at[1])}` : '',
        probe ? `${word('probe')} ${shortNumber(probe[1])}` : '',
        drift ? word('drift_now', { drift: driftText(drift[1]) }) : '',
      ].filter(Boolean).join(' · '))
      return
    }
    const step = word('step_of', { step: stepText(run.step), total: stepText(run.total) })
    setText(state, run.phase ? `${run.phase} · ${step}` : step)
    const parts = []
    if (last && last !== found && !run.final) parts.push(word('drift_now', { drift: driftText(last[1]) }))
    if (found) parts.push(word('drift_best', { drift: driftText(found[1]), step: stepText(found[0]) }))
    setText(score, parts.join(' · '))
    score.classList.toggle('il-locked', Boolean(found && found[1] <= LOCK))
    canvas.setAttribute('aria-label', word('chart_label', {
      phase: run.phase, step: run.step, total: run.total, drift: driftText(found?.[1]),
    }))
  }

  canvas.addEventListener('pointermove', (event) => {
    if (!run) return
    // offsetX is in the element's own pixels, whatever the zoom of the canvas around it.
    const [first, last] = stepDomain(run)
    pointed = linear([LEFT, canvas.clientWidth - RIGHT], [first, last])(event.offsetX)
    describe()
    redraw()
  })
  canvas.addEventListener('pointerleave', () => {
    pointed = null
    if (run) describe()
    redraw()
  })

  return {
    element,
    minHeight: 270,
    show(next) {
      run = next
      idle.hidden = true
      header.hidden = legend.hidden = false
      note.hidden = !run.note
      note.title = run.note
      setText(note, run.note)
      report.show(run.report)
      describe()
      redraw()
    },
    attach() {
      release ??= followTheme(element, redraw)
    },
    detach() {
      release?.()
      release = null
      cancelAnimationFrame(scheduled)
      scheduled = 0
    },
  }
}

function colours(element) {
  const style = getComputedStyle(element)
  const read = (name) => style.getPropertyValue(name).trim()
  return {
    text: style.color,
    quiet: read('--il-quiet'),
    line: read('--il-grid'),
    band: read('--il-band'),
    loss: read('--il-loss'),
    mean: read('--il-mean'),
    probe: read('--il-probe'),
    drift: read('--il-drift'),
    lock: read('--il-lock'),
    ground: style.backgroundColor,
  }
}

function paint(pen, width, height, run, ink, pointed) {
  const [first, last] = stepDomain(run)
  const x = linear([first, last], [LEFT, width - RIGHT])
  const [losses, probes, drifts] = panels(TOP, height - BOTTOM, [0.36, 0.27, 0.37])
  const bands = phaseBands(run, last)

  paintBands(pen, bands, x, height - BOTTOM, ink)
  paintSteps(pen, first, last, x, width, height, ink)

  // Loss and probe have a panel each: the losses of two phases are different functions, the probe is one throughout.
  const means = smooth(run.loss, bands.map((band) => band.from))
  const raw = run.loss.map((point) => point[1])
  const calm = means.flat().map((point) => point[1])
  const yLoss = paintAxis(pen, losses, domainOf([...calm, percentile(raw, 0.02), percentile(raw, 0.98)]), width, ink)
  inside(pen, x, first, last, losses, 0, () => {
    stroke(pen, run.loss, x, yLoss, ink.loss, 1)
    means.forEach((series) => stroke(pen, series, x, yLoss, ink.mean, 1.75))
  })

  const yProbe = paintAxis(pen, probes, domainOf(run.probe.map((point) => point[1])), width, ink)
  inside(pen, x, first, last, probes, 4, () => plot(pen, run.probe, x, yProbe, ink.probe, ink.ground))

  const range = driftDomain(run.drift.map((point) => point[1]), LOCK)
  const yDrift = paintAxis(pen, drifts, range, width, ink, LOCK)
  paintLock(pen, yDrift(LOCK), width, ink)
  inside(pen, x, first, last, drifts, 4, () => {
    plot(pen, run.drift, x, yDrift, ink.drift, ink.ground, (point) => (point[2] ?? 1) >= 1)
  })

  if (pointed !== null && pointed >= first && pointed <= last) {
    pen.fillStyle = ink.quiet
    pen.fillRect(Math.round(x(pointed)), TOP, 1, height - TOP - BOTTOM)
  }
}

function paintBands(pen, bands, x, bottom, ink) {
  pen.textBaseline = 'alphabetic'
  pen.textAlign = 'left'
  bands.forEach((band, index) => {
    const from = x(band.from)
    const to = x(band.to)
    if (index % 2 === 0) {
      pen.fillStyle = ink.band
      pen.fillRect(from, 0, to - from, bottom)
    }
    pen.fillStyle = ink.quiet
    pen.fillText(fitName(band.name, to - from - 6, (text) => pen.measureText(text).width), from + 3, TOP - 5)
  })
}

function paintSteps(pen, first, last, x, width, height, ink) {
  pen.fillStyle = ink.quiet
  pen.textBaseline = 'alphabetic'
  for (const tick of niceTicks(first, last, Math.max(2, Math.floor(width / 90))).filter(Number.isInteger)) {
    const half = pen.measureText(stepText(tick)).width / 2
    pen.textAlign = 'center'
    pen.fillText(stepText(tick), Math.min(x(tick), width - half - 1), height - 3)
  }
}

/** `shares` of the height between `top` and `bottom`, one below the other with a gap: [{ top, bottom }, ...]. */
function panels(top, bottom, shares) {
  const room = bottom - top - GAP * (shares.length - 1)
  let at = top
  return shares.map((share) => {
    const panel = { top: at, bottom: at + share * room }
    at = panel.bottom + GAP
    return panel
  })
}

function domainOf(values) {
  const known = values.filter(Number.isFinite)
  return known.length ? lossDomain(Math.min(...known), Math.max(...known)) : [0, 1]
}

/** Grid lines and their numbers, none of them on top of the one at `taken`; returns the scale. */
function paintAxis(pen, { top, bottom }, domain, width, ink, taken = null) {
  const y = linear(domain, [bottom, top])
  pen.textAlign = 'right'
  pen.textBaseline = 'middle'
  const count = bottom - top > 50 ? 3 : 2
  const few = niceTicks(...domain, count)
  for (const tick of few.length > 1 ? few : niceTicks(...domain, 2 * count)) {
    if (taken !== null && Math.abs(y(tick) - y(taken)) < 10) continue
    pen.fillStyle = ink.line
    pen.fillRect(LEFT, Math.round(y(tick)), width - LEFT - RIGHT, 1)
    pen.fillStyle = ink.quiet
    pen.fillText(shortNumber(tick), LEFT - 5, y(tick))
  }
  return y
}

function paintLock(pen, y, width, ink) {
  pen.strokeStyle = ink.lock
  pen.lineWidth = 1
  pen.setLineDash([4, 3])
  pen.beginPath()
  pen.moveTo(LEFT, Math.round(y) + 0.5)
  pen.lineTo(width - RIGHT, Math.round(y) + 0.5)
  pen.stroke()
  pen.setLineDash([])
  pen.fillStyle = ink.lock
  pen.textAlign = 'right'
  pen.textBaseline = 'middle'
  pen.fillText(String(LOCK), LEFT - 5, y)
}

function inside(pen, x, first, last, { top, bottom }, spill, paintIt) {
  pen.save()
  pen.beginPath()
  pen.rect(x(first) - spill, top - spill, x(last) - x(first) + 2 * spill, bottom - top + 2 * spill)
  pen.clip()
  paintIt()
  pen.restore()
}

/** A line, with dots where there is room for them. */
function plot(pen, points, x, y, colour, ground, isFull) {
  stroke(pen, points, x, y, colour, 1.5)
  if (points.length <= 32) dots(pen, points, x, y, colour, ground, isFull)
}

function stroke(pen, points, x, y, colour, weight) {
  if (points.length < 2) return
  pen.strokeStyle = colour
  pen.lineWidth = weight
  pen.lineJoin = 'round'
  pen.beginPath()
  points.forEach(([step, value], index) => (index ? pen.lineTo(x(step), y(value)) : pen.moveTo(x(step), y(value))))
  pen.stroke()
}

/** Hollow where `isFull` says no: a probe in which not every face was found. */
function dots(pen, points, x, y, colour, ground, isFull = () => true) {
  pen.lineWidth = 1.25
  pen.strokeStyle = colour
  for (const point of points) {
    pen.beginPath()
    pen.arc(x(point[0]), y(point[1]), 2, 0, 2 * Math.PI)
    pen.fillStyle = isFull(point) ? colour : ground
    pen.fill()
    pen.stroke()
  }
}
