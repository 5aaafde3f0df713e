// Axes, numbers and colours: pure functions, no DOM.

/** A function from `domain` [low, high] to `range` [from, to] in pixels, not clamped. */
export function linear([low, high], [from, to]) {
  const width = high - low || 1
  return (value) => from + ((value - low) / width) * (to - from)
}

/** Round numbers inside [low, high], about `count` of them. */
export function niceTicks(low, high, count) {
  if (!(high > low) || count < 1) return [low]
  const raw = (high - low) / count
  const power = 10 ** Math.floor(Math.log10(raw))
  const unit = [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999) * power
  const ticks = []
  for (let index = Math.ceil(low / unit - 1e-9); index * unit <= high + unit * 1e-9; index++) {
    ticks.push(Number((index * unit).toPrecision(12)))
  }
  return ticks
}

/** A y range for loss-like values: outliers do not squeeze the curve, and zero is shown when it is near. */
export function lossDomain(low, high) {
  if (low === null || high === null) return [0, 1]
  const room = (high - low) * 0.12 || Math.abs(high) * 0.1 || 0.1
  const bottom = low < high * 0.4 ? 0 : Math.max(0, low - room)
  return [bottom, high + room]
}

/** A y range for drift: from 0 to the worst, at least twice the lock line, at most 1. */
export function driftDomain(values, lock) {
  const worst = values.length ? Math.max(...values) : 0
  return [0, Math.min(1.02, Math.max(lock * 2, worst * 1.12))]
}

/** A loss or tick label: three significant digits at most, no trailing noise. */
export function shortNumber(value) {
  if (!Number.isFinite(value)) return '–'
  const size = Math.abs(value)
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1).replace('e+', 'e')
  return String(Number(value.toPrecision(3)))
}

/** A drift, always with three decimals, so that columns line up. */
export function driftText(value) {
  return Number.isFinite(value) ? value.toFixed(3) : '–'
}

/** A step number with thin spaces between thousands. */
export function stepText(step) {
  return String(Math.round(step)).replace(/\B(?=(\d{3})+$)/g, '\u2009')
}

/** [r, g, b, a] of `rgb(...)` or `rgba(...)`, as getComputedStyle gives them; null for anything else. */
export function parseRgb(text) {
  const parts = /^rgba?\(([^)]+)\)$/.exec(text ?? '')?.[1].split(/[\s,/]+/).filter(Boolean).map(Number)
  if (!parts || parts.length < 3 || parts.some(Number.isNaN)) return null
  return [parts[0], parts[1], parts[2], parts[3] ?? 1]
}

/** Whether an opaque colour [r, g, b] is dark (relative luminance below the middle grey). */
export function isDark([red, green, blue]) {
  const channel = (value) => {
    const share = value / 255
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4
  }
  return 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue) < 0.18
}

/** A text that fits into `width` pixels by `measure`: the name, else its initials, else nothing. */
export function fitName(name, width, measure) {
  const initials = name.split(/[_\s-]+/).filter(Boolean).map((word) => word[0]).join('')
  return [name, initials].find((text) => measure(text) <= width) ?? ''
}
