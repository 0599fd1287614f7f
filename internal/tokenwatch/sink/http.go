package sink

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch/sanitize"
)

// ErrPermanent marks a failure that a retry cannot fix.
var ErrPermanent = errors.New("refused")

// Endpoint is an HTTP server that alerts are posted to.
type Endpoint struct {
	URL       string            `yaml:"url"`
	Headers   map[string]string `yaml:"headers"`
	TokenFile string            `yaml:"bearer_token_file"` // read for every request, so that it can be rotated
	CAFile    string            `yaml:"ca_file"`
	Timeout   time.Duration     `yaml:"timeout"`

	client *http.Client
}

// Open checks the settings and makes the client.
func (e *Endpoint) Open() error {
	u, err := url.Parse(e.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("url: %q is not an http or https URL", e.URL)
	}
	if e.Timeout <= 0 {
		e.Timeout = 10 * time.Second
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if e.CAFile != "" {
		pem, err := os.ReadFile(e.CAFile)
		if err != nil {
			return fmt.Errorf("ca_file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("ca_file: no certificate in %s", e.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	e.client = &http.Client{Transport: transport, Timeout: e.Timeout}
	return nil
}

// label names the endpoint by its host: the rest of the URL may be secret.
func (e *Endpoint) label(kind string) string {
	u, err := url.Parse(e.URL)
	if err != nil {
		return kind
	}
	return kind + " " + u.Host
}

func (e *Endpoint) post(ctx context.Context, url string, body any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(content))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "tokenwatch")
	for name, value := range e.Headers {
		req.Header.Set(name, value)
	}
	if e.TokenFile != "" {
		token, err := os.ReadFile(e.TokenFile)
		if err != nil {
			return fmt.Errorf("bearer_token_file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
	switch code := resp.StatusCode; {
	case code < 300:
		return nil
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		return fmt.Errorf("%s: %s", resp.Status, sanitize.Text(string(answer), maxField))
	default:
		return fmt.Errorf("%w: %s: %s", ErrPermanent, resp.Status, sanitize.Text(string(answer), maxField))
	}
}

// withoutURL drops the URL, which may contain a secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// Webhook posts each alert as a JSON object.
type Webhook struct{ *Endpoint }

// Name implements tokenwatch.Sink.
func (w Webhook) Name() string { return w.label("webhook") }

// Send implements tokenwatch.Sink.
func (w Webhook) Send(ctx context.Context, a tokenwatch.Alert) error { return w.post(ctx, w.URL, a) }

// Alertmanager posts to Alertmanager's API, version 2. A cluster needs one for
// each member; the members decide which of them notifies.
type Alertmanager struct {
	*Endpoint
	// ResolveTimeout is how long an alert stays open without happening again.
	ResolveTimeout time.Duration
	Now            func() time.Time
}

// Name implements tokenwatch.Sink.
func (m Alertmanager) Name() string { return m.label("alertmanager") }

type managedAlert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
}

// Send implements tokenwatch.Sink. Labels identify the alert; annotations are
// what changes while it goes on.
func (m Alertmanager) Send(ctx context.Context, a tokenwatch.Alert) error {
	return m.post(ctx, strings.TrimSuffix(m.URL, "/")+"/api/v2/alerts", []managedAlert{{
		Labels: filled(map[string]string{
			"alertname": "tokenwatch_" + a.Rule, "severity": string(a.Severity), "fingerprint": a.Fingerprint,
			"namespace": a.Namespace, "mount": a.Mount, "role": a.Role,
		}),
		Annotations: filled(map[string]string{
			"summary": a.Title, "description": a.Detail, "who": a.Who, "where": a.Where, "count": fmt.Sprint(a.Count),
			"token_id": a.TokenID, "lease_id": a.LeaseID, "request_id": a.RequestID, "advice": a.Advice,
			"first": a.First.UTC().Format(time.RFC3339), "last": a.Last.UTC().Format(time.RFC3339),
		}),
		StartsAt: a.First, EndsAt: m.Now().Add(m.ResolveTimeout),
	}})
}

func filled(m map[string]string) map[string]string {
	for name, value := range m {
		if value == "" {
			delete(m, name)
		} else {
			m[name] = sanitize.Text(value, maxField)
		}
	}
	return m
}
