import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.*;

/**
 * Load by Kafka's Java client for bench/groups.py. Prints one line of JSON; exit code 1 on any error.
 *
 *   rebalance BOOTSTRAP TOPIC PARTITIONS MEMBERS PROTOCOL HEARTBEAT_MS ROUNDS
 *       a group begins with so many members; then one more joins and leaves again, ROUNDS times. PROTOCOL: consumer, or
 *       the class of a classic group's assignor
 *   transactions BOOTSTRAP TOPIC PRODUCERS RECORDS SECONDS
 *       each producer sends to a partition of its own; a third of the time before it is counted warms up
 */
public class GroupLoad {
    static final Duration POLL = Duration.ofMillis(100);
    static final long PATIENCE_S = 120;
    static final Duration CLOSE = Duration.ofSeconds(30);

    public static void main(String[] a) {
        Thread.setDefaultUncaughtExceptionHandler((thread, error) -> fail(error));
        try {
            switch (a[0]) {
                case "rebalance" -> rebalance(a[1], a[2], Integer.parseInt(a[3]), Integer.parseInt(a[4]), a[5], a[6],
                    Integer.parseInt(a[7]));
                case "transactions" -> transactions(a[1], a[2], Integer.parseInt(a[3]), Integer.parseInt(a[4]),
                    Integer.parseInt(a[5]));
                default -> throw new IllegalArgumentException(a[0]);
            }
        } catch (Throwable error) {
            fail(error);
        }
        Runtime.getRuntime().halt(0);
    }

    static void fail(Throwable error) {
        error.printStackTrace();
        System.err.flush();
        Runtime.getRuntime().halt(1);
    }

    static double seconds(long nanoseconds) {
        return nanoseconds / 1e9;
    }

    static void print(String format, Object... values) {
        System.out.println(String.format(Locale.ROOT, format, values));
        System.out.flush();
    }

    // --- groups ---------------------------------------------------------------------------------------------------

    /** Who has which partition, as the members were told. */
    static class Owners {
        final Member[] owner;
        final Map<Member, Integer> counts = new HashMap<>();
        long changed;
        int overlaps;

        Owners(int partitions) {
            owner = new Member[partitions];
        }

        synchronized void take(Member member, Collection<TopicPartition> partitions) {
            for (TopicPartition p : partitions) {
                Member before = owner[p.partition()];
                if (before == member) continue;
                if (before != null) {
                    overlaps++;
                    counts.merge(before, -1, Integer::sum);
                }
                owner[p.partition()] = member;
                counts.merge(member, 1, Integer::sum);
            }
            changed = System.nanoTime();
            notifyAll();
        }

        synchronized void drop(Member member, Collection<TopicPartition> partitions) {
            for (TopicPartition p : partitions) {
                if (owner[p.partition()] != member) continue;
                owner[p.partition()] = null;
                counts.merge(member, -1, Integer::sum);
            }
            changed = System.nanoTime();
            notifyAll();
        }

        /** Every partition has an owner, and so many members have the same number of them, give or take one. */
        boolean isWhole(int members) {
            int most = 0, least = Integer.MAX_VALUE, having = 0, all = 0;
            for (int count : counts.values()) {
                if (count == 0) continue;
                having++;
                all += count;
                most = Math.max(most, count);
                least = Math.min(least, count);
            }
            return all == owner.length && having == Math.min(members, owner.length) && most - least <= 1;
        }

        /** Seconds from `begun` until that was so. */
        synchronized double whole(int members, long begun) throws InterruptedException, TimeoutException {
            long until = begun + TimeUnit.SECONDS.toNanos(PATIENCE_S);
            while (!isWhole(members)) {
                long left = TimeUnit.NANOSECONDS.toMillis(until - System.nanoTime());
                if (left <= 0) {
                    throw new TimeoutException(members + " members do not share the partitions: " + counts.values());
                }
                wait(left);
            }
            return seconds(changed - begun);
        }
    }

    static class Member implements ConsumerRebalanceListener {
        final KafkaConsumer<byte[], byte[]> consumer;
        final Owners owners;
        final String topic;
        volatile boolean leaves;
        Thread thread;

        Member(Map<String, Object> settings, String topic, Owners owners) {
            consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
            this.owners = owners;
            this.topic = topic;
        }

        void join() {
            thread = new Thread(this::poll);
            thread.start();
        }

        void poll() {
            consumer.subscribe(List.of(topic), this);
            try {
                while (!leaves) consumer.poll(POLL);
            } catch (WakeupException e) {
                // It leaves.
            }
            consumer.close(CloseOptions.timeout(CLOSE));
        }

        void leave() {
            leaves = true;
            consumer.wakeup();
        }

        // Paused: what is measured is the group, and fetches of a thousand empty partitions are not.
        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            consumer.pause(partitions);
            owners.take(this, partitions);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            owners.drop(this, partitions);
        }
    }

    static void rebalance(String bootstrap, String topic, int partitions, int members, String protocol,
        String heartbeatMs, int rounds) throws Exception {
        Map<String, Object> settings = new HashMap<>(Map.of("bootstrap.servers", bootstrap,
            "group.id", "rebalance-" + protocol.replaceAll(".*[.]", "") + "-" + members, "enable.auto.commit", "false",
            "auto.offset.reset", "latest"));
        if (protocol.equals("consumer")) {
            settings.put("group.protocol", "consumer");
        } else {
            settings.put("group.protocol", "classic");
            settings.put("heartbeat.interval.ms", heartbeatMs);
            settings.put("partition.assignment.strategy", protocol);
        }
        Owners owners = new Owners(partitions);
        List<Member> all = new ArrayList<>();
        for (int n = 0; n < members; n++) all.add(new Member(settings, topic, owners));
        long begun = System.nanoTime();
        for (Member member : all) member.join();
        double assigned = owners.whole(members, begun);
        List<Double> joins = new ArrayList<>(), leaves = new ArrayList<>();
        Random random = new Random();
        long settle = Long.parseLong(heartbeatMs);
        for (int n = 0; n < rounds; n++) {
            Member more = new Member(settings, topic, owners);
            // Not always at the same time after a heartbeat.
            Thread.sleep(settle + random.nextLong(settle));
            begun = System.nanoTime();
            more.join();
            joins.add(owners.whole(members + 1, begun));
            Thread.sleep(settle + random.nextLong(settle));
            begun = System.nanoTime();
            more.leave();
            leaves.add(owners.whole(members, begun));
            more.thread.join(CLOSE.toMillis());
        }
        int overlaps = owners.overlaps;
        for (Member member : all) member.leave();
        for (Member member : all) member.thread.join(CLOSE.toMillis());
        print("{\"assigned_s\": %.3f, \"join_s\": %.3f, \"leave_s\": %.3f, \"joins_s\": %s, \"leaves_s\": %s, "
            + "\"overlaps\": %d}", assigned, median(joins), median(leaves), joins, leaves, overlaps);
    }

    static double median(List<Double> values) {
        List<Double> sorted = values.stream().sorted().toList();
        int half = sorted.size() / 2;
        return sorted.size() % 2 == 1 ? sorted.get(half) : (sorted.get(half - 1) + sorted.get(half)) / 2;
    }

    // --- transactions ---------------------------------------------------------------------------------------------

    static void transactions(String bootstrap, String topic, int producers, int records, int forSeconds)
        throws Exception {
        long warm = TimeUnit.SECONDS.toNanos(forSeconds) / 3, counted = TimeUnit.SECONDS.toNanos(forSeconds);
        CyclicBarrier barrier = new CyclicBarrier(producers);
        ExecutorService threads = Executors.newFixedThreadPool(producers);
        List<Future<long[]>> futures = new ArrayList<>();
        for (int n = 0; n < producers; n++) {
            int number = n;
            futures.add(threads.submit(() -> produce(bootstrap, topic, number, records, barrier, warm, counted)));
        }
        int operations = 0;
        List<long[]> all = new ArrayList<>();
        for (Future<long[]> future : futures) {
            long[] took = future.get(PATIENCE_S + forSeconds * 2L, TimeUnit.SECONDS);
            operations += (int) took[0];
            all.add(Arrays.copyOfRange(took, 1, took.length));
        }
        long[] took = all.stream().flatMapToLong(Arrays::stream).sorted().toArray();
        if (took.length == 0) throw new TimeoutException("no transaction was counted");
        print("{\"operations\": %d, \"seconds\": %d, \"per_s\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f}", operations,
            forSeconds, took.length / (double) forSeconds, took[took.length / 2] / 1e6,
            took[(int) (took.length * 0.99)] / 1e6);
    }

    /** How many in all, then how long each took that was counted. */
    static long[] produce(String bootstrap, String topic, int number, int records, CyclicBarrier barrier, long warm,
        long counted) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "transactional.id", "java-" + number);
        byte[] value = new byte[100];
        List<Long> took = new ArrayList<>();
        long operations = 0;
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            producer.initTransactions();
            barrier.await(PATIENCE_S, TimeUnit.SECONDS);
            long begun = System.nanoTime();
            while (true) {
                long sent = System.nanoTime();
                if (sent - begun >= warm + counted) break;
                producer.beginTransaction();
                for (int n = 0; n < records; n++) producer.send(new ProducerRecord<>(topic, number, null, value));
                // As commitTransaction does; but clients up to 4.3 may send EndTxn before the records if both are handed over
                // while their sender looks whether there are any.
                producer.flush();
                producer.commitTransaction();
                operations++;
                if (sent - begun >= warm) took.add(System.nanoTime() - sent);
            }
        }
        long[] all = new long[took.size() + 1];
        all[0] = operations;
        for (int n = 0; n < took.size(); n++) all[n + 1] = took.get(n);
        return all;
    }
}
