package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

const defaultTalkInterval = 50 * time.Millisecond

// talk is how it goes with one server.
type talk struct {
	To       string `json:"to"`
	Answered uint64 `json:"answered"`
	// The name of the server that answered last.
	Last string `json:"last"`
	// Connections that could not be made or were lost; refused or unanswered datagrams.
	Failed uint64 `json:"failed"`
	// The last of those.
	Failure string `json:"failure"`

	mutex sync.Mutex
}

func (t *talk) answered(said string) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.Answered++
	// SOURCE HOSTNAME TEXT
	if words := strings.Fields(said); len(words) > 1 {
		t.Last = words[1]
	}
}

func (t *talk) failed(err error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.Failed++
	t.Failure = err.Error()
}

func (t *talk) told() json.RawMessage {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	// Texts and numbers, which are always valid.
	text, _ := json.Marshal(t)
	return text
}

// talkTo asks servers again and again, each over one connection or from one socket unless it shall
// be a new one each time, and tells each who connects to a TCP port how that goes.
func talkTo(arguments []string) error {
	flags := flag.NewFlagSet("talk", flag.ContinueOnError)
	every := flags.Duration("every", defaultTalkInterval, "between two questions")
	anew := flags.Bool("anew", false, "a connection for each question")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() < 3 {
		return errors.New("wanted: [-every D] [-anew] PORT tcp|udp HOST:PORT...")
	}
	listener, err := net.Listen("tcp", ":"+flags.Arg(0))
	if err != nil {
		return err
	}
	var talks []*talk
	for _, target := range flags.Args()[2:] {
		one := &talk{To: target}
		talks = append(talks, one)
		go one.talk(flags.Arg(1), *every, *anew)
	}
	fmt.Println("talking")
	for {
		asker, err := listener.Accept()
		if err != nil {
			return err
		}
		all := make([]json.RawMessage, len(talks))
		for i, one := range talks {
			all[i] = one.told()
		}
		asker.SetDeadline(time.Now().Add(clientPatience))
		json.NewEncoder(asker).Encode(all)
		asker.Close()
	}
}

func (t *talk) talk(protocol string, every time.Duration, anew bool) {
	for {
		if err := t.connection(protocol, every, anew); err != nil {
			t.failed(err)
		}
		time.Sleep(every)
	}
}

// connection asks over one connection until it fails; or once.
func (t *talk) connection(protocol string, every time.Duration, once bool) error {
	conn, err := net.DialTimeout(protocol, t.To, defaultDeadline)
	if err != nil {
		return err
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	for number := uint64(0); ; number++ {
		text := strconv.FormatUint(number, 10)
		if protocol == "udp" {
			// From the same port as long as it runs, whoever refuses.
			if said, err := exchange(conn, text); err != nil {
				t.failed(err)
			} else {
				t.answered(said)
			}
		} else {
			// It takes as long as it takes: TCP says when a connection is lost.
			if _, err := conn.Write([]byte(text + "\n")); err != nil {
				return err
			}
			said, err := lines.ReadString('\n')
			if err != nil {
				return err
			}
			t.answered(said)
		}
		if once {
			return nil
		}
		time.Sleep(every)
	}
}

// exchange sends one datagram, and waits a moment for its own answer.
func exchange(conn net.Conn, text string) (string, error) {
	if _, err := conn.Write([]byte(text)); err != nil {
		return "", err
	}
	conn.SetReadDeadline(time.Now().Add(resendInterval))
	received := make([]byte, questionBytes)
	for {
		n, err := conn.Read(received)
		if err != nil {
			return "", err
		}
		said := strings.TrimSpace(string(received[:n]))
		if strings.HasSuffix(said, " "+text) {
			return said, nil
		}
	}
}
