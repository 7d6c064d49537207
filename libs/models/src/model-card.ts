// README.md of a converted repository: what it is, where it came from, under which terms.
import type { RecordHead } from "./write-repository.ts";

/** `more`: paragraphs of their own before the last line. */
export function modelCard({ name, licence, notice, source, recipe }: RecordHead, more = ""): string {
  return `---
license: ${licence.toLowerCase()}
---
# ${name}

${notice}

| | |
|---|---|
| source | \`${source.uri}\`, revision \`${source.revision}\` |
| SHA-256 of the source | \`${source.sha256 ?? "not a single file"}\` |
| made by | Pilotlight, recipe \`${recipe}\` |

${more}Digests of all files are in \`pilotlight.json\`.
`;
}
