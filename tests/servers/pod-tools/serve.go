package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// A client that says nothing for so long is gone.
const clientPatience = 30 * time.Second

// No question of a test is longer.
const questionBytes = 4096

// serve answers each line, and each datagram, with `SOURCE HOSTNAME TEXT`.
func serve(ports []string) error {
	if len(ports) == 0 {
		return errors.New("which port?")
	}
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	failed := make(chan error)
	for _, port := range ports {
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		conn, err := listenUDP(port)
		if err != nil {
			return err
		}
		go func() { failed <- serveTCP(listener, hostname) }()
		go func() { failed <- serveUDP(conn, hostname) }()
	}
	fmt.Println("serving")
	return <-failed
}

func answer(source net.IP, hostname, text string) string {
	// A dual-stack socket names IPv4 sources in IPv6's form; IP.String does not.
	return fmt.Sprintf("%s %s %s\n", source, hostname, strings.TrimSpace(text))
}

func serveTCP(listener net.Listener, hostname string) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			source := conn.RemoteAddr().(*net.TCPAddr).IP
			lines := bufio.NewScanner(conn)
			for {
				conn.SetDeadline(time.Now().Add(clientPatience))
				if !lines.Scan() {
					return
				}
				if _, err := conn.Write([]byte(answer(source, hostname, lines.Text()))); err != nil {
					return
				}
			}
		}()
	}
}

// listenUDP listens on all addresses and is told which one a datagram was sent to.
func listenUDP(port string) (*net.UDPConn, error) {
	conn, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return nil, err
	}
	udp := conn.(*net.UDPConn)
	raw, err := udp.SyscallConn()
	if err != nil {
		return nil, err
	}
	var refused error
	err = raw.Control(func(fd uintptr) {
		refused = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_RECVPKTINFO, 1)
	})
	return udp, errors.Join(err, refused)
}

func serveUDP(conn *net.UDPConn, hostname string) error {
	question := make([]byte, questionBytes)
	control := make([]byte, syscall.CmsgSpace(syscall.SizeofInet6Pktinfo))
	for {
		n, controlBytes, _, from, err := conn.ReadMsgUDP(question, control)
		if err != nil {
			return err
		}
		// From the address that was asked: a host has several.
		back := control[:controlBytes]
		anyInterface(back)
		// A client that is gone is no reason to end.
		conn.WriteMsgUDP([]byte(answer(from.IP, hostname, string(question[:n]))), back, from)
	}
}

// anyInterface takes the interface, the last field, out of a message with an in6_pktinfo: the
// answer may have to leave by another one.
func anyInterface(message []byte) {
	const index = syscall.SizeofInet6Pktinfo - 4
	header := syscall.CmsgLen(0)
	if len(message) >= header+syscall.SizeofInet6Pktinfo {
		clear(message[header+index : header+index+4])
	}
}
