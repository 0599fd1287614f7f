package config

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/source"
)

// Source is where the audit log comes from: a file or a socket.
type Source struct {
	File    string `yaml:"file"`
	FromEnd bool   `yaml:"from_end"` // on the first start, skip what the file already holds
	Socket  string `yaml:"socket"`   // tcp://host:port or unix:///path, to listen on
	MaxLine int    `yaml:"max_line_bytes"`
}

func (s *Source) validate() (problems []error) {
	if s.File != "" && s.Socket != "" {
		problems = append(problems, errors.New("source: file and socket exclude each other"))
	}
	if s.Socket != "" {
		if _, _, err := source.ParseSocket(s.Socket); err != nil {
			problems = append(problems, fmt.Errorf("source.socket: %w", err))
		}
	}
	if n := s.MaxLine; n != 0 && (n < 1<<10 || n > 64<<20) {
		problems = append(problems, fmt.Errorf("source.max_line_bytes: %d is not between 1024 and %d", n, 64<<20))
	}
	return problems
}

// Open returns the source to follow. A file is resumed at from, unless that is
// nil; a socket listens from now on.
func (s *Source) Open(from *tokenwatch.Position, log *slog.Logger) (tokenwatch.Source, error) {
	if s.File != "" {
		log.Info("following", "file", s.File, "resumed", from != nil)
		return &source.File{Path: s.File, From: from, FromEnd: s.FromEnd, MaxLine: s.MaxLine, Log: log}, nil
	}
	network, address, err := source.ParseSocket(s.Socket)
	if err != nil {
		return nil, err
	}
	socket := &source.Socket{Network: network, Address: address, MaxLine: s.MaxLine, Log: log}
	if err := socket.Listen(); err != nil {
		return nil, err
	}
	log.Info("listening for a socket audit device", "address", socket.Addr().String())
	return socket, nil
}
