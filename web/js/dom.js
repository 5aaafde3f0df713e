// The few DOM calls that every view needs.

/** An element; `properties` are set on it, those of `data` and `aria` as attributes; children are nodes or texts. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role') element.setAttribute(name, value)
    else element[name] = value
  }
  element.append(...children)
  return element
}

/** Sets a text only where it changed, so that screen readers are not told the same twice. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/** A folded report; empty until set. */
export function makeReport(word) {
  const text = make('pre', { className: 'il-report-text', tabIndex: 0, 'data-capture-wheel': 'true' })
  const fold = make('details', { className: 'il-report', hidden: true }, make('summary', {}, word('report')), text)
  return {
    element: fold,
    show(report) {
      fold.hidden = !report
      setText(text, report || '')
    },
  }
}

/** Copies a text; false where neither the clipboard nor the old command works (a page that is not secure). */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    const field = make('textarea', { value: text, className: 'il-offscreen' })
    const before = document.activeElement
    document.body.append(field)
    field.select()
    let copied = false
    try {
      copied = document.execCommand('copy')
    } catch {
      // Some browsers throw instead of answering false.
    }
    field.remove()
    before?.focus?.()
    return copied
  }
}
