package statuslist

// forget drops a list from memory. If it is one of this instance, somebody else
// has written it: nothing more is given out on it. l.mu is held.
func (l *Lists) forget(id string) {
	delete(l.loading, id)
	if li, ok := l.loaded.Peek(id); ok {
		l.bytes -= li.bytes()
		l.loaded.Remove(id)
		l.closeList(li)
	}
}

// inMemory returns a list if it is loaded; l.mu is held.
func (l *Lists) inMemory(id string) *list {
	if li, ok := l.loaded.Get(id); ok {
		return li
	}
	return nil
}

// keep adds a list to what is loaded, within the bounds. A list that is being
// filled stays, whatever it takes; l.mu is held.
func (l *Lists) keep(li *list) {
	if old, ok := l.loaded.Peek(li.entry.ID); ok {
		l.bytes -= old.bytes()
	}
	l.loaded.Add(li.entry.ID, li)
	l.bytes += li.bytes()
	l.shrink()
}

func (l *Lists) shrink() {
	for range l.loaded.Len() {
		id, oldest, ok := l.loaded.GetOldest()
		if !ok || l.bytes <= cachedListBytes && l.loaded.Len() < cachedLists {
			return
		}
		if l.beingFilled(oldest) {
			l.loaded.Get(id) // look at the next one first
			continue
		}
		l.bytes -= oldest.bytes()
		l.loaded.Remove(id)
	}
}

func (l *Lists) beingFilled(li *list) bool {
	w := l.writers[li.entry.Owner]
	return li.open > 0 || w != nil && w.list == li
}

// change lets a list change in memory, and follows what it takes; l.mu is held.
func (l *Lists) change(li *list, change func()) {
	before := li.bytes()
	change()
	if kept, ok := l.loaded.Peek(li.entry.ID); ok && kept == li {
		l.bytes += li.bytes() - before
	}
}
