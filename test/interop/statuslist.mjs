// The status of a token from its Token Status List
// (draft-ietf-oauth-status-list, sections 4, 5 and 8.3).
import { decodeJwt, jwtVerify } from 'jose'
import { inflateSync } from 'node:zlib'

const maxBytes = 1 << 20 // of a list, unpacked: a small one can unpack to a huge one

export class StatusLists {
  #cached = new Map() // by uri

  async status({ keys }, { token }) {
    // The caller has verified the token's signature.
    const reference = decodeJwt(token).status?.status_list
    if (!reference) throw new Error('the token names no status list')
    const list = await this.#get(reference.uri, keys)
    return { ...list.facts, status: list.at(reference.idx), index: reference.idx }
  }

  async #get(uri, keys) {
    const cached = this.#cached.get(uri)
    if (cached && Date.now() < cached.staleAt) return cached
    const list = await fetchList(uri, keys)
    this.#cached.set(uri, list)
    return list
  }
}

async function fetchList(uri, keys) {
  const asked = Date.now()
  const response = await fetch(uri, { headers: { accept: 'application/statuslist+jwt' } })
  if (response.status !== 200) throw new Error(`${uri}: ${response.status}`)
  const contentType = response.headers.get('content-type')
  if (contentType !== 'application/statuslist+jwt') throw new Error(`${uri}: ${contentType}`)
  const text = await response.text()
  const { payload, protectedHeader } = await jwtVerify(text, keys, {
    typ: 'statuslist+jwt',
    subject: uri,
    requiredClaims: ['sub', 'iat', 'exp', 'ttl', 'status_list'],
  })
  const { bits, lst } = payload.status_list
  const bytes = inflateSync(Buffer.from(lst, 'base64url'), { maxOutputLength: maxBytes })
  return {
    staleAt: asked + payload.ttl * 1000,
    facts: {
      kid: protectedHeader.kid,
      alg: protectedHeader.alg,
      ttl: payload.ttl,
      lifetime: payload.exp - payload.iat,
      bits,
      size: (bytes.length * 8) / bits,
      contentType,
      cacheControl: response.headers.get('cache-control'),
    },
    at(index) {
      const bit = index * bits
      if (!Number.isInteger(index) || index < 0 || bit >= bytes.length * 8) {
        throw new Error(`the list has no index ${index}`)
      }
      return (bytes[bit >> 3] >> (bit & 7)) & ((1 << bits) - 1)
    },
  }
}
