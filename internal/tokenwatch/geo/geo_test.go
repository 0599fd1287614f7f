package geo

import (
	"bytes"
	"encoding/binary"
	"flag"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

var keep = flag.String("keep", "", "keep the database of TestLocate as this file, for tests elsewhere")

// database writes a MaxMind file (format 2.0, IPv4, records of 24 bits) with a
// record for each network.
type database struct {
	nodes [][2]int // child: node, or -1 for nothing, or -2-offset for a record
	data  bytes.Buffer
}

func newDatabase() *database { return &database{nodes: [][2]int{{-1, -1}}} }

func (d *database) add(network string, record func(*bytes.Buffer)) {
	p := netip.MustParsePrefix(network)
	bits, at := binary.BigEndian.Uint32(p.Addr().AsSlice()), 0
	for depth := range p.Bits() {
		side := bits >> (31 - depth) & 1
		if depth == p.Bits()-1 {
			d.nodes[at][side] = -2 - d.data.Len()
			break
		}
		if d.nodes[at][side] < 0 {
			d.nodes = append(d.nodes, [2]int{-1, -1})
			d.nodes[at][side] = len(d.nodes) - 1
		}
		at = d.nodes[at][side]
	}
	record(&d.data)
}

func (d *database) write(t *testing.T) string {
	t.Helper()
	var out bytes.Buffer
	for _, node := range d.nodes {
		for _, child := range node {
			switch {
			case child == -1:
				child = len(d.nodes)
			case child < -1:
				child = len(d.nodes) + 16 + (-2 - child)
			}
			out.Write([]byte{byte(child >> 16), byte(child >> 8), byte(child)})
		}
	}
	out.Write(make([]byte, 16))
	out.Write(d.data.Bytes())
	out.WriteString("\xab\xcd\xefMaxMind.com")
	mapOf(&out, 9)
	for name, value := range map[string]uint64{"binary_format_major_version": 2, "binary_format_minor_version": 0, "ip_version": 4, "record_size": 24} {
		text(&out, name)
		unsigned(&out, 5, value, 2)
	}
	text(&out, "node_count")
	unsigned(&out, 6, uint64(len(d.nodes)), 4)
	text(&out, "build_epoch")
	out.Write([]byte{8, 9 - 7})
	_ = binary.Write(&out, binary.BigEndian, uint64(1))
	text(&out, "database_type")
	text(&out, "Test")
	text(&out, "description")
	mapOf(&out, 0)
	text(&out, "languages")
	out.Write([]byte{0, 11 - 7})
	path := filepath.Join(t.TempDir(), "test.mmdb")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mapOf(b *bytes.Buffer, n byte) { b.WriteByte(7<<5 | n) }

func text(b *bytes.Buffer, s string) {
	b.WriteByte(2<<5 | byte(min(len(s), 29)))
	if len(s) >= 29 {
		b.WriteByte(byte(len(s) - 29))
	}
	b.WriteString(s)
}

func unsigned(b *bytes.Buffer, kind byte, n uint64, size int) {
	b.WriteByte(kind<<5 | byte(size))
	for i := size - 1; i >= 0; i-- {
		b.WriteByte(byte(n >> (8 * i)))
	}
}

func city(country string, lat, lon float64) func(*bytes.Buffer) {
	return func(b *bytes.Buffer) {
		mapOf(b, 2)
		text(b, "country")
		mapOf(b, 1)
		text(b, "iso_code")
		text(b, country)
		text(b, "location")
		mapOf(b, 2)
		for name, value := range map[string]float64{"latitude": lat, "longitude": lon} {
			text(b, name)
			b.WriteByte(3<<5 | 8)
			_ = binary.Write(b, binary.BigEndian, math.Float64bits(value))
		}
	}
}

func countryOnly(country string) func(*bytes.Buffer) {
	return func(b *bytes.Buffer) {
		mapOf(b, 1)
		text(b, "country")
		mapOf(b, 1)
		text(b, "iso_code")
		text(b, country)
	}
}

func TestLocate(t *testing.T) {
	d := newDatabase()
	d.add("81.2.69.0/24", city("GB", 51.5, -0.1))
	d.add("202.196.224.0/20", countryOnly("PH"))
	d.add("198.51.100.0/24", city("AU", -33.9, 151.2))
	path := d.write(t)
	if *keep != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(*keep, raw, 0o644); err != nil { //nolint:gosec // no secret
			t.Fatal(err)
		}
	}
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for address, want := range map[string]Location{
		"81.2.69.142":        {Country: "GB", Latitude: 51.5, Longitude: -0.1, HasCoordinates: true},
		"::ffff:81.2.69.142": {Country: "GB", Latitude: 51.5, Longitude: -0.1, HasCoordinates: true},
		"202.196.239.1":      {Country: "PH"},
		"127.0.0.1":          {},
		"2001:db8::1":        {},
	} {
		got, ok := db.Locate(netip.MustParseAddr(address))
		if got != want || ok != (want.Country != "") {
			t.Errorf("%s: %+v, %v", address, got, ok)
		}
	}
}

func TestOpenSaysWhichFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no.mmdb")
	if err := os.WriteFile(path, []byte("no database"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !bytes.Contains([]byte(err.Error()), []byte(path)) {
		t.Errorf("%v", err)
	}
}

func TestKilometres(t *testing.T) {
	berlin, sydney := Location{Latitude: 52.52, Longitude: 13.405}, Location{Latitude: -33.87, Longitude: 151.21}
	if km := Kilometres(berlin, sydney); km < 16000 || km > 16200 {
		t.Errorf("Berlin to Sydney is %.0f km", km)
	}
	if km := Kilometres(berlin, berlin); km != 0 {
		t.Errorf("Berlin to Berlin is %v km", km)
	}
	if km := Kilometres(Location{}, Location{Longitude: 180}); math.Abs(km-math.Pi*6371) > 1 {
		t.Errorf("half around the world is %.0f km", km)
	}
}
