package main

import (
	"os"
	"os/signal"
	"syscall"
)

// pause is the first process of a pod or of a node: it holds the namespaces, and waits for children
// that others have left to it.
func pause([]string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for {
		// Several ends may have come as one signal.
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
		}
		if got := <-signals; got != syscall.SIGCHLD {
			return nil
		}
	}
}
