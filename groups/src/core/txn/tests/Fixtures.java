// Writes kafka-records.txt with Kafka's own classes:
//   java -cp kafka-transaction-coordinator.jar:kafka-clients.jar:slf4j-api.jar Fixtures.java > kafka-records.txt
import java.nio.ByteBuffer;
import java.util.*;
import org.apache.kafka.common.protocol.MessageUtil;
import org.apache.kafka.coordinator.transaction.generated.*;

public class Fixtures {
    static void print(String name, byte[] bytes) {
        System.out.println(name + " " + HexFormat.of().formatHex(bytes));
    }

    static TransactionLogValue value(int status, List<TransactionLogValue.PartitionsSchema> partitions) {
        return new TransactionLogValue().setProducerId(4000).setProducerEpoch((short) 7)
            .setTransactionTimeoutMs(60000).setTransactionStatus((byte) status)
            .setTransactionPartitions(partitions)
            .setTransactionLastUpdateTimestampMs(1700000000123L).setTransactionStartTimestampMs(-1);
    }

    static List<TransactionLogValue.PartitionsSchema> partitions() {
        return List.of(
            new TransactionLogValue.PartitionsSchema().setTopic("__consumer_offsets").setPartitionIds(List.of(42)),
            new TransactionLogValue.PartitionsSchema().setTopic("orders").setPartitionIds(List.of(0, 11)));
    }

    public static void main(String[] args) {
        System.out.println("# Written by Fixtures.java with the classes of Apache Kafka 4.3.1.");
        print("key", MessageUtil.toVersionPrefixedBytes((short) 0,
            new TransactionLogKey().setTransactionalId("my-app-0")));
        short v1 = 1, v0 = 0;
        print("empty-v0", MessageUtil.toVersionPrefixedBytes(v0, value(0, null)));
        print("empty-v1", MessageUtil.toVersionPrefixedBytes(v1, value(0, null).setPreviousProducerId(4000)));
        long start = 1700000000001L;
        print("ongoing-v0", MessageUtil.toVersionPrefixedBytes(v0,
            value(1, partitions()).setTransactionStartTimestampMs(start)));
        print("ongoing-v1", MessageUtil.toVersionPrefixedBytes(v1, value(1, partitions())
            .setTransactionStartTimestampMs(start).setPreviousProducerId(4000)
            .setClientTransactionVersion((short) 2)));
        print("prepare-commit-v1", MessageUtil.toVersionPrefixedBytes(v1, value(2, partitions())
            .setTransactionStartTimestampMs(start).setPreviousProducerId(4000).setNextProducerId(5000)
            .setProducerEpoch(Short.MAX_VALUE).setClientTransactionVersion((short) 2)));
        print("complete-abort-v1", MessageUtil.toVersionPrefixedBytes(v1, value(5, List.of())
            .setTransactionStartTimestampMs(start).setPreviousProducerId(4000)
            .setClientTransactionVersion((short) 2)));
    }
}
