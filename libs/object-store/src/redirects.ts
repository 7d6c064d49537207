// Where an answer redirects to, as far as it may be followed.
import { PlatformError } from "@pilotlight/errors";
import type { HttpResponse } from "./http.ts";

export const REDIRECTS_MAX = 5;

/** Undefined for an answer that does not redirect. Throws for a target that is not http(s), or is less secure than where it was asked. */
export function redirectTarget(response: HttpResponse, from: URL): URL | undefined {
  const location = response.header("location");
  if (response.status < 300 || response.status > 399 || location === undefined) return undefined;
  const target = URL.parse(location, from.href);
  if (target === null || !/^https?:$/.test(target.protocol)) {
    throw new PlatformError("corrupt", `${from.host} redirects to something that is not http(s)`, {
      remedy: "Name the address that it should lead to.",
    });
  }
  if (from.protocol === "https:" && target.protocol !== "https:") {
    throw new PlatformError("permissionDenied", `${from.host} redirects from https to plain http`, {
      remedy: "Name an address that stays on https.",
    });
  }
  return target;
}

export const tooManyRedirects = (what: string): PlatformError =>
  new PlatformError("unavailable", `${what}: more than ${REDIRECTS_MAX} redirects`, {
    remedy: "Name the address that they should lead to.",
  });
