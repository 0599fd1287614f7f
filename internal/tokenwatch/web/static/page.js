// Fetches state.json and shows it. Strangers choose what is in the audit log: it
// only ever becomes text, never markup.

const interval = 2000 // ms between updates
const ranks = { info: 0, warning: 1, critical: 2 }
const $ = (id) => document.getElementById(id)

let paused = false
let timer
let state = null
let known = null // ids of the alerts that have been announced

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  element.append(...children)
  return element
}

// Writes only what changed, so that a selection or a screen reader is not disturbed.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

const clock = (time) => new Date(time).toISOString().slice(11, 19)
const date = (time) => new Date(time).toISOString().slice(0, 10)

function moment(time) {
  if (!time) return 'never'
  return date(time) === date(state.time) ? `${clock(time)} UTC` : `${date(time)} ${clock(time)} UTC`
}

const number = new Intl.NumberFormat('en')

// --- keyed lists: an element is kept as long as its item exists, so that focus
// and opened details survive an update.
function sync(list, items, key, create, update) {
  const focused = document.activeElement
  const old = new Map([...list.children].map((child) => [child.dataset.key, child]))
  const wanted = new Set(items.map(key))
  for (const [id, element] of old) if (!wanted.has(id)) element.remove()
  let at = list.firstElementChild
  for (const item of items) {
    const id = key(item)
    const element = old.get(id) ?? create(item)
    element.dataset.key = id
    if (element === at) at = at.nextElementSibling
    else list.insertBefore(element, at)
    update(element, item)
  }
  // An element that moved has lost the focus.
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true })
}

// --- rates
const svg = 'http://www.w3.org/2000/svg'

function createRate(rate) {
  const picture = document.createElementNS(svg, 'svg')
  picture.setAttribute('role', 'img')
  picture.setAttribute('preserveAspectRatio', 'none')
  return make(
    'li',
    { class: `rate ${rate.name}` },
    make('h3', {}, rate.title),
    make('p', { class: 'now' }, make('span'), make('small', {}, ' this minute')),
    picture,
    make('p', { class: 'sum' }),
  )
}

function updateRate(element, rate) {
  const values = rate.minutes
  const total = values.reduce((a, b) => a + b, 0)
  const peak = Math.max(0, ...values)
  setText(element.querySelector('.now span'), number.format(values.at(-1) ?? 0))
  const sum = `${number.format(total)} in the hour${total > 0 ? `, peak ${number.format(peak)}` : ''}`
  setText(element.querySelector('.sum'), sum)
  const picture = element.querySelector('svg')
  picture.setAttribute('aria-label', `${rate.title}, by minute: ${sum}`)
  picture.setAttribute('viewBox', `0 0 ${Math.max(1, values.length) * 10} 100`)
  sync(picture, values.map((count, i) => ({ count, i })), ({ i }) => String(i), createBar, (bar, { count, i }) => updateBar(bar, i, count, peak, rate.starts[i]))
}

function createBar() {
  const bar = document.createElementNS(svg, 'rect')
  bar.setAttribute('data-mark', '')
  bar.append(document.createElementNS(svg, 'title'))
  return bar
}

function updateBar(bar, i, count, peak, start) {
  // Anything above zero must be visible.
  const height = count === 0 ? 0 : Math.max(4, (count / peak) * 96)
  bar.setAttribute('x', i * 10 + 1)
  bar.setAttribute('y', 100 - height)
  bar.setAttribute('width', 8)
  bar.setAttribute('height', height)
  setText(bar.firstElementChild, `${clock(start).slice(0, 5)} UTC: ${number.format(count)}`)
}

// --- alerts
function createAlert() {
  return make(
    'li',
    {},
    make('div', { class: 'head' }, make('span', { class: 'tag' }), make('h3'), make('span', { class: 'times' })),
    make('p', { class: 'detail' }),
    make('p', { class: 'source' }),
    make('p', { class: 'advice' }),
    make('details', {}, make('summary'), make('dl')),
  )
}

function updateAlert(element, alert) {
  element.className = `alert ${alert.severity}`
  setText(element.querySelector('.tag'), alert.severity)
  setText(element.querySelector('h3'), alert.title)
  setText(element.querySelector('.times'), times(alert))
  setText(element.querySelector('.detail'), alert.detail)
  setText(element.querySelector('.source'), alert.source)
  setText(element.querySelector('.advice'), alert.advice)
  setText(element.querySelector('summary'), `Details of ${alert.rule}`)
  const list = element.querySelector('dl')
  const text = JSON.stringify(alert.details)
  if (list.dataset.text !== text) {
    list.dataset.text = text
    list.replaceChildren(...alert.details.flatMap(({ name, value }) => [make('dt', {}, name), make('dd', {}, value)]))
  }
}

function times(alert) {
  const often = alert.count === 1 ? 'once' : `${number.format(alert.count)} times`
  const [first, last] = [moment(alert.first), moment(alert.last)]
  return first === last ? `${last}, ${often}` : `${first.replace(/ UTC$/, '')} to ${last}, ${often}`
}

function showAlerts() {
  const least = ranks[$('severity').value] ?? 0
  const shown = state.alerts.filter((alert) => (ranks[alert.severity] ?? 0) >= least)
  setText($('alerts-title'), `Open alerts (${number.format(state.alerts_open)})`)
  $('none').hidden = shown.length > 0
  setText($('none'), state.alerts.length > 0 ? 'No open alert of this severity.' : 'No open alerts.')
  $('more').hidden = state.alerts_open <= state.alerts.length
  setText($('more'), `${number.format(state.alerts_open - state.alerts.length)} more are not shown.`)
  sync($('alerts'), shown, (alert) => alert.id, createAlert, updateAlert)
}

// announce reports new alerts to screen readers and in the title.
function announce() {
  const fresh = state.alerts.filter((alert) => known && !known.has(alert.id))
  known = new Set(state.alerts.map((alert) => alert.id))
  if (fresh.length > 0) setText($('news'), `New: ${fresh.map((alert) => `${alert.severity}, ${alert.title}`).join('; ')}`)
  const worst = state.alerts.some((alert) => alert.severity === 'critical') ? '! ' : ''
  document.title = state.alerts_open > 0 ? `${worst}${state.alerts_open} open · tokenwatch` : 'tokenwatch'
}

// --- the log
function createFact(fact) {
  return make('div', {}, make('dt', {}, fact.name), make('dd'))
}

function updateFact(element, fact) {
  element.className = fact.bad ? 'bad' : ''
  setText(element.querySelector('dd'), fact.value)
}

function show() {
  setText($('updated'), `${paused ? 'Paused at' : 'Updated'} ${moment(state.time)}`)
  sync($('rates'), state.rates, (rate) => rate.name, createRate, updateRate)
  showAlerts()
  const facts = [
    { name: 'Watching since', value: moment(state.started) },
    { name: 'Last entry', value: moment(state.last_entry) },
    ...state.facts,
  ]
  sync($('facts'), facts, (fact) => fact.name, createFact, updateFact)
  sync($('notes'), state.notes, (note) => note, (note) => make('p', { class: 'note' }, note), () => {})
}

// --- updating
async function update() {
  clearTimeout(timer)
  try {
    const answer = await fetch('state.json', { cache: 'no-store', signal: AbortSignal.timeout(10_000) })
    if (!answer.ok) throw new Error(`status ${answer.status}`)
    state = await answer.json()
    $('lost').hidden = true
    show()
    announce()
  } catch (error) {
    const since = state ? ` What you see is from ${moment(state.time)}.` : ''
    setText($('lost'), `tokenwatch does not answer (${error.message}). Trying again every ${interval / 1000} seconds.${since}`)
    $('lost').hidden = false
  }
  if (!paused && !document.hidden) timer = setTimeout(update, interval)
}

$('pause').addEventListener('click', () => {
  paused = !paused
  setText($('pause'), paused ? 'Resume updates' : 'Pause updates')
  if (paused) {
    clearTimeout(timer)
    if (state) show()
  } else update()
})
$('severity').addEventListener('change', () => state && showAlerts())
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && !paused) update()
})
update()
