package web

import (
	"embed"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/internal/tokenwatch"
)

//go:embed static
var static embed.FS

// BaseStyle is the style sheet that the page has in common with the HTML report.
//
//go:embed static/base.css
var BaseStyle string

// ListenPage binds the live page to address, host:port.
func ListenPage(address string, from tokenwatch.Snapshotter) (*Server, error) {
	server, err := listen(address, func(host string) http.Handler { return pageHandler(from, host) })
	if err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	return server, nil
}

// pageHandler serves the page. It accepts an IP address, localhost and the given
// names as host, so that no web site can read the page by pointing its own name
// here (DNS rebinding).
func pageHandler(from tokenwatch.Snapshotter, hosts ...string) http.Handler {
	mux := http.NewServeMux()
	for path, file := range map[string]struct {
		kind  string
		parts []string
	}{
		"/{$}":      {"text/html; charset=utf-8", []string{"page.html"}},
		"/page.css": {"text/css; charset=utf-8", []string{"base.css", "page.css"}},
		"/page.js":  {"text/javascript; charset=utf-8", []string{"page.js"}},
		"/icon.svg": {"image/svg+xml", []string{"icon.svg"}},
	} {
		content := readStatic(file.parts...)
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", file.kind)
			_, _ = w.Write(content)
		})
	}
	mux.HandleFunc("GET /state.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(viewOf(from.Snapshot()))
	})
	return guarded(mux, hosts)
}

// readStatic joins embedded files.
func readStatic(names ...string) []byte {
	var all []byte
	for _, name := range names {
		content, err := static.ReadFile("static/" + name)
		if err != nil {
			panic(err)
		}
		all = append(all, content...)
	}
	return all
}

func guarded(next http.Handler, hosts []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
			"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !ours(r.Host, hosts) {
			http.Error(w, "This page is not served under that name. Use its IP address.", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func ours(hostPort string, hosts []string) bool {
	host := hostPort
	if name, _, err := net.SplitHostPort(hostPort); err == nil {
		host = name
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	for _, name := range append([]string{"localhost"}, hosts...) {
		if strings.EqualFold(host, name) {
			return true
		}
	}
	return false
}
