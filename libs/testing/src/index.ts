export { seededRandom, seeds } from "./random.ts";
export { startTestNats, startTestPostgres, type TestPostgres, type TestServer } from "./servers.ts";
export { type LogRecord, type ServiceProcess, startServiceProcess } from "./service-process.ts";
