export { AdmissionQueue } from "./queue.ts";
export type { AdmissionConfig, Offer, OfferOptions, Ticket } from "./types.ts";
