// The inline extended attributes of an EROFS inode: a header, then entries padded to 4 bytes.
import { PlatformError } from "@pilotlight/errors";
import { XATTR_ENTRY_BYTES, XATTR_HEADER_BYTES, XATTR_PREFIXES } from "./constants.ts";

/** Encodes attributes that are sorted by name. Names that no local file system would take are left out. */
export function encodeXattrs(xattrs: ReadonlyMap<string, Buffer>): Buffer | undefined {
  const parts: Buffer[] = [];
  for (const [name, value] of xattrs) {
    const prefix = XATTR_PREFIXES.find((p) => (p.exact ? name === p.prefix : name.startsWith(p.prefix)));
    const suffix = prefix === undefined ? "" : name.slice(prefix.prefix.length);
    if (prefix === undefined || (!prefix.exact && suffix === "")) continue;
    if (suffix.length > 255 || value.length > 0xffff) {
      throw new PlatformError(
        "corrupt",
        `an extended attribute has ${name.length} bytes of name, ${value.length} of value`,
        {
          remedy: "Linux allows 255 and 65,536 bytes; the layer was written by a broken tool.",
        },
      );
    }
    const entry = Buffer.alloc(Math.ceil((XATTR_ENTRY_BYTES + suffix.length + value.length) / 4) * 4);
    entry[0] = suffix.length;
    entry[1] = prefix.index;
    entry.writeUInt16LE(value.length, 2);
    entry.write(suffix, XATTR_ENTRY_BYTES, "latin1");
    value.copy(entry, XATTR_ENTRY_BYTES + suffix.length);
    parts.push(entry);
  }
  if (parts.length === 0) return undefined;
  const body = Buffer.concat([Buffer.alloc(XATTR_HEADER_BYTES), ...parts]);
  if ((body.length - XATTR_HEADER_BYTES) / 4 + 1 > 0xffff) {
    throw new PlatformError("corrupt", `a file has ${body.length} bytes of extended attributes`, {
      remedy: "The format holds 256 KiB for each file.",
    });
  }
  return body;
}
