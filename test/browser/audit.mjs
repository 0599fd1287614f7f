// Runs inside the page: what keeps people from reading or using it, as a list
// of texts. WCAG 2.2: contrast 1.4.3 and 1.4.11, reflow 1.4.10, names 4.1.2,
// structure 1.3.1.
export function audit() {
  const problems = []
  const shown = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })
  const describe = (element) => `<${element.localName}${element.id ? ' id=' + element.id : ''} class="${element.getAttribute('class') ?? ''}"> ${(element.textContent ?? '').trim().slice(0, 40)}`

  // --- contrast
  // A canvas turns every CSS colour, oklch() and all, into red, green and blue.
  const pixel = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true })
  const rgba = (color) => {
    pixel.clearRect(0, 0, 1, 1)
    pixel.fillStyle = color
    pixel.fillRect(0, 0, 1, 1)
    const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data
    return [r, g, b, a / 255]
  }
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1)
  const background = (element) => {
    const layers = []
    for (let at = element; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor)
      if (color[3] > 0) layers.push(color)
      if (color[3] === 1) break
    }
    const canvas = matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18, 1] : [255, 255, 255, 1]
    return layers.reverse().reduce((below, top) => over(top, below), canvas)
  }
  const luminance = (color) => {
    const [r, g, b] = color.slice(0, 3).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const contrast = (a, b) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x)
    return (light + 0.05) / (dark + 0.05)
  }
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const element = node.parentElement
    if (!node.data.trim() || !shown(element) || element.closest('script, style, title, desc')) continue
    const style = getComputedStyle(element)
    const size = parseFloat(style.fontSize)
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700)
    const ink = element instanceof SVGElement ? style.fill : style.color
    const ground = background(element)
    const ratio = contrast(over(rgba(ink), ground), ground)
    if (ratio < (large ? 3 : 4.5)) problems.push(`contrast ${ratio.toFixed(2)} (${ink} at ${size}px): ${describe(element)}`)
  }
  for (const mark of document.querySelectorAll('svg [data-mark]')) {
    const ground = background(mark.closest('svg'))
    const ratio = contrast(over(rgba(getComputedStyle(mark).fill), ground), ground)
    if (ratio < 3) problems.push(`contrast ${ratio.toFixed(2)} of a chart's mark: ${describe(mark)}`)
  }

  // --- names
  const name = (element) => {
    const by = element.getAttribute('aria-labelledby')
    const labels = by ? by.split(/\s+/).map((id) => document.getElementById(id)?.textContent ?? '').join(' ') : ''
    const own = element instanceof HTMLInputElement || element instanceof HTMLSelectElement ? [...(element.labels ?? [])].map((l) => l.textContent).join(' ') : element.textContent
    return (labels || element.getAttribute('aria-label') || own || '').trim()
  }
  for (const element of document.querySelectorAll('a, button, input, select, textarea, summary, [tabindex], [role=img], img, table, nav, section')) {
    if (shown(element) && !name(element)) problems.push(`no accessible name: ${describe(element)}`)
  }
  for (const svg of document.querySelectorAll('svg')) {
    if (svg.getAttribute('role') !== 'img' && svg.getAttribute('aria-hidden') !== 'true') problems.push(`an svg that is neither an image nor hidden: ${describe(svg)}`)
  }

  // --- structure
  if (!document.documentElement.lang) problems.push('no language')
  if (!document.title.trim()) problems.push('no title')
  if (document.querySelectorAll('h1').length !== 1) problems.push('not one h1')
  if (document.querySelectorAll('main').length !== 1) problems.push('not one main')
  let level = 0
  for (const heading of document.querySelectorAll('h1, h2, h3, h4')) {
    const next = Number(heading.localName[1])
    if (next > level + 1) problems.push(`a heading skips a level: ${describe(heading)}`)
    level = next
  }
  const ids = [...document.querySelectorAll('[id]')].map((e) => e.id)
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) problems.push(`two elements have the id ${id}`)
  for (const cell of document.querySelectorAll('th')) {
    if (!cell.scope) problems.push(`a header cell without scope: ${describe(cell)}`)
  }

  // --- reflow: the page itself must not scroll sideways
  const root = document.documentElement
  if (root.scrollWidth > root.clientWidth) {
    const wide = [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > root.clientWidth + 1).slice(0, 3)
    problems.push(`${root.scrollWidth - root.clientWidth}px wider than the window: ${wide.map(describe).join(' | ')}`)
  }
  return problems
}
