// The texts of the views. English is here; other languages come from locales/<language>/main.json through /i18n.

export const ENGLISH = {
  chart_idle: 'Loss, probe and drift are drawn here while it trains.',
  sheet_idle: 'Faces appear here while the search runs, best first.',
  table_idle: 'Results appear here after a run.',
  loss: 'loss',
  mean: 'mean',
  probe: 'probe',
  drift: 'drift',
  step_of: 'step {step} of {total}',
  step_at: 'step {step}',
  drift_now: 'drift {drift}',
  drift_best: 'best {drift} at step {step}',
  lock_line: 'locked at {threshold} or below',
  chart_label: 'Training: {phase}, step {step} of {total}, lowest drift {drift}.',
  done_of: '{done} of {total}',
  pruned: '{count} pruned',
  locked_count: '{count} locked',
  best: 'best {drift}',
  no_face: 'no face',
  missing: 'picture missing',
  face_label: 'Seed {seed}, drift {drift}. Copy the seed.',
  face_label_locked: 'Seed {seed}, drift {drift}, locked. Copy the seed.',
  face_label_none: 'Seed {seed}, no face found. Copy the seed.',
  sheet_label: 'Faces, best first',
  copied: 'Seed {seed} copied',
  copy_failed: 'Seed {seed} (this page may not write to the clipboard)',
  histogram_label: 'Distribution of drift',
  bar_label: '{count} with drift {from} to {to}',
  picture: 'picture',
  second: 'other recogniser',
  locked: 'locked',
  not_locked: 'not locked',
  report: 'Report',
}

const GROUP = 'identityLock'

/** A function word(key, values) for one language; a missing text falls back to English. */
export function wordsFrom(translations, language) {
  const short = String(language ?? 'en').split('-')[0]
  const own = translations?.[language]?.[GROUP] ?? translations?.[short]?.[GROUP] ?? {}
  return (key, values = {}) => fill(own[key] ?? ENGLISH[key] ?? key, values)
}

export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole))
}
