/**
 * The options of `rbd map` and `rbd unmap` for the kernel's driver: the names that the rbd tool has in Ceph 16 to 20. It
 * ends with "unknown map option" or "unknown unmap option" at any other. Pure.
 *
 * Not here: which part of mapOptions is the kernel's (./map-options.ts), and what a kernel makes of an option.
 *
 * 1. A refusal is a clause that follows the name of the parameter.
 * 2. What a user gives wins over what the driver adds, and no option stands twice.
 */
import { closest } from "../text/closest.ts";
import { oneLine } from "../text/printable.ts";

type Kind = "switch" | "number" | "text";

const of = (kind: Kind, names: string): readonly (readonly [string, Kind])[] =>
  names.split(" ").map((name) => [name, kind]);

const MAP_OPTIONS: ReadonlyMap<string, Kind> = new Map([
  ...of("switch", "share noshare crc nocrc tcp_nodelay notcp_nodelay rxbounce udev noudev"),
  ...of("switch", "cephx_require_signatures nocephx_require_signatures cephx_sign_messages nocephx_sign_messages"),
  ...of("switch", "ro rw exclusive lock_on_read notrim abort_on_full"),
  ...of("number", "mount_timeout osd_request_timeout osdkeepalive osd_idle_ttl lock_timeout queue_depth alloc_size"),
  ...of("text", "fsid ip crush_location read_from_replica compression_hint ms_mode"),
]);
const UNMAP_OPTIONS: readonly string[] = ["force", "udev", "noudev"];

const NUMBER = /^\+?\d{1,10}$/;

const wordsOf = (options: string): readonly string[] =>
  options
    .split(",")
    .map((word) => word.trim())
    .filter((word) => word !== "");
const nameOf = (word: string): string => word.split("=", 1)[0] ?? "";

const unknown = (tool: string, name: string, names: readonly string[]): string => {
  const meant = closest(name, names);
  const hint = meant === undefined ? `it has ${names.join(", ")}` : `write ${meant}`;
  return `has ${oneLine(name)}, which "${tool}" does not take: ${hint}, or leave it out`;
};

/** Why the rbd tool ends at these options of a map before it asks the kernel; `undefined`: it takes them. */
export const refusalOfMapOptions = (options: string): string | undefined => {
  for (const word of wordsOf(options)) {
    const name = nameOf(word);
    const kind = MAP_OPTIONS.get(name);
    if (kind === undefined) return unknown("rbd map", name, [...MAP_OPTIONS.keys()]);
    const value = word.slice(name.length + 1);
    if (kind !== "switch" && value === "") return `has ${name} without a value: write ${name}=VALUE`;
    if (kind === "number" && !NUMBER.test(value)) return `has ${oneLine(word)}: write a decimal number`;
  }
  return undefined;
};

const isUnmapOption = (word: string): boolean => UNMAP_OPTIONS.includes(nameOf(word));

/** Why the rbd tool ends at these options of an unmap; `undefined`: it takes them. */
export const refusalOfUnmapOptions = (options: string): string | undefined => {
  const word = wordsOf(options).find((each) => !isUnmapOption(each));
  return word === undefined ? undefined : unknown("rbd unmap", nameOf(word), UNMAP_OPTIONS);
};

/** Those of the options that the rbd tool takes, and the others. */
export const sortUnmapOptions = (options: string): { readonly usable: string; readonly others: readonly string[] } => {
  const words = wordsOf(options);
  return { usable: words.filter(isUnmapOption).join(","), others: words.filter((word) => !isUnmapOption(word)) };
};

/** Whether the options ask for a read-only device. The last of `ro` and `rw` counts. */
export const mapsReadOnly = (options: string): boolean =>
  wordsOf(options).findLast((word) => word === "ro" || word === "rw") === "ro";

/** The first option that needs an exclusive lock, without which the kernel does not map the image. */
export const lockingOption = (options: string): string | undefined =>
  wordsOf(options).find((word) => word === "exclusive" || word === "lock_on_read");

/**
 * A user's options of a map, and those that the driver adds as far as the user gives none of that name. Whether the
 * device is read-only is not said here, because the request says it.
 */
export const joinMapOptions = (given: string, added: string): string => {
  const words = wordsOf(given).filter((word) => word !== "ro" && word !== "rw");
  const taken = new Set(words.map(nameOf));
  return [...words, ...wordsOf(added).filter((word) => !taken.has(nameOf(word)))].join(",");
};
