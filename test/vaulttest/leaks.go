package vaulttest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// SecretLength is the length of an opaque token's secret part, and
// checksumLength that of the checksum behind it.
const (
	SecretLength   = 43
	checksumLength = 6
)

// Secrets remembers what was issued, to prove later that it is written down
// nowhere.
type Secrets struct {
	mu      sync.Mutex
	needles map[string]string // what must not be found → whose it is
	lengths map[int]bool
	count   int
}

// Add remembers a token: of an opaque one the secret part, of a JWT the
// signature. The full token contains either, so it need not be looked for.
func (s *Secrets) Add(token, owner string) {
	if token == "" {
		return
	}
	needle := token
	if parts := strings.Split(token, "."); len(parts) == 3 {
		needle = parts[2]
	} else if end := len(token) - checksumLength; end >= SecretLength {
		needle = token[end-SecretLength : end]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.needles == nil {
		s.needles, s.lengths = map[string]string{}, map[int]bool{}
	}
	s.needles[needle] = owner
	s.lengths[len(needle)] = true
	s.count++
}

// Len is the number of tokens added.
func (s *Secrets) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Find returns the owners of all secrets that occur in the file, with the
// line number.
func (s *Secrets) Find(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.scan(f)
}

func (s *Secrets) scan(r io.Reader) ([]string, error) {
	var found []string
	in := bufio.NewReaderSize(r, 1<<20)
	for n := 1; ; n++ {
		line, err := in.ReadString('\n')
		for _, owner := range s.inLine(line) {
			found = append(found, fmt.Sprintf("line %d: %s", n, owner))
		}
		if err == io.EOF {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// inLine looks up every window of every run of token characters, which is
// linear in the text however many secrets there are.
func (s *Secrets) inLine(line string) []string {
	var found []string
	for run := range strings.FieldsFuncSeq(line, func(r rune) bool { return !tokenCharacter(r) }) {
		for length := range s.lengths {
			for i := 0; i+length <= len(run); i++ {
				if owner, ok := s.needles[run[i:i+length]]; ok {
					found = append(found, owner)
				}
			}
		}
	}
	return found
}

func tokenCharacter(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_' || r == '-'
}
