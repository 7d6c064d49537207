// The pool alone: all of undici (fetch, WebSocket, caches) would cost each gateway 13 MB for nothing. The version is pinned.
declare module "undici/lib/dispatcher/pool.js" {
  export { Pool as default } from "undici";
}
