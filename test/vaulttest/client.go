package vaulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Client speaks to Vault's HTTP API with one token.
type Client struct {
	HTTP      *http.Client
	Addr      string // scheme://host:port
	Token     string // empty: unauthenticated
	Namespace string // empty: root
}

// Response is what Vault answered.
type Response struct {
	Status int
	Header http.Header
	Raw    []byte
	Body   map[string]any // nil when the answer is not a JSON object
}

// RawBody is sent as it is instead of being marshalled.
type RawBody string

// With is the same client with another token.
func (c *Client) With(token string) *Client {
	other := *c
	other.Token = token
	return &other
}

// Do sends body (nil: none) to /v1/<path>. Any status is an answer, not an
// error.
func (c *Client) Do(ctx context.Context, method, path string, body any) (*Response, error) {
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	httpResp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer httpResp.Body.Close()
	raw, err := io.ReadAll(httpResp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	resp := &Response{Status: httpResp.StatusCode, Header: httpResp.Header, Raw: raw}
	_ = json.Unmarshal(raw, &resp.Body) // some endpoints answer with something else
	return resp, nil
}

func (c *Client) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var content []byte
	switch b := body.(type) {
	case nil:
	case RawBody:
		content = []byte(b)
	default:
		var err error
		if content, err = json.Marshal(b); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Addr+"/v1/"+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Vault-Request", "true")
	if c.Token != "" {
		req.Header.Set("X-Vault-Token", c.Token)
	}
	if c.Namespace != "" {
		req.Header.Set("X-Vault-Namespace", c.Namespace)
	}
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	return req, nil
}

// Must is Do with an error for every status from 400 up.
func (c *Client) Must(ctx context.Context, method, path string, body any) (*Response, error) {
	resp, err := c.Do(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	if resp.Status >= http.StatusBadRequest {
		return nil, fmt.Errorf("%s %s: %d %s", method, path, resp.Status, bytes.TrimSpace(resp.Raw))
	}
	return resp, nil
}

// Data is the answer's "data" object, or nil.
func (r *Response) Data() map[string]any {
	data, _ := r.Body["data"].(map[string]any)
	return data
}

// Errors is the answer's "errors" list.
func (r *Response) Errors() []string {
	list, _ := r.Body["errors"].([]any)
	out := make([]string, 0, len(list))
	for _, e := range list {
		out = append(out, fmt.Sprint(e))
	}
	return out
}

// Warnings is the answer's "warnings" list.
func (r *Response) Warnings() []string {
	list, _ := r.Body["warnings"].([]any)
	out := make([]string, 0, len(list))
	for _, e := range list {
		out = append(out, fmt.Sprint(e))
	}
	return out
}

// String reads a string out of "data"; empty when there is none.
func (r *Response) String(key string) string {
	s, _ := r.Data()[key].(string)
	return s
}

// Policy is one path rule in HCL.
func Policy(path string, capabilities ...string) string {
	return fmt.Sprintf("path %q { capabilities = [\"%s\"] }\n", path, strings.Join(capabilities, `", "`))
}
