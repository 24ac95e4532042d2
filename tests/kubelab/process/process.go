// Package process starts the parts of the cluster as children that end with their parent, as they do within k3s, which
// is one process: only what containerd's shims hold lives on.
package process

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// patience is how long children may take to end when they are asked.
const patience = 5 * time.Second

// Family is all children of this process.
type Family struct {
	// Died gets one word for the first child that ends by itself.
	Died     chan string
	starts   chan start
	mutex    sync.Mutex
	members  map[*exec.Cmd]chan struct{}
	stopping bool
}

type start struct {
	command *exec.Cmd
	done    chan error
}

// New makes an empty family.
func New() *Family {
	family := &Family{
		Died: make(chan string, 1), starts: make(chan start), members: map[*exec.Cmd]chan struct{}{},
	}
	// The kernel sends the parent's death signal when the THREAD ends that forked: one thread forks, and never ends.
	go func() {
		runtime.LockOSThread()
		for start := range family.starts {
			start.done <- start.command.Start()
		}
	}()
	return family
}

// Own starts a part of this very program.
func (f *Family) Own(part string, arguments ...string) error {
	return f.Start(part, exec.Command("/proc/self/exe", append([]string{part}, arguments...)...))
}

// Start starts a program.
func (f *Family) Start(name string, command *exec.Cmd) error {
	if command.Stdout == nil {
		command.Stdout, command.Stderr = os.Stderr, os.Stderr
	}
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if f.stopping {
		return fmt.Errorf("%s: everything is being stopped", name)
	}
	done := make(chan error)
	f.starts <- start{command, done}
	if err := <-done; err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	log.Printf("started %s as %d", name, command.Process.Pid)
	ended := make(chan struct{})
	f.members[command] = ended
	go f.await(name, command, ended)
	return nil
}

func (f *Family) await(name string, command *exec.Cmd, ended chan struct{}) {
	err := command.Wait()
	close(ended)
	f.mutex.Lock()
	stopping := f.stopping
	f.mutex.Unlock()
	if stopping {
		return
	}
	word := fmt.Sprintf("%s ended: %v", name, err)
	select {
	case f.Died <- word:
	default:
		log.Print(word)
	}
}

// Stop asks all to end, then ends them.
func (f *Family) Stop() {
	f.mutex.Lock()
	f.stopping = true
	members := f.members
	f.mutex.Unlock()
	for command := range members {
		// It may have ended just now.
		_ = command.Process.Signal(syscall.SIGTERM)
	}
	over := time.After(patience)
	for command, ended := range members {
		select {
		case <-ended:
		case <-over:
			over = time.After(0)
			_ = command.Process.Kill()
			<-ended
		}
	}
}
