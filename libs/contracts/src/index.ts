// What services and other teams use: messages, gRPC services, and the catalogue of subjects.
export {
  create,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
  toJson,
} from "@bufbuild/protobuf";
export { timestampDate, timestampFromDate, timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
export * from "./catalogue.ts";
export * from "./gen/pilotlight/api/v1/autoscaler_pb.js";
export * from "./gen/pilotlight/api/v1/image_converter_pb.js";
export * from "./gen/pilotlight/api/v1/logs_pb.js";
export * from "./gen/pilotlight/api/v1/node_agent_pb.js";
export * from "./gen/pilotlight/api/v1/rollout_pb.js";
export * from "./gen/pilotlight/api/v1/weight_streamer_pb.js";
export * from "./gen/pilotlight/documents/v1/application_pb.js";
export * from "./gen/pilotlight/documents/v1/replica_pb.js";
export * from "./gen/pilotlight/events/v1/autoscaler_pb.js";
export * from "./gen/pilotlight/events/v1/control_pb.js";
export * from "./gen/pilotlight/events/v1/gateway_pb.js";
export * from "./gen/pilotlight/events/v1/image_pb.js";
export * from "./gen/pilotlight/events/v1/logs_pb.js";
export * from "./gen/pilotlight/events/v1/node_pb.js";
export * from "./gen/pilotlight/events/v1/replica_pb.js";
export * from "./gen/pilotlight/events/v1/rollout_pb.js";
export * from "./gen/pilotlight/events/v1/weights_pb.js";
export * from "./gen/pilotlight/events/v1/worker_pb.js";
