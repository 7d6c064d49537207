// The waterfalls of both sides: bars in the terminal, and one SVG with a common time axis.
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import type { Start } from "./start.ts";

const BAR_COLUMNS = 60;

/** Lines for the terminal; `spanMs` is as wide as the bars are, so that two drawings compare. */
export function drawBars({ spans }: Start, spanMs: number): string[] {
  const width = Math.max(...spans.map(({ what }) => what.length));
  const column = (ms: number) => Math.round((ms / spanMs) * BAR_COLUMNS);
  return spans.map(({ what, from, to }) => {
    const begin = Math.min(column(from), BAR_COLUMNS - 1);
    const bar = `${" ".repeat(begin)}${"█".repeat(Math.max(1, column(to) - begin))}`.padEnd(BAR_COLUMNS);
    return `  ${what.padEnd(width)} ${bar} ${seconds(to - from)} ${seconds(to)}`;
  });
}

const seconds = (ms: number) => `${(ms / 1000).toFixed(2).padStart(7)} s`;

/** The same as SVG, one panel a side. */
export async function drawSvg(title: string, sides: Readonly<Record<string, Start>>): Promise<string> {
  const values = Object.entries(sides).flatMap(([side, { spans }]) =>
    spans.map(({ what, from, to }, order) => ({ side, what, order, from: from / 1000, to: to / 1000 })),
  );
  const spec: TopLevelSpec = {
    title,
    data: { values },
    facet: { row: { field: "side", title: null, header: { labelAngle: 0, labelAlign: "left" } } },
    resolve: { scale: { y: "independent" } },
    spec: {
      width: 720,
      height: { step: 18 },
      mark: { type: "bar", cornerRadius: 2 },
      encoding: {
        x: { field: "from", type: "quantitative", title: "seconds" },
        x2: { field: "to" },
        y: { field: "what", type: "nominal", title: null, sort: { field: "order" } },
        color: { field: "side", legend: null },
      },
    },
  };
  const view = new View(parse(compile(spec).spec), { renderer: "none" });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}
