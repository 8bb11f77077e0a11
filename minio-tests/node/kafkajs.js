// KafkaJS.
//
//   kafkajs.js group BOOTSTRAP TOPIC                two members share a topic, one goes, the other takes over
//   kafkajs.js ends BOOTSTRAP TOPIC                 transactions that commit and abort in turn
//   kafkajs.js process BOOTSTRAP IN OUT REPLICAS    reads, writes, offsets in the transaction, until standard input
//                                                   ends; then everything that went in came out exactly once
//
// All create their topics. Prints what was seen as JSON; exit code 1 on any difference. NODE_PATH names the modules.
'use strict'

const { Kafka, Partitioners, CompressionTypes, logLevel } = require('kafkajs')

const GROUP_PARTITIONS = 4
const GROUP_RECORDS = 2000
const PARTITIONS = 3
const RECORDS_PER_SECOND = 200
const PATIENCE_MS = 240_000
const END_OF_TOPIC = 'end of topic'

function check(holds, message) {
  if (holds) return
  console.error(`FAILED: ${message}`)
  process.exit(1)
}

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

/** Asks again and again, and fails with what was seen last. */
async function until(what, holds) {
  for (const end = Date.now() + PATIENCE_MS; !(await holds()); await sleep(20)) {
    check(Date.now() < end, `not in time: ${what()}`)
  }
}

function same(what, found, expected) {
  const sorted = [...found].sort()
  const wanted = [...expected].sort()
  const doubles = sorted.length - new Set(sorted).size
  check(doubles === 0, `${what}: ${doubles} came out twice`)
  check(sorted.length === wanted.length, `${what}: ${sorted.length} came out, not ${wanted.length}`)
  check(sorted.every((value, n) => value === wanted[n]), `${what}: other values came out`)
}

function client(bootstrap) {
  return new Kafka({
    clientId: 'kafkajs',
    brokers: bootstrap.split(','),
    logLevel: logLevel.NOTHING,
    retry: { initialRetryTime: 50, maxRetryTime: 1_000, retries: 200 },
  })
}

async function create(kafka, topic, numPartitions, replicationFactor) {
  const admin = kafka.admin()
  await admin.connect()
  const configEntries = [{ name: 'min.insync.replicas', value: replicationFactor > 1 ? '2' : '1' }]
  await admin.createTopics({ waitForLeaders: true, topics: [{ topic, numPartitions, replicationFactor, configEntries }] })
  await admin.disconnect()
}

function producerOf(kafka, settings) {
  return kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner, ...settings })
}

const message = (value, partitions) => ({ value: String(value), partition: value % partitions })

async function fill(kafka, topic, first, compression) {
  const producer = producerOf(kafka, { idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  for (let n = first; n < first + GROUP_RECORDS; n += 500) {
    const messages = Array.from({ length: 500 }, (_, at) => message(n + at, GROUP_PARTITIONS))
    await producer.send({ topic, compression, messages })
  }
  await producer.disconnect()
}

async function member(kafka, topic, seen) {
  const consumer = kafka.consumer({ groupId: `group-${topic}`, sessionTimeout: 10_000, heartbeatInterval: 500, maxWaitTimeInMs: 500 })
  const state = { consumer, assigned: [] }
  consumer.on(consumer.events.GROUP_JOIN, event => { state.assigned = event.payload.memberAssignment[topic] || [] })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({ eachMessage: async ({ message }) => { seen.add(message.value.toString()) } })
  return state
}

async function group(bootstrap, topic) {
  const kafka = client(bootstrap)
  await create(kafka, topic, GROUP_PARTITIONS, 1)
  await fill(kafka, topic, 0, CompressionTypes.GZIP)
  const seen = new Set()
  const members = [await member(kafka, topic, seen), await member(kafka, topic, seen)]
  const shown = () => `${members.map(m => m.assigned.length)} partitions, ${seen.size} records`
  await until(shown, () => members.every(m => m.assigned.length === 2))
  await until(shown, () => seen.size === GROUP_RECORDS)
  await members[0].consumer.disconnect()
  await until(shown, () => members[1].assigned.length === GROUP_PARTITIONS)
  await fill(kafka, topic, GROUP_RECORDS, CompressionTypes.None)
  await until(shown, () => seen.size === 2 * GROUP_RECORDS)
  await members[1].consumer.disconnect()

  const admin = kafka.admin()
  await admin.connect()
  const sum = await committed(admin, `group-${topic}`, topic)
  check(sum === 2 * GROUP_RECORDS, `committed ${sum}`)
  const described = await admin.describeGroups([`group-${topic}`])
  check(described.groups[0].state === 'Empty', `described as ${described.groups[0].state}`)
  await admin.deleteGroups([`group-${topic}`])
  await admin.disconnect()
  return { records: seen.size }
}

async function committed(admin, groupId, topic) {
  const [{ partitions }] = await admin.fetchOffsets({ groupId, topics: [topic] })
  return partitions.reduce((sum, { offset }) => sum + Math.max(0, Number(offset)), 0)
}

async function ends(bootstrap, topic) {
  const kafka = client(bootstrap)
  await create(kafka, topic, PARTITIONS, 1)
  const producer = producerOf(kafka, { idempotent: true, maxInFlightRequests: 1, transactionalId: `id-${topic}` })
  await producer.connect()
  const kept = [], all = []
  for (let number = 0; number < 40; number++) {
    const transaction = await producer.transaction()
    const messages = Array.from({ length: 10 }, (_, n) => message(number * 10 + n, PARTITIONS))
    await transaction.send({ topic, messages })
    all.push(...messages.map(m => m.value))
    if (number % 4 === 3) {
      await transaction.abort()
    } else {
      await transaction.commit()
      kept.push(...messages.map(m => m.value))
    }
  }
  await producer.disconnect()
  same('read_committed', await readAll(kafka, topic, false), kept)
  same('read_uncommitted', await readAll(kafka, topic, true), all)
  return { committed: kept.length, written: all.length }
}

/** Values of the whole topic, as a consumer of this isolation level has them. */
async function readAll(kafka, topic, readUncommitted) {
  // What is there now ends at a record of our own: readers of committed data get it after all before it has ended.
  const mark = `${END_OF_TOPIC} ${process.hrtime.bigint()}`
  const writer = producerOf(kafka, {})
  await writer.connect()
  const messages = Array.from({ length: PARTITIONS }, (_, partition) => ({ value: mark, partition }))
  await writer.send({ topic, messages })
  await writer.disconnect()
  const consumer = kafka.consumer({ groupId: `reader ${mark}`, readUncommitted, maxWaitTimeInMs: 500 })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  const values = []
  let ended = 0
  const eachMessage = async ({ message }) => {
    const value = message.value.toString()
    if (value === mark) ended++
    else if (!value.startsWith(END_OF_TOPIC)) values.push(value)
  }
  await consumer.run({ autoCommit: false, eachMessage })
  await until(() => `${topic} is not read to its end: ${values.length} values`, () => ended === PARTITIONS)
  await consumer.disconnect()
  return values
}

async function fillUntil(kafka, topic, stop, delivered) {
  const producer = producerOf(kafka, { idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  for (let n = 0; !stop.now; n += 10) {
    // One partition a call: of a call to several brokers, what one of them refused because its partition has moved to
    // another that has answered already is never sent again, and the call succeeds (KafkaJS, sendMessages.js).
    const partition = (n / 10) % PARTITIONS
    const messages = Array.from({ length: 10 }, (_, at) => ({ value: String(n + at), partition }))
    await producer.send({ topic, messages })
    delivered.push(...messages.map(m => m.value))
    await sleep(10_000 / RECORDS_PER_SECOND)
  }
  await producer.disconnect()
}

/**
 * A producer and a consumer that pass on what they read, until something fails or all is done. The producer comes
 * first: once it has its id, no transaction of the one before it is under way, and the group's offsets are final.
 */
async function pass(kafka, source, sink, counts, isDone) {
  const groupId = `group-${sink}`
  const producer = producerOf(kafka, { idempotent: true, maxInFlightRequests: 1, transactionalId: `id-${sink}` })
  const consumer = kafka.consumer({ groupId, sessionTimeout: 10_000, heartbeatInterval: 500, maxWaitTimeInMs: 500 })
  let failure = null
  try {
    await producer.connect()
    await (await producer.transaction()).abort()
    await consumer.connect()
    await consumer.subscribe({ topic: source, fromBeginning: true })
    consumer.on(consumer.events.CRASH, event => { failure = failure || event.payload.error })
    const eachBatch = async ({ batch, resolveOffset, heartbeat, isRunning, isStale }) => {
      if (failure || !isRunning() || isStale() || batch.messages.length === 0) return
      try {
        const transaction = await producer.transaction()
        const messages = batch.messages.map(m => ({ value: m.value, partition: batch.partition }))
        await transaction.send({ topic: sink, messages })
        const offset = String(Number(batch.lastOffset()) + 1)
        const topics = [{ topic: source, partitions: [{ partition: batch.partition, offset }] }]
        await transaction.sendOffsets({ consumerGroupId: groupId, topics })
        await transaction.commit()
      } catch (error) {
        failure = failure || error
        throw error
      }
      counts.committed++
      resolveOffset(batch.lastOffset())
      await heartbeat()
    }
    await consumer.run({ autoCommit: false, eachBatchAutoResolve: false, eachBatch })
    while (!failure && !(await isDone())) await sleep(100)
  } catch (error) {
    failure = failure || error
  }
  await Promise.allSettled([consumer.disconnect(), producer.disconnect()])
  return failure
}

async function passOn(bootstrap, source, sink, replicas) {
  const kafka = client(bootstrap)
  await create(kafka, source, PARTITIONS, replicas)
  await create(kafka, sink, PARTITIONS, replicas)
  const stop = { now: false }, delivered = [], counts = { committed: 0, renewed: 0 }
  process.stdin.on('end', () => { stop.now = true }).resume()
  let isFilled = false, limit = Infinity
  const filler = fillUntil(kafka, source, stop, delivered).then(() => { isFilled = true })
  filler.catch(error => check(false, `not written: ${error}`))
  const admin = kafka.admin()
  await admin.connect()
  const done = () => committed(admin, `group-${sink}`, source).catch(() => -1)
  const isDone = async () => {
    if (!isFilled) return false
    if (limit === Infinity) limit = Date.now() + PATIENCE_MS
    const through = await done()
    check(Date.now() < limit, `${through} of ${delivered.length} came through: ${JSON.stringify(counts)}`)
    return through === delivered.length
  }
  for (let failure; (failure = await pass(kafka, source, sink, counts, isDone)); ) {
    counts.renewed++
    console.error(`renewed after ${failure}`)
    check(Date.now() < limit, `it goes on failing: ${failure}`)
    await sleep(100)
  }
  await filler
  await admin.disconnect()
  same(sink, await readAll(kafka, sink, false), delivered)
  return { records: delivered.length, ...counts }
}

async function main([command, ...rest]) {
  switch (command) {
    case 'group': return group(...rest)
    case 'ends': return ends(...rest)
    case 'process': return passOn(rest[0], rest[1], rest[2], Number(rest[3]))
    default: return check(false, `unknown command ${command}`)
  }
}

main(process.argv.slice(2)).then(
  seen => {
    console.log(JSON.stringify(seen))
    process.exit(0)
  },
  error => check(false, error.stack)
)
