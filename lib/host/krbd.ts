/**
 * The kernel's RBD client: what it has mapped (sysfs), mapping and unmapping (the rbd tool).
 *
 * Loaded in host cells: no Effect. All functions block.
 *
 * 1. A listing that fails is an error, never "nothing is mapped".
 * 2. A map that fails, or maps something else, takes away what it has mapped before it answers. Only where that is
 *    not possible either, the answer is "unknown".
 * 3. The key is in a file of mode 0600 for as long as the rbd tool runs, and never in an argument.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { Errno } from "../cells/cell.ts";
import { deviceNumber } from "./block.ts";
import { type Finished, run, said } from "./child.ts";
import { holdersOf } from "./holders.ts";
import type { ImageName, MapRequest, MappedDevice } from "./host.ts";

export interface MapArg extends Omit<MapRequest, "key"> {
  readonly key: string;
}
export type MapAnswer =
  | { readonly kind: "mapped"; readonly device: MappedDevice }
  | { readonly kind: "refused"; readonly errno: number; readonly reason: string }
  | { readonly kind: "failed"; readonly errno: number; readonly reason: string }
  | { readonly kind: "unknown"; readonly reason: string };
export type UnmapAnswer =
  | { readonly kind: "unmapped" }
  | { readonly kind: "busy"; readonly holders: readonly string[] };

const BUS = "/sys/bus/rbd";
const KEYS = "/tmp/csi/keys";
/** Below the limit that lib/host/live.ts gives the call, so that there is time to clean up. */
const MAP_LIMIT = 80_000;
const CLEAN_LIMIT = 30_000;
const E = { NOENT: 2, NXIO: 6, ACCES: 13, PERM: 1, BUSY: 16, INVAL: 22, SHUTDOWN: 108, TIMEDOUT: 110 } as const;

const attribute = (path: string): string => readFileSync(path, "utf8").trim();
const isAbsent = (error: unknown): boolean =>
  ["ENOENT", "ENODEV"].includes(String((error as { code?: unknown } | undefined)?.code));

/** An attribute that older kernels don't have. */
const optional = (path: string): string => {
  try {
    return attribute(path);
  } catch (error) {
    if (isAbsent(error)) return "";
    throw error;
  }
};

export const krbdFeatures = (): bigint | undefined => {
  const read = (): bigint | undefined => {
    const text = optional(`${BUS}/supported_features`);
    return /^(0x)?[0-9a-f]+$/i.test(text) ? BigInt(text.startsWith("0x") ? text : `0x${text}`) : undefined;
  };
  const known = read();
  if (known !== undefined) return known;
  try {
    run(["modprobe", "rbd"], CLEAN_LIMIT);
  } catch {
    // no modprobe here: the module may be built in, or is loaded from outside; `rbd map` will tell
  }
  return read();
};

export const mappedDevices = (): MappedDevice[] => {
  let ids: string[];
  try {
    ids = readdirSync(`${BUS}/devices`);
  } catch (error) {
    // without the module nothing can be mapped
    if (isAbsent(error)) return [];
    throw error;
  }
  return ids.flatMap((id) => {
    try {
      return [readDevice(id)];
    } catch (error) {
      // unmapped while it was read
      if (isAbsent(error)) return [];
      throw error;
    }
  });
};

const readDevice = (id: string): MappedDevice => {
  const at = `${BUS}/devices/${id}`;
  const snapshot = attribute(`${at}/current_snap`);
  return {
    path: `/dev/rbd${id}`,
    major: Number(attribute(`${at}/major`)),
    minor: Number(optional(`${at}/minor`) || "0"),
    pool: attribute(`${at}/pool`),
    namespace: optional(`${at}/pool_ns`),
    image: attribute(`${at}/name`),
    imageId: attribute(`${at}/image_id`),
    snapshot: snapshot === "-" ? "" : snapshot,
    fsid: optional(`${at}/cluster_fsid`),
    client: attribute(`${at}/client_id`).replace(/^client(?=\d)/, "client."),
    sizeBytes: BigInt(attribute(`${at}/size`)),
    readOnly: optional(`/sys/block/rbd${id}/ro`) === "1",
  };
};

const isImage = (device: MappedDevice, image: ImageName): boolean =>
  device.pool === image.pool &&
  device.namespace === image.namespace &&
  device.image === image.image &&
  device.snapshot === "";

const specOf = ({ pool, namespace, image }: ImageName): string => [pool, namespace, image].filter(Boolean).join("/");

const withKeyFile = <A>(key: string, use: (path: string) => A): A => {
  mkdirSync(KEYS, { recursive: true, mode: 0o700 });
  const path = `${KEYS}/keyfile-${crypto.randomUUID()}`;
  writeFileSync(path, key, { mode: 0o600, flag: "wx" });
  try {
    return use(path);
  } finally {
    rmSync(path, { force: true });
  }
};

/** Key files that a killed driver has left behind. Those of a driver that runs are younger. */
export const sweepKeys = (): void => {
  let names: string[] = [];
  try {
    names = readdirSync(KEYS);
  } catch (error) {
    if (!isAbsent(error)) throw error;
  }
  for (const name of names.filter((each) => each.startsWith("keyfile-"))) {
    const path = `${KEYS}/${name}`;
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    if (age > 10 * MAP_LIMIT) rmSync(path, { force: true });
  }
};

export const map = (request: MapArg): MapAnswer => {
  const { netNamespace } = request;
  if (netNamespace !== undefined && statSync(netNamespace, { throwIfNoEntry: false }) === undefined) {
    const reason = `the network namespace ${netNamespace} of its cluster is not there; correct netNamespaceFilePath in config.json, or bring it back`;
    return { kind: "refused", errno: E.NOENT, reason };
  }
  const before = new Set(mappedDevices().map(({ path }) => path));
  const since = lastLogged();
  const done = withKeyFile(request.key, (file) => run(mapArguments(request, file), MAP_LIMIT));
  if (done.code === 0) {
    const path = done.stdout.trim();
    const device = mappedDevices().find((each) => each.path === path);
    const wrong = device === undefined ? `the kernel has no ${path}` : wrongDevice(device, request);
    if (device !== undefined && wrong === undefined) return { kind: "mapped", device };
    return cleaned(before, request, { kind: "failed", errno: 0, reason: wrong ?? "" });
  }
  const log = loggedSince(since);
  if (done.timedOut || done.code === E.TIMEDOUT) {
    const reason = withLog(`rbd map had no answer from the cluster: ${said(done)}`, log);
    return cleaned(before, request, { kind: "failed", errno: E.TIMEDOUT, reason });
  }
  return cleaned(before, request, explain(done, request, log));
};

const mapArguments = (request: MapArg, keyFile: string): string[] => [
  ...(request.netNamespace === undefined ? [] : ["nsenter", `--net=${request.netNamespace}`, "--"]),
  "rbd",
  "--id",
  request.user,
  "-m",
  request.monitors.join(","),
  `--keyfile=${keyFile}`,
  "map",
  specOf(request),
  "--device-type",
  "krbd",
  "--options",
  "noudev",
  ...(request.options === "" ? [] : ["--options", request.options]),
  ...(request.readOnly ? ["--read-only"] : []),
];

/** What keeps a device that was just mapped from being used; `undefined`: nothing. */
const wrongDevice = (device: MappedDevice, request: MapArg): string | undefined => {
  if (!isImage(device, request)) return `${device.path} is ${specOf(device)}, not ${specOf(request)}`;
  const node = statSync(device.path, { throwIfNoEntry: false });
  if (node === undefined) return `${device.path} is not there: the host's /dev has to be mounted at /dev`;
  const number = `${device.major}:${device.minor}`;
  if (!node.isBlockDevice() || deviceNumber(node.rdev) !== number) {
    return `${device.path} is not the block device ${number}`;
  }
  if (device.readOnly !== request.readOnly) return `${device.path} is ${device.readOnly ? "" : "not "}read-only`;
  return undefined;
};

/** Takes away what a map that did not succeed has mapped all the same. */
const cleaned = (before: ReadonlySet<string>, image: ImageName, answer: MapAnswer & { reason: string }): MapAnswer => {
  for (const device of mappedDevices().filter((each) => !before.has(each.path) && isImage(each, image))) {
    const done = run(unmapArguments(device.path, ""), CLEAN_LIMIT);
    if (done.code !== 0)
      return { kind: "unknown", reason: `${answer.reason}; and ${device.path} stays: ${said(done)}` };
  }
  return answer;
};

const unmapArguments = (path: string, options: string): string[] => [
  "rbd",
  "unmap",
  path,
  "--device-type",
  "krbd",
  "--options",
  "noudev",
  ...(options === "" ? [] : ["--options", options]),
];

export const unmap = ({ device, options }: { device: MappedDevice; options: string }): UnmapAnswer => {
  const still = (): boolean => {
    const now = mappedDevices().find(({ path }) => path === device.path);
    // the number may have gone to another image since
    return now !== undefined && isImage(now, device) && now.client === device.client && now.imageId === device.imageId;
  };
  if (!still()) return { kind: "unmapped" };
  const done = run(unmapArguments(device.path, options));
  if (done.code === E.BUSY) return { kind: "busy", holders: holdersOf(device) };
  if (!still()) return { kind: "unmapped" };
  throw new Errno("unmap", done.code, done.code === 0 ? "the kernel still has it mapped" : said(done));
};

/** Why the rbd tool failed, in words that say what to do. Exit status is the errno, where there is one. */
const explain = (done: Finished, request: MapArg, log: string): MapAnswer & { reason: string } => {
  const refused = (why: string) => ({
    kind: "refused" as const,
    errno: done.code,
    reason: withLog(`${why}: ${said(done)}`, log),
  });
  if (/secret too big/.test(log)) {
    return refused(
      `its kernel is too old for the 32-byte key of client.${request.user}, as Ceph 20 makes them; use a newer kernel, or give the client a key of the older type`,
    );
  }
  if (done.code === E.NXIO || /feature set mismatch/.test(done.stderr + log)) {
    return refused(
      'the image or the cluster uses a feature that this kernel lacks; disable it with "rbd feature disable", or use a newer kernel',
    );
  }
  if (done.code === E.ACCES || done.code === E.PERM) {
    return refused(
      `client.${request.user} may not; it needs the caps mon "profile rbd" (which lets it blocklist a dead holder of the lock) and osd "profile rbd"`,
    );
  }
  if (done.code === E.SHUTDOWN) return refused('this node is blocklisted; see "ceph osd blocklist ls"');
  if (done.code === E.INVAL && /unknown parameter|bad option|unrecognized|Unknown parameter/i.test(done.stderr + log)) {
    return refused("mapOptions names an option that krbd does not have");
  }
  return { kind: "failed", errno: done.code, reason: withLog(said(done), log) };
};

const withLog = (reason: string, log: string): string =>
  log === "" ? reason : `${reason}; the kernel's log says: ${log}`;

/** [seconds since boot, text]; nothing where the log may not be read. */
const kernelLog = (): (readonly [at: number, text: string])[] => {
  try {
    return run(["dmesg"], 5_000)
      .stdout.split("\n")
      .flatMap((line) => {
        const [, at, text] = /^\[\s*(\d+\.\d+)\]\s(.*)$/.exec(line) ?? [];
        return at === undefined || text === undefined ? [] : [[Number(at), text] as const];
      });
  } catch {
    return [];
  }
};

/** When the newest line was logged: the log's clock is not that of /proc/uptime. */
const lastLogged = (): number => kernelLog().at(-1)?.[0] ?? 0;

/** What the kernel has logged about RBD after that moment. */
const loggedSince = (since: number): string =>
  kernelLog()
    .filter(([at, text]) => at > since && /\b(libceph|rbd\d*):/.test(text))
    .slice(-5)
    .map(([, text]) => text)
    .join("; ");
