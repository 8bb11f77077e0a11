// Prints groups/src/core/protocol_fixtures.txt: subscriptions and assignments as Kafka's own client writes them.
// Run as kafka_fixtures.jsh.
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.*;
import org.apache.kafka.clients.consumer.internals.ConsumerProtocol;
import org.apache.kafka.common.TopicPartition;
import java.nio.ByteBuffer;
import java.util.*;

void line(String name, ByteBuffer buffer) {
    StringBuilder out = new StringBuilder();
    for (byte b : Arrays.copyOfRange(buffer.array(), buffer.position(), buffer.limit())) out.append(String.format("%02x", b));
    System.out.println(name + " " + out);
}

List<TopicPartition> owned = List.of(new TopicPartition("a", 0), new TopicPartition("a", 1), new TopicPartition("b", 0));
ByteBuffer data = ByteBuffer.wrap(new byte[] {9, 9});
System.out.println("# Made by groups/tests/kafka_protocol_fixtures.jsh from Apache Kafka 4.3.1.");
for (short v = 0; v <= 3; v++) line("subscription-" + v, ConsumerProtocol.serializeSubscription(new Subscription(List.of("a", "b"), data, owned, 4, Optional.of("r")), v));
line("subscription-plain", ConsumerProtocol.serializeSubscription(new Subscription(List.of("a"))));
for (short v = 0; v <= 3; v++) line("assignment-" + v, ConsumerProtocol.serializeAssignment(new Assignment(owned), v));
line("assignment-data", ConsumerProtocol.serializeAssignment(new Assignment(owned, data)));
/exit
