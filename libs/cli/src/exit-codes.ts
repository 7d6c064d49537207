// Exit codes, for scripts. They are part of the interface: a change of one is a breaking change.
import type { PlatformError } from "@pilotlight/errors";

export const EXIT = {
  ok: 0,
  /** Something failed that fits none of the others. */
  failure: 1,
  /** Wrong usage, or input that is not valid. */
  usage: 2,
  /** What was asked for is not there. */
  notFound: 3,
  /** The platform, or the part that was needed, does not answer. */
  unavailable: 4,
  /** What was waited for ended badly: a rollout was undone, an image could not be converted. */
  unsuccessful: 5,
  /** The state does not allow it: a name is taken, somebody else was first. */
  conflict: 6,
  /** Ctrl-C. */
  interrupted: 130,
} as const;

export const EXIT_HELP = `
Exit codes: 0 done · 1 failed · 2 wrong usage or input · 3 not there · 4 no answer · 5 ended badly · 6 conflict · 130 Ctrl-C`;

/** The exit code of an error. */
export function exitCodeOf(error: PlatformError): number {
  switch (error.code) {
    case "invalidArgument":
      return EXIT.usage;
    case "notFound":
      return EXIT.notFound;
    case "unavailable":
    case "deadlineExceeded":
      return EXIT.unavailable;
    case "alreadyExists":
    case "conflict":
    case "preconditionFailed":
      return EXIT.conflict;
    case "cancelled":
      return EXIT.interrupted;
    default:
      return EXIT.failure;
  }
}

/** Thrown by a command whose wait ended badly: the text says how. */
export class Unsuccessful extends Error {}
