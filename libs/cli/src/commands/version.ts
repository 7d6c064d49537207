// `pilotlight version`.
import { Command } from "commander";
import type { Act } from "../cli.ts";
import type { GlobalOptions } from "../context.ts";
import { version } from "../version.ts";

export const versionCommand = (act: Act): Command =>
  new Command("version").description("Prints the version.").action(
    act<GlobalOptions>(async (context) => {
      const all = { pilotlight: version(), node: process.versions.node };
      context.show(all, () => [`pilotlight ${all.pilotlight} (Node ${all.node})`]);
    }),
  );
