import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import java.util.stream.LongStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.state.*;

/**
 * Kafka Streams counts words, exactly once (processing.guarantee=exactly_once_v2): two instances, each with a standby of
 * the other's store, a repartition topic and a changelog.
 *
 *   Streams count BOOTSTRAP NAME REPLICAS DIRECTORY
 *
 * Writes lines into NAME-in and says "ready" when both instances run. At each line of standard input it closes one
 * instance, throws its directory away, starts it again (the store comes back from the changelog) and says
 * "restarted". At the end of the input it stops writing: then each word's counts in NAME-out, as a reader of
 * committed data has them, must be 1, 2, .. up to what was written, each once and in order, and the stores say the same.
 * Prints JSON; exit code 1 on any difference.
 */
public class Streams {
    static final int PARTITIONS = 3;
    static final int WORDS = 40;
    static final int LINES_PER_SECOND = 60;
    static final Duration PATIENCE = Duration.ofSeconds(240);

    static final AtomicInteger replaced = new AtomicInteger();

    public static void main(String[] args) throws Exception {
        if (!args[0].equals("count")) throw new IllegalArgumentException(args[0]);
        try {
            count(args[1], args[2], Short.parseShort(args[3]), new File(args[4]));
        } catch (Throwable e) {
            e.printStackTrace();
            Transactions.check(false, e.toString());
        }
    }

    /** Lines of random words until it is stopped; those that the broker has are counted. */
    static class Writer extends Thread {
        final Queue<String> delivered = new ConcurrentLinkedQueue<>();
        final KafkaProducer<byte[], byte[]> producer;
        final String topic;
        volatile boolean goes = false;

        Writer(String bootstrap, String topic) {
            this.topic = topic;
            Map<String, Object> s = Roundtrip.settings(bootstrap);
            producer = new KafkaProducer<>(s, new ByteArraySerializer(), new ByteArraySerializer());
            start();
        }

        @Override public void run() {
            Random random = new Random();
            while (!goes) {
                String line = random.ints(4, 0, WORDS).mapToObj(n -> "word" + n).collect(Collectors.joining(" "));
                producer.send(new ProducerRecord<>(topic, line.getBytes()), (at, e) -> {
                    Transactions.check(e == null, "not written: " + e);
                    delivered.addAll(List.of(line.split(" ")));
                });
                try {
                    Thread.sleep(1_000 / LINES_PER_SECOND);
                } catch (InterruptedException e) {
                    Transactions.check(false, "interrupted");
                }
            }
            producer.close();
        }
    }

    static Topology topology(String name) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(name + "-in", Consumed.with(Serdes.ByteArray(), Serdes.String()))
            .flatMapValues(line -> List.of(line.split(" ")))
            .groupBy((key, word) -> word, Grouped.with("words", Serdes.String(), Serdes.String()))
            .count(Materialized.<String, Long, KeyValueStore<org.apache.kafka.common.utils.Bytes, byte[]>>as("counts")
                .withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()))
            .toStream()
            .to(name + "-out", Produced.with(Serdes.String(), Serdes.Long()));
        return builder.build();
    }

    static KafkaStreams start(String bootstrap, String name, short replicas, File directory, int instance) {
        Properties s = new Properties();
        s.put("bootstrap.servers", bootstrap);
        s.put("application.id", name);
        s.put("client.id", name + "-" + instance);
        s.put("processing.guarantee", StreamsConfig.EXACTLY_ONCE_V2);
        s.put("state.dir", new File(directory, "instance-" + instance).getPath());
        s.put("replication.factor", (int) replicas);
        s.put("num.standby.replicas", 1);
        // Every single count goes out, so that one missing or doubled is seen.
        s.put("statestore.cache.max.bytes", 0);
        s.put(StreamsConfig.consumerPrefix("session.timeout.ms"), 10_000);
        s.put(StreamsConfig.consumerPrefix("heartbeat.interval.ms"), 1_000);
        s.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        KafkaStreams streams = new KafkaStreams(topology(name), s);
        streams.setUncaughtExceptionHandler(e -> {
            System.err.println("instance " + instance + ": " + e);
            replaced.incrementAndGet();
            return StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        streams.start();
        return streams;
    }

    static void waitRunning(KafkaStreams... all) throws InterruptedException {
        long end = System.nanoTime() + PATIENCE.toNanos();
        while (!Arrays.stream(all).allMatch(streams -> streams.state() == KafkaStreams.State.RUNNING)) {
            List<KafkaStreams.State> states = Arrays.stream(all).map(KafkaStreams::state).toList();
            Transactions.check(System.nanoTime() < end, "the instances do not run: " + states);
            Thread.sleep(20);
        }
    }

    /** Reads on; appends to what each word has. */
    static void read(KafkaConsumer<String, Long> consumer, Map<String, List<Long>> counts) {
        consumer.poll(Duration.ofMillis(500)).forEach(record ->
            counts.computeIfAbsent(record.key(), word -> new ArrayList<>()).add(record.value()));
    }

    static long total(Map<String, List<Long>> counts) {
        return counts.values().stream().mapToLong(List::size).sum();
    }

    static Map<String, Long> stored(KafkaStreams... all) {
        Map<String, Long> found = new TreeMap<>();
        for (KafkaStreams streams : all) {
            ReadOnlyKeyValueStore<String, Long> store = streams.store(
                StoreQueryParameters.fromNameAndType("counts", QueryableStoreTypes.keyValueStore()));
            try (KeyValueIterator<String, Long> entries = store.all()) {
                entries.forEachRemaining(entry -> found.put(entry.key, entry.value));
            }
        }
        return found;
    }

    static void count(String bootstrap, String name, short replicas, File directory) throws Exception {
        try (Admin admin = Admin.create(Roundtrip.settings(bootstrap))) {
            Map<String, String> config = Map.of("min.insync.replicas", replicas > 1 ? "2" : "1");
            admin.createTopics(List.of(new NewTopic(name + "-in", PARTITIONS, replicas).configs(config),
                new NewTopic(name + "-out", PARTITIONS, replicas).configs(config))).all().get();
        }
        Writer writer = new Writer(bootstrap, name + "-in");
        KafkaStreams first = start(bootstrap, name, replicas, directory, 0);
        KafkaStreams second = start(bootstrap, name, replicas, directory, 1);
        waitRunning(first, second);
        System.out.println("ready");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        int restarts = 0;
        while (input.readLine() != null) {
            Transactions.check(first.close(PATIENCE), "an instance does not close");
            first.cleanUp();
            first = start(bootstrap, name, replicas, directory, 0);
            waitRunning(first, second);
            restarts++;
            System.out.println("restarted");
        }
        writer.goes = true;
        writer.join();
        Map<String, Long> expected = new TreeMap<>(
            writer.delivered.stream().collect(Collectors.groupingBy(word -> word, Collectors.counting())));
        check(bootstrap, name, expected, first, second);
        System.out.println("{\"words\": " + writer.delivered.size() + ", \"restarts\": " + restarts
            + ", \"replaced\": " + replaced.get() + "}");
        System.exit(0);
    }

    static void check(String bootstrap, String name, Map<String, Long> expected, KafkaStreams... all) throws Exception {
        Map<String, Object> s = Roundtrip.settings(bootstrap);
        s.put("isolation.level", "read_committed");
        s.put("auto.offset.reset", "earliest");
        long words = expected.values().stream().mapToLong(n -> n).sum();
        long end = System.nanoTime() + PATIENCE.toNanos();
        Map<String, List<Long>> counts = new TreeMap<>();
        try (KafkaConsumer<String, Long> consumer = new KafkaConsumer<>(s, new StringDeserializer(), new LongDeserializer())) {
            List<TopicPartition> partitions = new ArrayList<>();
            for (int n = 0; n < PARTITIONS; n++) partitions.add(new TopicPartition(name + "-out", n));
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            while (total(counts) < words) {
                Transactions.check(System.nanoTime() < end, total(counts) + " of " + words + " words were counted");
                read(consumer, counts);
            }
            waitRunning(all);
            Map<String, Long> stored = stored(all);
            Transactions.check(stored.equals(expected), "the stores have " + stored + ", not " + expected);
            for (KafkaStreams streams : all) Transactions.check(streams.close(PATIENCE), "an instance does not close");
            // Now nothing is to come any more: what is there beyond would be too much.
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (partitions.stream().anyMatch(p -> consumer.position(p) < ends.get(p))) {
                Transactions.check(System.nanoTime() < end, name + "-out is not read to its end");
                read(consumer, counts);
            }
        }
        Transactions.check(counts.keySet().equals(expected.keySet()), "words " + counts.keySet());
        counts.forEach((word, found) -> {
            List<Long> wanted = LongStream.rangeClosed(1, expected.get(word)).boxed().toList();
            Transactions.check(found.equals(wanted), word + ": " + found + " and not 1 to " + expected.get(word));
        });
    }
}
