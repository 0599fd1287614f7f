package token

// Counts are figures of the tokens for operators, from memory.
type Counts struct {
	Records, RecordBytes int // cached; bytes as stored
	JWTs, JWTBytes       int // whose signature was verified
	// CappedTokens are the live tokens of roles with max_tokens, as far as they are
	// counted here: of CappedRoles.
	CappedRoles, CappedTokens int
	// Pass is the pass over all records that is under way, or the last one, and
	// Complete the last one that was finished; zero if this process knows of none.
	Pass, Complete Pass
}

// Counts returns what is in memory. It does not read the storage.
func (t *Tokens) Counts() Counts {
	var c Counts
	c.Records, c.RecordBytes = t.records.Cached()
	c.JWTs, c.JWTBytes = t.signatures.cached()
	c.CappedRoles, c.CappedTokens = t.records.caps.counted()
	c.Pass, c.Complete = t.tidying.passes()
	return c
}

func (s *signatures) cached() (jwts, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cache.Len(), s.cache.Bytes()
}

// counted returns how many roles have their slots in memory, and how many slots.
func (c *caps) counted() (roles, slots int) {
	c.mu.Lock()
	counters := make([]*counter, 0, len(c.roles))
	for _, n := range c.roles {
		counters = append(counters, n)
	}
	c.mu.Unlock()
	for _, n := range counters {
		n.mu.Lock()
		if n.loaded {
			roles++
			slots += len(n.slots)
		}
		n.mu.Unlock()
	}
	return roles, slots
}

func (t *tidying) passes() (last, complete Pass) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pass != nil {
		last = *t.pass
	}
	if finished := t.pass.complete(); finished != nil {
		complete = *finished
	}
	return last, complete
}

// Records returns how many records the pass has found, and left.
func (p Pass) Records() int { return p.Looked - p.Removed - p.Ended }
