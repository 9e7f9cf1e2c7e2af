package main

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sort"
	"sync"
	"time"
)

// A datagram of a count: stream and number, eight bytes each, then the sender's name.
const countHeader = 16

const defaultRate = 1000

const defaultCountFor = 10 * time.Second

// So that a receiver that gets no processor for a while loses nothing: seconds of several streams.
const receiveBuffer = 4 << 20

// stream is what a receiver has seen of one sender.
type stream struct {
	// The sender's, which may have several.
	ID         uint64 `json:"id,string"`
	From       string `json:"from"`
	Received   uint64 `json:"received"`
	Duplicates uint64 `json:"duplicates"`
	// Of the numbers from 0 up to the highest that came.
	Lost    uint64 `json:"lost"`
	Highest uint64 `json:"highest"`
	// The longest time without any of its datagrams, between two of them.
	LongestGapMilliseconds int64 `json:"longest_gap_milliseconds"`

	seen map[uint64]struct{}
	last time.Time
}

func (s *stream) take(number uint64, now time.Time) {
	if _, twice := s.seen[number]; twice {
		s.Duplicates++
		return
	}
	s.seen[number] = struct{}{}
	s.Received++
	s.Highest = max(s.Highest, number)
	s.Lost = s.Highest + 1 - s.Received
	if !s.last.IsZero() {
		s.LongestGapMilliseconds = max(s.LongestGapMilliseconds, now.Sub(s.last).Milliseconds())
	}
	s.last = now
}

// counts is what a receiver tells whoever connects to its TCP port.
type counts struct {
	mutex   sync.Mutex
	streams map[uint64]*stream
}

func (c *counts) take(datagram []byte, now time.Time) {
	if len(datagram) < countHeader {
		return
	}
	id, number := binary.BigEndian.Uint64(datagram), binary.BigEndian.Uint64(datagram[8:])
	c.mutex.Lock()
	defer c.mutex.Unlock()
	of := c.streams[id]
	if of == nil {
		of = &stream{ID: id, From: string(datagram[countHeader:]), seen: map[uint64]struct{}{}}
		c.streams[id] = of
	}
	of.take(number, now)
}

func (c *counts) write(to io.Writer) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	all := make([]*stream, 0, len(c.streams))
	for _, of := range c.streams {
		all = append(all, of)
	}
	sort.Slice(all, func(i, j int) bool {
		return cmp.Or(cmp.Compare(all[i].From, all[j].From), cmp.Compare(all[i].ID, all[j].ID)) < 0
	})
	return json.NewEncoder(to).Encode(all)
}

// countReceive counts what comes to a UDP port, and tells it to each who connects to the TCP port
// of the same number.
func countReceive(arguments []string) error {
	if len(arguments) != 1 {
		return errors.New("wanted: PORT")
	}
	conn, err := net.ListenPacket("udp", ":"+arguments[0])
	if err != nil {
		return err
	}
	if err := conn.(*net.UDPConn).SetReadBuffer(receiveBuffer); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", ":"+arguments[0])
	if err != nil {
		return err
	}
	all := &counts{streams: map[uint64]*stream{}}
	failed := make(chan error)
	go func() {
		datagram := make([]byte, questionBytes)
		for {
			n, _, err := conn.ReadFrom(datagram)
			if err != nil {
				failed <- err
				return
			}
			all.take(datagram[:n], time.Now())
		}
	}()
	go func() {
		for {
			asker, err := listener.Accept()
			if err != nil {
				failed <- err
				return
			}
			asker.SetDeadline(time.Now().Add(clientPatience))
			all.write(asker)
			asker.Close()
		}
	}()
	fmt.Println("counting")
	return <-failed
}

// countRead prints what a receiver has counted.
func countRead(arguments []string) error {
	if len(arguments) != 1 {
		return errors.New("wanted: HOST:PORT")
	}
	conn, err := net.DialTimeout("tcp", arguments[0], defaultDeadline)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(defaultDeadline))
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// sent is what a sender says at its end of one target.
type sent struct {
	To   string `json:"to"`
	Sent uint64 `json:"sent"`
	// Numbers of which the kernel took none: they count as lost at the receiver.
	Refused uint64 `json:"refused"`
}

// countSend sends numbered datagrams to each target, at an even rate.
func countSend(arguments []string) error {
	flags := flag.NewFlagSet("count-send", flag.ContinueOnError)
	rate := flags.Int64("rate", defaultRate, "datagrams a second to each target")
	lasts := flags.Duration("for", defaultCountFor, "how long")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() == 0 || *rate <= 0 {
		return errors.New("wanted: [-rate N] [-for D] HOST:PORT...")
	}
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	results := make([]sent, flags.NArg())
	failures := make([]error, flags.NArg())
	var senders sync.WaitGroup
	for i, target := range flags.Args() {
		senders.Go(func() {
			results[i], failures[i] = sendTo(target, hostname, *rate, *lasts)
		})
	}
	senders.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

func sendTo(target, hostname string, rate int64, lasts time.Duration) (sent, error) {
	result := sent{To: target}
	conn, err := net.Dial("udp", target)
	if err != nil {
		return result, err
	}
	defer conn.Close()
	datagram := binary.BigEndian.AppendUint64(nil, rand.Uint64())
	datagram = append(datagram, make([]byte, 8)...)
	datagram = append(datagram, hostname...)
	start := time.Now()
	for number := int64(0); ; number++ {
		// From the start: a late one does not make the next ones late.
		due := time.Duration(float64(number) / float64(rate) * float64(time.Second))
		if due >= lasts {
			return result, nil
		}
		time.Sleep(time.Until(start.Add(due)))
		binary.BigEndian.PutUint64(datagram[8:], uint64(number))
		_, err := conn.Write(datagram)
		if err != nil {
			// Perhaps an earlier one's, by ICMP: then this one was not sent.
			result.Refused++
			_, err = conn.Write(datagram)
		}
		if err == nil {
			result.Sent++
		}
	}
}
