// For tests only: the suite that every store passes, and a real S3 server to run it on.
export { conformanceSuite } from "./conformance.ts";
export { findVersitygw, type S3Server, startVersitygw } from "./versitygw.ts";
