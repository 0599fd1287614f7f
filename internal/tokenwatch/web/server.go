// Package web serves what tokenwatch counts over HTTP: metrics and health for
// Prometheus, and a small live page with current rates and open alerts. The page
// shows what the audit log says to whoever reaches it. So each of them is off
// unless asked for, and listens on loopback unless told otherwise.
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

// closeGrace is how long answers that have begun may take once the server ends.
const closeGrace = 2 * time.Second

// Server is an HTTP server, bound to its address.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// listen binds to address, host:port. Without a host it is 127.0.0.1. handler
// gets the host.
func listen(address string, handler func(host string) http.Handler) (*Server, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w (wanted host:port, e.g. 127.0.0.1:8250)", err)
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

// URL is where the server is, with a slash at the end.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() + "/" }

// Loopback reports whether only this machine reaches the server.
func (s *Server) Loopback() bool {
	at, err := netip.ParseAddrPort(s.listener.Addr().String())
	return err == nil && at.Addr().IsLoopback()
}

// Serve answers requests until ctx ends. An error means that it ended before.
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
