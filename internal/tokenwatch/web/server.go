// Package web serves what tokenwatch counts over HTTP: metrics and health for
// Prometheus, and a small live page with current rates and open alerts. The page
// has no login and shows contents of the audit log. So both are off by default,
// and listen on loopback unless the address names another host.
package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// closeGrace is how long responses in progress may take at shutdown.
const closeGrace = 2 * time.Second

// Server is an HTTP server, bound to its address.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// listen binds to address, host:port; the default host is 127.0.0.1. handler gets
// the host.
func listen(address string, handler func(host string) http.Handler) (*Server, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w (expected host:port, e.g. 127.0.0.1:8250)", err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, err
	}
	return &Server{
		listener: listener,
		http: &http.Server{
			Handler:           handler(host),
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      10 * time.Second,
			IdleTimeout:       time.Minute,
			MaxHeaderBytes:    16 << 10,
		},
	}, nil
}

// URL returns the address of the server, with a trailing slash.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() + "/" }

// Loopback reports whether only this machine can reach the server.
func (s *Server) Loopback() bool {
	at, err := netip.ParseAddrPort(s.listener.Addr().String())
	return err == nil && at.Addr().IsLoopback()
}

// Serve answers requests until ctx ends. It returns an error if it ends earlier.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		if s.http.Shutdown(grace) != nil {
			_ = s.http.Close()
		}
	})
	defer stop()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
