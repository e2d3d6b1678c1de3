/**
 * The rbd-nbd processes of this machine, as /proc shows them: which serves a device, and from which addresses.
 *
 * Loaded in host cells: no Effect.
 *
 * 1. A process serves a device if it has the device's node open. The kernel's own `pid` of a device is only a hint: it is
 *    that of the first process, which may have died since, and counts in the host's namespace of process IDs.
 */
import { readFileSync, readlinkSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { Errno } from "../../cells/cell.ts";
import { type NbdCommand, parseNbdCommand } from "./nbd-command.ts";
import { attribute, namesIn, unlessAbsent } from "./sysfs.ts";

export interface NbdProcess {
  readonly pid: number;
  readonly command: NbdCommand;
}

const NAME = "rbd-nbd";
const POLL_MS = 50;

const processAt = (pid: string): NbdProcess | undefined =>
  unlessAbsent(() => {
    if (attribute(`/proc/${pid}/comm`) !== NAME) return undefined;
    const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    const command = parseNbdCommand(argv);
    return command && { pid: Number(pid), command };
  });

const hasOpen = (pid: number, name: string): boolean =>
  namesIn(`/proc/${pid}/fd`).some((fd) =>
    unlessAbsent(() => readlinkSync(`/proc/${pid}/fd/${fd}`))?.endsWith(`/${name}`),
  );

/** All that map or attach an image, or serve one. */
export const nbdProcesses = (): readonly NbdProcess[] =>
  namesIn("/proc").flatMap((pid) => (/^\d+$/.test(pid) ? (processAt(pid) ?? []) : []));

/** Finds the processes of several devices: it reads the list of all processes only if it must, and once. */
export const processFinder = () => {
  let all: readonly NbdProcess[] | undefined;
  return (name: string, hint: string): NbdProcess | undefined => {
    const likely = /^[1-9]\d*$/.test(hint) ? processAt(hint) : undefined;
    if (likely !== undefined && hasOpen(likely.pid, name)) return likely;
    all ??= nbdProcesses();
    return all.find(({ pid }) => hasOpen(pid, name));
  };
};

/** Ends processes at once: those of a map that has failed. Their work is undone by the caller. */
export const killProcesses = (processes: readonly NbdProcess[]): void => {
  for (const { pid } of processes) unlessAbsent(() => process.kill(pid, "SIGKILL"));
};

/** Asks a process to end, and waits for that. */
export const endProcess = ({ pid }: NbdProcess, limitMs: number): void => {
  unlessAbsent(() => process.kill(pid, "SIGTERM"));
  for (let waited = 0; processAt(String(pid)) !== undefined; waited += POLL_MS) {
    if (waited >= limitMs) throw new Errno("detach", 0, `the rbd-nbd process ${pid} does not end`, true);
    Bun.sleepSync(POLL_MS);
  }
};

/** Finds the addresses of the network namespace that a process is in. It reads those of each namespace once. */
export const addressFinder = () => {
  const own = namespaceOf("self");
  const known = new Map<string | undefined, readonly string[]>();
  return (pid: number): readonly string[] => {
    const namespace = namespaceOf(String(pid)) ?? own;
    const found =
      known.get(namespace) ??
      (namespace === own ? ownAddresses() : (unlessAbsent(() => addressesAt(String(pid))) ?? []));
    known.set(namespace, found);
    return found;
  };
};

const namespaceOf = (pid: string): string | undefined => unlessAbsent(() => readlinkSync(`/proc/${pid}/ns/net`));

const ownAddresses = (): readonly string[] =>
  Object.values(networkInterfaces()).flatMap((each) => (each ?? []).map(({ address }) => address));

const addressesAt = (pid: string): readonly string[] => [
  ...localIn(readFileSync(`/proc/${pid}/net/fib_trie`, "utf8")),
  ...(unlessAbsent(() => readFileSync(`/proc/${pid}/net/if_inet6`, "utf8")) ?? "").split("\n").flatMap(inet6),
];

/** A leaf of the kernel's trie of routes is an address of the machine if it is "host LOCAL". */
const localIn = (trie: string): readonly string[] => [
  ...new Set(
    [...trie.matchAll(/\|-- (\S+)\n(?:\s+\/\d+ (?!host LOCAL).*\n)*\s+\/32 host LOCAL/g)].map(([, at]) => at ?? ""),
  ),
];

/** The kernel writes 32 digits; an address is written in the form that the URL standard gives it, as Ceph has it. */
const inet6 = (line: string): readonly string[] => {
  const digits = /^[0-9a-f]{32}\b/.exec(line)?.[0];
  if (digits === undefined) return [];
  return [new URL(`http://[${digits.match(/.{4}/g)!.join(":")}]`).hostname.slice(1, -1)];
};
