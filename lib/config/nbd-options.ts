/**
 * The options of `rbd-nbd map`, `attach` and `unmap`. The tool takes each as an argument of its own, and any setting of
 * Ceph besides: so they pass through. Pure.
 *
 * Not here: which part of mapOptions is for rbd-nbd (./map-options.ts).
 *
 * 1. What a user gives wins over what the driver adds.
 */

/** Never answer an I/O with a timeout: it waits for the cluster, as krbd's does. */
const IO_TIMEOUT = "io-timeout=0";
/** Seconds that the kernel holds I/O back after the rbd-nbd process has died. */
const REATTACH_TIMEOUT = "reattach-timeout=300";

const wordsOf = (options: string): readonly string[] => options.split(",").filter((word) => word !== "");
/** The tool takes `_` for `-`, as Ceph does in all its options. */
const nameOf = (word: string): string => (word.split("=", 1)[0] ?? "").replaceAll("_", "-");

const READ_ONLY = "read-only";

/** Whether the options ask for a read-only device. */
export const nbdMapsReadOnly = (options: string): boolean =>
  wordsOf(options).some((word) => nameOf(word) === READ_ONLY);

/**
 * A user's options of a map or an attach, and those that the driver adds as far as the user gives none of that name.
 * Whether the device is read-only is not said here, because the request says it.
 */
export const joinNbdOptions = (given: string): string => {
  const words = wordsOf(given).filter((word) => nameOf(word) !== READ_ONLY);
  const names = new Set(words.map(nameOf));
  return [
    ...(names.has("try-netlink") ? [] : ["try-netlink"]),
    ...(names.has("reattach-timeout") ? [] : [REATTACH_TIMEOUT]),
    ...(names.has("io-timeout") || names.has("timeout") ? [] : [IO_TIMEOUT]),
    ...words,
  ].join(",");
};
