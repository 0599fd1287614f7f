// A client that configures itself from discovery (openid-client), and a
// resource server that takes RFC 9068 tokens (oauth4webapi, which
// openid-client is built on).
import { createHash, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { calculateJwkThumbprint, exportJWK, generateKeyPair, SignJWT } from 'jose'
import * as oauth from 'oauth4webapi'
import * as client from 'openid-client'

export function versions() {
  const { dependencies } = JSON.parse(readFileSync(new URL('package.json', import.meta.url)))
  return { node: process.versions.node, ...dependencies }
}

const configurations = new Map()

// discover takes an issuer, or the URL of its metadata.
export async function discover({ name, server }) {
  const configuration = await client.discovery(new URL(server), 'interop', undefined, client.None(), {
    execute: [client.allowInsecureRequests], // loopback
  })
  configurations.set(name, configuration)
  const { supportsPKCE, ...metadata } = configuration.serverMetadata()
  return metadata
}

// resource takes a request with a token, and with a DPoP proof (RFC 9449) if
// proofKey names a key.
export async function resource({ name, token, audience, proofKey }) {
  const server = configurations.get(name).serverMetadata()
  const url = 'https://orders.example.com/orders'
  const headers = { authorization: `Bearer ${token}` }
  if (proofKey) {
    headers.authorization = `DPoP ${token}`
    headers.dpop = await proof(proofKey, url, token)
  }
  // A copy, since what was fetched for a server is kept with its object.
  return oauth.validateJwtAccessToken({ ...server }, new Request(url, { headers }), audience, {
    [oauth.allowInsecureRequests]: true,
  })
}

// introspect and revoke find the endpoint by discovery, and send a Vault token where
// OAuth 2.0 clients authenticate.
export async function introspect({ server, vaultToken, token, parameters }) {
  return client.tokenIntrospection(await authenticated(server, vaultToken), token, parameters)
}

export async function revoke({ server, vaultToken, token, parameters }) {
  await client.tokenRevocation(await authenticated(server, vaultToken), token, parameters)
}

function authenticated(server, vaultToken) {
  const bearer = (_server, _client, _body, headers) => headers.set('authorization', `Bearer ${vaultToken}`)
  return client.discovery(new URL(server), 'interop', undefined, bearer, {
    execute: [client.allowInsecureRequests], // loopback
  })
}

const proofKeys = new Map()

export async function newProofKey({ name }) {
  const pair = await generateKeyPair('ES256')
  const jwk = await exportJWK(pair.publicKey)
  proofKeys.set(name, { ...pair, jwk })
  return { jkt: await calculateJwkThumbprint(jwk) }
}

function proof(name, url, token) {
  const { privateKey, jwk } = proofKeys.get(name)
  return new SignJWT({
    htm: 'GET',
    htu: url,
    jti: randomUUID(),
    ath: createHash('sha256').update(token).digest('base64url'),
  })
    .setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt', jwk })
    .setIssuedAt()
    .sign(privateKey)
}
