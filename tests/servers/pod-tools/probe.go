package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// A datagram may be lost: it is sent again as often.
const resendInterval = 250 * time.Millisecond

const defaultDeadline = 5 * time.Second

// probe asks one question, and prints the answer.
func probe(arguments []string) error {
	flags := flag.NewFlagSet("probe", flag.ContinueOnError)
	patience := flags.Duration("for", defaultDeadline, "how long to wait for an answer")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() != 4 {
		return errors.New("wanted: tcp|udp HOST PORT TEXT")
	}
	protocol, text := flags.Arg(0), flags.Arg(3)
	address := net.JoinHostPort(flags.Arg(1), flags.Arg(2))
	deadline := time.Now().Add(*patience)
	conn, err := net.DialTimeout(protocol, address, *patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	ask := askStream
	if protocol == "udp" {
		ask = askDatagram
	}
	said, err := ask(conn, text, deadline)
	if err != nil {
		return err
	}
	fmt.Println(strings.TrimSpace(said))
	return nil
}

func askStream(conn net.Conn, text string, deadline time.Time) (string, error) {
	conn.SetDeadline(deadline)
	if _, err := conn.Write([]byte(text + "\n")); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

func askDatagram(conn net.Conn, text string, deadline time.Time) (string, error) {
	received := make([]byte, questionBytes)
	for {
		// A refusal by ICMP may be over by the next one.
		_, err := conn.Write([]byte(text))
		if err == nil {
			conn.SetReadDeadline(earlier(time.Now().Add(resendInterval), deadline))
			var n int
			if n, err = conn.Read(received); err == nil {
				return string(received[:n]), nil
			}
		}
		if !time.Now().Before(deadline) {
			return "", err
		}
		time.Sleep(time.Until(earlier(time.Now().Add(resendInterval), deadline)))
	}
}

func earlier(one, other time.Time) time.Time {
	if one.Before(other) {
		return one
	}
	return other
}

// resolve prints what a name stands for.
func resolve(arguments []string) error {
	if len(arguments) != 1 {
		return errors.New("wanted: NAME")
	}
	addresses, err := net.LookupHost(arguments[0])
	if err != nil {
		return err
	}
	slices.Sort(addresses)
	fmt.Println(strings.Join(addresses, "\n"))
	return nil
}
