package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func franz(bootstrap string, more ...kgo.Opt) *kgo.Client {
	options := append([]kgo.Opt{
		kgo.SeedBrokers(strings.Split(bootstrap, ",")...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RecordDeliveryTimeout(patience),
	}, more...)
	client, err := kgo.NewClient(options...)
	must(err, "franz-go")
	return client
}

func franzCreate(bootstrap, topic string, partitions int32, replicas int16) {
	client := franz(bootstrap)
	defer client.Close()
	synced := "1"
	if replicas > 1 {
		synced = "2"
	}
	configs := map[string]*string{"min.insync.replicas": &synced}
	made, err := kadm.NewClient(client).CreateTopic(context.Background(), partitions, replicas, configs, topic)
	must(err, "create "+topic)
	must(made.Err, "create "+topic)
}

func franzFill(bootstrap, topic string, first int, codec kgo.CompressionCodec) {
	client := franz(bootstrap, kgo.ProducerBatchCompression(codec))
	defer client.Close()
	for n := first; n < first+groupRecords; n++ {
		record := &kgo.Record{Topic: topic, Partition: int32(n % groupPartitions), Value: fmt.Append(nil, n)}
		client.Produce(context.Background(), record, func(_ *kgo.Record, err error) { must(err, "produce") })
	}
	must(client.Flush(context.Background()), "flush")
}

type franzMember struct {
	client   *kgo.Client
	assigned *assignment
	over     chan struct{}
}

func newFranzMember(bootstrap, topic, protocol string, seen *bag) *franzMember {
	member := &franzMember{assigned: newAssignment(), over: make(chan struct{})}
	change := func(has bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, changed map[string][]int32) {
			member.assigned.set(changed[topic], has)
		}
	}
	options := []kgo.Opt{
		kgo.ConsumerGroup("group-" + topic), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(change(true)), kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false)),
	}
	switch protocol {
	case "eager":
		options = append(options, kgo.Balancers(kgo.RangeBalancer()))
	case "consumer":
		options = append(options, kgo.ServerSideBalancer(), kgo.Balancers(kgo.RangeBalancer()))
	default:
		check(protocol == "cooperative", "unknown protocol %s", protocol)
	}
	member.client = franz(bootstrap, options...)
	go func() {
		defer close(member.over)
		for {
			fetches := member.client.PollRecords(context.Background(), 100)
			if fetches.IsClientClosed() {
				return
			}
			fetches.EachError(func(topic string, partition int32, err error) { must(err, "poll") })
			fetches.EachRecord(func(record *kgo.Record) { seen.add(string(record.Value)) })
			err := member.client.CommitUncommittedOffsets(context.Background())
			// What was read comes again, to whoever has the partition.
			isMoved := errors.Is(err, kerr.RebalanceInProgress) || errors.Is(err, kerr.IllegalGeneration) ||
				errors.Is(err, kerr.StaleMemberEpoch) || errors.Is(err, kerr.UnknownMemberID)
			check(err == nil || isMoved || errors.Is(err, kgo.ErrClientClosed) || errors.Is(err, context.Canceled), "commit: %v", err)
		}
	}()
	return member
}

func (m *franzMember) end() {
	m.client.Close()
	<-m.over
}

func franzGroup(bootstrap, topic, protocol string) {
	franzCreate(bootstrap, topic, groupPartitions, 1)
	franzFill(bootstrap, topic, 0, kgo.ZstdCompression())
	seen := &bag{}
	first := newFranzMember(bootstrap, topic, protocol, seen)
	second := newFranzMember(bootstrap, topic, protocol, seen)
	shown := func() string {
		return fmt.Sprintf("%d and %d partitions, %d records", first.assigned.len(), second.assigned.len(), seen.distinct())
	}
	until(shown, func() bool { return first.assigned.len() == 2 && second.assigned.len() == 2 })
	until(shown, func() bool { return seen.distinct() == groupRecords })

	client := franz(bootstrap)
	admin, group := kadm.NewClient(client), "group-"+topic
	kind := franzKind(admin, group)
	first.end()
	until(shown, func() bool { return second.assigned.len() == groupPartitions })
	franzFill(bootstrap, topic, groupRecords, kgo.Lz4Compression())
	until(shown, func() bool { return seen.distinct() == 2*groupRecords })
	committed := func() (sum int64) {
		offsets, err := admin.FetchOffsets(context.Background(), group)
		must(err, "fetch offsets")
		offsets.Each(func(offset kadm.OffsetResponse) { sum += offset.At })
		return sum
	}
	until(func() string { return fmt.Sprint("committed ", committed()) }, func() bool { return committed() == 2*groupRecords })
	second.end()
	until(func() string { return "the group is not deleted" }, func() bool {
		_, err := admin.DeleteGroup(context.Background(), group)
		check(err == nil || errors.Is(err, kerr.NonEmptyGroup), "delete the group: %v", err)
		return err == nil
	})
	client.Close()
	result(map[string]any{"records": seen.distinct(), "protocol": protocol, "kind": kind})
}

// franzKind is the kind of group that the coordinator lists.
func franzKind(admin *kadm.Client, group string) string {
	for _, kind := range []string{"classic", "consumer"} {
		listed, err := admin.ListGroupsByType(context.Background(), []string{kind})
		must(err, "list groups")
		if _, is := listed[group]; is {
			return kind
		}
	}
	return "none"
}

// franzReadAll has the values of the whole topic, as a consumer of this isolation level has them.
func franzReadAll(bootstrap, topic string, isolation kgo.IsolationLevel) []string {
	// What is there now ends at a record of our own: readers of committed data get it after all before it has ended.
	mark, writer := fmt.Sprint(endOfTopic, " ", time.Now().UnixNano()), franz(bootstrap)
	for partition := range int32(processPartitions) {
		record := &kgo.Record{Topic: topic, Partition: partition, Value: []byte(mark)}
		must(writer.ProduceSync(context.Background(), record).FirstErr(), "the end of "+topic)
	}
	writer.Close()
	partitions := map[int32]kgo.Offset{}
	for partition := range int32(processPartitions) {
		partitions[partition] = kgo.NewOffset().AtStart()
	}
	reader := franz(bootstrap, kgo.FetchIsolationLevel(isolation), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: partitions}))
	defer reader.Close()
	values, ended := &bag{}, 0
	for end := time.Now().Add(patience); ended < processPartitions; {
		check(time.Now().Before(end), "%s is not read to its end: %d values", topic, values.len())
		wait, cancel := context.WithTimeout(context.Background(), time.Second)
		reader.PollFetches(wait).EachRecord(func(record *kgo.Record) {
			if value := string(record.Value); value == mark {
				ended++
			} else if !strings.HasPrefix(value, endOfTopic) {
				values.add(value)
			}
		})
		cancel()
	}
	return values.sorted()
}

func franzEnds(bootstrap, topic string) {
	franzCreate(bootstrap, topic, processPartitions, 1)
	client := franz(bootstrap, kgo.TransactionalID("id-"+topic))
	kept, all, ctx := &bag{}, &bag{}, context.Background()
	for transaction := range 40 {
		must(client.BeginTransaction(), "begin")
		for n := range 10 {
			value := fmt.Sprintf("%d-%d", transaction, n)
			record := &kgo.Record{Topic: topic, Partition: int32(n % processPartitions), Value: []byte(value)}
			client.Produce(ctx, record, func(_ *kgo.Record, err error) { must(err, "produce") })
			all.add(value)
			if transaction%4 != 3 {
				kept.add(value)
			}
		}
		must(client.Flush(ctx), "flush")
		must(client.EndTransaction(ctx, kgo.TransactionEndTry(transaction%4 != 3)), "end")
	}
	client.Close()
	same("read_committed", franzReadAll(bootstrap, topic, kgo.ReadCommitted()), kept.sorted())
	same("read_uncommitted", franzReadAll(bootstrap, topic, kgo.ReadUncommitted()), all.sorted())
	result(map[string]any{"committed": kept.len(), "written": all.len()})
}

func franzProcess(bootstrap, source, sink string, replicas int16) {
	franzCreate(bootstrap, source, processPartitions, replicas)
	franzCreate(bootstrap, sink, processPartitions, replicas)
	over, delivered := stopped(), &bag{}
	var isFilled atomic.Bool
	go func() {
		client := franz(bootstrap)
		tick := time.NewTicker(time.Second / recordsPerSecond)
		for n := 0; ; n++ {
			select {
			case <-over:
				must(client.Flush(context.Background()), "flush")
				client.Close()
				isFilled.Store(true)
				return
			case <-tick.C:
				record := &kgo.Record{Topic: source, Partition: int32(n % processPartitions), Value: fmt.Append(nil, n)}
				client.Produce(context.Background(), record, func(record *kgo.Record, err error) {
					must(err, "not written")
					delivered.add(string(record.Value))
				})
			}
		}
	}()
	session := franzSession(bootstrap, source, sink)
	counts, done := ends{}, 0
	var end time.Time
	for !isFilled.Load() || done < delivered.len() {
		if isFilled.Load() && end.IsZero() {
			end = time.Now().Add(patience)
		}
		check(end.IsZero() || time.Now().Before(end), "%d of %d came through: %+v", done, delivered.len(), counts)
		wait, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		fetches := session.PollRecords(wait, 200)
		cancel()
		if fetches.NumRecords() == 0 {
			continue
		}
		isCommitted, err := franzTransaction(session, sink, fetches)
		if err == nil && isCommitted {
			counts.committed++
			done += fetches.NumRecords()
			continue
		}
		counts.aborted++
		if err != nil {
			counts.renewed++
			session.Close()
			session = franzSession(bootstrap, source, sink)
		}
		done = franzCommitted(bootstrap, "group-"+sink)
	}
	session.Close()
	same(sink, franzReadAll(bootstrap, sink, kgo.ReadCommitted()), delivered.sorted())
	result(map[string]any{"records": delivered.len(), "committed": counts.committed, "aborted": counts.aborted, "renewed": counts.renewed})
}

func franzSession(bootstrap, source, sink string) *kgo.GroupTransactSession {
	session, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(strings.Split(bootstrap, ",")...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.TransactionalID("id-"+sink), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumerGroup("group-"+sink), kgo.ConsumeTopics(source),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	must(err, "session")
	return session
}

// franzTransaction passes what was read on, with its offsets, in one transaction.
func franzTransaction(session *kgo.GroupTransactSession, sink string, fetches kgo.Fetches) (bool, error) {
	if err := session.Begin(); err != nil {
		return false, err
	}
	var failed atomic.Bool
	fetches.EachRecord(func(read *kgo.Record) {
		record := &kgo.Record{Topic: sink, Partition: read.Partition, Value: read.Value}
		session.Produce(context.Background(), record, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Store(true)
			}
		})
	})
	must(session.Client().Flush(context.Background()), "flush")
	return session.End(context.Background(), kgo.TransactionEndTry(!failed.Load()))
}

// franzCommitted is how many records the group has passed on.
func franzCommitted(bootstrap, group string) int {
	client := franz(bootstrap)
	defer client.Close()
	sum := int64(0)
	until(func() string { return "offsets of " + group }, func() bool {
		offsets, err := kadm.NewClient(client).FetchOffsets(context.Background(), group)
		sum = 0
		offsets.Each(func(offset kadm.OffsetResponse) { sum += offset.At })
		return err == nil && offsets.Error() == nil
	})
	return int(sum)
}
