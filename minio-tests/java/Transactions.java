import java.io.IOException;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.serialization.*;

/**
 * Transactions by Kafka's Java client.
 *
 *   Transactions ends BOOTSTRAP TOPIC               commits and aborts in turn, a fenced producer
 *   Transactions process BOOTSTRAP IN OUT REPLICAS  reads, writes, offsets in the transaction, until standard input ends; then
 *                                                   everything that went in came out exactly once
 *
 * Both create their topics. Prints JSON; exit code 1 on any difference.
 */
public class Transactions {
    static final int PARTITIONS = 3;
    static final int RECORDS_PER_SECOND = 300;
    static final long PATIENCE_MS = 240_000;

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "ends" -> ends(args[1], args[2]);
            case "process" -> process(args[1], args[2], args[3], Short.parseShort(args[4]));
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    static void check(boolean condition, String message) {
        if (condition) return;
        System.err.println("FAILED: " + message);
        System.err.flush();
        Runtime.getRuntime().halt(1);
    }

    static void create(String bootstrap, String topic, short replicas) throws Exception {
        try (Admin admin = Admin.create(Roundtrip.settings(bootstrap))) {
            Map<String, String> config = Map.of("min.insync.replicas", replicas > 1 ? "2" : "1");
            admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, replicas).configs(config))).all().get();
        }
    }

    static KafkaProducer<byte[], byte[]> producer(String bootstrap, String id) {
        Map<String, Object> s = Roundtrip.settings(bootstrap);
        s.put("linger.ms", "5");
        if (id == null) return new KafkaProducer<>(s, new ByteArraySerializer(), new ByteArraySerializer());
        s.put("transactional.id", id);
        long end = System.currentTimeMillis() + PATIENCE_MS;
        while (true) {
            KafkaProducer<byte[], byte[]> producer =
                new KafkaProducer<>(s, new ByteArraySerializer(), new ByteArraySerializer());
            try {
                producer.initTransactions();
                return producer;
            } catch (KafkaException e) {
                producer.close(Duration.ZERO);
                check(System.currentTimeMillis() < end, "initTransactions: " + e);
            }
        }
    }

    static KafkaConsumer<byte[], byte[]> consumer(String bootstrap, String group, String isolation) {
        Map<String, Object> s = Roundtrip.settings(bootstrap);
        s.put("group.id", group);
        s.put("isolation.level", isolation);
        s.put("enable.auto.commit", "false");
        s.put("auto.offset.reset", "earliest");
        s.put("max.poll.records", "200");
        return new KafkaConsumer<>(s, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static List<TopicPartition> partitions(String topic) {
        List<TopicPartition> all = new ArrayList<>();
        for (int n = 0; n < PARTITIONS; n++) all.add(new TopicPartition(topic, n));
        return all;
    }

    /** Values of the whole topic, sorted, as a consumer of this isolation level has them. */
    static List<String> readAll(String bootstrap, String topic, String isolation) {
        List<String> values = new ArrayList<>();
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(bootstrap, "reader-" + System.nanoTime(), isolation)) {
            List<TopicPartition> all = partitions(topic);
            consumer.assign(all);
            consumer.seekToBeginning(all);
            Map<TopicPartition, Long> ends = consumer.endOffsets(all);
            long end = System.currentTimeMillis() + PATIENCE_MS;
            while (all.stream().anyMatch(p -> consumer.position(p) < ends.get(p))) {
                check(System.currentTimeMillis() < end, topic + " is not read to its end");
                consumer.poll(Duration.ofMillis(500)).forEach(record -> values.add(new String(record.value())));
            }
        }
        Collections.sort(values);
        return values;
    }

    static void ends(String bootstrap, String topic) throws Exception {
        create(bootstrap, topic, (short) 1);
        List<String> kept = new ArrayList<>(), all = new ArrayList<>();
        KafkaProducer<byte[], byte[]> old = producer(bootstrap, "id-" + topic);
        for (int transaction = 0; transaction < 40; transaction++) {
            boolean commits = transaction % 4 != 3;
            old.beginTransaction();
            for (int n = 0; n < 10; n++) {
                String value = transaction + "-" + n;
                old.send(new ProducerRecord<>(topic, n % PARTITIONS, null, value.getBytes()));
                (commits ? kept : new ArrayList<String>()).add(value);
                all.add(value);
            }
            old.flush();
            if (commits) old.commitTransaction(); else old.abortTransaction();
        }
        // A second producer of the id fences the first, whose open transaction is aborted.
        old.beginTransaction();
        old.send(new ProducerRecord<>(topic, 0, null, "fenced".getBytes())).get();
        all.add("fenced");
        KafkaProducer<byte[], byte[]> now = producer(bootstrap, "id-" + topic);
        boolean isFenced = false;
        try {
            old.commitTransaction();
        } catch (ProducerFencedException e) {
            isFenced = true;
        }
        check(isFenced, "the old producer is not fenced");
        now.beginTransaction();
        now.send(new ProducerRecord<>(topic, 0, null, "kept".getBytes()));
        kept.add("kept");
        all.add("kept");
        now.commitTransaction();
        old.close(Duration.ZERO);
        now.close();
        Collections.sort(kept);
        Collections.sort(all);
        long end = System.currentTimeMillis() + PATIENCE_MS;
        while (!readAll(bootstrap, topic, "read_committed").equals(kept)) {
            check(System.currentTimeMillis() < end, "readers of committed data do not see what was committed");
        }
        check(readAll(bootstrap, topic, "read_uncommitted").equals(all), "uncommitted readers");
        System.out.println("{\"committed\": " + kept.size() + ", \"written\": " + all.size() + "}");
    }

    static void fill(String bootstrap, String topic, Thread stop, Queue<String> delivered) {
        try (KafkaProducer<byte[], byte[]> producer = producer(bootstrap, null)) {
            for (int number = 0; stop.isAlive(); number++) {
                String value = Integer.toString(number);
                producer.send(new ProducerRecord<>(topic, number % PARTITIONS, null, value.getBytes()), (at, e) -> {
                    check(e == null, "not written: " + e);
                    delivered.add(value);
                });
                Thread.sleep(1_000 / RECORDS_PER_SECOND);
            }
        } catch (InterruptedException e) {
            check(false, "interrupted");
        }
    }

    static void process(String bootstrap, String source, String sink, short replicas) throws Exception {
        create(bootstrap, source, replicas);
        create(bootstrap, sink, replicas);
        Thread stop = new Thread(() -> {
            try {
                System.in.readAllBytes();
            } catch (IOException e) {
                // Its end is an end.
            }
        });
        stop.setDaemon(true);
        stop.start();
        Queue<String> delivered = new ConcurrentLinkedQueue<>();
        Thread filler = new Thread(() -> fill(bootstrap, source, stop, delivered));
        filler.start();
        KafkaProducer<byte[], byte[]> producer = producer(bootstrap, "id-" + sink);
        KafkaConsumer<byte[], byte[]> consumer = consumer(bootstrap, "group-" + sink, "read_committed");
        consumer.subscribe(List.of(source));
        long done = 0, committed = 0, aborted = 0, renewed = 0, end = Long.MAX_VALUE;
        while (filler.isAlive() || done < delivered.size()) {
            if (!filler.isAlive() && end == Long.MAX_VALUE) end = System.currentTimeMillis() + PATIENCE_MS;
            check(System.currentTimeMillis() < end, done + " of " + delivered.size() + " came through");
            ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(500));
            if (records.isEmpty()) continue;
            try {
                producer.beginTransaction();
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                for (ConsumerRecord<byte[], byte[]> record : records) {
                    producer.send(new ProducerRecord<>(sink, record.partition(), null, record.value()));
                    TopicPartition at = new TopicPartition(source, record.partition());
                    offsets.put(at, new OffsetAndMetadata(record.offset() + 1));
                }
                producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                producer.commitTransaction();
                committed++;
                done += records.count();
            } catch (KafkaException failed) {
                aborted++;
                try {
                    producer.abortTransaction();
                } catch (KafkaException fatal) {
                    renewed++;
                    producer.close(Duration.ZERO);
                    producer = producer(bootstrap, "id-" + sink);
                }
                done = rewind(consumer);
            }
        }
        consumer.close();
        producer.close();
        List<String> expected = new ArrayList<>(delivered);
        Collections.sort(expected);
        end = System.currentTimeMillis() + PATIENCE_MS;
        while (true) {
            List<String> found = readAll(bootstrap, sink, "read_committed");
            if (found.equals(expected)) break;
            check(new HashSet<>(found).size() == found.size(), "some came out twice");
            check(System.currentTimeMillis() < end, found.size() + " of " + expected.size() + " came out");
        }
        System.out.println("{\"records\": " + expected.size() + ", \"committed\": " + committed + ", \"aborted\": "
            + aborted + ", \"renewed\": " + renewed + "}");
        System.exit(0);
    }

    /** Goes back to what is committed; how many records that is. */
    static long rewind(KafkaConsumer<byte[], byte[]> consumer) {
        long end = System.currentTimeMillis() + PATIENCE_MS, sum = 0;
        while (true) {
            try {
                Map<TopicPartition, OffsetAndMetadata> known = consumer.committed(consumer.assignment());
                for (TopicPartition at : consumer.assignment()) {
                    OffsetAndMetadata committed = known.get(at);
                    consumer.seek(at, committed == null ? 0 : committed.offset());
                    sum += committed == null ? 0 : committed.offset();
                }
                return sum;
            } catch (KafkaException e) {
                sum = 0;
                check(System.currentTimeMillis() < end, "rewind: " + e);
            }
        }
    }
}
