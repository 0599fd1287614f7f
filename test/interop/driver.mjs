// Answers requests on stdin, one JSON object a line, each with one on stdout:
// {"id", "op", "args"} with {"id", "result"} or {"id", "error": {code, message}}.
// What a verifier has cached stays between requests, as in an API server.
import { createInterface } from 'node:readline'
import { KeySets } from './keysets.mjs'
import { StatusLists } from './statuslist.mjs'
import * as openid from './openid.mjs'

const keySets = new KeySets()
const statusLists = new StatusLists()

const ops = {
  versions: openid.versions,
  discover: openid.discover,
  resource: openid.resource,
  introspect: openid.introspect,
  revoke: openid.revoke,
  newProofKey: openid.newProofKey,
  open: (args) => keySets.open(args),
  verify: (args) => keySets.verify(args),
  verifyAll: (args) => keySets.verifyAll(args),
  status: (args) => statusLists.status(keySets.get(args.verifier), args),
}

async function answer(line) {
  const { id, op, args } = JSON.parse(line)
  try {
    return { id, result: await ops[op](args ?? {}) }
  } catch (err) {
    return { id, error: { code: err.code ?? err.name, message: err.message, claim: err.claim } }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  // Not awaited: requests run side by side, and the id tells the answers apart.
  answer(line).then((reply) => process.stdout.write(JSON.stringify(reply) + '\n'))
}
