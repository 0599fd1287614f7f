package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/statuslist"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/store/storetest"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/verify/format"
)

// faultWorld is a mount with a token of each role, of which the test knows what has
// to become.
type faultWorld struct {
	*mount
	tokens map[string]*faultToken // by role; those of entity-1, and of entity-2 "other"
	places map[statuslist.Ref]string
}

type faultToken struct {
	id, text string
	ref      statuslist.Ref
	secret   *logical.Secret
	dead     bool
	unlisted bool // no list says that it is dead
}

const faultCap = 3

func newFaultWorld(t *testing.T) *faultWorld {
	w := &faultWorld{mount: newMount(t).withRoles(), tokens: map[string]*faultToken{}, places: map[statuslist.Ref]string{}}
	w.must(logical.CreateOperation, "roles/capped", map[string]any{"token_type": "api_key", "max_tokens": faultCap})
	w.must(logical.CreateOperation, "roles/tracked", map[string]any{"token_type": "jwt", "track": true, "audiences": "api"})
	for _, role := range []string{"capped", "bearer", "jwt", "tracked"} {
		w.must(logical.UpdateOperation, "roles/"+role, map[string]any{"ttl": "24h"})
	}
	for _, role := range []string{"capped", "bearer", "jwt", "tracked", "other"} {
		if err := w.issue(context.Background(), role); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// fork is a copy of the world in another process.
func (w *faultWorld) fork() *faultWorld {
	w.t.Helper()
	m := *w.mount
	m.storage, m.clock = &storetest.Storage{}, &testClock{now: w.clock.Now()}
	keys, err := logical.CollectKeys(context.Background(), w.storage)
	for _, key := range keys {
		entry, errGet := w.storage.Get(context.Background(), key)
		err = errors.Join(err, errGet, m.storage.Put(context.Background(), entry))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	other := &faultWorld{mount: &m, tokens: map[string]*faultToken{}, places: maps.Clone(w.places)}
	for role, token := range w.tokens {
		copied := *token
		other.tokens[role] = &copied
	}
	other.restart()
	return other
}

// restart leaves what is to be done in the background to periodic runs, so that the
// storage is used in the same order each time.
func (w *faultWorld) restart() {
	w.mount.restart()
	w.backend.engine.Storage = nil
}

// ask sends a request of entity-1. An answer of the server's is an error, too.
func (w *faultWorld) ask(ctx context.Context, operation logical.Operation, path string, data map[string]any, secret *logical.Secret) (*logical.Response, error) {
	return w.askAs(ctx, "entity-1", operation, path, data, secret)
}

func (w *faultWorld) askAs(ctx context.Context, entity string, operation logical.Operation, path string, data map[string]any, secret *logical.Secret) (*logical.Response, error) {
	w.t.Helper()
	resp, err := w.backend.HandleRequest(ctx, &logical.Request{
		Operation: operation, Path: path, Data: maps.Clone(data), Secret: secret, Storage: w.storage, EntityID: entity,
	})
	switch {
	case err == nil && resp.IsError():
		err = fmt.Errorf("refused: %w", resp.Error())
	case err == nil && resp != nil && resp.Data[logical.HTTPStatusCode] == http.StatusServiceUnavailable:
		err = storetest.ErrInjected // which is in the log alone
	}
	return resp, err
}

// issue issues a token in place of the one that the world has of the role.
func (w *faultWorld) issue(ctx context.Context, role string) error {
	w.t.Helper()
	entity, name := "entity-1", role
	if role == "other" {
		entity, name = "entity-2", "bearer"
	}
	resp, err := w.askAs(ctx, entity, logical.ReadOperation, "creds/"+name, nil, nil)
	if err != nil {
		return err
	}
	data := resp.Secret.InternalData
	token := &faultToken{id: resp.Data["token_id"].(string), text: resp.Data["token"].(string), secret: resp.Secret}
	token.ref.List = data[leaseList].(string)
	if _, err := fmt.Sscan(data[leaseIndex].(string), &token.ref.Index); err != nil {
		w.t.Fatal(err)
	}
	if before, twice := w.places[token.ref]; twice || token.ref.List == "" {
		w.t.Errorf("%s has the place of %s", token.id, before)
	}
	w.places[token.ref], w.tokens[role] = token.id, token
	return nil
}

// kill says that the tokens of some roles have to end.
func (w *faultWorld) kill(roles ...string) {
	for _, role := range roles {
		w.tokens[role].dead = true
	}
}

// check checks that of all tokens just those are active that have to be.
func (w *faultWorld) check(when string) {
	w.t.Helper()
	for role, token := range w.tokens {
		if w.active(token.text) == token.dead {
			w.t.Errorf("%s: the token of %s is active: %v", when, role, !token.dead)
		}
	}
}

// checkTidied checks what is left when all is still: lists, records and the cap.
func (w *faultWorld) checkTidied() {
	w.t.Helper()
	w.clock.Advance(13 * time.Hour)
	for range 3 {
		w.periodic()
	}
	w.check("tidied")
	live := []string{}
	bits := map[string]*format.StatusList{}
	for role, token := range w.tokens {
		if !token.dead && !strings.HasSuffix(role, "jwt") {
			live = append(live, token.id)
		}
		if bits[token.ref.List] == nil {
			body := w.must(logical.ReadOperation, "status/"+token.ref.List, nil).Data[logical.HTTPRawBody].([]byte)
			bits[token.ref.List] = decode(w.t, body)
		}
		if status, _ := bits[token.ref.List].Get(token.ref.Index); (status != format.StatusValid) != (token.dead && !token.unlisted) {
			w.t.Errorf("the list says of the token of %s: %v", role, status)
		}
	}
	listed, _ := w.must(logical.ListOperation, "tokens/", nil).Data["keys"].([]string)
	for _, id := range live {
		if !slices.Contains(listed, id) {
			w.t.Errorf("listed are %v, want %s", listed, id)
		}
	}
	for role, token := range w.tokens {
		if token.dead && (slices.Contains(listed, token.id) || w.hasRecord(token.id)) {
			w.t.Errorf("the dead token of %s is listed, or has a record", role)
		}
	}
	w.checkCap()
}

func decode(t *testing.T, body []byte) *format.StatusList {
	t.Helper()
	raw, err := decodePayload(string(body))
	var claims format.StatusListClaims
	if err == nil {
		err = json.Unmarshal(raw, &claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	list, err := format.DecodeStatusList(claims.StatusList.Bits, claims.StatusList.List, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (w *faultWorld) hasRecord(id string) bool {
	w.t.Helper()
	entry, err := w.storage.Get(context.Background(), "token/"+id[len(id)-1:]+"/"+id)
	if err != nil {
		w.t.Fatal(err)
	}
	return entry != nil
}

// checkCap issues as many tokens as the cap allows besides those that live.
func (w *faultWorld) checkCap() {
	w.t.Helper()
	live, _ := w.must(logical.ListOperation, "tokens/", map[string]any{"role": "capped"}).Data["keys"].([]string)
	n := len(live)
	for ; n <= faultCap; n++ {
		if err := w.issue(context.Background(), "capped"); err != nil {
			break
		}
	}
	if n != faultCap {
		w.t.Errorf("%d tokens of a role can live, of %d; %d did before", n, faultCap, len(live))
	}
}

// faultActs are what is done while the storage fails. Each leaves the world as it has
// to be once it has succeeded.
func faultActs() map[string]func(*faultWorld, context.Context) error {
	acts := map[string]func(*faultWorld, context.Context) error{}
	for _, role := range []string{"capped", "bearer", "jwt", "tracked"} {
		acts["creds "+role] = func(w *faultWorld, ctx context.Context) error { return w.issue(ctx, role) }
		end := func(name string, operation logical.Operation, path func(*faultToken) string, leased bool) {
			acts[name+" "+role] = func(w *faultWorld, ctx context.Context) error {
				token := w.tokens[role]
				var data map[string]any
				var secret *logical.Secret
				switch p := path(token); {
				case leased:
					secret = token.secret
				case strings.HasSuffix(p, "revoke") && !strings.HasPrefix(p, "roles/"):
					data = map[string]any{"token": token.text}
				}
				_, err := w.ask(ctx, operation, path(token), data, secret)
				if err == nil {
					w.kill(role)
				}
				return err
			}
		}
		at := func(path string) func(*faultToken) string { return func(*faultToken) string { return path } }
		end("revoke by lease", logical.RevokeOperation, at(""), true)
		end("revoke", logical.UpdateOperation, at("revoke"), false)
		end("oauth2/revoke", logical.UpdateOperation, at("oauth2/revoke"), false)
		if role != "bearer" { // which entity-2 has, too
			end("roles/revoke", logical.UpdateOperation, at("roles/"+role+"/revoke"), false)
		}
		if role != "jwt" {
			end("revoke by id", logical.DeleteOperation, func(t *faultToken) string { return "tokens/" + t.id }, false)
		}
	}
	for _, role := range []string{"capped", "bearer"} {
		acts["renew "+role] = func(w *faultWorld, ctx context.Context) error { return w.renewToken(ctx, role) }
	}
	acts["entities/revoke"] = func(w *faultWorld, ctx context.Context) error {
		_, err := w.ask(ctx, logical.UpdateOperation, "entities/entity-1/revoke", nil, nil)
		if err == nil {
			w.kill("capped", "bearer", "jwt", "tracked")
			w.tokens["jwt"].unlisted = true
		}
		return err
	}
	acts["tidy"] = func(w *faultWorld, ctx context.Context) error {
		return w.backend.periodic(ctx, &logical.Request{Storage: w.storage})
	}
	acts["list"] = (*faultWorld).listAll
	acts["introspect a batch"] = (*faultWorld).introspectAll
	return acts
}

func (w *faultWorld) renewToken(ctx context.Context, role string) error {
	w.t.Helper()
	secret := *w.tokens[role].secret
	resp, err := w.ask(ctx, logical.RenewOperation, "", nil, &secret)
	if err != nil {
		return err
	}
	w.storage.Heal() // what follows is no part of it
	w.restart()
	want := w.clock.Now().Truncate(time.Second).Add(resp.Secret.TTL).Unix()
	if got := w.must(logical.UpdateOperation, "introspect", map[string]any{"token": w.tokens[role].text}).Data["exp"]; got != want {
		w.t.Errorf("renewed until %d, and expires at %v", want, got)
	}
	return nil
}

func (w *faultWorld) listAll(ctx context.Context) error {
	resp, err := w.ask(ctx, logical.ListOperation, "tokens/", map[string]any{"entity_id": "entity-1"}, nil)
	if err != nil {
		return err
	}
	want := []string{w.tokens["capped"].id, w.tokens["bearer"].id, w.tokens["tracked"].id}
	got := slices.Clone(resp.Data["keys"].([]string))
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		w.t.Errorf("listed are %v, want %v", got, want)
	}
	return nil
}

// introspectAll fails as its items do.
func (w *faultWorld) introspectAll(ctx context.Context) error {
	var items []any
	for _, role := range slices.Sorted(maps.Keys(w.tokens)) {
		items = append(items, map[string]any{"token": w.tokens[role].text})
	}
	resp, err := w.ask(ctx, logical.UpdateOperation, "introspect", map[string]any{"batch_input": items}, nil)
	if err != nil {
		return err
	}
	for i, result := range resp.Data["batch_results"].([]map[string]any) {
		switch {
		case result["error"] != nil:
			err = storetest.ErrInjected
		case result["active"] != true:
			w.t.Errorf("item %d: %v", i, result)
		}
	}
	return err
}

// Each operation of the storage fails once, fails once it has taken effect, or is the
// one during which the caller hangs up. What is asked for is asked for again then, of
// the same process or the next one by turns: all has to be as if nothing had failed.
func TestFaultsOfEachAct(t *testing.T) {
	world := newFaultWorld(t)
	cutOff := world.fork()
	if err := faultActs()["entities/revoke"](cutOff, context.Background()); err != nil {
		t.Fatal(err)
	}
	for name, act := range faultActs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from := world
			if name == "tidy" {
				from = cutOff
			}
			for _, how := range []string{"fails", "reply lost", "caller gone"} {
				for nth := 0; from.fault(t, act, how, nth, nth%2 == 1); nth++ {
					if t.Failed() {
						t.Fatalf("operation %d: %s", nth, how)
					}
				}
			}
		})
	}
}

// fault does an act while the nth operation of the storage fails, and again if that was
// an error. It reports whether there were so many.
func (w *faultWorld) fault(t *testing.T, act func(*faultWorld, context.Context) error, how string, nth int, restarted bool) bool {
	m := *w.mount
	m.t = t
	w = (&faultWorld{&m, w.tokens, w.places}).fork()
	w.clock.Advance(time.Minute)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen, happened := 0, false
	hook := func(storetest.Op, string) error {
		if seen++; seen != nth+1 {
			return nil
		}
		happened = true
		if how == "caller gone" {
			cancel()
			return nil
		}
		return storetest.ErrInjected
	}
	if how == "reply lost" {
		w.storage.After(hook)
	} else {
		w.storage.Before(hook)
	}
	err := act(w, ctx)
	w.storage.Heal()
	if err != nil && !errors.Is(err, storetest.ErrInjected) && !errors.Is(err, context.Canceled) {
		t.Errorf("the caller is told: %v", err)
	}
	if err != nil && !happened {
		t.Errorf("without a fault: %v", err)
	}
	if restarted {
		w.restart()
	}
	if err != nil {
		if err := act(w, context.Background()); err != nil {
			t.Errorf("again: %v", err)
		}
	}
	w.check("at once")
	w.clock.Advance(time.Second) // after that of a cut-off
	for _, role := range []string{"bearer", "jwt", "tracked"} {
		if old := w.tokens[role]; w.issue(context.Background(), role) == nil {
			w.tokens["earlier "+role] = old
		} else {
			t.Errorf("nothing is issued of %s", role)
		}
	}
	w.restart()
	w.check("after a restart")
	w.checkTidied()
	return happened
}
