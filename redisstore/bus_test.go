//go:build linux

package redisstore_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
)

// node is one of a cluster. The others reach its bus through a relay, which can be
// told to let some of them through no more.
type node struct {
	*remotetest.Redis
	client *redis.Client
	id     string
	relay  *relay
}

// startNode starts a node that has no slots and knows nobody.
func startNode(t *testing.T) *node {
	t.Helper()
	r, err := remotetest.NewRedis()
	remotetest.Require(t, err)
	port := freePort(t)
	n := &node{Redis: r, relay: startRelay(t, port)}
	if err := r.StartClusterNode(port, "--cluster-announce-bus-port", n.relay.port(), "--repl-diskless-sync-delay", "0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Stop(syscall.SIGKILL) })
	n.client = redis.NewClient(&redis.Options{Addr: r.Address})
	t.Cleanup(func() { _ = n.client.Close() })
	if n.id, err = n.client.ClusterMyID(t.Context()).Result(); err != nil {
		t.Fatal(err)
	}
	if err := n.client.ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// meet has n join the cluster of another.
func (n *node) meet(t *testing.T, other *node) {
	t.Helper()
	host, port, _ := strings.Cut(other.Address, ":")
	if err := n.client.Do(t.Context(), "CLUSTER", "MEET", host, port, other.relay.port()).Err(); err != nil {
		t.Fatal(err)
	}
}

// startCluster starts a cluster of as many masters, for what a cluster refuses:
// scripts whose keys lie in several slots, for example. It serves the slots of those
// that are up.
func startCluster(t *testing.T, size int) []*node {
	t.Helper()
	nodes := make([]*node, size)
	for i := range nodes {
		nodes[i] = startNode(t)
		if err := nodes[i].client.ClusterAddSlotsRange(t.Context(), i*16384/size, (i+1)*16384/size-1).Err(); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			nodes[i].meet(t, nodes[0])
		}
	}
	for _, n := range nodes {
		n.await(t, "every slot has a master", func(ctx context.Context) (string, bool) {
			info, err := n.client.ClusterInfo(ctx).Result()
			known := fmt.Sprintf("cluster_known_nodes:%d", size)
			return info, err == nil && strings.Contains(info, "cluster_slots_assigned:16384") &&
				strings.Contains(info, "cluster_state:ok") && strings.Contains(info, known)
		})
	}
	return nodes
}

// startReplica starts a replica of a master.
func startReplica(t *testing.T, master *node) *node {
	t.Helper()
	n := startNode(t)
	n.meet(t, master)
	n.await(t, "acquainted with its master", func(ctx context.Context) (string, bool) {
		err := n.client.ClusterReplicate(ctx, master.id).Err()
		return fmt.Sprint(err), err == nil
	})
	n.await(t, "a replica", func(ctx context.Context) (string, bool) {
		info, err := n.client.Info(ctx, "replication").Result()
		return info, err == nil && strings.Contains(info, "master_link_status:up")
	})
	return n
}

// await returns when a condition holds, of which a text says more.
func (n *node) await(t *testing.T, what string, holds func(context.Context) (text string, ok bool)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		text, ok := holds(ctx)
		if ok {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("node %s: not %s: %s", n.Address, what, text)
		}
	}
}

// clusterClient is a client of a cluster.
func clusterClient(t *testing.T, nodes []*node) *redis.ClusterClient {
	t.Helper()
	options := new(redis.ClusterOptions)
	for _, n := range nodes {
		options.Addrs = append(options.Addrs, n.Address)
	}
	client := redis.NewClusterClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

var ports atomic.Int32

// freePort finds a port that is free, as is the one of the cluster bus, which is
// larger by 10,000. Both lie below those that the system gives to whoever asks for
// any, and no other process takes one before the server does.
func freePort(t *testing.T) string {
	t.Helper()
	for port := 11_000 + os.Getpid()%9000 + int(ports.Add(1)); port < 22_000; port++ {
		if isFree(port) && isFree(port+10_000) {
			return fmt.Sprint(port)
		}
	}
	t.Fatal("no port is free")
	return ""
}

func isFree(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	_ = l.Close() // it was to see whether it is free
	return true
}

// relay stands in front of the bus of one node. Who connects says in its first
// message who it is.
type relay struct {
	listener net.Listener
	to       string

	mu    sync.Mutex          // guards what follows
	shut  map[string]bool     // to nodes of these ids
	conns map[net.Conn]string // and who they are from
}

// startRelay starts one for the node whose clients use port.
func startRelay(t *testing.T, port string) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: listener, to: fmt.Sprint("127.0.0.1:", number+10_000), shut: make(map[string]bool), conns: make(map[net.Conn]string)}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the test is over
			}
			go r.carry(conn)
		}
	}()
	return r
}

func (r *relay) port() string {
	_, port, _ := net.SplitHostPort(r.listener.Addr().String())
	return port
}

// carry carries what a node says, and the answers, until one of the two is gone.
func (r *relay) carry(from net.Conn) {
	defer from.Close()
	head := make([]byte, 80) // of which the last half is the id of the sender
	if _, err := io.ReadFull(from, head); err != nil || !r.admit(from, string(head[40:])) {
		return
	}
	defer r.forget(from)
	to, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		_, _ = io.Copy(from, to) // the node has ended
		_ = from.Close()
	}()
	_, _ = io.Copy(to, io.MultiReader(bytes.NewReader(head), from)) // the same
}

func (r *relay) admit(conn net.Conn, id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.shut[id] {
		r.conns[conn] = id
	}
	return !r.shut[id]
}

func (r *relay) forget(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, conn)
}

// set shuts the relay to a node, or opens it again.
func (r *relay) set(id string, isShut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shut[id] = isShut
	for conn, from := range r.conns {
		if isShut && from == id {
			_ = conn.Close()
		}
	}
}

// cutBus cuts the bus between two nodes, or mends it.
func cutBus(a, b *node, isCut bool) {
	a.relay.set(b.id, isCut)
	b.relay.set(a.id, isCut)
}
