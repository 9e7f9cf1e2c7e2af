package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Long enough that a program which cannot start leaves a readable log.
const respawnPause = 500 * time.Millisecond

// respawn is what systemd's Restart=always is. The program ends with it, by SIGKILL.
func respawn(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("which program?")
	}
	// The kernel's signal at the parent's end is at the end of its thread.
	runtime.LockOSThread()
	for {
		command := exec.Command(arguments[0], arguments[1:]...)
		command.Stdout, command.Stderr = os.Stdout, os.Stderr
		command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err := command.Run()
		fmt.Fprintf(os.Stderr, "respawn: %s ended: %v\n", arguments[0], err)
		time.Sleep(respawnPause)
	}
}
