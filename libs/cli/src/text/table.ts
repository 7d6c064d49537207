// Tables in plain text: columns as wide as they need to be.
import { stripVTControlCharacters } from "node:util";

const widthOf = (text: string) => [...stripVTControlCharacters(text)].length;
const isNumeric = (text: string) =>
  /^[\d.,]+( (%|ms|s|B|KiB|MiB|GiB|TiB))?$/.test(stripVTControlCharacters(text));

/** Lines of a table. Columns that hold only numbers stand to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[], indent = ""): string[] {
  const widths = head.map((title, column) =>
    Math.max(widthOf(title), ...rows.map((row) => widthOf(row[column] ?? ""))),
  );
  const right = head.map((_, column) => rows.length > 0 && rows.every((row) => isNumeric(row[column] ?? "")));
  const line = (cells: readonly string[]) =>
    indent +
    cells
      .map((cell, column) => {
        const padding = " ".repeat(Math.max(0, (widths[column] ?? 0) - widthOf(cell)));
        return right[column] ? padding + cell : cell + padding;
      })
      .join("  ")
      .trimEnd();
  return [head, ...rows].map(line);
}
