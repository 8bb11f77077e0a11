package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
)

// saramaConfig has the version that sarama speaks by default (2.8), or a later one.
func saramaConfig(version sarama.KafkaVersion) *sarama.Config {
	config := sarama.NewConfig()
	config.Version = version
	config.Producer.Return.Successes = true
	config.Producer.Idempotent = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Retry.Max = 200
	config.Producer.Retry.Backoff = 100 * time.Millisecond
	config.Net.MaxOpenRequests = 1
	config.Metadata.Retry.Max = 100
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	return config
}

func saramaCreate(bootstrap, topic string, partitions int32, replicas int16) {
	admin, err := sarama.NewClusterAdmin(strings.Split(bootstrap, ","), saramaConfig(sarama.DefaultVersion))
	must(err, "admin")
	defer admin.Close()
	synced := "1"
	if replicas > 1 {
		synced = "2"
	}
	detail := &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: replicas,
		ConfigEntries: map[string]*string{"min.insync.replicas": &synced}}
	must(admin.CreateTopic(topic, detail, false), "create "+topic)
}

func saramaProducer(bootstrap string, config *sarama.Config) sarama.SyncProducer {
	producer, err := sarama.NewSyncProducer(strings.Split(bootstrap, ","), config)
	must(err, "producer")
	return producer
}

func saramaMessages(topic string, partitions, first, count int) (messages []*sarama.ProducerMessage) {
	for n := first; n < first+count; n++ {
		value := sarama.StringEncoder(fmt.Sprint(n))
		messages = append(messages, &sarama.ProducerMessage{Topic: topic, Partition: int32(n % partitions), Value: value})
	}
	return messages
}

func saramaFill(bootstrap, topic string, first int, codec sarama.CompressionCodec) {
	config := saramaConfig(sarama.DefaultVersion)
	config.Producer.Compression = codec
	producer := saramaProducer(bootstrap, config)
	must(producer.SendMessages(saramaMessages(topic, groupPartitions, first, groupRecords)), "produce")
	must(producer.Close(), "close")
}

// saramaMember is a sarama.ConsumerGroupHandler.
type saramaMember struct {
	group    sarama.ConsumerGroup
	assigned *assignment
	seen     *bag
	topic    string
	cancel   context.CancelFunc
	over     chan struct{}
}

func newSaramaMember(bootstrap, topic, protocol string, seen *bag) *saramaMember {
	config := saramaConfig(sarama.DefaultVersion)
	switch protocol {
	case "eager":
		config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange()}
	case "sticky":
		config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategySticky()}
	default:
		check(false, "unknown protocol %s", protocol)
	}
	group, err := sarama.NewConsumerGroup(strings.Split(bootstrap, ","), "group-"+topic, config)
	must(err, "group")
	ctx, cancel := context.WithCancel(context.Background())
	member := &saramaMember{group, newAssignment(), seen, topic, cancel, make(chan struct{})}
	go func() {
		defer close(member.over)
		for ctx.Err() == nil {
			err := group.Consume(ctx, []string{topic}, member)
			check(err == nil || errors.Is(err, sarama.ErrClosedConsumerGroup), "consume: %v", err)
		}
	}()
	return member
}

func (m *saramaMember) Setup(session sarama.ConsumerGroupSession) error {
	m.assigned.set(session.Claims()[m.topic], true)
	return nil
}

func (m *saramaMember) Cleanup(session sarama.ConsumerGroupSession) error {
	m.assigned.set(session.Claims()[m.topic], false)
	return nil
}

func (m *saramaMember) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		m.seen.add(string(message.Value))
		session.MarkMessage(message, "")
		if message.Offset%100 == 99 {
			session.Commit()
		}
	}
	session.Commit()
	return nil
}

func (m *saramaMember) end() {
	m.cancel()
	<-m.over
	must(m.group.Close(), "close")
}

func saramaGroup(bootstrap, topic, protocol string) {
	saramaCreate(bootstrap, topic, groupPartitions, 1)
	saramaFill(bootstrap, topic, 0, sarama.CompressionZSTD)
	seen := &bag{}
	first := newSaramaMember(bootstrap, topic, protocol, seen)
	second := newSaramaMember(bootstrap, topic, protocol, seen)
	shown := func() string {
		return fmt.Sprintf("%d and %d partitions, %d records", first.assigned.len(), second.assigned.len(), seen.distinct())
	}
	until(shown, func() bool { return first.assigned.len() == 2 && second.assigned.len() == 2 })
	until(shown, func() bool { return seen.distinct() == groupRecords })
	first.end()
	until(shown, func() bool { return second.assigned.len() == groupPartitions })
	saramaFill(bootstrap, topic, groupRecords, sarama.CompressionSnappy)
	until(shown, func() bool { return seen.distinct() == 2*groupRecords })
	second.end()

	admin, err := sarama.NewClusterAdmin(strings.Split(bootstrap, ","), saramaConfig(sarama.DefaultVersion))
	must(err, "admin")
	defer admin.Close()
	sum := saramaCommitted(admin, "group-"+topic, topic, groupPartitions)
	check(sum == 2*groupRecords, "committed %d", sum)
	must(admin.DeleteConsumerGroup("group-"+topic), "delete the group")
	result(map[string]any{"records": seen.distinct(), "protocol": protocol})
}

// saramaCommitted is the sum of the group's offsets; -1 where they cannot be told.
func saramaCommitted(admin sarama.ClusterAdmin, group, topic string, partitions int32) int {
	all := map[string][]int32{}
	for partition := range partitions {
		all[topic] = append(all[topic], partition)
	}
	offsets, err := admin.ListConsumerGroupOffsets(group, all)
	if err != nil || offsets.Err != sarama.ErrNoError {
		return -1
	}
	sum := 0
	for _, block := range offsets.Blocks[topic] {
		if block.Err != sarama.ErrNoError {
			return -1
		}
		sum += max(0, int(block.Offset))
	}
	return sum
}

func saramaEnds(bootstrap, topic string) {
	saramaCreate(bootstrap, topic, processPartitions, 1)
	config := saramaConfig(sarama.DefaultVersion)
	config.Producer.Transaction.ID = "id-" + topic
	producer := saramaProducer(bootstrap, config)
	kept, all := &bag{}, &bag{}
	for transaction := range 40 {
		must(producer.BeginTxn(), "begin")
		messages := saramaMessages(topic, processPartitions, transaction*10, 10)
		must(producer.SendMessages(messages), "produce")
		for n := range 10 {
			all.add(fmt.Sprint(transaction*10 + n))
		}
		if transaction%4 == 3 {
			must(producer.AbortTxn(), "abort")
			continue
		}
		must(producer.CommitTxn(), "commit")
		for n := range 10 {
			kept.add(fmt.Sprint(transaction*10 + n))
		}
	}
	must(producer.Close(), "close")
	same("read_committed", saramaReadAll(bootstrap, topic, sarama.ReadCommitted), kept.sorted())
	same("read_uncommitted", saramaReadAll(bootstrap, topic, sarama.ReadUncommitted), all.sorted())
	result(map[string]any{"committed": kept.len(), "written": all.len()})
}

// saramaReadAll has the values of the whole topic, as a consumer of this isolation level has them.
func saramaReadAll(bootstrap, topic string, isolation sarama.IsolationLevel) []string {
	config := saramaConfig(sarama.DefaultVersion)
	config.Consumer.IsolationLevel = isolation
	mark := fmt.Sprint(endOfTopic, " ", time.Now().UnixNano())
	writer := saramaProducer(bootstrap, config)
	for partition := range int32(processPartitions) {
		message := &sarama.ProducerMessage{Topic: topic, Partition: partition, Value: sarama.StringEncoder(mark)}
		_, _, err := writer.SendMessage(message)
		must(err, "the end of "+topic)
	}
	must(writer.Close(), "close")
	consumer, err := sarama.NewConsumer(strings.Split(bootstrap, ","), config)
	must(err, "consumer")
	values := &bag{}
	for partition := range int32(processPartitions) {
		reader, err := consumer.ConsumePartition(topic, partition, sarama.OffsetOldest)
		must(err, "consume "+topic)
		for isOver, limit := false, time.After(patience); !isOver; {
			select {
			case message := <-reader.Messages():
				if value := string(message.Value); value == mark {
					isOver = true
				} else if !strings.HasPrefix(value, endOfTopic) {
					values.add(value)
				}
			case <-limit:
				check(false, "%s is not read to its end: %d values", topic, values.len())
			}
		}
		must(reader.Close(), "close")
	}
	must(consumer.Close(), "close")
	return values.sorted()
}

// saramaPasser passes on what it reads, a transaction at a time; a sarama.ConsumerGroupHandler.
type saramaPasser struct {
	bootstrap, sink, group string
	committed, aborted     atomic.Int64
}

func (p *saramaPasser) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (p *saramaPasser) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// ConsumeClaim has a producer of its own for the partition: its id fences whoever had the partition before. What fails
// ends the claim; the next one goes on from what is committed.
func (p *saramaPasser) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	config := saramaConfig(sarama.V4_1_0_0)
	config.Producer.Transaction.ID = fmt.Sprintf("id-%s-%d", p.sink, claim.Partition())
	producer, err := sarama.NewSyncProducer(strings.Split(p.bootstrap, ","), config)
	if err != nil {
		return err
	}
	defer producer.Close()
	for message := range claim.Messages() {
		read := []*sarama.ConsumerMessage{message}
		for len(read) < 100 && len(claim.Messages()) > 0 {
			more, isThere := <-claim.Messages()
			if !isThere {
				break
			}
			read = append(read, more)
		}
		if err := p.pass(session, producer, read); err != nil {
			p.aborted.Add(1)
			for producer.TxnStatus()&sarama.ProducerTxnFlagAbortableError != 0 && session.Context().Err() == nil {
				if producer.AbortTxn() == nil {
					break
				}
			}
			return err
		}
		p.committed.Add(1)
	}
	return nil
}

func (p *saramaPasser) pass(session sarama.ConsumerGroupSession, producer sarama.SyncProducer, read []*sarama.ConsumerMessage) error {
	if err := producer.BeginTxn(); err != nil {
		return err
	}
	messages := make([]*sarama.ProducerMessage, len(read))
	for n, message := range read {
		messages[n] = &sarama.ProducerMessage{Topic: p.sink, Partition: message.Partition, Value: sarama.ByteEncoder(message.Value)}
	}
	if err := producer.SendMessages(messages); err != nil {
		return err
	}
	member := &sarama.ConsumerGroupMetadata{GroupID: p.group, MemberID: session.MemberID(), GenerationID: session.GenerationID()}
	if err := producer.AddMessageToTxnWithGroupMetadata(read[len(read)-1], member, nil); err != nil {
		return err
	}
	return producer.CommitTxn()
}

func saramaProcess(bootstrap, source, sink string, replicas int16) {
	saramaCreate(bootstrap, source, processPartitions, replicas)
	saramaCreate(bootstrap, sink, processPartitions, replicas)
	over, delivered := stopped(), &bag{}
	var isFilled atomic.Bool
	go func() {
		producer := saramaProducer(bootstrap, saramaConfig(sarama.V4_1_0_0))
		tick := time.NewTicker(10 * time.Second / recordsPerSecond)
		for n := 0; ; n += 10 {
			select {
			case <-over:
				must(producer.Close(), "close")
				isFilled.Store(true)
				return
			case <-tick.C:
				must(producer.SendMessages(saramaMessages(source, processPartitions, n, 10)), "not written")
				for number := n; number < n+10; number++ {
					delivered.add(fmt.Sprint(number))
				}
			}
		}
	}()
	config := saramaConfig(sarama.V4_1_0_0)
	config.Consumer.IsolationLevel = sarama.ReadCommitted
	config.Consumer.Return.Errors = true
	passer := &saramaPasser{bootstrap: bootstrap, sink: sink, group: "group-" + sink}
	group, err := sarama.NewConsumerGroup(strings.Split(bootstrap, ","), passer.group, config)
	must(err, "group")
	go func() {
		for range group.Errors() { // told by the next claims, too
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if err := group.Consume(ctx, []string{source}, passer); err != nil {
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	for !isFilled.Load() {
		time.Sleep(100 * time.Millisecond)
	}
	admin, err := sarama.NewClusterAdmin(strings.Split(bootstrap, ","), saramaConfig(sarama.DefaultVersion))
	must(err, "admin")
	done := func() int { return saramaCommitted(admin, passer.group, source, processPartitions) }
	until(func() string { return fmt.Sprintf("%d of %d came through", done(), delivered.len()) },
		func() bool { return done() == delivered.len() })
	cancel()
	<-ended
	must(group.Close(), "close")
	must(admin.Close(), "close")
	same(sink, saramaReadAll(bootstrap, sink, sarama.ReadCommitted), delivered.sorted())
	result(map[string]any{"records": delivered.len(), "committed": passer.committed.Load(), "aborted": passer.aborted.Load()})
}
