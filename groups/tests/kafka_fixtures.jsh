// Prints groups/src/core/records/fixtures.txt: each kind of record as Kafka's own generated classes write it.
//   CP=$(find ~/.m2 -name 'kafka-group-coordinator-4*.jar' -o -name 'kafka-clients-4*.jar' \
//        -o -name 'kafka-server-common-4*.jar' | tr '\n' ':')
//   jshell -s --class-path "$CP" groups/tests/kafka_fixtures.jsh
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.*;
import org.apache.kafka.coordinator.group.generated.*;
import java.nio.ByteBuffer;
import java.util.*;

String hex(short version, Message message) {
    ObjectSerializationCache cache = new ObjectSerializationCache();
    int size = message.size(cache, version);
    ByteBuffer buffer = ByteBuffer.allocate(2 + size);
    buffer.putShort(version);
    message.write(new ByteBufferAccessor(buffer), cache, version);
    StringBuilder out = new StringBuilder();
    for (byte b : buffer.array()) out.append(String.format("%02x", b));
    return out.toString();
}

// A key's version on disk is the kind of record; its schema has version 0.
String key(int kind, Message message) {
    return String.format("%04x", kind) + hex((short) 0, message).substring(4);
}

void line(String name, int kind, Message key, int version, Message value) {
    System.out.println(name + " " + key(kind, key) + " " + hex((short) version, value));
}

Uuid id = new Uuid(0x0001020304050607L, 0x08090a0b0c0d0e0fL);
OffsetCommitKey offsetKey = new OffsetCommitKey().setGroup("g").setTopic("t").setPartition(3);
OffsetCommitValue offset() {
    return new OffsetCommitValue().setOffset(42).setMetadata("meta").setCommitTimestamp(1000);
}
GroupMetadataKey classicKey = new GroupMetadataKey().setGroup("g");
ConsumerGroupMetadataKey groupKey = new ConsumerGroupMetadataKey().setGroupId("g");
ConsumerGroupMemberMetadataKey memberKey = new ConsumerGroupMemberMetadataKey().setGroupId("g").setMemberId("m");
ConsumerGroupMemberMetadataValue said() {
    return new ConsumerGroupMemberMetadataValue().setRackId("r").setClientId("c").setClientHost("/h")
        .setSubscribedTopicNames(List.of("t", "u")).setSubscribedTopicRegex("t.*").setRebalanceTimeoutMs(300000)
        .setInstanceId(null).setServerAssignor(null);
}

System.out.println("# Made by groups/tests/kafka_fixtures.jsh from Apache Kafka 4.3.1: name, key, value.");
line("offset", 1, offsetKey, 4, offset().setLeaderEpoch(9).setTopicId(id));
line("offset-no-id", 1, offsetKey, 4, offset());
line("offset-expires", 1, offsetKey, 1, offset().setExpireTimestamp(2000));
line("classic", 2, classicKey, 3, new GroupMetadataValue().setProtocolType("consumer").setGeneration(8).setProtocol("range").setLeader("m").setCurrentStateTimestamp(1000).setMembers(List.of(new GroupMetadataValue.MemberMetadata().setMemberId("m").setGroupInstanceId("i").setClientId("c").setClientHost("/h").setRebalanceTimeout(60000).setSessionTimeout(10000).setSubscription(new byte[] {1, 2}).setAssignment(new byte[] {3}))));
line("classic-empty", 2, classicKey, 3, new GroupMetadataValue().setProtocolType("").setGeneration(0).setProtocol(null).setLeader(null).setCurrentStateTimestamp(-1).setMembers(List.of()));
line("group", 3, groupKey, 0, new ConsumerGroupMetadataValue().setEpoch(5));
line("group-hash", 3, groupKey, 0, new ConsumerGroupMetadataValue().setEpoch(5).setMetadataHash(258));
line("member", 5, memberKey, 0, said());
line("member-classic", 5, memberKey, 0, said().setClassicMemberMetadata(new ConsumerGroupMemberMetadataValue.ClassicMemberMetadata().setSessionTimeoutMs(10000).setSupportedProtocols(List.of(new ConsumerGroupMemberMetadataValue.ClassicProtocol().setName("range").setMetadata(new byte[] {1, 2})))));
line("target", 6, new ConsumerGroupTargetAssignmentMetadataKey().setGroupId("g"), 0, new ConsumerGroupTargetAssignmentMetadataValue().setAssignmentEpoch(5));
line("target-member", 7, new ConsumerGroupTargetAssignmentMemberKey().setGroupId("g").setMemberId("m"), 0, new ConsumerGroupTargetAssignmentMemberValue().setTopicPartitions(List.of(new ConsumerGroupTargetAssignmentMemberValue.TopicPartition().setTopicId(id).setPartitions(List.of(1, 2)))));
line("current", 8, new ConsumerGroupCurrentMemberAssignmentKey().setGroupId("g").setMemberId("m"), 0, new ConsumerGroupCurrentMemberAssignmentValue().setMemberEpoch(5).setPreviousMemberEpoch(4).setState((byte) 1).setAssignedPartitions(List.of(new ConsumerGroupCurrentMemberAssignmentValue.TopicPartitions().setTopicId(id).setPartitions(List.of(1, 2)))).setPartitionsPendingRevocation(List.of(new ConsumerGroupCurrentMemberAssignmentValue.TopicPartitions().setTopicId(id).setPartitions(List.of(7)))));
line("regex", 16, new ConsumerGroupRegularExpressionKey().setGroupId("g").setRegularExpression("t.*"), 0, new ConsumerGroupRegularExpressionValue().setTopics(List.of("t")).setVersion(6).setTimestamp(1000));
/exit
