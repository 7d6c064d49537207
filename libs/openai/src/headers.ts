// Headers between gateway and worker. They never leave the platform.

/** On a 503: the replica is draining and takes no new request; another one should be asked at once. */
export const DRAINING_HEADER = "x-pilotlight-draining";

/**
 * Names one answer, whichever replicas take part in it: letters and digits. The worker makes the answer's `id` from it,
 * and, for a request without a seed, its seed, so that a sampled answer too goes on elsewhere as it would have here.
 */
export const ANSWER_HEADER = "x-pilotlight-answer";
