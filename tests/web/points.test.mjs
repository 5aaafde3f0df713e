import assert from 'node:assert/strict'
import { test } from 'node:test'
import { mergePoints, nearest, percentile, smooth, thin } from '../../web/js/points.js'

const ramp = (count) => Array.from({ length: count }, (_, step) => [step, step])

test('thinning keeps the ends and the peak, in order, within the limit', () => {
  const points = ramp(1000).map(([step]) => [step, step === 617 ? 9 : Math.sin(step / 9)])
  const kept = thin(points, 100)
  assert.ok(kept.length <= 100 && kept.length > 50)
  assert.deepEqual(kept[0], points[0])
  assert.deepEqual(kept.at(-1), points.at(-1))
  assert.ok(kept.some((point) => point[1] === 9))
  assert.ok(kept.every((point, index) => !index || point[0] > kept[index - 1][0]))
})

test('short series stay as they are', () => assert.deepEqual(thin(ramp(5), 10), ramp(5)))

test('a resumed run replaces what was drawn from its first step on', () => {
  const merged = mergePoints([[1, 1], [2, 2], [3, 3]], [[2, 20], [4, 40]])
  assert.deepEqual(merged, [[1, 1], [2, 20], [4, 40]])
})

test('a very long run stays bounded, and broken points are left out', () => {
  let points = []
  for (let step = 0; step < 30000; step += 50) {
    points = mergePoints(points, Array.from({ length: 50 }, (_, index) => [step + index, 1]))
  }
  assert.ok(points.length <= 2000)
  assert.equal(points.at(-1)[0], 29999)
  assert.deepEqual(mergePoints([], [[1, NaN], null, [2, null], [3, 4]]), [[3, 4]])
  assert.deepEqual(mergePoints([[1, 1]], undefined), [[1, 1]])
})

test('the mean of a constant is that constant from the first point on', () => {
  const [run] = smooth(Array.from({ length: 40 }, (_, step) => [step, 3]))
  assert.ok(run.every(([, value]) => Math.abs(value - 3) < 1e-9))
})

test('the mean does not leak from one phase into the next', () => {
  const runs = smooth([...ramp(20).map(([step]) => [step, 0]), ...ramp(20).map(([step]) => [20 + step, 10])], [0, 20])
  assert.equal(runs.length, 2)
  assert.ok(runs[1].every(([, value]) => Math.abs(value - 10) < 1e-9))
})

test('percentile and nearest', () => {
  assert.equal(percentile([5, 1, 3], 0.5), 3)
  assert.equal(percentile([], 0.5), null)
  assert.deepEqual(nearest([[0, 1], [10, 2]], 7), [10, 2])
  assert.equal(nearest([], 7), null)
})
