package main

import "context"

// capped measures the first issue after a restart of a role with many tokens under
// a cap, all of whose slots are then counted.
func capped(ctx context.Context, m *measurement) error {
	if _, err := m.fill(ctx, m.result.N, 2*m.result.N); err != nil {
		return err
	}
	issue := func() error {
		_, err := m.issue(ctx, generatedRole)
		return err
	}
	if err := m.memory("after the restart"); err != nil {
		return err
	}
	for _, which := range []string{"first", "second", "third"} {
		if err := m.time(which+" issue after the restart", issue); err != nil {
			return err
		}
	}
	if err := m.memory("after these"); err != nil {
		return err
	}
	if err := m.restart(ctx); err != nil {
		return err
	}
	// As in the other measurement, but others go on meanwhile.
	others, err := m.others(ctx)
	if err != nil {
		return err
	}
	if err := m.baseline(ctx, others); err != nil {
		return err
	}
	return m.beside(ctx, "first issue after another restart", others, func() (string, error) { return "", issue() })
}
