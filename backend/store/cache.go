package store

import "github.com/hashicorp/golang-lru/v2/simplelru"

// Cache is the most recently used values, within bounds on their number and on
// the bytes that they take. It is not safe for concurrent use.
type Cache[K comparable, V any] struct {
	lru      *simplelru.LRU[K, sized[V]]
	maxBytes int
	bytes    int
}

type sized[V any] struct {
	value V
	bytes int
}

// NewCache returns a cache of at most maxEntries values that take at most
// maxBytes together; 0 bytes set no bound.
func NewCache[K comparable, V any](maxEntries, maxBytes int) *Cache[K, V] {
	c := &Cache[K, V]{maxBytes: maxBytes}
	var err error
	c.lru, err = simplelru.NewLRU(maxEntries, func(_ K, v sized[V]) { c.bytes -= v.bytes })
	if err != nil {
		panic(err) // a size below one is a mistake in the program
	}
	return c
}

// Get returns a value and makes it the most recently used one.
func (c *Cache[K, V]) Get(key K) (V, bool) {
	v, ok := c.lru.Get(key)
	return v.value, ok
}

// Add adds or replaces a value that takes so many bytes.
func (c *Cache[K, V]) Add(key K, value V, bytes int) {
	c.lru.Remove(key)
	c.bytes += bytes
	c.lru.Add(key, sized[V]{value, bytes})
	for c.maxBytes > 0 && c.bytes > c.maxBytes {
		c.lru.RemoveOldest()
	}
}

// Remove removes a value if it is there.
func (c *Cache[K, V]) Remove(key K) { c.lru.Remove(key) }

// Len returns how many values there are.
func (c *Cache[K, V]) Len() int { return c.lru.Len() }

// Bytes returns what the values take.
func (c *Cache[K, V]) Bytes() int { return c.bytes }
