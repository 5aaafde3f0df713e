// Tells the views when the host's colours change, and marks each view as dark or light by its own background.
import { isDark, parseRgb } from './scales.js'

const views = new Set()
let observer = null

/** Calls `redraw` when the element is shown or resized and at each change of the colour palette, until the returned function is called. */
export function followTheme(element, redraw) {
  const view = () => {
    markTheme(element)
    redraw()
  }
  views.add(view)
  if (!observer) {
    observer = new MutationObserver(() => views.forEach((call) => call()))
    for (const root of [document.documentElement, document.body]) {
      observer.observe(root, { attributes: true, attributeFilter: ['class', 'style', 'data-theme'] })
    }
  }
  // An element has no colours before the host has put it on the page, which its first size tells.
  const sizes = new ResizeObserver(view)
  sizes.observe(element)
  return () => {
    sizes.disconnect()
    views.delete(view)
    if (!views.size) {
      observer?.disconnect()
      observer = null
    }
  }
}

function markTheme(element) {
  const background = parseRgb(getComputedStyle(element).backgroundColor)
  const light = Boolean(background && background[3] > 0 && !isDark(background))
  element.classList.toggle('il-light', light)
}
