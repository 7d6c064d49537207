// What holds now: who gets which traffic, and within which bounds the autoscaler decides. Decisions change it; it is
// published whole, as two documents.
import type {
  ApplicationSpec,
  BoundsSetSchema,
  MessageInitShape,
  TrafficSetSchema,
} from "@pilotlight/contracts";
import type { RolloutAction } from "@pilotlight/policy";
import * as z from "zod";

const boundSchema = z.strictObject({
  version: z.number(),
  deployment: z.string(),
  replicasMin: z.number(),
  replicasMax: z.number(),
  followsLoad: z.boolean(),
});
type Bound = z.infer<typeof boundSchema>;

/** Kept between two decisions. */
export const ordersSchema = z.strictObject({
  traffic: z.array(z.strictObject({ version: z.number(), weight: z.number() })),
  bounds: z.array(boundSchema),
});
export type Orders = z.infer<typeof ordersSchema>;

/** Specifications by version. */
export type Specs = ReadonlyMap<number, ApplicationSpec>;

export const noOrders: Orders = { traffic: [], bounds: [] };

/** What holds after the actions of a decision. */
export function applyActions(before: Orders, actions: readonly RolloutAction[], specs: Specs): Orders {
  return actions.reduce((orders, action) => applyAction(orders, action, specs), before);
}

function applyAction(orders: Orders, action: RolloutAction, specs: Specs): Orders {
  switch (action.kind) {
    case "setTraffic": {
      const traffic = action.weights.map(({ version, weight }) => ({ version: Number(version), weight }));
      return { ...orders, traffic };
    }
    case "setBounds": {
      const { deployment, replicasMin, replicasMax } = action;
      const version = Number(action.version);
      return withBound(orders, { version, deployment, replicasMin, replicasMax, followsLoad: false });
    }
    case "clearBounds": {
      const version = Number(action.version);
      const spec = specs.get(version)?.deployments.find((one) => one.name === action.deployment);
      return withBound(orders, {
        version,
        deployment: action.deployment,
        replicasMin: spec?.autoscaling?.replicasMin ?? 0,
        replicasMax: spec?.autoscaling?.replicasMax ?? 0,
        followsLoad: true,
      });
    }
    case "retireVersion": {
      const version = Number(action.version);
      return {
        traffic: orders.traffic.filter((one) => one.version !== version),
        bounds: orders.bounds.filter((one) => one.version !== version),
      };
    }
    case "complete":
      return orders;
    default:
      return action satisfies never;
  }
}

function withBound(orders: Orders, bound: Bound): Orders {
  const others = orders.bounds.filter(
    (one) => one.version !== bound.version || one.deployment !== bound.deployment,
  );
  return { ...orders, bounds: [...others, bound] };
}

/** The document about traffic. */
export const trafficDocument = (
  application: string,
  orders: Orders,
  generation: bigint,
  specs: Specs,
): MessageInitShape<typeof TrafficSetSchema> => ({
  application,
  generation,
  weights: orders.traffic.map(({ version, weight }) => ({ version, weight, ...specOf(specs, version) })),
});

/** The document about bounds. A version that is not in it has no replicas. */
export const boundsDocument = (
  application: string,
  orders: Orders,
  generation: bigint,
  specs: Specs,
): MessageInitShape<typeof BoundsSetSchema> => ({
  application,
  generation,
  versions: [...new Set(orders.bounds.map((bound) => bound.version))]
    .sort((a, b) => a - b)
    .map((version) => ({
      version,
      ...specOf(specs, version),
      deployments: orders.bounds
        .filter((bound) => bound.version === version)
        .map(({ version: _, ...bound }) => bound),
    })),
});

const specOf = (specs: Specs, version: number) => {
  const spec = specs.get(version);
  return spec === undefined ? {} : { spec };
};
