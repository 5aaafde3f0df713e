// Puts a view into a node as a DOM widget, which both node renderers show, and takes it away with the node.
import { createChart } from './chart.js'
import { createDriftTable } from './drift_table.js'
import { make } from './dom.js'
import { createSheet } from './sheet.js'

/** Nodes that have a view from the start; another one gets its view with its first result. */
export const KIND_OF = {
  PhasedLoRATrainer: 'training',
  DriftSeedSearch: 'search',
  FacePrep: 'drifts',
  IdentityEmbed: 'drifts',
  ThreePassRender: 'drifts',
  RescueBlend: 'drifts',
  TwoPassStylize: 'drifts',
  DriftScore: 'drifts',
}

const MAKE = { training: createChart, search: createSheet, drifts: createDriftTable }
const MARGIN = 8

/** `host` gives word(key, values), urlOf(file), redraw(), onWheel(event) and onPointer(event). */
export function createPanels(host) {
  const panels = new WeakMap()

  function panelOf(node, kind) {
    const known = panels.get(node)
    if (known?.kind === kind) return known
    const panel = known ?? addPanel(node)
    panel.view?.detach()
    panel.kind = kind
    panel.view = MAKE[kind](host.word, host.urlOf)
    panel.box.replaceChildren(panel.view.element)
    if (node.graph) panel.view.attach()
    fit(node)
    return panel
  }

  function addPanel(node) {
    const box = make('div', { className: 'il-host' })
    const panel = { kind: null, view: null, box, extra: 0 }
    const widget = node.addDOMWidget('identity_lock_view', 'identity_lock', box, {
      serialize: false,
      hideOnZoom: false,
      margin: MARGIN,
      getMinHeight: () => (panel.view?.minHeight ?? 0) + panel.extra + 2 * MARGIN,
    })
    // The view holds results, not settings: nothing of it is saved in the workflow or sent with the prompt.
    widget.serialize = false
    panels.set(node, panel)
    chain(node, 'onAdded', () => panel.view?.attach())
    chain(node, 'onRemoved', () => panel.view?.detach())
    box.addEventListener('wheel', host.onWheel, { passive: false })
    for (const name of ['pointerdown', 'pointermove', 'pointerup']) box.addEventListener(name, host.onPointer)
    // An opened report makes the node taller, a closed one gives the room back. Toggle events do not bubble.
    box.addEventListener('toggle', (event) => unfold(node, panel, event.target), true)
    return panel
  }

  function unfold(node, panel, fold) {
    const extra = fold.open ? fold.querySelector('pre').offsetHeight + 4 : 0
    const change = extra - panel.extra
    panel.extra = extra
    if (!change) return
    // A node that was saved with its report open is tall enough: opening again adds nothing.
    const height = change > 0 ? node.size[1] : node.size[1] + change
    node.setSize([node.size[0], Math.max(height, node.computeSize()[1])])
    host.redraw()
  }

  function fit(node) {
    const [width, height] = node.computeSize()
    if (node.size[0] >= width && node.size[1] >= height) return
    node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)])
    host.redraw()
  }

  return {
    /** Gives a node that was just made its empty view. */
    prepare(node, nodeClass) {
      if (KIND_OF[nodeClass]) panelOf(node, KIND_OF[nodeClass])
    },
    show(node, state) {
      panelOf(node, state.kind).view.show(state.value)
    },
  }
}

function chain(node, name, after) {
  const before = node[name]
  node[name] = function (...values) {
    const answer = before?.apply(this, values)
    after()
    return answer
  }
}
