// What a document must keep to before its aliases are expanded: depth, number of aliases, what they expand to, and
// keys that are unique. One walk in the order of the text, linear in its length: the YAML library's own test for
// unique keys compares each key with each, which took four seconds for 25,000 keys.
import { isAlias, isCollection, isNode, isPair, isScalar, type Node } from "yaml";

export const DEPTH_MAX = 32;
const ALIASES_MAX = 100;
/** Nodes of the document with every alias counted as what it stands for. */
const NODES_MAX = 20_000;

/** A place in the text, as an offset, and what is wrong there. `fatal`: the document must not be expanded. */
export type Flaw = { offset: number; message: string; remedy: string; fatal: boolean };

/** Lists the flaws of a document's structure; the walk ends at the first fatal one. */
export function checkStructure(root: Node): Flaw[] {
  const walk: Walk = { flaws: [], sizes: new Map(), aliases: 0, nodes: 0, fatal: false };
  visit(walk, root, 0);
  return walk.flaws;
}

type Walk = { flaws: Flaw[]; sizes: Map<string, number>; aliases: number; nodes: number; fatal: boolean };

const offsetOf = (node: unknown): number => (isNode(node) ? (node.range?.[0] ?? 0) : 0);

function stop(walk: Walk, node: unknown, message: string, remedy: string): number {
  walk.fatal = true;
  walk.flaws.push({ offset: offsetOf(node), message, remedy, fatal: true });
  return 0;
}

/** Returns how many nodes `node` stands for. Anchors precede their aliases, so an alias' size is known by then. */
function visit(walk: Walk, node: unknown, depth: number): number {
  if (walk.fatal) return 0;
  if (depth > DEPTH_MAX) return stop(walk, node, `nested deeper than ${DEPTH_MAX} levels`, "Flatten it.");
  if (isAlias(node)) {
    walk.aliases++;
    if (walk.aliases > ALIASES_MAX)
      return stop(walk, node, `more than ${ALIASES_MAX} aliases`, "Write them out.");
    const size = walk.sizes.get(node.source);
    if (size === undefined)
      return stop(walk, node, `alias *${node.source} refers to itself or to nothing`, "Write it out.");
    walk.nodes += size;
    return size;
  }
  walk.nodes++;
  let size = 1;
  if (isCollection(node)) {
    const keys = new Set<string>();
    for (const item of node.items) {
      if (isPair(item)) {
        noteKey(walk, keys, item.key);
        size += visit(walk, item.key, depth + 1) + visit(walk, item.value, depth + 1);
      } else {
        size += visit(walk, item, depth + 1);
      }
      if (walk.fatal) return 0;
    }
  }
  if (walk.nodes > NODES_MAX) return stop(walk, node, `more than ${NODES_MAX} values`, "Write less.");
  if (isNode(node) && "anchor" in node && typeof node.anchor === "string") walk.sizes.set(node.anchor, size);
  return size;
}

function noteKey(walk: Walk, keys: Set<string>, key: unknown): void {
  if (!isScalar(key)) {
    stop(walk, key, "a key must be plain text", "Write `name: value`.");
    return;
  }
  const name = String(key.value);
  if (keys.has(name)) {
    const message = `"${name}" stands here twice`;
    walk.flaws.push({ offset: offsetOf(key), message, remedy: "Remove one of the two.", fatal: false });
  }
  keys.add(name);
}
