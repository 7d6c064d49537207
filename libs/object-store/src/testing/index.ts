// For tests only: the suite that every store passes, and a real S3 server to run it on.
export { conformanceSuite } from "./conformance.ts";
export { S3_START_TIMEOUT_MS, type S3TestServer, startS3Server } from "./s3-server.ts";
