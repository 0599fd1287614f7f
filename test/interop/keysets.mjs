// Verification as an API server does it with jose, from a jwks_uri.
import { createRemoteJWKSet, customFetch, jwtVerify } from 'jose'

export class KeySets {
  #open = new Map()

  // open makes a verifier that has fetched nothing yet, with jose's defaults
  // for how long it keeps what it fetched.
  open({ verifier, jwksURI }) {
    const state = { fetches: 0 }
    state.keys = createRemoteJWKSet(new URL(jwksURI), {
      [customFetch]: (url, options) => {
        state.fetches++
        return fetch(url, options)
      },
    })
    this.#open.set(verifier, state)
    return {}
  }

  get(verifier) {
    const state = this.#open.get(verifier)
    if (!state) throw new Error(`no verifier ${verifier}`)
    return state
  }

  // verify checks an access token as RFC 9068, section 4, has it. `at` (seconds)
  // is the time to verify for, if not now.
  async verify({ verifier, token, issuer, audience, algorithms, at }) {
    const state = this.get(verifier)
    const { payload, protectedHeader } = await jwtVerify(token, state.keys, {
      issuer,
      audience,
      algorithms,
      typ: 'at+jwt',
      requiredClaims: ['iss', 'sub', 'aud', 'exp', 'iat', 'jti', 'client_id'],
      currentDate: at ? new Date(at * 1000) : undefined,
    })
    return { header: protectedHeader, claims: payload, fetches: state.fetches }
  }

  async verifyAll({ tokens, ...args }) {
    const kids = new Set()
    let fetches
    for (const token of tokens) {
      const verified = await this.verify({ ...args, token })
      kids.add(verified.header.kid)
      fetches = verified.fetches
    }
    return { kids: [...kids], fetches }
  }
}
