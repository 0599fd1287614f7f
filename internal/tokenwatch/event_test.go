package tokenwatch

import "testing"

func TestOutcome(t *testing.T) {
	yes, no := true, false
	for want, events := range map[Outcome][]Event{
		OutcomeOK:          {{Kind: KindIssue}, {Kind: KindIntrospect}, {Kind: KindTokenRead, Active: &no}},
		OutcomeDenied:      {{Kind: KindIssue, Denied: true}, {Kind: KindIntrospect, Denied: true, Active: &no}},
		OutcomeInvalid:     {{Kind: KindRoleWrite, Invalid: true}, {Kind: KindIntrospect, Invalid: true}},
		OutcomeActive:      {{Kind: KindIntrospect, Active: &yes}},
		OutcomeInactive:    {{Kind: KindIntrospect, Active: &no}},
		OutcomeCheckFailed: {{Kind: KindIntrospect, Active: &no, ScopeFailed: true}, {Kind: KindIntrospect, Active: &no, AudienceFailed: true}, {Kind: KindIntrospect, Active: &no, ClientIPFailed: true}},
	} {
		for _, e := range events {
			if got := e.Outcome(); got != want {
				t.Errorf("%+v: %s, want %s", e, got, want)
			}
		}
	}
}
