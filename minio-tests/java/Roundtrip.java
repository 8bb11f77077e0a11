import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.*;

/**
 * Kafka's own Java client as producer, replayer and administrator of one topic.
 *
 *   Roundtrip produce BOOTSTRAP TOPIC COUNT | replay BOOTSTRAP TOPIC | admin BOOTSTRAP
 *
 * Prints the canonical digest (see clients/canon.py) and the number of records as JSON; exit code 1 on any
 * difference. The producer's settings are the defaults: idempotent, acks=all.
 */
public class Roundtrip {
    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "produce" -> produce(args[1], args[2], Integer.parseInt(args[3]));
            case "replay" -> replay(args[1], args[2]);
            case "admin" -> admin(args[1]);
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    static Map<String, Object> settings(String bootstrap) {
        Map<String, Object> s = new HashMap<>();
        s.put("bootstrap.servers", bootstrap);
        return s;
    }

    static void check(boolean condition, String message) {
        if (!condition) {
            System.err.println("FAILED: " + message);
            System.exit(1);
        }
    }

    static void create(Admin admin, String topic, int partitions, Map<String, String> config) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1).configs(config))).all().get();
    }

    // --- digest -------------------------------------------------------------------------------------------

    /** Canonical bytes by (partition, offset). */
    static final TreeMap<Integer, TreeMap<Long, byte[]>> records = new TreeMap<>();

    static synchronized void keep(int partition, long offset, long timestamp, byte[] key, byte[] value, Iterable<Header> headers) {
        try {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            DataOutputStream out = new DataOutputStream(bytes);
            out.writeInt(partition);
            out.writeLong(offset);
            out.writeLong(timestamp);
            sized(out, key);
            sized(out, value);
            List<Header> list = new ArrayList<>();
            headers.forEach(list::add);
            out.writeInt(list.size());
            for (Header h : list) {
                sized(out, h.key().getBytes(StandardCharsets.UTF_8));
                sized(out, h.value());
            }
            byte[] before = records.computeIfAbsent(partition, p -> new TreeMap<>()).put(offset, bytes.toByteArray());
            check(before == null, "offset " + offset + " of partition " + partition + " twice");
        } catch (java.io.IOException e) {
            throw new IllegalStateException(e);
        }
    }

    static void sized(DataOutputStream out, byte[] data) throws java.io.IOException {
        out.writeInt(data == null ? -1 : data.length);
        if (data != null) out.write(data);
    }

    static void report() throws Exception {
        MessageDigest whole = MessageDigest.getInstance("SHA-256");
        int count = 0;
        for (TreeMap<Long, byte[]> partition : records.values()) {
            MessageDigest part = MessageDigest.getInstance("SHA-256");
            for (byte[] record : partition.values()) part.update(record);
            whole.update(part.digest());
            count += partition.size();
        }
        System.out.println("{\"digest\": \"" + HexFormat.of().formatHex(whole.digest()) + "\", \"records\": " + count + "}");
    }

    // --- produce and replay -------------------------------------------------------------------------------

    static void produce(String bootstrap, String topic, int count) throws Exception {
        try (Admin admin = Admin.create(settings(bootstrap))) {
            create(admin, topic, 3, Map.of("segment.bytes", "1048576", "retention.ms", "-1"));
        }
        Random random = new Random(11);
        long clock = 1_300_000_000_000L;
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            Map<String, Object> s = settings(bootstrap);
            s.put("compression.type", codec);
            s.put("linger.ms", 5);
            try (Producer<byte[], byte[]> producer = new KafkaProducer<>(s, new ByteArraySerializer(), new ByteArraySerializer())) {
                for (int n = 0; n < count; n++) {
                    clock += random.nextInt(250) - 50;
                    byte[] key = n % 5 == 0 ? null : ("key-" + random.nextInt(100)).getBytes();
                    byte[] value = n % 11 == 0 ? null : new byte[random.nextInt(900)];
                    if (value != null) {
                        Arrays.fill(value, (byte) n);
                        if (n % 3 == 0) random.nextBytes(value);
                    }
                    List<Header> headers = new ArrayList<>();
                    if (n % 4 > 0) headers.add(new RecordHeader("again", new byte[] {1, 2}));
                    if (n % 4 > 1) headers.add(new RecordHeader("again", (byte[]) null));
                    if (n % 4 > 2) headers.add(new RecordHeader("", new byte[0]));
                    long at = clock;
                    producer.send(new ProducerRecord<>(topic, null, clock, key, value, headers), (meta, error) -> {
                        check(error == null, codec + ": " + error);
                        keep(meta.partition(), meta.offset(), at, key, value, headers);
                    });
                }
            }
        }
        report();
    }

    static void replay(String bootstrap, String topic) throws Exception {
        Map<String, Object> s = settings(bootstrap);
        s.put("auto.offset.reset", "none");
        s.put("enable.auto.commit", "false");
        try (Consumer<byte[], byte[]> consumer = new KafkaConsumer<>(s, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> all = consumer.partitionsFor(topic).stream()
                .map(p -> new TopicPartition(topic, p.partition())).collect(Collectors.toList());
            consumer.assign(all);
            consumer.seekToBeginning(all);
            Map<TopicPartition, Long> ends = consumer.endOffsets(all);
            long last = System.nanoTime();
            while (all.stream().anyMatch(tp -> consumer.position(tp) < ends.get(tp))) {
                ConsumerRecords<byte[], byte[]> polled = consumer.poll(Duration.ofMillis(200));
                if (!polled.isEmpty()) last = System.nanoTime();
                check(System.nanoTime() - last < 180_000_000_000L, "replay of " + topic + ": silent for 180 s");
                for (ConsumerRecord<byte[], byte[]> r : polled) {
                    keep(r.partition(), r.offset(), r.timestamp(), r.key(), r.value(), r.headers());
                }
            }
        }
        report();
    }

    // --- administration -----------------------------------------------------------------------------------

    static void admin(String bootstrap) throws Exception {
        String topic = "java-admin";
        try (Admin admin = Admin.create(settings(bootstrap));
             Producer<String, String> producer = new KafkaProducer<>(settings(bootstrap), new StringSerializer(), new StringSerializer())) {
            check(admin.describeCluster().nodes().get().size() == 1, "one node");
            check(!admin.describeCluster().clusterId().get().isEmpty(), "a cluster id");
            create(admin, topic, 2, Map.of("retention.ms", "-1", "segment.bytes", "1048576"));
            refused(TopicExistsException.class, () -> create(admin, topic, 2, Map.of()));
            refused(InvalidTopicException.class, () -> create(admin, "no/slash", 1, Map.of()));
            refused(InvalidTopicException.class, () -> create(admin, "..", 1, Map.of()));
            refused(InvalidTopicException.class, () -> create(admin, "x".repeat(250), 1, Map.of()));
            refused(InvalidConfigurationException.class, () -> create(admin, "bad", 1, Map.of("no.such.setting", "1")));
            refused(InvalidConfigurationException.class, () -> create(admin, "bad", 1, Map.of("segment.bytes", "many")));
            refused(InvalidReplicationFactorException.class,
                () -> admin.createTopics(List.of(new NewTopic("bad", 1, (short) 3))).all().get());
            check(admin.listTopics().names().get().contains(topic), "listTopics lacks it");

            TopicDescription description = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
            check(description.partitions().size() == 2, "two partitions");
            check(admin.describeTopics(org.apache.kafka.common.TopicCollection.ofTopicIds(List.of(description.topicId())))
                .allTopicIds().get().size() == 1, "found by id");
            refused(UnknownTopicOrPartitionException.class, () -> admin.describeTopics(List.of("nowhere")).allTopicNames().get());
            admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(3))).all().get();
            refused(InvalidPartitionsException.class,
                () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(1))).all().get());

            ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            admin.incrementalAlterConfigs(Map.of(resource, List.of(
                new AlterConfigOp(new ConfigEntry("local.retention.ms", "60000"), AlterConfigOp.OpType.SET)))).all().get();
            Config config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
            check("60000".equals(config.get("local.retention.ms").value()), "the altered value is described");
            check("-1".equals(config.get("retention.ms").value()), "the created value is described");
            check(config.get("cleanup.policy").isDefault(), "a default says so");
            refused(InvalidConfigurationException.class, () -> admin.incrementalAlterConfigs(Map.of(resource, List.of(
                new AlterConfigOp(new ConfigEntry("segment.bytes", "-7"), AlterConfigOp.OpType.SET)))).all().get());

            for (int n = 0; n < 100; n++) {
                producer.send(new ProducerRecord<>(topic, n % 3, 1_000L + n, "k", "v" + n)).get();
            }
            TopicPartition first = new TopicPartition(topic, 0);
            check(offset(admin, first, OffsetSpec.earliest()) == 0, "earliest");
            check(offset(admin, first, OffsetSpec.latest()) == 34, "latest");
            check(offset(admin, first, OffsetSpec.forTimestamp(1_030L)) == 10, "by timestamp");
            check(offset(admin, first, OffsetSpec.maxTimestamp()) == 33, "max timestamp");
            check(offset(admin, first, OffsetSpec.earliestLocal()) == 0, "earliest local");
            offset(admin, first, OffsetSpec.latestTiered());
            admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(7))).all().get();
            check(offset(admin, first, OffsetSpec.earliest()) == 7, "earliest after deleteRecords");
            refused(org.apache.kafka.common.errors.OffsetOutOfRangeException.class,
                () -> admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(1000))).all().get());
            check(!admin.describeLogDirs(List.of(description.partitions().get(0).leader().id())).allDescriptions().get().isEmpty(),
                "log dirs");
            admin.deleteTopics(List.of(topic)).all().get();
            refused(UnknownTopicOrPartitionException.class, () -> admin.deleteTopics(List.of(topic)).all().get());
        }
        System.out.println("{\"admin\": \"ok\"}");
    }

    static long offset(Admin admin, TopicPartition partition, OffsetSpec spec) throws Exception {
        return admin.listOffsets(Map.of(partition, spec)).partitionResult(partition).get().offset();
    }

    interface Call {
        void run() throws Exception;
    }

    static void refused(Class<? extends Exception> wanted, Call call) throws Exception {
        try {
            call.run();
        } catch (ExecutionException e) {
            check(wanted.isInstance(e.getCause()), "wanted " + wanted.getSimpleName() + ", got " + e.getCause());
            return;
        }
        check(false, "wanted " + wanted.getSimpleName() + ", but it was accepted");
    }
}
