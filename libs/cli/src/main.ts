#!/usr/bin/env node
// `pilotlight`: what a person types.
import { runCli } from "./cli.ts";
import { processTerminal } from "./terminal.ts";

process.exitCode = await runCli(process.argv.slice(2), processTerminal());
