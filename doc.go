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
// within the role. Whatever its type, the token gets a bit in a list of
// backend/statuslist, where blocks of them are reserved ahead. An opaque token is
// generated at random, and its record (backend/token/record.go) is stored, with a
// hash in place of the secret. A JWT is signed by a key of backend/keyring; it has a
// record only if its role tracks its tokens. The answer carries a lease, whose
// internal data (secret_token.go) is all that renewing or revoking needs.
//
// An API server introspects it. path_introspect.go asks Tokens.Introspect,
// which finds the record or verifies the signature (backend/token/find.go), looks
// at the bit, and runs the requested checks. response.go shapes the answer, which
// says where the bit is published. So the server need not ask again: it watches the
// signed status list (path_status.go). A JWT it verifies without any question, with
// the key set (path_jwks.go). verify/format has the formats that both use.
//
// Vault revokes the lease, or somebody revokes the token (path_revoke.go,
// path_tokens.go): its bit is set, then its record deleted, if it has one
// (backend/token/revoke.go). All tokens of a role (path_roles.go) end by an entry for
// each list, all of an entity (path_entities.go) by a cut-off (backend/cutoff); the
// pass over all records (backend/token/tidy.go) then removes the records. Engine.Tidy (backend/tidy.go), which periodic in
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
