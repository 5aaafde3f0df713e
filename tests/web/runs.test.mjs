import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bars, best, KEPT, mergeSearch } from '../../web/js/search.js'
import { bestDrift, mergeTraining, phaseBands, stepDomain } from '../../web/js/training.js'
import { ENGLISH, fill, wordsFrom } from '../../web/js/words.js'

test('training events add up, and a reset begins anew', () => {
  let run = mergeTraining(null, { reset: true, total: 100 })
  run = mergeTraining(run, { step: 10, phase: 'COARSE', phases: [['COARSE', 0, null]], loss: [[10, 0.3]], drift: [[10, 0.5, 1]] })
  run = mergeTraining(run, { step: 60, phase: 'MID', phases: [['COARSE', 0, 40], ['MID', 40, null]], loss: [[60, 0.2]], drift: [[60, 0.2, 0.5]], note: 'x' })
  assert.equal(run.total, 100)
  assert.deepEqual(run.loss, [[10, 0.3], [60, 0.2]])
  assert.equal(bestDrift(run)[0], 60)
  assert.deepEqual(stepDomain(run), [0, 100])
  assert.deepEqual(phaseBands(run, 100).map((band) => [band.name, band.from, band.to]), [['COARSE', 0, 40], ['MID', 40, 100]])
  assert.equal(mergeTraining(run, { reset: true }).loss.length, 0)
})

test('a finished training shows the steps that were run, not the plan', () => {
  const run = mergeTraining(null, { final: true, step: 40, total: 400, loss: [[1, 1], [40, 0.5]], phases: [['COARSE', 0, 40]] })
  assert.deepEqual(stepDomain(run), [0, 40])
})

test('seeds are sorted best first, faces not found last, and each once', () => {
  let search = mergeSearch(null, { reset: true, done: 2, total: 4, threshold: 0.18, results: [
    { seed: 1, drift: 1, detected: false }, { seed: 2, drift: 0.3, detected: true },
  ] })
  search = mergeSearch(search, { done: 4, results: [{ seed: 3, drift: 0.17, detected: true }, { seed: 2, drift: 0.3, detected: true }] })
  assert.deepEqual(search.results.map((result) => result.seed), [3, 2, 1])
  assert.equal(search.locked, 1)
  assert.equal(search.total, 4)
  assert.equal(best(search).seed, 3)
})

test('a drift of one without a face is never the best', () => {
  assert.equal(best(mergeSearch(null, { results: [{ seed: 1, drift: 1, detected: false, locked: false }] })), null)
  assert.equal(best(mergeSearch(null, {})), null)
})

test('thousands of seeds stay bounded, and every locked one is counted', () => {
  let search = null
  for (let seed = 0; seed < 5000; seed++) {
    search = mergeSearch(search, { threshold: 0.18, results: [{ seed, drift: (seed % 100) / 100, detected: true }] })
  }
  assert.equal(search.results.length, KEPT)
  assert.equal(search.locked, 950)
})

test('histogram bars know the lock', () => {
  const shown = bars(mergeSearch(null, { threshold: 0.18, histogram: [1, 4], edges: [0.1, 0.18, 0.3] }))
  assert.deepEqual(shown.map((bar) => [bar.share, bar.locked]), [[0.25, true], [1, false]])
})

test('words fall back to English, and a region to its language', () => {
  const translations = { de: { identityLock: { done_of: '{done} von {total}' } } }
  assert.equal(wordsFrom(translations, 'de-AT')('done_of', { done: 1, total: 2 }), '1 von 2')
  assert.equal(wordsFrom(translations, 'de')('drift'), ENGLISH.drift)
  assert.equal(wordsFrom(null, undefined)('drift'), ENGLISH.drift)
  assert.equal(fill('{a} {b}', { a: 1 }), '1 {b}')
})
