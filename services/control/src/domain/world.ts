// What handlers may use.
import type { Outbox } from "@pilotlight/bus";
import type { Store } from "@pilotlight/store";
import type { ModelRecords } from "../adapters/model-records.ts";
import type { LiveView } from "./live-view.ts";

/** The state of control: rows, what goes out with them, and what is only true now. */
export type World = {
  store: Store;
  outbox: Outbox;
  live: LiveView;
  models: ModelRecords;
  /** Epoch ms. */
  now: () => number;
};
