package format

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// vector is a list of which the statuses that are not 0 are named.
type vector struct {
	Source   string       `json:"source"`
	Bits     int          `json:"bits"`
	Size     int          `json:"size"`
	List     string       `json:"lst"`
	Statuses map[int]byte `json:"statuses"`
}

// vectors are the draft's own, with lists of 2^20 entries.
func vectors(t testing.TB) []vector {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "statuslist_vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors []vector `json:"vectors"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) != 4 {
		t.Fatalf("%d vectors, want one each for 1, 2, 4 and 8 bits", len(file.Vectors))
	}
	return file.Vectors
}

// packed is what an lst member holds, by the standard library alone.
func packed(t testing.TB, lst string) []byte {
	t.Helper()
	compressed, err := base64.RawURLEncoding.DecodeString(lst)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := zlib.NewReader(bytes.NewReader(compressed))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// lstOf makes an lst member of bytes, by the standard library alone.
func lstOf(t testing.TB, raw []byte) string {
	t.Helper()
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(out.Bytes())
}

func TestStatusListDecodesTheDraftsVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(fmt.Sprintf("%d bits", v.Bits), func(t *testing.T) {
			list, err := DecodeStatusList(v.Bits, v.List, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if list.Len() != v.Size || list.Bits() != v.Bits {
				t.Fatalf("%d entries of %d bits, want %d of %d", list.Len(), list.Bits(), v.Size, v.Bits)
			}
			for i := range v.Size {
				// Statuses that the draft does not name are 0, as a missing
				// entry of the map is.
				if got, ok := list.Get(i); !ok || got != v.Statuses[i] {
					t.Fatalf("%s: status[%d] = %d, %t; want %d", v.Source, i, got, ok, v.Statuses[i])
				}
			}
		})
	}
}

func TestStatusListEncodesTheDraftsVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(fmt.Sprintf("%d bits", v.Bits), func(t *testing.T) {
			list := NewStatusList(v.Size, v.Bits)
			for i, status := range v.Statuses {
				if !list.Set(i, status) {
					t.Fatalf("status[%d] = %d cannot be set", i, status)
				}
			}
			lst, err := list.Encode()
			if err != nil {
				t.Fatal(err)
			}
			// How well it is compressed is each implementation's own matter;
			// what it unpacks to is not.
			if !bytes.Equal(packed(t, lst), packed(t, v.List)) {
				t.Errorf("%s: unpacks to other bytes than the draft's", v.Source)
			}
			if limit := 2 * len(v.List); len(lst) > limit {
				t.Errorf("%d characters, more than %d", len(lst), limit)
			}
		})
	}
}

// The draft's short examples (Section 4.1 and 4.2), which show the order of
// entries in a byte.
func TestStatusListShortExamples(t *testing.T) {
	for _, example := range []struct {
		bits     int
		statuses []byte
		packed   string // hex
		lst      string
	}{
		{1, []byte{1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1}, "b9a3", "eNrbuRgAAhcBXQ"},
		{2, []byte{1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3}, "c944f9", "eNo76fITAAPfAgc"},
	} {
		list := NewStatusList(len(example.statuses), example.bits)
		for i, status := range example.statuses {
			if !list.Set(i, status) {
				t.Fatalf("%d bits: status[%d] = %d cannot be set", example.bits, i, status)
			}
		}
		lst, err := list.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(packed(t, lst)); got != example.packed {
			t.Errorf("%d bits: packs to %s, want %s", example.bits, got, example.packed)
		}
		decoded, err := DecodeStatusList(example.bits, example.lst, 1<<10)
		if err != nil {
			t.Fatal(err)
		}
		if decoded.Len() != len(example.statuses) {
			t.Errorf("%d bits: %d entries, want %d", example.bits, decoded.Len(), len(example.statuses))
		}
		for i, want := range example.statuses {
			if got, ok := decoded.Get(i); !ok || got != want {
				t.Errorf("%d bits: status[%d] = %d, %t; want %d", example.bits, i, got, ok, want)
			}
		}
	}
}

// Every entry is set and read on its own: a neighbour in the same byte never
// changes with it.
func TestStatusListEntriesAreIndependent(t *testing.T) {
	const size = 1 << 10
	random := rand.New(rand.NewPCG(1, 2))
	for _, bits := range []int{1, 2, 4, 8} {
		list, want := NewStatusList(size, bits), make([]byte, size)
		for range 10 * size {
			i, status := random.IntN(size), byte(random.IntN(1<<bits))
			if !list.Set(i, status) {
				t.Fatalf("%d bits: status[%d] = %d cannot be set", bits, i, status)
			}
			want[i] = status
		}
		copied := list.Clone()
		list.Set(0, want[0]^1)
		for i := range size {
			if got, ok := copied.Get(i); !ok || got != want[i] {
				t.Fatalf("%d bits: status[%d] = %d, %t; want %d", bits, i, got, ok, want[i])
			}
		}
	}
}

func TestStatusListBounds(t *testing.T) {
	for _, bits := range []int{1, 2, 4, 8} {
		list := NewStatusList(64, bits)
		if list.Len() != 64 {
			t.Errorf("%d bits: %d entries, want 64", bits, list.Len())
		}
		for _, i := range []int{-1, 64, 1 << 40} {
			if list.Set(i, 1) {
				t.Errorf("%d bits: status[%d] can be set", bits, i)
			}
			if _, ok := list.Get(i); ok {
				t.Errorf("%d bits: status[%d] can be read", bits, i)
			}
		}
		if bits < 8 && list.Set(0, 1<<bits) {
			t.Errorf("%d bits: a status of %d bits can be set", bits, bits+1)
		}
		if raw := packed(t, must(list.Encode())); !bytes.Equal(raw, make([]byte, 8*bits)) {
			t.Errorf("%d bits: what was refused has changed the list: %x", bits, raw)
		}
	}
	// A list takes whole bytes.
	if got := NewStatusList(9, 1).Len(); got != 16 {
		t.Errorf("9 entries of 1 bit take %d, want 16", got)
	}
	for _, bits := range []int{-1, 0, 3, 5, 16} {
		if !panics(func() { NewStatusList(8, bits) }) {
			t.Errorf("there is a list of %d bits", bits)
		}
	}
}

func must(lst string, err error) string {
	if err != nil {
		panic(err)
	}
	return lst
}

func panics(f func()) (panicked bool) {
	defer func() { panicked = recover() != nil }()
	f()
	return false
}

func TestBadStatusListsAreRefused(t *testing.T) {
	good := lstOf(t, make([]byte, 100))
	compressed, err := base64.RawURLEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(compressed)
	flipped[len(flipped)-1] ^= 1 // in the checksum
	for name, bad := range map[string]struct {
		bits int
		lst  string
	}{
		"nothing":         {1, ""},
		"not base64url":   {1, "!" + good[1:]},
		"standard base64": {1, base64.StdEncoding.EncodeToString(append([]byte{0xFB, 0xFF}, compressed...))},
		"not zlib":        {1, base64.RawURLEncoding.EncodeToString([]byte("not zlib"))},
		"zlib cut off":    {1, base64.RawURLEncoding.EncodeToString(compressed[:len(compressed)-5])},
		"wrong checksum":  {1, base64.RawURLEncoding.EncodeToString(flipped)},
		"0 bits":          {0, good},
		"3 bits":          {3, good},
		"16 bits":         {16, good},
		"-1 bits":         {-1, good},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := DecodeStatusList(bad.bits, bad.lst, 1<<20); !errors.Is(err, ErrStatusList) {
				t.Errorf("got the error %v, want ErrStatusList", err)
			}
		})
	}
}

// What is small on the wire can unpack to a thousand times as much: it must be
// refused before that is in memory.
func TestDecompressionBombIsRefused(t *testing.T) {
	const limit = 1 << 17
	bomb := lstOf(t, make([]byte, 32<<20))
	if len(bomb) > 1<<16 {
		t.Fatalf("the bomb takes %d characters", len(bomb))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := DecodeStatusList(1, bomb, limit)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrStatusList) {
		t.Fatalf("got the error %v, want ErrStatusList", err)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 16*limit {
		t.Errorf("refused after %d bytes were allocated, want at most %d", allocated, 16*limit)
	}

	// The bound itself is allowed, a byte more is not.
	if _, err := DecodeStatusList(1, lstOf(t, make([]byte, limit)), limit); err != nil {
		t.Errorf("a list of the largest allowed size: %v", err)
	}
	if _, err := DecodeStatusList(1, lstOf(t, make([]byte, limit+1)), limit); !errors.Is(err, ErrStatusList) {
		t.Errorf("a list a byte too large: got the error %v, want ErrStatusList", err)
	}
}

func FuzzDecodeStatusList(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.Bits, v.List)
	}
	f.Add(1, "eNrbuRgAAhcBXQ")
	f.Add(2, "eNo76fITAAPfAgc")
	f.Add(1, "")
	f.Add(3, strings.Repeat("A", 100))
	f.Fuzz(func(t *testing.T, bits int, lst string) {
		const limit = 1 << 20
		list, err := DecodeStatusList(bits, lst, limit)
		if err != nil {
			if !errors.Is(err, ErrStatusList) {
				t.Fatalf("got the error %v, want ErrStatusList", err)
			}
			return
		}
		if list.Bits() != bits || list.Len()*bits > 8*limit {
			t.Fatalf("%d entries of %d bits", list.Len(), list.Bits())
		}
		encoded, err := list.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeStatusList(bits, encoded, limit)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.bytes, list.bytes) {
			t.Fatal("what was encoded decodes to something else")
		}
	})
}

func BenchmarkStatusListEncode(b *testing.B) {
	for _, size := range []int{1 << 17, 1 << 20} {
		b.Run(fmt.Sprintf("%d entries", size), func(b *testing.B) {
			random := rand.New(rand.NewPCG(1, 2))
			list := NewStatusList(size, 1)
			for range size / 131 { // about as many as 1,000 of 131,072
				list.Set(random.IntN(size), StatusInvalid)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := list.Encode(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestStatusListWithARemainderIsRefused(t *testing.T) {
	lst, err := NewStatusList(16, 1).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{lst + "AAAA", lst + "=", lst + "\n"} {
		if _, err := DecodeStatusList(1, bad, 1<<10); !errors.Is(err, ErrStatusList) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
