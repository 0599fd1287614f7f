// Package tokens is Vault's door to the secrets engine: paths, fields, leases
// and help.
//
// # A token's journey
//
// An operator writes a role. The door path_roles.go reads the fields, and
// Engine.ChangeRole (backend/roles.go) checks the result: Role.Validate
// (backend/role) says what a role may be.
//
// An application reads creds/<role>. path_creds.go asks Tokens.Issue
// (backend/token/issue.go), which grants scopes, audience, metadata and TTL
// within the role. An opaque token is generated at random, and its record
// (backend/token/record.go) is stored, with a hash in place of the secret. A JWT
// is signed by a key of backend/keyring and gets a bit in a list of
// backend/statuslist; it has no record. The answer carries a lease, whose internal
// data (secret_token.go) is all that renewing or revoking needs.
//
// An API server introspects it. path_introspect.go asks Tokens.Introspect,
// which finds the record or verifies the signature (backend/token/find.go), and
// runs the requested checks. response.go shapes the answer. Or the
// server verifies a JWT by itself, with the key set (path_jwks.go) and the signed
// status list (path_status.go); verify/format has the formats that both use.
//
// Vault revokes the lease, or somebody revokes the token (path_revoke.go,
// path_tokens.go): the record is deleted, or the JWT's bit set
// (backend/token/revoke.go). Engine.Tidy (backend/tidy.go), which periodic in
// backend.go calls each minute, rotates keys and step by step removes what expired
// without a lease.
//
// # The map
//
//	backend.go           one mount: set-up, and what happens before and after a handler
//	request.go           what a request may hold; refused before a handler runs
//	fields.go            declaring and reading fields
//	presented.go         what introspection and revocation by possession share
//	response.go log.go   what several doors answer and log
//	counts.go figures.go what this process counts, and shows of it
//	secret_token.go      leases: renew and revoke
//	path_<noun>.go       one door per noun: fields, help, handlers
//	system.go            cached answers from Vault's system view
//	backend/             the engine; a package for each noun below it
//	verify/              for API servers, a module of its own
//	internal/tokenwatch/ the monitor of Vault's audit log; knows nothing of the engine
//	cmd/                 the binaries: flags and start-up
//	test/                tests on real servers, a module of its own
//
// A door parses, as a rule calls one thing in backend/, and shapes the response;
// no door uses another. Imports run one way: cmd, root, backend, verify/format.
package tokens
