package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// details reads the bodies of the request and of its response.
func (p *Parser) details(e *tokenwatch.Event) error {
	req := scanner{b: p.entry.requestData}
	if req.peek() == '{' {
		p.requestBody(&req, e)
	}
	resp := scanner{b: p.entry.responseData}
	refused := false
	if resp.peek() == '{' {
		refused = p.responseBody(&resp, e)
	}
	switch {
	case strings.Contains(e.Error, "permission denied"):
		e.Denied = true
	case e.Error != "" || refused:
		e.Invalid = true
	}
	p.lease(e)
	if req.err != nil {
		return req.err
	}
	return resp.err
}

func (p *Parser) requestBody(s *scanner, e *tokenwatch.Event) {
	var set *tokenwatch.RequestSettings
	switch e.Kind {
	case tokenwatch.KindRoleWrite, tokenwatch.KindConfigWrite, tokenwatch.KindMountTune:
		set = &tokenwatch.RequestSettings{}
	}
	s.members(func(key []byte) {
		switch string(key) {
		case "token":
			if e.Kind == tokenwatch.KindIntrospect || e.Kind == tokenwatch.KindRevoke {
				e.TokenHash = tokenHash(s.text())
			}
		case "batch_input":
			if e.Kind == tokenwatch.KindIntrospect && e.Item == 0 {
				p.entry.batchInput = s.value()
			}
		case "client_ip":
			e.ClientIP = p.strings.get(s.text())
		case "lease_id":
			e.LeaseHash = string(s.text())
		case "prefix":
			if e.Kind == tokenwatch.KindLeasePrefix {
				e.Name = string(s.text())
			}
		case "emergency":
			if is, ok := s.boolean(); ok && is && e.Kind == tokenwatch.KindKeyRotate {
				e.Kind = tokenwatch.KindKeyEmergency
			}
		default:
			if set != nil {
				p.setting(s, key, set)
			}
		}
	})
	e.Settings = set
}

// responseBody reports whether the engine refused the request.
func (p *Parser) responseBody(s *scanner, e *tokenwatch.Event) (refused bool) {
	var set *tokenwatch.RequestSettings
	switch e.Kind {
	case tokenwatch.KindRoleRead, tokenwatch.KindConfigRead:
		set = &tokenwatch.RequestSettings{}
	}
	var dropped, retired bool
	var expires int64
	s.members(func(key []byte) {
		switch string(key) {
		case "error":
			refused = s.peek() == '"'
		case "batch_results":
			if e.Kind == tokenwatch.KindIntrospect && e.Item == 0 {
				p.entry.batchResults = s.value()
			}
		case "expires_in":
			if n, ok := s.number(); ok {
				expires = e.Time.Unix() + n
			}
		case "exp":
			if n, ok := s.number(); ok {
				expires = n
			}
		case "dropped":
			if s.peek() == '[' {
				s.elements(func() { dropped = true })
			}
		case "retired":
			retired = true
		case "status_lists":
			if n, ok := s.number(); ok && e.Kind == tokenwatch.KindRoleRevoke {
				e.StatusLists = n
			}
		default:
			if !p.tokenField(s, key, e) && set != nil {
				p.setting(s, key, set)
			}
		}
	})
	if expires > 0 {
		e.Expires = time.Unix(expires, 0).UTC()
	}
	// In logs from before emergencies had a path of their own, `vault write` sent
	// emergency as a string, which Vault hashes. The response shows it, too: an
	// emergency retires no version, it drops all.
	if e.Kind == tokenwatch.KindKeyRotate && dropped && !retired {
		e.Kind = tokenwatch.KindKeyEmergency
	}
	e.Settings = firstOf(e.Settings, set)
	return refused
}

// tokenField reads a field that describes the issued or introspected token. It
// reports whether key is one.
func (p *Parser) tokenField(s *scanner, key []byte, e *tokenwatch.Event) bool {
	switch string(key) {
	case "active":
		if is, ok := s.boolean(); ok {
			e.Active = &is
		}
	case "token":
		if e.Kind == tokenwatch.KindIssue {
			e.TokenHash = tokenHash(s.text())
		}
	case "token_id":
		e.TokenID = string(s.text())
	case "token_type":
		e.TokenType = p.strings.get(s.text())
	case "role":
		if role := p.strings.get(s.text()); e.Role == "" || !hashed(role) {
			e.Role = role
		}
	case "client_id":
		e.ClientID = p.strings.get(s.text())
	case "scope_failed":
		e.ScopeFailed, _ = s.boolean()
	case "audience_failed":
		e.AudienceFailed, _ = s.boolean()
	case "client_ip_failed":
		e.ClientIPFailed, _ = s.boolean()
	default:
		return false
	}
	return true
}

// tokenHash keeps tokens out of memory and state when the log has them in clear
// (log_raw=true). Equal tokens have equal hashes in that case, too.
func tokenHash(token []byte) string {
	if len(token) == 0 || bytes.HasPrefix(token, []byte(tokenwatch.HashPrefix)) {
		return string(token)
	}
	sum := sha256.Sum256(token)
	return tokenwatch.HashPrefix + hex.EncodeToString(sum[:])
}

func firstOf(a, b *tokenwatch.RequestSettings) *tokenwatch.RequestSettings {
	if a != nil {
		return a
	}
	return b
}

func (p *Parser) setting(s *scanner, key []byte, set *tokenwatch.RequestSettings) {
	switch string(key) {
	case "allowed_scopes":
		set.AllowedScopes = p.list(s)
	case "default_scopes":
		set.DefaultScopes = p.list(s)
	case "audiences":
		set.Audiences = p.list(s)
	case "bound_cidrs":
		set.BoundCIDRs = p.list(s)
	case "ttl", "default_lease_ttl":
		set.TTL = duration(s)
	case "max_ttl", "max_lease_ttl":
		set.MaxTTL = duration(s)
	case "max_tokens":
		if n, ok := integer(s); ok {
			set.MaxTokens = &n
		}
	}
}

// list reads a list, or a comma-separated string. null is the empty list.
func (p *Parser) list(s *scanner) []string {
	list := []string{}
	switch s.peek() {
	case '[':
		s.elements(func() {
			if text := p.strings.get(s.text()); text != "" {
				list = append(list, text)
			}
		})
	case '"':
		for part := range strings.SplitSeq(string(s.text()), ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
	default:
		s.skip()
	}
	return list
}

// duration reads seconds, as a number or a string, or a duration such as 15m or
// 30d. null means 0, as in the engine; nil means unknown, such as a hashed value.
func duration(s *scanner) *time.Duration {
	var d time.Duration
	switch s.peek() {
	case '"':
		text := string(s.text())
		var ok bool
		if d, ok = parseDuration(text); !ok {
			return nil
		}
	case 'n':
		s.skip()
	default:
		n, ok := s.number()
		if !ok {
			return nil
		}
		d = seconds(n)
	}
	return &d
}

func seconds(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Second)
	return time.Duration(max(min(n, most), -most)) * time.Second
}

func parseDuration(text string) (time.Duration, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return seconds(n), true
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseInt(days, 10, 32); err == nil {
			return seconds(n * 24 * 60 * 60), true
		}
	}
	d, err := time.ParseDuration(text)
	return d, err == nil
}

func integer(s *scanner) (int64, bool) {
	switch s.peek() {
	case '"':
		text := string(s.text())
		n, err := strconv.ParseInt(text, 10, 64)
		return n, err == nil
	case 'n':
		s.skip()
		return 0, true
	}
	return s.number()
}

// lease sets the id or the hash of the lease, however it was sent.
func (p *Parser) lease(e *tokenwatch.Event) {
	switch e.Kind {
	case tokenwatch.KindLeaseRevoke, tokenwatch.KindLeaseRenew:
	default:
		return
	}
	if e.LeaseHash != "" && !hashed(e.LeaseHash) {
		e.Name, e.LeaseHash = e.LeaseHash, ""
	}
	if e.LeaseID == "" {
		e.LeaseID = e.Name
	}
}
