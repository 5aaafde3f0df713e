// A table of drifts: label, drift, lock mark, and the drift by the recogniser that chose nothing.
import { make, makeReport } from './dom.js'
import { driftText } from './scales.js'
import { followTheme } from './theme.js'

/** Rows shown at most; a longer batch is in the report. */
const ROWS = 200

/** A view { element, minHeight, show(data), attach(), detach() } of { items, threshold, report }. */
export function createDriftTable(word) {
  const table = make('table', { className: 'il-table' })
  const idle = make('div', { className: 'il-idle' }, word('table_idle'))
  const scroller = make('div', { className: 'il-body il-scroll', tabIndex: 0, 'data-capture-wheel': 'true' }, table, idle)
  const report = makeReport(word)
  const element = make('div', { className: 'identity-lock il-drifts' }, scroller, report.element)
  let release = null

  return {
    element,
    minHeight: 118,
    show(data) {
      const items = (data.items ?? []).slice(0, ROWS)
      const columns = {
        drift: items.some((item) => Number.isFinite(item.drift)),
        second: items.some((item) => Number.isFinite(item.report_drift)),
      }
      idle.hidden = items.length > 0 || Boolean(data.report)
      table.hidden = !items.length
      table.replaceChildren(
        head(word, data.threshold, columns),
        make('tbody', {}, ...items.map((item) => row(word, item, columns))),
      )
      report.show(data.report)
      // With no numbers the report is all there is to see.
      if (!items.length && data.report) report.element.open = true
    },
    attach() {
      release ??= followTheme(element, () => {})
    },
    detach() {
      release?.()
      release = null
    },
  }
}

function head(word, threshold, columns) {
  const lock = Number.isFinite(threshold) ? word('lock_line', { threshold }) : word('locked')
  const cells = [make('th', { scope: 'col' }, word('picture'))]
  if (columns.drift) {
    cells.push(make('th', { scope: 'col', className: 'il-right', title: lock }, word('drift')))
    cells.push(make('th', { scope: 'col', className: 'il-mark', title: lock, 'aria-label': lock }))
  }
  if (columns.second) cells.push(make('th', { scope: 'col', className: 'il-right' }, word('second')))
  return make('thead', {}, make('tr', {}, ...cells))
}

function row(word, item, columns) {
  const label = String(item.label ?? '')
  const cells = [make('td', { className: 'il-label', title: label }, label)]
  if (columns.drift) {
    cells.push(make('td', { className: item.locked ? 'il-right il-locked' : 'il-right' }, driftText(item.drift)))
    cells.push(make('td', { className: 'il-mark' }, ...mark(word, item)))
  }
  if (columns.second) cells.push(make('td', { className: 'il-right il-quiet' }, driftText(item.report_drift)))
  return make('tr', {}, ...cells)
}

/** A full dot for a locked picture, an empty one for another, none where there is no drift. */
function mark(word, item) {
  if (!Number.isFinite(item.drift)) return []
  const state = word(item.locked ? 'locked' : 'not_locked')
  const className = item.locked ? 'il-dot il-is-locked' : 'il-dot'
  return [make('span', { className, role: 'img', 'aria-label': state, title: state })]
}
