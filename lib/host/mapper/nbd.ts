/**
 * rbd-nbd: a process in user space that serves an image through librbd as a network block device of the kernel.
 *
 * Loaded in host cells: no Effect. All functions block.
 * Not here: the processes (./nbd-process.ts), why the tool fails (./nbd-failure.ts), and the key's way to it
 * (./key-file.ts).
 *
 * 1. What ./mapper.ts asks of every mapper. The kernel ends a network block device whoever uses it, so the proof that
 *    nobody does is here.
 * 2. What is mapped is read from sysfs, and the image from the command line of the process. A device whose process has
 *    died is listed without an image; its cookie says whose it is.
 * 3. A process whose map has failed is killed before its device is given back: it could connect one later.
 */
import { closeSync, constants, fstatSync, mkdirSync, openSync, readSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { Errno } from "../../cells/cell.ts";
import { type Finished, outputOf, run } from "../child.ts";
import { afterChange } from "../errno.ts";
import { holdersOf, openersOf } from "../holders.ts";
import { maskKeys } from "../../text/mask.ts";
import { imageSpec, isImage, type MappedDevice } from "../mapped-device.ts";
import { faultOf, inNamespace, namespaceAbsent } from "./checks.ts";
import { withKeyFile } from "./key-file.ts";
import type { AttachArg, Failure, MapAnswer, MapArg, Mapper, UnmapAnswer, UnmapArg } from "./mapper.ts";
import { leaveCgroup } from "./nbd-cgroup.ts";
import { failureOfNbd } from "./nbd-failure.ts";
import { addressFinder, endProcess, killProcesses, nbdProcesses, processFinder } from "./nbd-process.ts";
import { attribute, loadModule, namesIn, optional, unlessAbsent } from "./sysfs.ts";

const BLOCK = "/sys/block";
/** Below the limit that ../live.ts gives the call, so that there is time to unmap. */
const MAP_LIMIT_MS = 80_000;
const UNMAP_LIMIT_MS = 30_000;
const DETACH_LIMIT_MS = 30_000;
const EBUSY = 16;
const SECTOR = 512n;

// ------------------------------------------------------------------------------------------------- what is mapped

/** librbd knows every feature of the release that it is of, and refuses others itself. */
const features = (): bigint | undefined => {
  if (namesIn("/sys/module/nbd").length === 0) loadModule("nbd");
  return undefined;
};

const mappedDevices = (): readonly MappedDevice[] => {
  const find = { processOf: processFinder(), addressesOf: addressFinder() };
  return namesIn(BLOCK)
    .filter((name) => /^nbd\d+$/.test(name))
    .flatMap((name) => unlessAbsent(() => readDevice(name, find)) ?? []);
};

interface Finders {
  readonly processOf: ReturnType<typeof processFinder>;
  readonly addressesOf: ReturnType<typeof addressFinder>;
}

/** Throws that it is absent unless the device is connected. */
const readDevice = (name: string, { processOf, addressesOf }: Finders): MappedDevice => {
  const at = `${BLOCK}/${name}`;
  const process = processOf(name, attribute(`${at}/pid`));
  const [major = 0, minor = 0] = attribute(`${at}/dev`).split(":").map(Number);
  return {
    mapper: "rbd-nbd",
    path: `/dev/${name}`,
    major,
    minor,
    pool: process?.command.pool ?? "",
    namespace: process?.command.namespace ?? "",
    image: process?.command.image ?? "",
    imageId: "",
    snapshot: process?.command.snapshot ?? "",
    fsid: "",
    watcherId: "",
    // The watch of one that has died cannot be told from that of another user of this node: it has to end by itself.
    addresses: process === undefined ? [] : addressesOf(process.pid),
    // Kernels before 5.14 keep no cookie.
    cookie: optional(`${at}/backend`) || (process?.command.cookie ?? ""),
    served: process !== undefined,
    sizeBytes: BigInt(attribute(`${at}/size`)) * SECTOR,
    readOnly: attribute(`${at}/ro`) === "1",
  };
};

const deviceAt = (path: string): MappedDevice | undefined => mappedDevices().find((each) => each.path === path);

// ------------------------------------------------------------------------------------------------------------ map

const map = (request: MapArg): MapAnswer => {
  const absent = namespaceAbsent(request);
  if (absent !== undefined) return absent;
  features();
  const before = new Set(mappedDevices().map(({ path }) => path));
  return started(request, ["map", imageSpec(request), `--cookie=${request.cookie}`], (done, giveUp) => {
    if (done.code !== 0) return giveUp(failureOfNbd(done, request), before);
    const path = /^\/dev\/nbd\d+$/m.exec(done.stdout)?.[0];
    const device = path === undefined ? undefined : deviceAt(path);
    if (device === undefined) return giveUp(failed(`the kernel has no ${path ?? "device of it"}`), before);
    const fault = faultOf(device, request) ?? faultOfProcess(device, request);
    return fault === undefined ? { kind: "mapped", device } : giveUp(failed(fault), before);
  });
};

/** Gives a device whose process has died a new one. */
export const attach = (request: AttachArg): MapAnswer => {
  const { device } = request;
  const now = deviceAt(device.path);
  if (now === undefined) return failed(`${device.path} is not connected any more: the volume has to be staged anew`);
  // Where the kernel keeps no cookie it went with the process.
  if (now.cookie !== "" && now.cookie !== device.cookie) return failed(`${device.path} is another volume's by now`);
  if (now.served) return { kind: "mapped", device: now };
  // The tool refuses a cookie where the kernel keeps none.
  const kept = optional(`${BLOCK}/${device.path.slice("/dev/".length)}/backend`);
  const cookie = kept === "" ? [] : [`--cookie=${kept}`];
  return started(request, ["attach", imageSpec(request), "--device", device.path, ...cookie], (done, giveUp) => {
    if (done.code !== 0) return giveUp(failureOfNbd(done, request));
    const attached = deviceAt(device.path);
    if (attached === undefined) return giveUp(failed(`the kernel has no ${device.path} any more`));
    // a pod that reads may have made the device read-only, and a writer makes it writable again
    const asked = { ...request, readOnly: request.readOnly || attached.readOnly };
    const fault = faultOf(attached, asked) ?? faultOfProcess(attached, request);
    return fault === undefined ? { kind: "mapped", device: attached } : giveUp(failed(fault));
  });
};

const failed = (reason: string): Failure => ({ kind: "failed", errno: 0, reason });

/** Ends the process of a map that has failed, and what it has connected beyond the devices that were there before. */
type GiveUp = (failure: Failure, before?: ReadonlySet<string>) => MapAnswer;

/** Runs the tool, which leaves the process of the device behind, and judges what it has done. */
const started = (
  request: MapArg,
  command: readonly string[],
  judge: (done: Finished, giveUp: GiveUp) => MapAnswer,
): MapAnswer =>
  withKeyFile(request.key, (file) => {
    mkdirSync(dirname(request.logFile), { recursive: true });
    const logged = sizeOf(request.logFile);
    const tool = run(argumentsOf(request, command, file), {
      limit: MAP_LIMIT_MS,
      secrets: [request.key],
      detached: true,
    });
    const done = tool.code === 0 ? tool : withOwnLog(tool, request, logged);
    return afterChange(command[0] ?? "", () => {
      const ours = () => nbdProcesses().filter(({ command: { keyFile } }) => keyFile === file);
      const answer = judge(done, (failure, before) => {
        killProcesses(ours());
        return before === undefined ? failure : disconnected(before, request, failure);
      });
      if (answer.kind === "mapped") for (const { pid } of ours()) leaveCgroup(pid);
      return answer;
    });
  });

const sizeOf = (path: string): number => unlessAbsent(() => statSync(path).size) ?? 0;

/** The tool tells some reasons to its log alone. */
const withOwnLog = (done: Finished, { logFile, key }: MapArg, from: number): Finished => ({
  ...done,
  stderr: `${done.stderr}\n${maskKeys(endOf(logFile, from), key)}`,
});

/** Bytes of a log that are read: it may have grown for months. */
const MOST_LOG_BYTES = 65_536;

/** What the file got since it had `from` bytes, the last of it; "" if it cannot be read: what follows must not fail with it. */
const endOf = (file: string, from: number): string => {
  let fd: number | undefined;
  try {
    fd = openSync(file, "r");
    const { size } = fstatSync(fd);
    const start = Math.max(from, size - MOST_LOG_BYTES);
    const bytes = Buffer.alloc(Math.max(0, size - start));
    return bytes.toString("utf8", 0, readSync(fd, bytes, 0, bytes.length, start));
  } catch {
    return "";
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
};

const argumentsOf = (request: MapArg, command: readonly string[], keyFile: string): string[] => [
  ...inNamespace(request),
  "rbd-nbd",
  "--id",
  request.user,
  "-m",
  request.monitors.join(","),
  `--keyfile=${keyFile}`,
  "--log-file",
  request.logFile,
  ...command,
  ...wordsOf(request.options),
  ...(request.readOnly ? ["--read-only"] : []),
];

const faultOfProcess = (device: MappedDevice, request: MapArg): string | undefined => {
  if (!device.served) return `the rbd-nbd process of ${device.path} has ended. Look into ${request.logFile}`;
  return device.cookie === "" || device.cookie === request.cookie
    ? undefined
    : `${device.path} has the cookie ${device.cookie}, not ${request.cookie}`;
};

/** -> the failure, or "unknown" if something stays connected. */
const disconnected = (before: ReadonlySet<string>, request: MapArg, failure: Failure): MapAnswer => {
  const isOurs = ({ path, cookie }: MappedDevice) => !before.has(path) && cookie === request.cookie;
  for (const { path } of mappedDevices().filter(isOurs)) {
    const done = run(unmapArguments(path, ""), { limit: UNMAP_LIMIT_MS });
    if (mappedDevices().some((each) => each.path === path && isOurs(each))) {
      return { kind: "unknown", reason: `${failure.reason}; and ${path} stays mapped: ${outputOf(done)}` };
    }
  }
  return failure;
};

/** Ends the process of a device in good order. The device stays connected, and waits for another process. */
export const detach = (device: MappedDevice): void => {
  const name = device.path.slice("/dev/".length);
  const process = processFinder()(name, optional(`${BLOCK}/${name}/pid`));
  if (process === undefined) return;
  endProcess(process, DETACH_LIMIT_MS);
};

// ---------------------------------------------------------------------------------------------------------- unmap

const unmap = ({ device, options }: UnmapArg): UnmapAnswer => {
  const now = mappingNow(device);
  if (now === undefined) return { kind: "unmapped" };
  const holders = holdersOf(device);
  if (holders.length > 0) return { kind: "busy", holders };
  // The caller may have looked before it got a new process.
  const claim = now.served ? claimed(device.path) : "no process answers";
  if (claim === "busy") return { kind: "busy", holders: [] };
  try {
    const openers = openersOf(device);
    if (openers.length > 0) return { kind: "busy", holders: openers };
    const asked = disconnect(device, options);
    if (asked !== undefined && OPTIONS_REFUSED.test(asked.stderr)) disconnect(device, "");
  } finally {
    if (typeof claim === "number") closeSync(claim);
  }
  if (!afterChange("unmap", () => isMapped(device))) return { kind: "unmapped" };
  throw new Errno("unmap", 0, "the kernel still has it connected");
};

/** The tool takes a path, and ends whatever is connected there: the mapping may have ended, and another one begun. */
const disconnect = (device: MappedDevice, options: string): Finished | undefined =>
  isMapped(device) ? run(unmapArguments(device.path, options), { limit: UNMAP_LIMIT_MS }) : undefined;

const OPTIONS_REFUSED = /unknown args|invalid argument|must be/i;

/** Opens the device for this thread alone: no filesystem and no other block device can be put onto it meanwhile. */
const claimed = (path: string): number | "busy" => {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_EXCL | constants.O_NONBLOCK);
  } catch (error) {
    if (Math.abs(Number((error as { readonly errno?: unknown }).errno)) === EBUSY) return "busy";
    throw error;
  }
};

/** The device as it is now, if it is still this mapping: of the same volume, and of the same image as far as it is known. */
const mappingNow = (device: MappedDevice): MappedDevice | undefined => {
  const now = deviceAt(device.path);
  if (now === undefined || now.cookie !== device.cookie) return undefined;
  return !now.served || device.image === "" || isImage(now, device) ? now : undefined;
};

const isMapped = (device: MappedDevice): boolean => mappingNow(device) !== undefined;

const unmapArguments = (path: string, options: string): string[] => ["rbd-nbd", "unmap", path, ...wordsOf(options)];

/** The tool takes each option as an argument of its own. */
const wordsOf = (options: string): readonly string[] =>
  options.split(",").flatMap((option) => (option === "" ? [] : [`--${option}`]));

export const rbdNbd: Mapper = { features, mappedDevices, map, unmap };
