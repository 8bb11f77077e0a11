// Stock Go clients of Kafka: franz-go and sarama.
//
//	goclients CLIENT group BOOTSTRAP TOPIC PROTOCOL    two members share a topic, one goes, the other takes over
//	goclients CLIENT ends BOOTSTRAP TOPIC              transactions that commit and abort in turn
//	goclients CLIENT process BOOTSTRAP IN OUT REPLICAS reads, writes, offsets in the transaction, until standard input
//	                                                   ends; then everything that went in came out exactly once
//
// CLIENT is franz or sarama. All create their topics. Prints what was seen as JSON; exit code 1 on any difference.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"
)

const (
	groupPartitions   = 4
	groupRecords      = 2000
	processPartitions = 3
	recordsPerSecond  = 200
	patience          = 240 * time.Second
	endOfTopic        = "end of topic"
)

func check(holds bool, format string, values ...any) {
	if !holds {
		fmt.Fprintf(os.Stderr, "FAILED: "+format+"\n", values...)
		os.Exit(1)
	}
}

func must(err error, what string) {
	check(err == nil, "%s: %v", what, err)
}

// until asks again and again, and fails with what was seen last.
func until(what func() string, holds func() bool) {
	for end := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		check(time.Now().Before(end), "not in time: %s", what())
	}
}

func result(seen map[string]any) {
	line, err := json.Marshal(seen)
	must(err, "JSON")
	fmt.Println(string(line))
}

// stopped is closed when standard input ends.
func stopped() <-chan struct{} {
	over := make(chan struct{})
	go func() {
		_, _ = io.ReadAll(os.Stdin)
		close(over)
	}()
	return over
}

// strings that several goroutines add to.
type bag struct {
	lock   sync.Mutex
	values []string
}

func (b *bag) add(value string) {
	b.lock.Lock()
	defer b.lock.Unlock()
	b.values = append(b.values, value)
}

func (b *bag) len() int {
	b.lock.Lock()
	defer b.lock.Unlock()
	return len(b.values)
}

func (b *bag) sorted() []string {
	b.lock.Lock()
	defer b.lock.Unlock()
	all := append([]string(nil), b.values...)
	sort.Strings(all)
	return all
}

func (b *bag) distinct() int {
	b.lock.Lock()
	defer b.lock.Unlock()
	seen := map[string]bool{}
	for _, value := range b.values {
		seen[value] = true
	}
	return len(seen)
}

// partitions that a member has now.
type assignment struct {
	lock sync.Mutex
	has  map[int32]bool
}

func newAssignment() *assignment { return &assignment{has: map[int32]bool{}} }

func (a *assignment) set(partitions []int32, has bool) {
	a.lock.Lock()
	defer a.lock.Unlock()
	for _, partition := range partitions {
		if has {
			a.has[partition] = true
		} else {
			delete(a.has, partition)
		}
	}
}

func (a *assignment) len() int {
	a.lock.Lock()
	defer a.lock.Unlock()
	return len(a.has)
}

// same fails unless exactly what is expected was found.
func same(what string, found, expected []string) {
	doubles := 0
	for n := 1; n < len(found); n++ {
		if found[n] == found[n-1] {
			doubles++
		}
	}
	check(doubles == 0, "%s: %d came out twice", what, doubles)
	check(len(found) == len(expected), "%s: %d came out, not %d", what, len(found), len(expected))
	for n := range found {
		check(found[n] == expected[n], "%s: %q, not %q", what, found[n], expected[n])
	}
}

// counts of what became of the transactions of a processor.
type ends struct{ committed, aborted, renewed int }

func main() {
	check(len(os.Args) >= 5, "too few arguments")
	client, command, bootstrap, topic, rest := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5:]
	switch client + " " + command {
	case "franz group":
		franzGroup(bootstrap, topic, rest[0])
	case "franz ends":
		franzEnds(bootstrap, topic)
	case "franz process":
		replicas, err := strconv.Atoi(rest[1])
		must(err, "replicas")
		franzProcess(bootstrap, topic, rest[0], int16(replicas))
	case "sarama group":
		saramaGroup(bootstrap, topic, rest[0])
	case "sarama ends":
		saramaEnds(bootstrap, topic)
	case "sarama process":
		replicas, err := strconv.Atoi(rest[1])
		must(err, "replicas")
		saramaProcess(bootstrap, topic, rest[0], int16(replicas))
	default:
		check(false, "unknown command")
	}
}
