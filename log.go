package tokens

import (
	"cmp"
	"errors"

	"github.com/hashicorp/go-hclog"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/keyring"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/usererror"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// What several doors log, and count. No line holds a token, or what a caller typed.

// logInactive logs why a token is inactive. Anybody can make up those that are not
// ours, so these are for debugging.
func (b *tokensBackend) logInactive(answer *token.Answer) {
	if answer.Active {
		return
	}
	level := hclog.Info
	if !answer.Genuine() {
		level = hclog.Debug
	}
	b.Logger().Log(level, "introspection refused", "reason", string(answer.Reason), "token_id", answer.ID, "role", answer.Role,
		"scope_failed", answer.ScopeFailed, "audience_failed", answer.AudienceFailed, "client_ip_failed", answer.ClientIPFailed)
}

// maxBatchLines is how many of our tokens a batch logs as inactive. One line counts
// the others, so that a request cannot fill the log.
const maxBatchLines = 20

// batchLog logs a batch: inactive tokens like single ones, up to a number, and of
// mistakes and of faults the first, with their number.
type batchLog struct {
	backend                    *tokensBackend
	inactive, mistakes, faults int
	mistake                    *usererror.Error
	fault                      error
}

func (l *batchLog) add(answer *token.Answer, err error) {
	var mistake *usererror.Error
	switch {
	case errors.As(err, &mistake):
		l.mistakes++
		l.mistake = cmp.Or(l.mistake, mistake)
	case err != nil:
		if l.faults++; l.fault == nil {
			l.fault = err
		}
	case !answer.Genuine():
		l.backend.logInactive(answer)
	case !answer.Active:
		if l.inactive++; l.inactive <= maxBatchLines {
			l.backend.logInactive(answer)
		}
	}
}

func (l *batchLog) end() {
	log := l.backend.Logger()
	if more := l.inactive - maxBatchLines; more > 0 {
		log.Info("more introspections of a batch refused", "count", more)
	}
	if l.mistakes > 0 {
		log.Info("items of a batch refused", "count", l.mistakes, "field", l.mistake.Field, "reason", l.mistake.Problem)
	}
	if l.faults > 0 {
		log.Error("items of a batch not answered", "count", l.faults, "problem", format.Redact(l.fault.Error()))
	}
}

// logEnded logs and counts the end of a token. Vault's audit log has no entry for a
// lease that expires, so this line is the only trace of it.
func (b *tokensBackend) logEnded(ended *token.Ended, err error) {
	if err == nil && ended != nil {
		b.logEndedAt(hclog.Info, ended)
	}
}

func (b *tokensBackend) logEndedAt(level hclog.Level, ended *token.Ended) {
	message, counter := "token revoked", b.counts.revoked
	if ended.Expired {
		message, counter = "token expired", b.counts.expired
	}
	counter.add(string(ended.TokenType))
	b.Logger().Log(level, message, "token_id", ended.ID, "role", ended.Role, "token_type", ended.TokenType)
}

// logTidied logs what a run of tidying did. Its error is that of work in the
// background, which answers nobody.
func (b *tokensBackend) logTidied(done *backend.TidyResult, err error) {
	for _, expired := range done.Tokens.Expired {
		b.logEnded(expired, nil)
	}
	// A kill switch, which has its own line and entry in the audit log, may have ended
	// a million of them.
	for _, ended := range done.Tokens.Ended {
		b.logEndedAt(hclog.Debug, ended)
	}
	if n := len(done.Tokens.Ended); n > 0 {
		b.Logger().Info("records of revoked tokens removed", "records", n)
	}
	if done.Lists != (statuslist.Tidied{}) {
		b.Logger().Info("status lists tidied", "lists", done.Lists.Lists, "revocations", done.Lists.Revocations)
	}
	if done.Cutoffs > 0 {
		b.Logger().Info("cut-offs tidied", "cutoffs", done.Cutoffs)
	}
	for _, rotation := range done.Rotations {
		b.logRotation(rotation)
	}
	if err != nil {
		b.Logger().Error("tidying in the background failed", "error", format.Redact(err.Error()))
	}
}

func (b *tokensBackend) logRotation(rotation *keyring.Rotation) {
	for _, v := range rotation.Dropped {
		b.Logger().Info("key version dropped", "key", rotation.Key.Name, "kid", v.ID, "version", v.Number, "state", v.State)
	}
	if rotation.Rotated {
		b.Logger().Info("key rotated", "key", rotation.Key.Name, "kid", rotation.Signing.ID, "version", rotation.Signing.Number)
	}
}

// logKeyProblem logs what keeps a key from being used, or from being rotated by
// itself.
func (b *tokensBackend) logKeyProblem(name string, problem error) {
	b.Logger().Error("signing key needs attention", "key", name, "problem", format.Redact(problem.Error()))
}

func (b *tokensBackend) logListKey(listKey *backend.ListKey) {
	if listKey.New != nil {
		b.logKeyCreated(listKey.New)
	}
}

func (b *tokensBackend) logKeyCreated(key *keyring.Key) {
	b.Logger().Info("key created", "key", key.Name, "algorithm", key.Algorithm, "kid", key.Versions[0].ID)
}
