// Opens one page in Chromium, does what a job says and tells what it saw. The
// job is a JSON object on standard input, the answer one on standard output:
//
//   job:    {executable, profile, url, scheme, width, height, steps: [step…]}
//   step:   {press: key} | {until: expression} | {value: expression} |
//           {audit: true} | {screenshot: path} | {resize: [width, height]} |
//           {call: url}, which is fetched outside of the page, for the test to act
//   answer: {values: […], problems: [text…], requests: [url…]}
//
// `values` has an entry for each `value` and `audit` step. `problems` has what
// the page must not do: write to the console, raise errors, open dialogs.
import { readFileSync } from 'node:fs'
import { chromium } from 'playwright-core'
import { audit } from './audit.mjs'

const flags = [
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]
const limit = 20_000 // ms, for anything that is waited for

async function visit(job) {
  const context = await chromium.launchPersistentContext(job.profile, {
    executablePath: job.executable,
    headless: true,
    chromiumSandbox: false,
    args: flags,
    colorScheme: job.scheme,
    reducedMotion: 'reduce',
    viewport: { width: job.width, height: job.height },
    timezoneId: 'UTC',
    locale: 'en-GB',
  })
  try {
    const page = context.pages()[0] ?? (await context.newPage())
    const answer = { values: [], problems: [], requests: [] }
    watch(page, answer)
    await page.goto(job.url, { timeout: limit })
    for (const step of job.steps) await take(page, step, answer)
    return answer
  } finally {
    await context.close()
  }
}

function watch(page, answer) {
  const problem = (what) => (text) => answer.problems.push(`${what}: ${text}`)
  page.on('console', (message) => problem('console')(message.text()))
  page.on('pageerror', (error) => problem('error')(error.message))
  page.on('popup', (popup) => problem('popup')(popup.url()))
  page.on('dialog', (dialog) => {
    problem('dialog')(dialog.message())
    dialog.dismiss()
  })
  page.on('request', (request) => answer.requests.push(request.url()))
}

async function take(page, step, answer) {
  if (step.press) await page.keyboard.press(step.press)
  else if (step.until) await until(page, step.until)
  else if (step.value) answer.values.push((await page.evaluate(step.value)) ?? null)
  else if (step.audit) answer.values.push(await page.evaluate(audit))
  else if (step.screenshot) await page.screenshot({ path: step.screenshot, fullPage: true })
  else if (step.call) await call(step.call)
  else if (step.resize) await page.setViewportSize({ width: step.resize[0], height: step.resize[1] })
  else throw new Error(`unknown step ${JSON.stringify(step)}`)
}

// Playwright's own waitForFunction needs eval, which the pages' policy forbids.
async function until(page, expression) {
  const deadline = Date.now() + limit
  while (!(await page.evaluate(expression))) {
    if (Date.now() > deadline) {
      throw new Error(`never came: ${expression}\n${await page.evaluate('document.body.innerText')}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

async function call(url) {
  const answer = await fetch(url)
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`)
}

const answer = await visit(JSON.parse(readFileSync(0, 'utf8')))
process.stdout.write(JSON.stringify(answer))
