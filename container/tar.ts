/**
 * A tar archive (POSIX ustar) of which every byte follows from its entries: sorted by name, one time, no names of users.
 *
 * Not here: what is in the archive, compression. Pure, but for `entriesOf`, which reads a folder.
 *
 * 1. Everything is root's. A file has the mode of its entry, and nothing else of the file system it was read from.
 * 2. A name or a link that ustar cannot hold is an error, never cut short.
 */
import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";

export interface Entry {
  /** Relative, without a slash at its end. */
  readonly name: string;
  readonly mode: number;
  readonly content: { readonly file: Uint8Array } | { readonly link: string } | "folder";
}

const BLOCK = 512;
const NAME_BYTES = 100;
const PREFIX_BYTES = 155;

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const octal = (value: number, width: number): string => value.toString(8).padStart(width - 1, "0");

/** The name in its two fields, split at a slash where one does not hold it. */
const fieldsOf = (name: string): { readonly name: string; readonly prefix: string } => {
  if (bytesOf(name).length <= NAME_BYTES) return { name, prefix: "" };
  for (let at = name.indexOf("/"); at >= 0; at = name.indexOf("/", at + 1)) {
    const fields = { prefix: name.slice(0, at), name: name.slice(at + 1) };
    if (
      fields.name !== "" &&
      bytesOf(fields.name).length <= NAME_BYTES &&
      bytesOf(fields.prefix).length <= PREFIX_BYTES
    )
      return fields;
  }
  throw new Error(`a tar archive cannot hold the name ${name}`);
};

const header = ({ name, mode, content }: Entry, seconds: number): Uint8Array => {
  const block = new Uint8Array(BLOCK);
  const put = (text: string, at: number) => block.set(bytesOf(text), at);
  const isFolder = content === "folder";
  const link = !isFolder && "link" in content ? content.link : "";
  if (bytesOf(link).length > NAME_BYTES) throw new Error(`a tar archive cannot hold the link ${name} -> ${link}`);
  const size = !isFolder && "file" in content ? content.file.length : 0;
  const fields = fieldsOf(isFolder ? `${name}/` : name);
  put(fields.name, 0);
  put(octal(mode, 8), 100);
  put(octal(0, 8), 108);
  put(octal(0, 8), 116);
  put(octal(size, 12), 124);
  put(octal(seconds, 12), 136);
  put(" ".repeat(8), 148);
  put(isFolder ? "5" : link === "" ? "0" : "2", 156);
  put(link, 157);
  put("ustar", 257);
  put("00", 263);
  put(fields.prefix, 345);
  put(
    `${octal(
      block.reduce((sum, byte) => sum + byte, 0),
      7,
    )}\0 `,
    148,
  );
  return block;
};

/** `seconds` since 1970 is the time of every entry. */
export const tar = (entries: ReadonlyArray<Entry>, seconds: number): Uint8Array<ArrayBuffer> => {
  const sorted = entries.toSorted((a, b) => Buffer.compare(bytesOf(a.name), bytesOf(b.name)));
  const blocks = sorted.flatMap((entry) => {
    const { content } = entry;
    if (content === "folder" || "link" in content) return [header(entry, seconds)];
    const rest = content.file.length % BLOCK;
    const padding = rest === 0 ? [] : [new Uint8Array(BLOCK - rest)];
    return [header(entry, seconds), content.file, ...padding];
  });
  return new Uint8Array(Bun.concatArrayBuffers([...blocks, new Uint8Array(2 * BLOCK)]));
};

const entryOf = (top: string, name: string): Entry => {
  const path = join(top, name);
  const found = lstatSync(path);
  if (found.isSymbolicLink()) return { name, mode: 0o777, content: { link: readlinkSync(path) } };
  const mode = found.mode & 0o7777;
  if (found.isDirectory()) return { name, mode, content: "folder" };
  if (found.isFile()) return { name, mode, content: { file: readFileSync(path) } };
  throw new Error(`${path} is neither a file, a folder nor a link`);
};

/** All that is in a folder, itself left out. */
export const entriesOf = (top: string, folder = ""): ReadonlyArray<Entry> =>
  readdirSync(join(top, folder)).flatMap((name) => {
    const entry = entryOf(top, join(folder, name));
    return entry.content === "folder" ? [entry, ...entriesOf(top, entry.name)] : [entry];
  });
