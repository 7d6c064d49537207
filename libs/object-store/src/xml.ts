// Reads the small XML documents that S3 answers with: element names and their text, nothing else. Bounded in depth
// and size by its caller; no entities beyond XML's own five (saxes knows no others), so nothing to expand.
import { PlatformError } from "@pilotlight/errors";

/** An element: its name without prefix, its own text, its children in order. */
export type XmlElement = { name: string; text: string; children: XmlElement[] };

const DEPTH_MAX = 16;

/** The parser is loaded by who needs it: called before a request, while its answer is on its way. */
export const loadXmlParser = () => import("saxes");

/** Parses a document; malformed XML is `corrupt`. */
export async function parseXml(text: string): Promise<XmlElement> {
  const { SaxesParser } = await loadXmlParser();
  const parser = new SaxesParser();
  const root: XmlElement = { name: "", text: "", children: [] };
  const stack = [root];
  parser.on("opentag", (tag) => {
    const element = { name: tag.name.replace(/^.*:/, ""), text: "", children: [] };
    stack.at(-1)?.children.push(element);
    stack.push(element);
    if (stack.length > DEPTH_MAX) throw new Error("nested too deeply");
  });
  parser.on("text", (piece) => {
    const top = stack.at(-1);
    if (top !== undefined) top.text += piece;
  });
  parser.on("closetag", () => stack.pop());
  parser.on("error", (error) => {
    throw error;
  });
  try {
    parser.write(text).close();
  } catch (cause) {
    throw new PlatformError("corrupt", "the far side answered malformed XML", { cause });
  }
  const [document] = root.children;
  if (document === undefined) throw new PlatformError("corrupt", "the far side answered an empty document");
  return document;
}

/** The text of the first child of that name; undefined without one. */
export function childText(element: XmlElement, name: string): string | undefined {
  return element.children.find((child) => child.name === name)?.text;
}

/** Text as XML content. */
export function escapeXml(text: string): string {
  return text.replace(/[<>&"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
