export { seededRandom, seeds } from "./random.ts";
export { startTestNats, startTestPostgres, type TestPostgres, type TestServer } from "./servers.ts";
