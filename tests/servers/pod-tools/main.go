// pod-tools is what pods of the end-to-end tests run, and the first process of a test's node.
//
//	pod-tools pause                                   waits for its end, and buries orphans
//	pod-tools respawn PROGRAM [ARGUMENT]...           starts a program again whenever it ends
//	pod-tools serve PORT...                           answers over TCP and UDP: whom it sees, who it is
//	pod-tools probe [-for 5s] tcp|udp HOST PORT TEXT  asks such a server, and prints its answer
//	pod-tools resolve NAME                            prints a name's addresses, sorted, a line each
//	pod-tools count-receive PORT                      counts numbered datagrams
//	pod-tools count-send [-rate N] [-for 10s] HOST:PORT...
//	pod-tools talk [-every 50ms] [-anew] PORT tcp|udp HOST:PORT...
//	                                                  asks servers again and again, and tells on PORT
//	pod-tools count-read HOST:PORT                    prints what a receiver has counted, a talk told
//	pod-tools ipc-put TEXT, pod-tools ipc-take        passes a text on by each kind of IPC
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

var commands = map[string]func(arguments []string) error{
	"pause":         pause,
	"respawn":       respawn,
	"serve":         serve,
	"probe":         probe,
	"resolve":       resolve,
	"count-receive": countReceive,
	"count-send":    countSend,
	"count-read":    countRead,
	"talk":          talkTo,
	"ipc-put":       ipcPut,
	"ipc-take":      ipcTake,
}

func main() {
	name := filepath.Base(os.Args[0])
	if len(os.Args) < 2 {
		fmt.Fprintf(os.Stderr, "usage: %s COMMAND [ARGUMENT]...: see main.go\n", name)
		os.Exit(2)
	}
	command, found := commands[os.Args[1]]
	if !found {
		fmt.Fprintf(os.Stderr, "%s: there is no command %s\n", name, os.Args[1])
		os.Exit(2)
	}
	if err := command(os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s %s: %v\n", name, os.Args[1], err)
		os.Exit(1)
	}
}
