// Metrics by prom-client: one registry a process, names `pilotlight_<what>_<unit>`.
// Label values come from closed sets (application, deployment, code): never request IDs.
import {
  Counter,
  type CounterConfiguration,
  collectDefaultMetrics,
  Gauge,
  type GaugeConfiguration,
  Histogram,
  type HistogramConfiguration,
  Registry,
} from "prom-client";

export const registry = new Registry();

/** Process metrics (CPU, memory, event loop) and the service's name on every metric. Called once by `runService`. */
export function startMetrics(service: string): void {
  registry.setDefaultLabels({ service });
  collectDefaultMetrics({ register: registry, prefix: "pilotlight_", eventLoopMonitoringPrecision: 1000 });
}

export const counter = <T extends string>(configuration: CounterConfiguration<T>): Counter<T> =>
  new Counter({ ...configuration, registers: [registry] });

export const gauge = <T extends string>(configuration: GaugeConfiguration<T>): Gauge<T> =>
  new Gauge({ ...configuration, registers: [registry] });

export const histogram = <T extends string>(configuration: HistogramConfiguration<T>): Histogram<T> =>
  new Histogram({ ...configuration, registers: [registry] });

/** Buckets for latencies in seconds, from 1 ms to 2 min. */
export const LATENCY_BUCKETS_S = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120,
];
