import java.time.Duration;
import java.util.*;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.BooleanSupplier;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;

/**
 * Java consumers that subscribe, and the administration of their group.
 *
 *   Groups share BOOTSTRAP TOPIC PROTOCOL    classic (range), cooperative, static (classic) or consumer (KIP-848, by pattern)
 *
 * Two members share the topic's partitions, one goes and the other takes over (a static one comes back to what it
 * had); then the offsets are read, altered and deleted, and the group with them. Prints JSON; exit code 1 on any
 * difference.
 */
public class Groups {
    static final int PARTITIONS = 4;
    static final int RECORDS = 2_000;
    static final Duration PATIENCE = Duration.ofSeconds(120);

    public static void main(String[] args) throws Exception {
        if (!args[0].equals("share")) throw new IllegalArgumentException(args[0]);
        share(args[1], args[2], args[3]);
    }

    static void check(boolean condition, String message) {
        Roundtrip.check(condition, message);
    }

    static void until(Supplier<String> what, BooleanSupplier holds) throws InterruptedException {
        long end = System.nanoTime() + PATIENCE.toNanos();
        while (!holds.getAsBoolean()) {
            check(System.nanoTime() < end, "not in time: " + what.get());
            Thread.sleep(20);
        }
    }

    /** A member in a thread of its own. */
    static class Member extends Thread implements ConsumerRebalanceListener {
        final Set<Integer> assigned = ConcurrentHashMap.newKeySet();
        final Set<Integer> seen = ConcurrentHashMap.newKeySet();
        volatile int revocations = 0;
        volatile Throwable failure = null;
        volatile boolean goes = false;
        final KafkaConsumer<byte[], byte[]> consumer;

        Member(String bootstrap, String topic, String protocol, int number) {
            Map<String, Object> s = Roundtrip.settings(bootstrap);
            s.put("group.id", "group-" + topic);
            s.put("client.id", "member-" + number);
            s.put("auto.offset.reset", "earliest");
            s.put("enable.auto.commit", "false");
            s.put("max.poll.records", "100");
            switch (protocol) {
                case "consumer" -> s.put("group.protocol", "consumer");
                case "cooperative" ->
                    s.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");
                default -> s.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer.RangeAssignor");
            }
            if (protocol.equals("static")) s.put("group.instance.id", "instance-" + number);
            consumer = new KafkaConsumer<>(s, new ByteArrayDeserializer(), new ByteArrayDeserializer());
            if (protocol.equals("consumer")) {
                consumer.subscribe(new SubscriptionPattern(topic + "(-.*)?"), this);
            } else {
                consumer.subscribe(List.of(topic), this);
            }
            setDaemon(true);
            start();
        }

        @Override public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            partitions.forEach(p -> assigned.add(p.partition()));
        }

        @Override public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            if (!partitions.isEmpty() && !goes) revocations++;
            partitions.forEach(p -> assigned.remove(p.partition()));
        }

        @Override public void run() {
            try {
                while (!goes) {
                    ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(200));
                    for (ConsumerRecord<byte[], byte[]> record : records) {
                        seen.add(Integer.parseInt(new String(record.value())));
                    }
                    try {
                        if (!records.isEmpty()) consumer.commitSync();
                    } catch (RebalanceInProgressException | CommitFailedException again) {
                        // What was read comes again, to whoever has the partition.
                    }
                }
                consumer.close();
            } catch (Throwable e) {
                failure = e;
            }
        }

        void end() throws InterruptedException {
            goes = true;
            join(PATIENCE.toMillis());
            check(!isAlive(), "a member does not end");
            check(failure == null, "a member failed: " + failure);
        }
    }

    static void fill(String bootstrap, String topic, int first) throws Exception {
        try (Producer<byte[], byte[]> producer =
                 new KafkaProducer<>(Roundtrip.settings(bootstrap), new ByteArraySerializer(), new ByteArraySerializer())) {
            for (int n = first; n < first + RECORDS; n++) {
                producer.send(new ProducerRecord<>(topic, n % PARTITIONS, null, Integer.toString(n).getBytes()));
            }
            producer.flush();
        }
    }

    static void share(String bootstrap, String topic, String protocol) throws Exception {
        String group = "group-" + topic;
        try (Admin admin = Admin.create(Roundtrip.settings(bootstrap))) {
            Roundtrip.create(admin, topic, PARTITIONS, Map.of());
            fill(bootstrap, topic, 0);
            List<Member> members = new ArrayList<>();
            for (int n = 0; n < 2; n++) members.add(new Member(bootstrap, topic, protocol, n));
            Supplier<String> shown = () -> members.stream().map(m -> m.assigned + " " + m.failure).collect(Collectors.joining(", "));
            until(shown, () -> members.stream().allMatch(m -> m.assigned.size() == 2));
            Set<Integer> all = new TreeSet<>();
            members.forEach(m -> all.addAll(m.assigned));
            check(all.size() == PARTITIONS, "a partition with two members: " + shown.get());
            Set<Integer> seen = ConcurrentHashMap.newKeySet();
            until(() -> seen.size() + " records read", () -> {
                members.forEach(m -> seen.addAll(m.seen));
                return seen.size() == RECORDS;
            });

            ConsumerGroupDescription described = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
            check(described.groupState() == GroupState.STABLE, "described as " + described);
            check(described.members().size() == 2, "two members are described: " + described);
            check(described.members().stream().mapToInt(m -> m.assignment().topicPartitions().size()).sum() == PARTITIONS,
                "with all partitions: " + described);

            Set<Integer> before = new TreeSet<>(members.get(0).assigned);
            int revoked = members.get(1).revocations;
            members.get(0).end();
            if (protocol.equals("static")) {
                // It comes back within its session: nobody else notices.
                members.set(0, new Member(bootstrap, topic, protocol, 0));
                until(shown, () -> members.get(0).assigned.equals(before));
                check(members.get(1).revocations == revoked, "the other member lost its partitions meanwhile");
            } else {
                until(shown, () -> members.get(1).assigned.size() == PARTITIONS);
            }
            fill(bootstrap, topic, RECORDS);
            until(() -> seen.size() + " records read", () -> {
                members.forEach(m -> seen.addAll(m.seen));
                return seen.size() == 2 * RECORDS;
            });
            for (Member member : members) if (!member.goes) member.end();
            if (protocol.equals("static")) {
                admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions(
                    List.of(new MemberToRemove("instance-0"), new MemberToRemove("instance-1")))).all().get();
            }
            administer(admin, group, topic);
            System.out.println("{\"records\": " + seen.size() + ", \"protocol\": \"" + protocol + "\"}");
        }
    }

    static Map<Integer, Long> committed(Admin admin, String group) throws Exception {
        Map<Integer, Long> found = new TreeMap<>();
        admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get()
            .forEach((partition, offset) -> found.put(partition.partition(), offset.offset()));
        return found;
    }

    /** Of a group whose members have left. */
    static void administer(Admin admin, String group, String topic) throws Exception {
        long each = 2L * RECORDS / PARTITIONS;
        check(committed(admin, group).equals(Map.of(0, each, 1, each, 2, each, 3, each)),
            "committed: " + committed(admin, group));
        until(() -> "the group is not listed as empty", () -> {
            try {
                return admin.listGroups(ListGroupsOptions.forConsumerGroups().inGroupStates(Set.of(GroupState.EMPTY)))
                    .all().get().stream().anyMatch(listed -> listed.groupId().equals(group));
            } catch (Exception e) {
                throw new RuntimeException(e);
            }
        });
        TopicPartition first = new TopicPartition(topic, 0);
        TopicPartition second = new TopicPartition(topic, 1);
        admin.alterConsumerGroupOffsets(group, Map.of(first, new OffsetAndMetadata(7, "note"))).all().get();
        admin.deleteConsumerGroupOffsets(group, Set.of(second)).all().get();
        check(committed(admin, group).equals(Map.of(0, 7L, 2, each, 3, each)), "altered: " + committed(admin, group));
        admin.deleteConsumerGroups(List.of(group)).all().get();
        check(admin.listGroups().all().get().stream().noneMatch(listed -> listed.groupId().equals(group)), "listed after it was deleted");
        try {
            admin.describeConsumerGroups(List.of(group)).all().get();
            check(false, "a deleted group is described");
        } catch (java.util.concurrent.ExecutionException e) {
            check(e.getCause() instanceof GroupIdNotFoundException, "a deleted group: " + e.getCause());
        }
    }
}
