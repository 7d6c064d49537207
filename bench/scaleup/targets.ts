// What the benchmark promises, by figure.
import type { Target } from "../src/report.ts";

export const TARGETS: Record<string, Target> = {
  "scaleup.speedup_7b": {
    op: ">=",
    value: 6,
    unit: "x",
    what: "'7B' at one tenth, baseline over Pilotlight (published: 4.3)",
  },
  "scaleup.speedup_70b": { op: ">=", value: 8, unit: "x", what: "'70B' likewise (published: 5.1)" },
  "scaleup.over_floor": {
    op: "<=",
    value: 1.3,
    unit: "x",
    what: "Pilotlight over node boot + the longest of bytes / link; the worse of the models",
  },
};
