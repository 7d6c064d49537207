// gRPC: the nodes that were heard of.
import type { ListNodesResponseSchema, MessageInitShape } from "@pilotlight/contracts";
import type { Nodes } from "../domain/nodes.ts";

export const listNodes =
  (nodes: Nodes) => async (): Promise<MessageInitShape<typeof ListNodesResponseSchema>> => ({
    nodes: nodes.all().map(({ report, lost }) => ({ report, lost })),
  });
