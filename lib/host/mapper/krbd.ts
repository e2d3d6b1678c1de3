/**
 * The kernel's RBD client, krbd: what it has mapped is in sysfs, and the rbd tool maps and unmaps.
 *
 * Loaded in host cells: no Effect. All functions block.
 * Not here: the key's way to the tool (./key-file.ts) and who uses a device that is busy (../holders.ts).
 *
 * 1. What ./mapper.ts asks of every mapper.
 * 2. The outcome of a map is read from sysfs, whatever the tool says.
 */
import { Errno } from "../../cells/cell.ts";
import { type Finished, outputOf, run } from "../child.ts";
import { afterChange } from "../errno.ts";
import { holdersOf } from "../holders.ts";
import { type SaidSince, withKernelLog, withLog } from "../kernel-log.ts";
import { type ImageName, imageSpec, isImage, type MappedDevice } from "../mapped-device.ts";
import { faultOf, inNamespace, namespaceAbsent } from "./checks.ts";
import { withKeyFile } from "./key-file.ts";
import type { Failure, MapAnswer, MapArg, Mapper, UnmapAnswer, UnmapArg } from "./mapper.ts";
import { attribute, loadModule, namesIn, optional, unlessAbsent } from "./sysfs.ts";

const BUS = "/sys/bus/rbd";
/** Below the limit that ../live.ts gives the call, so that there is time to unmap. */
const MAP_LIMIT_MS = 80_000;
const UNMAP_LIMIT_MS = 30_000;
const E = { PERM: 1, NXIO: 6, ACCES: 13, BUSY: 16, INVAL: 22, SHUTDOWN: 108, TIMEDOUT: 110 } as const;
const LOGGED_BY_KRBD = /\b(libceph|rbd\d*):/;

// ------------------------------------------------------------------------------------------------- what is mapped

/** Loads the module if nothing has used it yet. */
const features = (): bigint | undefined => {
  const known = supportedFeatures();
  if (known !== undefined) return known;
  loadModule("rbd");
  return supportedFeatures();
};

const supportedFeatures = (): bigint | undefined => {
  const text = optional(`${BUS}/supported_features`);
  return /^(0x)?[0-9a-f]+$/i.test(text) ? BigInt(text.startsWith("0x") ? text : `0x${text}`) : undefined;
};

const mappedDevices = (): readonly MappedDevice[] => {
  // Without the module nothing can be mapped.
  const ids = namesIn(`${BUS}/devices`);
  // One that is absent was unmapped while it was read.
  return ids.flatMap((id) => unlessAbsent(() => readDevice(id)) ?? []);
};

const readDevice = (id: string): MappedDevice => {
  const at = `${BUS}/devices/${id}`;
  const snapshot = attribute(`${at}/current_snap`);
  return {
    mapper: "krbd",
    path: `/dev/rbd${id}`,
    major: Number(attribute(`${at}/major`)),
    minor: Number(optional(`${at}/minor`) || "0"),
    pool: attribute(`${at}/pool`),
    namespace: optional(`${at}/pool_ns`),
    image: attribute(`${at}/name`),
    imageId: attribute(`${at}/image_id`),
    snapshot: snapshot === "-" ? "" : snapshot,
    fsid: optional(`${at}/cluster_fsid`),
    watcherId: attribute(`${at}/client_id`).replace(/^client(?=\d)/, "client."),
    addresses: [],
    cookie: "",
    served: true,
    sizeBytes: BigInt(attribute(`${at}/size`)),
    readOnly: optional(`/sys/block/rbd${id}/ro`) === "1",
  };
};

// ------------------------------------------------------------------------------------------------------------ map

const map = (request: MapArg): MapAnswer => {
  const absent = namespaceAbsent(request);
  if (absent !== undefined) return absent;
  return withKernelLog((said) => mapLogged(request, said));
};

const mapLogged = (request: MapArg, said: SaidSince): MapAnswer => {
  const before = new Set(mappedDevices().map(({ path }) => path));
  const done = withKeyFile(request.key, (file) =>
    run(mapArguments(request, file), { limit: MAP_LIMIT_MS, secrets: [request.key] }),
  );
  return afterChange("map", () => {
    if (done.code !== 0) return unmapped(before, request, failureOf(done, request, said(LOGGED_BY_KRBD)));
    const path = done.stdout.trim();
    const device = mappedDevices().find((each) => each.path === path);
    if (device === undefined) {
      return unmapped(before, request, { kind: "failed", errno: 0, reason: `the kernel has no ${path}` });
    }
    const fault = faultOf(device, request);
    if (fault === undefined) return { kind: "mapped", device };
    return unmapped(before, request, { kind: "failed", errno: 0, reason: fault });
  });
};

const mapArguments = (request: MapArg, keyFile: string): string[] => [
  ...inNamespace(request),
  "rbd",
  "--id",
  request.user,
  "-m",
  request.monitors.join(","),
  `--keyfile=${keyFile}`,
  "map",
  imageSpec(request),
  "--device-type",
  "krbd",
  "--options",
  "noudev",
  ...(request.options === "" ? [] : ["--options", request.options]),
  ...(request.readOnly ? ["--read-only"] : []),
];

/** Unmaps what a failed map has mapped all the same; -> the failure, or "unknown" if something stays mapped. */
const unmapped = (before: ReadonlySet<string>, image: ImageName, failure: Failure): MapAnswer => {
  for (const device of mappedDevices().filter((each) => !before.has(each.path) && isImage(each, image))) {
    const done = run(unmapArguments(device.path, ""), { limit: UNMAP_LIMIT_MS });
    if (done.code !== 0) {
      return { kind: "unknown", reason: `${failure.reason}; and ${device.path} stays mapped: ${outputOf(done)}` };
    }
  }
  return failure;
};

/** Words of the tool and of kernels old and new. */
const OPTION_REFUSED =
  /unknown (map option|parameter)|invalid \S+ value|requires a value|couldn't parse map options|bad option|unrecognized/i;
const NEEDS_LOCK = /exclusive[- ]lock (feature )?is not enabled/;

/** Why the rbd tool failed, and what to do. Its exit status is the errno, where there is one. */
export const failureOf = (done: Finished, { options, user }: MapArg, log: string): Failure => {
  const detail = withLog(outputOf(done), log);
  const refused = (reason: string, unfit = false): Failure => ({
    kind: "refused",
    errno: done.code,
    reason: `${reason}. rbd map says: ${detail}`,
    unfit,
  });
  if (done.timedOut || done.code === E.TIMEDOUT) {
    return {
      kind: "failed",
      errno: E.TIMEDOUT,
      reason: `rbd map had no answer from the cluster. Check "ceph -s" and the network of this node. rbd map says: ${detail}`,
    };
  }
  if (/secret too big/.test(log)) {
    return refused(
      `this node's kernel is too old for the 32-byte key of client.${user}, the type that Ceph 20 makes. Use a newer kernel, give the client a key of the older type, or map with rbd-nbd (mounter)`,
      true,
    );
  }
  if (done.code === E.NXIO || /feature set mismatch/.test(done.stderr + log)) {
    return refused(
      'this node\'s kernel lacks a feature of the image or of the cluster. Disable it with "rbd feature disable", use a newer kernel, or map with rbd-nbd (mounter)',
      true,
    );
  }
  if (done.code === E.ACCES || done.code === E.PERM) {
    return refused(
      `Ceph denied client.${user} to map this image. Compare the key in the Secret, and the caps, with "ceph auth get client.${user}": mon, osd and mgr need "profile rbd" for this pool. "ceph auth caps" replaces all caps, so name the others too`,
    );
  }
  if (done.code === E.SHUTDOWN) {
    return refused(
      'this node is blocklisted. Make sure that nothing on it still writes to the image, then find its address with "ceph osd blocklist ls" and remove it with "ceph osd blocklist rm"',
    );
  }
  if (done.code === E.INVAL && NEEDS_LOCK.test(log)) {
    return refused(
      'mapOptions has exclusive or lock_on_read, and the image lacks the feature exclusive-lock. Enable it with "rbd feature enable", or leave the option out',
    );
  }
  if (done.code === E.INVAL && OPTION_REFUSED.test(done.stderr + log)) {
    return refused(
      "mapOptions has an option that krbd does not take on this node. Correct it in the StorageClass for new volumes; this one has it in the volumeAttributes of its PersistentVolume, which has to be made anew",
    );
  }
  if (done.code === E.INVAL && options !== "") {
    return refused(
      `this node's kernel refuses to map the image with the options ${options}. Correct mapOptions in the StorageClass for new volumes; this one has them in the volumeAttributes of its PersistentVolume, which has to be made anew`,
    );
  }
  return { kind: "failed", errno: done.code, reason: detail };
};

// ---------------------------------------------------------------------------------------------------------- unmap

const unmap = ({ device, options }: UnmapArg): UnmapAnswer => {
  if (!isMapped(device)) return { kind: "unmapped" };
  const asked = run(unmapArguments(device.path, options));
  // A tool that refuses the options has asked nothing of the kernel.
  const done = UNMAP_OPTIONS_REFUSED.test(asked.stderr) ? run(unmapArguments(device.path, "")) : asked;
  if (done.code === E.BUSY) return { kind: "busy", holders: holdersOf(device) };
  if (!afterChange("unmap", () => isMapped(device))) return { kind: "unmapped" };
  throw new Errno("unmap", done.code, done.code === 0 ? "the kernel still has it mapped" : outputOf(done));
};

const UNMAP_OPTIONS_REFUSED = /unknown unmap option|couldn't parse unmap options/;

const isMapped = (device: MappedDevice): boolean => {
  const now = mappedDevices().find(({ path }) => path === device.path);
  return (
    now !== undefined && isImage(now, device) && now.imageId === device.imageId && now.watcherId === device.watcherId
  );
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

export const krbd: Mapper = { features, mappedDevices, map, unmap };
