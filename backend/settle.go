package backend

import (
	"context"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/token"
)

// settler settles the status lists of instances before, with what a pass over all
// records sees; see statuslist.Settling.
type settler struct {
	lists *statuslist.Lists

	mu       sync.Mutex
	prepared *statuslist.Settling // for the next pass; nil if there is nothing to settle
	settling *statuslist.Settling // by the pass under way
}

// prepare finds the lists to be settled, for a pass that begins later: no token joins
// a list of an instance before.
func (s *settler) prepare(ctx context.Context, storage logical.Storage) error {
	if s.isPrepared() {
		return nil
	}
	found, err := s.lists.BeginSettling(ctx, storage)
	if err != nil || found.Lists() == 0 {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prepared = found
	return nil
}

func (s *settler) isPrepared() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.prepared != nil || s.settling != nil // which the pass under way does
}

// Begin implements token.Visitor.
func (s *settler) Begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settling, s.prepared = s.prepared, nil
	return s.settling != nil
}

// Visit implements token.Visitor.
func (s *settler) Visit(record *token.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settling.Name(record.Ref)
}

// End implements token.Visitor. After a pass that has not seen every record nothing is
// known of the indexes that none of them names.
func (s *settler) End(ctx context.Context, storage logical.Storage, complete bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	settling := s.settling
	s.settling = nil
	if !complete {
		return nil
	}
	_, err := settling.End(ctx, storage)
	return err
}
