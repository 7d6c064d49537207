// Objects by URI: file://, s3://, gs://, az://, https://, hf://. See store.ts for the contract and uri.ts for the URIs.
export type { CredentialSource } from "./credentials.ts";
export { type OpenOptions, openStore } from "./open.ts";
export type { Credentials } from "./sigv4.ts";
export type {
  ByteRange,
  ByteSource,
  ListOptions,
  ObjectBytes,
  ObjectInfo,
  ObjectStore,
  ObjectStream,
  PutBody,
  PutOptions,
  ReadOptions,
} from "./store.ts";
export { joinUri, parseStoreUri, type StoreUri } from "./uri.ts";
