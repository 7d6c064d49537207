// Another team's program: it writes down every change of scale and every move of a rollout, and forgets none, even when
// it was not running. It uses the contracts and a NATS URL; nothing of the platform's own code.
//
//   NATS_URL=nats://127.0.0.1:4222 node consumer.ts
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { EVENTS, eventOfSubject, filterOf, fromBinary, RolloutPhase } from "@pilotlight/contracts";

const connection = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });
const manager = await jetstreamManager(connection);

// A durable consumer remembers what it has acknowledged. Its name is the team's own; making it again changes nothing.
await manager.consumers.add("PL_EVENTS", {
  durable_name: "example-diary",
  filter_subjects: [filterOf(EVENTS.scaleDecided), filterOf(EVENTS.rolloutMoved)],
  ack_policy: AckPolicy.Explicit,
  deliver_policy: DeliverPolicy.All,
});
const consumer = await jetstream(connection).consumers.get("PL_EVENTS", "example-diary");
const messages = await consumer.consume();
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => messages.stop());

for await (const message of messages) {
  const at = message.headers?.get("ce-time");
  switch (eventOfSubject(message.subject)?.name) {
    case "scaleDecided": {
      const event = fromBinary(EVENTS.scaleDecided.schema, message.data);
      const replicas = `${event.replicasBefore} -> ${event.replicasWanted} replicas`;
      console.log(
        `${at} ${event.application}/${event.deployment} v${event.version}: ${replicas} (${event.reason})`,
      );
      break;
    }
    case "rolloutMoved": {
      const event = fromBinary(EVENTS.rolloutMoved.schema, message.data);
      console.log(
        `${at} ${event.application} to v${event.toVersion}: ${RolloutPhase[event.phase]}, ${event.reason}`,
      );
      break;
    }
  }
  message.ack();
}
await connection.drain();
