package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// All of these are of the pod's IPC namespace, or of its /dev/shm.
const (
	ipcKey         = 0x706f6477
	ipcBytes       = 4096
	ipcCreate      = 0o1000 // IPC_CREAT
	ipcNoWait      = 0o4000 // IPC_NOWAIT
	ipcMode        = 0o600
	ipcMessageType = 1
	queueName      = "podwire-test"
	sharedFile     = "/dev/shm/podwire-test"
)

// medium is one kind of IPC.
type medium struct {
	name string
	put  func(text string) error
	take func() (string, error)
}

var media = []medium{
	{"System V message queue", putMessage, takeMessage},
	{"System V shared memory", putSegment, takeSegment},
	{"POSIX message queue", putPosixMessage, takePosixMessage},
	{"POSIX shared memory", putShared, takeShared},
}

// ipcPut leaves a text in each medium.
func ipcPut(arguments []string) error {
	if len(arguments) != 1 || len(arguments[0]) >= ipcBytes {
		return errors.New("wanted: a short TEXT")
	}
	for _, of := range media {
		if err := of.put(arguments[0]); err != nil {
			return fmt.Errorf("%s: %w", of.name, err)
		}
	}
	return nil
}

// ipcTake prints what is in each medium, a line each.
func ipcTake([]string) error {
	for _, of := range media {
		text, err := of.take()
		if err != nil {
			return fmt.Errorf("%s: %w", of.name, err)
		}
		fmt.Printf("%s: %s\n", of.name, text)
	}
	return nil
}

// call is a system call whose result is a number.
func call(number uintptr, a ...uintptr) (uintptr, error) {
	var all [6]uintptr
	copy(all[:], a)
	result, _, err := syscall.Syscall6(number, all[0], all[1], all[2], all[3], all[4], all[5])
	if err != 0 {
		return 0, err
	}
	return result, nil
}

// message is a msgbuf of msgsnd(2).
type message struct {
	kind int64
	text [ipcBytes]byte
}

func putMessage(text string) error {
	queue, err := call(syscall.SYS_MSGGET, ipcKey, ipcCreate|ipcMode)
	if err != nil {
		return err
	}
	sent := message{kind: ipcMessageType}
	length := copy(sent.text[:], text)
	_, err = call(syscall.SYS_MSGSND, queue, uintptr(unsafe.Pointer(&sent)), uintptr(length), ipcNoWait)
	return err
}

func takeMessage() (string, error) {
	queue, err := call(syscall.SYS_MSGGET, ipcKey, ipcMode)
	if err != nil {
		return "", err
	}
	var received message
	length, err := call(
		syscall.SYS_MSGRCV, queue, uintptr(unsafe.Pointer(&received)), ipcBytes, ipcMessageType, ipcNoWait,
	)
	if err != nil {
		return "", err
	}
	return string(received.text[:length]), nil
}

// segment is the pod's System V segment, mapped.
func segment(flags uintptr) (*[ipcBytes]byte, error) {
	id, err := call(syscall.SYS_SHMGET, ipcKey, ipcBytes, flags)
	if err != nil {
		return nil, err
	}
	address, err := call(syscall.SYS_SHMAT, id, 0, 0)
	if err != nil {
		return nil, err
	}
	// The kernel's mapping, which no collector moves.
	return *(**[ipcBytes]byte)(unsafe.Pointer(&address)), nil
}

func putSegment(text string) error {
	mapped, err := segment(ipcCreate | ipcMode)
	if err != nil {
		return err
	}
	clear(mapped[:])
	copy(mapped[:], text)
	return nil
}

func takeSegment() (string, error) {
	mapped, err := segment(ipcMode)
	if err != nil {
		return "", err
	}
	return untilZero(mapped[:]), nil
}

func openQueue(flags int) (uintptr, error) {
	name, err := syscall.BytePtrFromString(queueName)
	if err != nil {
		return 0, err
	}
	return call(
		syscall.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), uintptr(flags|syscall.O_NONBLOCK), ipcMode, 0,
	)
}

func putPosixMessage(text string) error {
	queue, err := openQueue(syscall.O_WRONLY | syscall.O_CREAT)
	if err != nil {
		return err
	}
	defer syscall.Close(int(queue))
	bytes := []byte(text)
	_, err = call(
		syscall.SYS_MQ_TIMEDSEND, queue, uintptr(unsafe.Pointer(unsafe.SliceData(bytes))),
		uintptr(len(bytes)), 0, 0,
	)
	return err
}

func takePosixMessage() (string, error) {
	queue, err := openQueue(syscall.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer syscall.Close(int(queue))
	// The kernel's default size of a message, which a buffer may not be below.
	received := make([]byte, 8192)
	length, err := call(
		syscall.SYS_MQ_TIMEDRECEIVE, queue, uintptr(unsafe.Pointer(unsafe.SliceData(received))),
		uintptr(len(received)), 0, 0,
	)
	if err != nil {
		return "", err
	}
	return string(received[:length]), nil
}

// shared is the pod's POSIX segment, mapped as shm_open(3) and mmap(2) do it.
func shared(flags int) ([]byte, error) {
	file, err := os.OpenFile(sharedFile, flags, ipcMode)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if flags&os.O_CREATE != 0 {
		if err := file.Truncate(ipcBytes); err != nil {
			return nil, err
		}
	}
	return syscall.Mmap(
		int(file.Fd()), 0, ipcBytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED,
	)
}

func putShared(text string) error {
	mapped, err := shared(os.O_RDWR | os.O_CREATE)
	if err != nil {
		return err
	}
	clear(mapped)
	copy(mapped, text)
	return nil
}

func takeShared() (string, error) {
	mapped, err := shared(os.O_RDWR)
	if err != nil {
		return "", err
	}
	return untilZero(mapped), nil
}

func untilZero(bytes []byte) string {
	text, _, _ := strings.Cut(string(bytes), "\x00")
	return text
}
