package audit

import (
	"errors"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

// maxItems is how many items of a batch the engine answers.
const maxItems = 1000

var errTooManyItems = errors.New("a batch with more items than the engine answers")

// appendItems appends the items of the batch that was parsed last. They differ from
// whole in what the request and the response say of each. Without this, whoever
// presents tokens in batches would be watched less closely.
func (p *Parser) appendItems(events []tokenwatch.Event, whole tokenwatch.Event) ([]tokenwatch.Event, error) {
	first := len(events)
	results := scanner{b: p.entry.batchResults}
	results.elements(func() {
		if len(events)-first == maxItems {
			results.fail(errTooManyItems)
			return
		}
		e := whole
		e.Item = len(events) - first + 1
		if results.peek() == '{' {
			e.Invalid = p.responseBody(&results, &e)
		}
		events = append(events, e)
	})
	input := scanner{b: p.entry.batchInput}
	if results.err == nil && input.peek() == '[' {
		items := events[first:]
		input.elements(func() {
			if len(items) > 0 && input.peek() == '{' {
				p.requestBody(&input, &items[0])
			}
			items = items[min(1, len(items)):]
		})
	}
	if err := errors.Join(results.err, input.err); err != nil {
		return events[:first], err
	}
	if len(events) == first {
		events = append(events, whole)
	}
	return events, nil
}
