import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as scales from '../../web/js/scales.js'

test('a linear scale maps the ends, also onto a range that runs upwards', () => {
  const y = scales.linear([0, 2], [100, 20])
  assert.equal(y(0), 100)
  assert.equal(y(2), 20)
  assert.equal(scales.linear([3, 3], [0, 10])(3), 0)
})

test('ticks are round, inside the range, and exact in decimal', () => {
  assert.deepEqual(scales.niceTicks(0, 600, 3), [0, 200, 400, 600])
  assert.deepEqual(scales.niceTicks(0.01, 0.31, 3), [0.1, 0.2, 0.3])
  assert.deepEqual(scales.niceTicks(2, 2, 3), [2])
})

test('the loss range has room around the curve and starts at zero when zero is near', () => {
  assert.equal(scales.lossDomain(0.01, 0.2)[0], 0)
  const [low, high] = scales.lossDomain(0.09, 0.1)
  assert.ok(low > 0.08 && low < 0.09 && high > 0.1)
  assert.ok(scales.lossDomain(0.5, 0.5)[1] > 0.5)
  assert.deepEqual(scales.lossDomain(null, null), [0, 1])
})

test('the drift range always shows the lock line, and never more than one', () => {
  assert.deepEqual(scales.driftDomain([], 0.18), [0, 0.36])
  assert.equal(scales.driftDomain([1, 0.2], 0.18)[1], 1.02)
})

test('numbers are short', () => {
  assert.equal(scales.shortNumber(0.123456), '0.123')
  assert.equal(scales.shortNumber(0), '0')
  assert.equal(scales.shortNumber(0.00001234), '1.2e-5')
  assert.equal(scales.shortNumber(undefined), '–')
  assert.equal(scales.driftText(0.16), '0.160')
  assert.equal(scales.driftText(null), '–')
  assert.equal(scales.stepText(12345), '12\u2009345')
})

test('dark and light grounds', () => {
  assert.ok(scales.isDark(scales.parseRgb('rgb(23, 23, 24)')))
  assert.ok(!scales.isDark(scales.parseRgb('rgba(255, 255, 255, 1)')))
  assert.equal(scales.parseRgb('red'), null)
})

test('a phase name gives way to its initials, then to nothing', () => {
  const measure = (text) => text.length * 6
  assert.equal(scales.fitName('MID_FINE', 60, measure), 'MID_FINE')
  assert.equal(scales.fitName('MID_FINE', 20, measure), 'MF')
  assert.equal(scales.fitName('MID_FINE', 3, measure), '')
})
