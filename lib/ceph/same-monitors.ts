/**
 * Whether two lists of monitors lead to the same cluster. One cluster may be written down several times: its monitors in
 * another order, with blanks, as `10.0.0.1:6789` or as `[v2:10.0.0.1:3300,v1:10.0.0.1:6789]`.
 *
 * Not here: what librados makes of a list (./monitors.ts).
 *
 * 1. It compares texts and asks nobody: a name and its address are two monitors, and so are two lists of which one lacks a
 *    monitor.
 */

/** The monitors of a list, each in one form. */
const hostsOf = (monitors: readonly string[]): ReadonlySet<string> =>
  new Set(monitors.flatMap((text) => text.split(/[,;\s]+/).map(hostOf)).filter((host) => host !== ""));

/** The same text for lists of the same monitors. */
export const monitorsKey = (monitors: readonly string[]): string => [...hostsOf(monitors)].toSorted().join();

/** Whether a monitor is in both lists. */
export const shareMonitor = (one: readonly string[], other: readonly string[]): boolean =>
  !hostsOf(one).isDisjointFrom(hostsOf(other));

export const sameMonitors = (one: readonly string[], other: readonly string[]): boolean =>
  monitorsKey(one) === monitorsKey(other);

/** A monitor has one host: the ports that all monitors have, protocol and nonce say nothing more of which one it is. */
const hostOf = (address: string): string =>
  withoutList(address)
    .replace(/^(?:v[12]|any):/, "")
    .replace(/\/\d+$/, "")
    .replace(/^([^:]*|\[.*\]):(?:3300|6789)$/, "$1")
    .toLowerCase();

/** The first of `[v2:…,v1:…]` begins with a bracket that is not its own, and the last ends with one. */
const withoutList = (address: string): string => {
  const inner = address.replace(/^\[(?=v[12]:|any:)/, "");
  const ends = inner.endsWith("]") && inner.split("]").length > inner.split("[").length;
  return ends ? inner.slice(0, -1) : inner;
};
