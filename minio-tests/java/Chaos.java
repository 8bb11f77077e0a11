import java.io.*;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

/**
 * Kafka's Java client under faults; what it sends, reads and notes is as clients/chaos.py says.
 *
 *   Chaos produce BOOTSTRAP TOPIC,.. CLIENT LEDGER RECORDS_PER_SECOND | consume BOOTSTRAP TOPIC,.. CLIENT LEDGER
 */
public class Chaos {
    static final int FLUSH_SECONDS_MAX = 300;
    static final int END_SECONDS_MAX = 240;
    static final byte[] BLOCK = new byte[4096];

    static {
        for (int n = 0; n < BLOCK.length; n++) BLOCK[n] = (byte) ((n * n * 31 + n * 7) >> 3);
    }

    public static void main(String[] args) throws Exception {
        List<String> listed = List.of(args[2].split(","));
        Map<String, Integer> topics = new LinkedHashMap<>();
        for (int n = 0; n < listed.size(); n++) {
            if (!listed.get(n).startsWith("-")) topics.put(listed.get(n), n);
        }
        Thread stop = new Thread(() -> {
            try {
                System.in.readAllBytes();
            } catch (IOException e) {
                // Its end is an end.
            }
        });
        stop.setDaemon(true);
        stop.start();
        try (DataOutputStream ledger = new DataOutputStream(new BufferedOutputStream(new FileOutputStream(args[4], true)))) {
            switch (args[0]) {
                case "produce" -> produce(args[1], topics, Integer.parseInt(args[3]), ledger, Double.parseDouble(args[5]), stop);
                case "consume" -> consume(args[1], topics, ledger, stop);
                default -> throw new IllegalArgumentException(args[0]);
            }
        }
    }

    static void fail(String message) {
        System.err.println("FAILED: " + message);
        System.err.flush();
        Runtime.getRuntime().halt(1);
    }

    static byte[] value(int client, int topic, long number) {
        int at = (int) (number % 2048), size = Math.min((int) (200 + number * 31 % 1000), BLOCK.length - at);
        ByteBuffer out = ByteBuffer.allocate(12 + size).order(ByteOrder.LITTLE_ENDIAN);
        out.putShort((short) client).putShort((short) topic).putLong(number).put(BLOCK, at, size);
        return out.array();
    }

    static void note(DataOutputStream ledger, int topic, int client, int partition, long offset, long number) {
        ByteBuffer entry = ByteBuffer.allocate(32).order(ByteOrder.LITTLE_ENDIAN);
        entry.putShort((short) topic).putShort((short) client).putInt(partition).putLong(offset).putLong(number);
        entry.putLong(System.currentTimeMillis());
        try {
            synchronized (ledger) {
                ledger.write(entry.array());
            }
        } catch (IOException e) {
            fail("the ledger cannot be written: " + e);
        }
    }

    static Map<String, Object> settings(String bootstrap) {
        Map<String, Object> s = new HashMap<>();
        s.put("bootstrap.servers", bootstrap);
        s.put("request.timeout.ms", 10000);
        s.put("reconnect.backoff.max.ms", 250);
        s.put("retry.backoff.max.ms", 250);
        s.put("metadata.max.age.ms", 10000);
        return s;
    }

    static void produce(String bootstrap, Map<String, Integer> topics, int client, DataOutputStream ledger, double rate, Thread stop)
        throws Exception {
        Map<String, Object> s = settings(bootstrap);
        s.put("linger.ms", 5);
        s.put("delivery.timeout.ms", 600000);
        s.put("max.block.ms", 600000);
        s.put("buffer.memory", 128L << 20);
        AtomicLong acked = new AtomicLong();
        AtomicReference<String> failure = new AtomicReference<>();
        KafkaProducer<byte[], byte[]> producer =
            new KafkaProducer<>(s, new ByteArraySerializer(), new ByteArraySerializer());
        List<String> names = List.copyOf(topics.keySet());
        long begun = System.nanoTime(), number = 0;
        while (stop.isAlive()) {
            long due = (long) ((System.nanoTime() - begun) / 1e9 * rate);
            for (; number < due && stop.isAlive(); number++) {
                String name = names.get((int) (number % names.size()));
                int topic = topics.get(name);
                long n = number;
                byte[] key = ("key-" + n / 4 % 64).getBytes();
                producer.send(new ProducerRecord<>(name, key, value(client, topic, n)), (meta, error) -> {
                    if (error != null) {
                        failure.compareAndSet(null, "record " + n + " of " + name + ": " + error);
                    } else {
                        note(ledger, topic, client, meta.partition(), meta.offset(), n);
                        acked.incrementAndGet();
                    }
                });
            }
            if (failure.get() != null) fail("a record was given up: " + failure.get());
            synchronized (ledger) {
                ledger.flush();
            }
            Thread.sleep(10);
        }
        long asked = System.nanoTime();
        Thread flush = new Thread(producer::flush);
        flush.setDaemon(true);
        flush.start();
        flush.join(FLUSH_SECONDS_MAX * 1000L);
        if (failure.get() != null) fail("a record was given up: " + failure.get());
        if (acked.get() != number) fail(number - acked.get() + " records have no answer " + FLUSH_SECONDS_MAX + " s after the last was sent");
        producer.close(Duration.ofSeconds(10));
        System.out.printf(Locale.ROOT, "{\"acked\": %d, \"flush_seconds\": %.1f}%n", number, (System.nanoTime() - asked) / 1e9);
    }

    static void consume(String bootstrap, Map<String, Integer> topics, DataOutputStream ledger, Thread stop) throws Exception {
        Map<String, Object> s = settings(bootstrap);
        s.put("auto.offset.reset", "none");
        s.put("enable.auto.commit", "false");
        s.put("default.api.timeout.ms", 15000);
        Map<TopicPartition, Long> following = new HashMap<>(), ends = null;
        Map<String, Integer> errors = new TreeMap<>();
        long asked = 0, read = 0;
        KafkaConsumer<byte[], byte[]> consumer =
            new KafkaConsumer<>(s, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        for (String topic : topics.keySet()) {
            consumer.partitionsFor(topic).forEach(p -> following.put(new TopicPartition(topic, p.partition()), 0L));
        }
        consumer.assign(following.keySet());
        following.keySet().forEach(tp -> consumer.seek(tp, 0));
        while (ends == null || behind(following, ends)) {
            try {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(100))) {
                    TopicPartition at = new TopicPartition(r.topic(), r.partition());
                    if (r.offset() != following.get(at)) fail("read " + at + " at " + r.offset() + ", not " + following.get(at));
                    following.put(at, r.offset() + 1);
                    ByteBuffer value = ByteBuffer.wrap(r.value()).order(ByteOrder.LITTLE_ENDIAN);
                    int sender = value.getShort();
                    value.getShort();
                    note(ledger, topics.get(r.topic()), sender, r.partition(), r.offset(), value.getLong());
                    read++;
                }
                if (!stop.isAlive()) {
                    asked = asked == 0 ? System.nanoTime() : asked;
                    if (System.nanoTime() - asked > END_SECONDS_MAX * 1_000_000_000L) {
                        fail("a reader is stuck at " + following + " of " + ends + "; " + errors);
                    }
                    if (ends == null) ends = consumer.endOffsets(following.keySet());
                }
            } catch (org.apache.kafka.common.errors.RetriableException e) {
                errors.merge(e.getClass().getSimpleName(), 1, Integer::sum);
            } catch (RuntimeException e) {
                fail("a reader was told " + e);
            }
        }
        consumer.close(CloseOptions.timeout(Duration.ofSeconds(5)));
        StringBuilder told = new StringBuilder();
        errors.forEach((name, count) -> told.append(told.length() == 0 ? "" : ", ").append('"').append(name).append("\": ").append(count));
        System.out.println("{\"read\": " + read + ", \"errors\": {" + told + "}}");
    }

    static boolean behind(Map<TopicPartition, Long> following, Map<TopicPartition, Long> ends) {
        return ends.entrySet().stream().anyMatch(end -> following.get(end.getKey()) < end.getValue());
    }
}
