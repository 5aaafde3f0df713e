// The contact sheet of a seed search: faces, best first; a click copies the seed.
import { copyText, make, makeReport, setText } from './dom.js'
import { driftText } from './scales.js'
import { bars, best, isDetected, isLocked } from './search.js'
import { followTheme } from './theme.js'

const STEPS = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: (row) => row, ArrowUp: (row) => -row }

/** A view { element, minHeight, show(search), attach(), detach() }; `urlOf(file)` gives a picture's address. */
export function createSheet(word, urlOf) {
  const count = make('span', { className: 'il-strong il-number' })
  const rest = make('span')
  const top = make('span')
  const summary = make('span', { className: 'il-number' }, rest, top)
  const bar = make('span', { className: 'il-bar-fill' })
  const progress = make('div', { className: 'il-bar', role: 'progressbar', 'aria-valuemin': '0' }, bar)
  const histogram = make('div', { className: 'il-histogram', role: 'img', hidden: true })
  const grid = make('div', {
    className: 'il-grid', role: 'group', 'aria-label': word('sheet_label'), 'data-capture-wheel': 'true',
  })
  const idle = make('div', { className: 'il-idle' }, word('sheet_idle'))
  const said = make('div', { className: 'il-said', role: 'status', 'aria-live': 'polite' })
  const note = make('div', { className: 'il-note', hidden: true })
  const report = makeReport(word)
  const header = make('div', { className: 'il-header', hidden: true }, count, summary)
  const body = make('div', { className: 'il-body' }, grid, idle, said)
  const element = make('div', { className: 'identity-lock il-sheet' }, header, progress, histogram, body, note, report.element)
  progress.hidden = true

  const faces = new Map()
  let release = null
  let silence = 0

  function say(text) {
    said.textContent = text
    said.classList.add('il-visible')
    clearTimeout(silence)
    silence = setTimeout(() => said.classList.remove('il-visible'), 2500)
  }

  grid.addEventListener('click', async (event) => {
    const seed = event.target.closest('.il-face')?.dataset.seed
    if (seed === undefined) return
    say(word((await copyText(seed)) ? 'copied' : 'copy_failed', { seed }))
  })

  // One tab stop for the whole sheet; arrows move in it. The host has shortcuts on plain keys, so ours stay here.
  grid.addEventListener('keydown', (event) => {
    const all = [...grid.children]
    const at = all.indexOf(document.activeElement)
    if (at < 0) return
    const row = getComputedStyle(grid).gridTemplateColumns.split(' ').length
    const to = { Home: 0, End: all.length - 1 }[event.key] ?? (STEPS[event.key] ? at + STEPS[event.key](row) : null)
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) return
    if (to === null && event.key !== 'Enter' && event.key !== ' ') return
    event.stopPropagation()
    if (to === null) return
    event.preventDefault()
    focusFace(all[Math.max(0, Math.min(all.length - 1, to))])
  })
  grid.addEventListener('focusin', (event) => makeStop(event.target.closest('.il-face')))

  function focusFace(face) {
    makeStop(face)
    face.focus({ preventScroll: true })
    face.scrollIntoView({ block: 'nearest' })
  }

  function makeStop(face) {
    if (!face) return
    for (const other of grid.children) other.tabIndex = other === face ? 0 : -1
  }

  function showFaces(search) {
    const held = grid.contains(document.activeElement) ? document.activeElement : null
    const wanted = search.results.map((result) => {
      const seed = String(result.seed)
      const face = faces.get(seed) ?? makeFace(seed)
      faces.set(seed, face)
      face.update(result, isLocked(result, search.threshold))
      return face.element
    })
    const keep = new Set(search.results.map((result) => String(result.seed)))
    for (const seed of faces.keys()) if (!keep.has(seed)) faces.delete(seed)
    if (wanted.some((face, index) => grid.children[index] !== face) || grid.children.length !== wanted.length) {
      grid.replaceChildren(...wanted)
      if (held?.isConnected) held.focus({ preventScroll: true })
    }
    if (!wanted.some((face) => face.tabIndex === 0) && wanted.length) wanted[0].tabIndex = 0
  }

  function makeFace(seed) {
    const picture = make('img', { alt: '', loading: 'lazy', decoding: 'async', draggable: false })
    const caption = make('span', { className: 'il-number' })
    const frame = make('span', { className: 'il-frame' }, picture)
    const face = make('button', { type: 'button', className: 'il-face', tabIndex: -1 }, frame, caption)
    face.dataset.seed = seed
    picture.addEventListener('error', () => {
      face.classList.add('il-missing')
      frame.title = word('missing')
    })
    picture.addEventListener('load', () => face.classList.remove('il-missing'))
    return {
      element: face,
      update(result, locked) {
        const found = isDetected(result)
        const url = result.file?.filename ? urlOf(result.file) : ''
        if (url && picture.getAttribute('src') !== url) picture.src = url
        face.classList.toggle('il-missing', !url)
        face.classList.toggle('il-is-locked', locked)
        face.classList.toggle('il-no-face', !found)
        setText(caption, found ? driftText(result.drift) : word('no_face'))
        const key = found ? (locked ? 'face_label_locked' : 'face_label') : 'face_label_none'
        const label = word(key, { seed, drift: driftText(result.drift) })
        if (face.title !== label) {
          face.title = label
          face.setAttribute('aria-label', label)
        }
      },
    }
  }

  function showHistogram(search) {
    const all = bars(search)
    histogram.hidden = !all.length
    histogram.replaceChildren(...all.map((one) => {
      const fill = make('span', { className: one.locked ? 'il-is-locked' : '' })
      fill.style.height = `${Math.round(one.share * 100)}%`
      const title = word('bar_label', { count: one.count, from: driftText(one.from), to: driftText(one.to) })
      return make('span', { className: 'il-histogram-bar', title }, fill)
    }))
    histogram.setAttribute('aria-label', word('histogram_label'))
  }

  return {
    element,
    minHeight: 264,
    show(search) {
      idle.hidden = true
      header.hidden = progress.hidden = false
      const first = best(search)
      setText(count, word('done_of', { done: search.done, total: search.total }))
      const pruned = search.pruned ? word('pruned', { count: search.pruned }) : ''
      const locked = search.locked ? word('locked_count', { count: search.locked }) : ''
      const lowest = first ? word('best', { drift: driftText(first.drift) }) : ''
      setText(top, lowest)
      setText(rest, [pruned, locked].filter(Boolean).join(' · ') + ((pruned || locked) && lowest ? ' · ' : ''))
      top.classList.toggle('il-locked', Boolean(first && isLocked(first, search.threshold)))
      bar.style.width = `${Math.min(100, (100 * search.done) / Math.max(1, search.total))}%`
      progress.setAttribute('aria-valuemax', String(search.total))
      progress.setAttribute('aria-valuenow', String(search.done))
      progress.classList.toggle('il-ended', search.final)
      showHistogram(search)
      showFaces(search)
      note.hidden = !search.note
      note.title = search.note
      setText(note, search.note)
      report.show(search.report)
    },
    attach() {
      release ??= followTheme(element, () => {})
    },
    detach() {
      release?.()
      release = null
      clearTimeout(silence)
    },
  }
}
