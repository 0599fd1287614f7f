// Package geo locates addresses with a MaxMind database file.
package geo

import (
	"fmt"
	"math"
	"net/netip"

	"github.com/oschwald/maxminddb-golang"
)

// Location is where an address is.
type Location struct {
	Country             string // ISO 3166-1 alpha-2
	Latitude, Longitude float64
	HasCoordinates      bool
}

// Locator finds the location of an address, if it is known.
type Locator interface {
	Locate(netip.Addr) (Location, bool)
}

// Database is a MaxMind file such as GeoLite2-City.mmdb or -Country.mmdb.
type Database struct{ reader *maxminddb.Reader }

// Open maps a database file into memory.
func Open(path string) (*Database, error) {
	r, err := maxminddb.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Database{r}, nil
}

// Close releases the file.
func (d *Database) Close() error { return d.reader.Close() }

// Locate implements Locator.
func (d *Database) Locate(addr netip.Addr) (Location, bool) {
	var record struct {
		Country struct {
			ISOCode string `maxminddb:"iso_code"`
		} `maxminddb:"country"`
		Location struct {
			Latitude  *float64 `maxminddb:"latitude"`
			Longitude *float64 `maxminddb:"longitude"`
		} `maxminddb:"location"`
	}
	if err := d.reader.Lookup(addr.Unmap().AsSlice(), &record); err != nil || record.Country.ISOCode == "" {
		return Location{}, false
	}
	l := Location{Country: record.Country.ISOCode}
	if lat, lon := record.Location.Latitude, record.Location.Longitude; lat != nil && lon != nil {
		l.Latitude, l.Longitude, l.HasCoordinates = *lat, *lon, true
	}
	return l, true
}

// Kilometres is the distance between two locations (haversine).
func Kilometres(a, b Location) float64 {
	const earth, degree = 6371, math.Pi / 180
	sinLat := math.Sin((b.Latitude - a.Latitude) * degree / 2)
	sinLon := math.Sin((b.Longitude - a.Longitude) * degree / 2)
	h := sinLat*sinLat + math.Cos(a.Latitude*degree)*math.Cos(b.Latitude*degree)*sinLon*sinLon
	return 2 * earth * math.Asin(math.Sqrt(min(1, h)))
}
