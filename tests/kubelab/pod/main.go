// Pod is the one program of the test's images: a pause, a server that says who asks, and what asks it.
//
//	pod pause                      wait to be ended
//	pod serve PORT                 tell every caller the pod's name and the caller's address, by TCP
//	pod ask HOST:PORT              call a server, print its answer
//	pod echo ADDRESS [SIZE]        one ICMP echo in a packet of SIZE bytes that no one may cut
//	pod watch ADDRESS SECONDS      an ICMP echo every 20 ms; print the longest silence
//	pod silent udp|tcp HOST:PORT … succeed when nobody answers any of them
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// patience is how long an answer may take.
const patience = 3 * time.Second

func main() {
	words := append(os.Args[1:], "", "", "")
	var err error
	switch {
	case words[0] == "pause":
		pause()
	case words[0] == "serve":
		err = serve(words[1])
	case words[0] == "ask":
		err = ask(words[1])
	case words[0] == "echo":
		err = echo(words[1], words[2])
	case words[0] == "watch":
		err = watch(words[1], words[2])
	case words[0] == "silent" && len(os.Args) > 3:
		err = silence(words[1], os.Args[3:])
	default:
		err = fmt.Errorf("pause | serve PORT | ask HOST:PORT | echo ADDRESS [SIZE] | watch ADDRESS SECONDS |" +
			" silent udp|tcp HOST:PORT …")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "pod: %v\n", err)
		os.Exit(1)
	}
}

// pause waits to be ended, and reaps: it may be the first process of a pod whose containers share one.
func pause() {
	ended, children := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-ended:
			return
		case <-children:
			for pid := 1; pid > 0; {
				pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			}
		}
	}
}

func serve(port string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	fmt.Printf("%s serves on %s\n", name, port)
	go func() {
		for {
			caller, err := listener.Accept()
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			from := caller.RemoteAddr().(*net.TCPAddr).IP
			fmt.Printf("asked by %s\n", from)
			// The caller may have gone.
			_, _ = fmt.Fprintf(caller, "%s %s\n", name, from)
			_ = caller.Close()
		}
	}()
	pause()
	return nil
}

func ask(server string) error {
	connection, err := net.DialTimeout("tcp", server, patience)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	answer, err := io.ReadAll(connection)
	fmt.Printf("%s", answer)
	return err
}

// silence asks all servers at once.
func silence(network string, servers []string) error {
	answers := make(chan error)
	for _, server := range servers {
		go func() { answers <- silent(network, server) }()
	}
	var all []error
	for range servers {
		all = append(all, <-answers)
	}
	return errors.Join(all...)
}

func silent(network, server string) error {
	connection, err := net.DialTimeout(network, server, patience)
	if err != nil {
		return nil
	}
	defer connection.Close()
	if network == "udp" {
		if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := connection.Write([]byte("anybody?")); err != nil {
			return nil
		}
		if _, err := connection.Read(make([]byte, 1)); err != nil {
			return nil
		}
	}
	return fmt.Errorf("%s answers by %s", server, network)
}

// family is what differs between the two.
type family struct {
	domain, protocol, header   int
	request, reply             byte
	level, discovery, refusing int
}

var (
	v4 = family{syscall.AF_INET, syscall.IPPROTO_ICMP, 20, 8, 0, syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, 2}
	v6 = family{syscall.AF_INET6, syscall.IPPROTO_ICMPV6, 40, 128, 129, syscall.IPPROTO_IPV6, syscall.IPV6_MTU_DISCOVER, 2}
)

// prober sends echo requests to one address. The socket is ICMP's own: the kernel sees to identity and sums.
type prober struct {
	socket int
	kind   family
	to     syscall.Sockaddr
	host   string
}

// probe opens a socket towards an address; each answer may take that long.
func probe(host string, patience time.Duration) (*prober, error) {
	address := net.ParseIP(host)
	if address == nil {
		return nil, fmt.Errorf("%q is no address", host)
	}
	p := &prober{kind: v6, to: &syscall.SockaddrInet6{Addr: [16]byte(address.To16())}, host: host}
	if address.To4() != nil {
		p.kind, p.to = v4, &syscall.SockaddrInet4{Addr: [4]byte(address.To4())}
	}
	socket, err := syscall.Socket(p.kind.domain, syscall.SOCK_DGRAM, p.kind.protocol)
	if err != nil {
		return nil, fmt.Errorf("an ICMP socket: %w", err)
	}
	p.socket = socket
	// Never cut, not even by what an earlier packet taught (IP_PMTUDISC_DO).
	if err := syscall.SetsockoptInt(socket, p.kind.level, p.kind.discovery, p.kind.refusing); err != nil {
		return nil, err
	}
	limit := syscall.NsecToTimeval(patience.Nanoseconds())
	return p, syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit)
}

// smallest is the length of a packet without any payload.
func (p *prober) smallest() int { return p.kind.header + 8 }

// exchange sends one request in a packet of that length and waits for its reply.
func (p *prober) exchange(length int, serial uint16) error {
	request := make([]byte, length-p.kind.header)
	request[0] = p.kind.request
	request[6], request[7] = byte(serial>>8), byte(serial)
	if err := syscall.Sendto(p.socket, request, 0, p.to); err != nil {
		return fmt.Errorf("send %d bytes to %s: %w", length, p.host, err)
	}
	reply := make([]byte, len(request)+1)
	for {
		got, _, err := syscall.Recvfrom(p.socket, reply, 0)
		if err != nil {
			return fmt.Errorf("no echo of %d bytes from %s: %w", length, p.host, err)
		}
		// A late reply to an earlier request is not this one's.
		if got == len(request) && reply[0] == p.kind.reply && reply[6] == request[6] && reply[7] == request[7] {
			return nil
		}
	}
}

func echo(host, size string) error {
	p, err := probe(host, patience)
	if err != nil {
		return err
	}
	length := p.smallest()
	if size != "" {
		number, err := strconv.Atoi(size)
		if err != nil || number < length {
			return fmt.Errorf("a packet of %q bytes cannot be", size)
		}
		length = number
	}
	start := time.Now()
	if err := p.exchange(length, 1); err != nil {
		return err
	}
	fmt.Printf("%d bytes from %s after %.3f ms\n", length, host, time.Since(start).Seconds()*1000)
	return nil
}

// watch asks again and again.
func watch(host, seconds string) error {
	// A machine under load answers late, which is no silence.
	const pace, late = 20 * time.Millisecond, 200 * time.Millisecond
	limit, err := strconv.Atoi(seconds)
	if err != nil {
		return fmt.Errorf("%q is no number of seconds", seconds)
	}
	p, err := probe(host, late)
	if err != nil {
		return err
	}
	end, heard, silence, answers := time.Now().Add(time.Duration(limit)*time.Second), time.Now(), time.Duration(0), 0
	for serial := uint16(0); time.Now().Before(end); serial++ {
		next := time.Now().Add(pace)
		lost := p.exchange(p.smallest(), serial) != nil
		silence = max(silence, time.Since(heard))
		if !lost {
			heard = time.Now()
			answers++
		}
		time.Sleep(time.Until(next))
	}
	fmt.Printf("%.3f s of silence at most, %d answers\n", silence.Seconds(), answers)
	return nil
}
