// For tests only: the suite that every store passes, and real servers to run it on.
export { type AzureTestServer, startAzureServer } from "./azure-server.ts";
export { conformanceSuite } from "./conformance.ts";
export { type GoogleTestServer, startGoogleServer } from "./google-server.ts";
export { S3_START_TIMEOUT_MS, type S3TestServer, startS3Server } from "./s3-server.ts";
