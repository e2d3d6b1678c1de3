/**
 * A model of lib/host/host.ts: a node in memory, whose devices are images of a cluster in memory.
 *
 * The tests in tests/vm check the same behaviour on a real kernel. Not here: processes, time, other mount namespaces,
 * and answers that are slow or lost (./host-faults.ts).
 *
 * 1. Each call yields before it acts and after it. The act itself is one synchronous step.
 * 2. The node outlives the driver: a new `hostMemoryService` over the same `MemoryNode` is a restarted driver.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { MemoryCluster, MemoryImage } from "./ceph-memory/cluster.ts";
import {
  DeviceBusy,
  HostFailed,
  HostRefused,
  type HostError,
  PathInTheWay,
  UnexpectedContent,
} from "../../lib/host/errors.ts";
import type { Content, HostService, MapRequest } from "../../lib/host/host.ts";
import { imageSpec, type MappedDevice } from "../../lib/host/mapped-device.ts";
import { isReadOnly, type MountEntry, mountsAt, mountsOf } from "../../lib/host/mountinfo.ts";

/** The content of an image, as a kernel that maps it finds it. */
export type Disk =
  | { readonly kind: "blank" }
  | {
      readonly kind: "filesystem";
      readonly type: string;
      sizeBytes: bigint;
      readonly files: Map<string, string>;
      /** Whether fsck does not repair it unasked. */
      damaged?: boolean;
      /** Whether it was mounted when its snapshot was taken, so that its journal is to be replayed. */
      dirty?: boolean;
    }
  | { readonly kind: "other"; readonly type: string };

interface Mapping {
  readonly device: MappedDevice;
  readonly image: MemoryImage;
  /** As `blockdev` has set it since it was mapped. */
  readOnly: boolean;
}

const disks = new WeakMap<MemoryImage, Disk>();

/** The content of an image. It is the same for all nodes. */
export const diskOf = (image: MemoryImage): Disk => disks.get(image) ?? { kind: "blank" };
export const setDisk = (image: MemoryImage, disk: Disk): void => void disks.set(image, disk);

/** Options of one mount alone. */
const PER_MOUNT = new Set(["noexec", "nosuid", "nodev", "noatime"]);

const MAJOR = 252;
const FIRST_CLIENT = 9_000;

export class MemoryNode {
  readonly mappings = new Map<string, Mapping>();
  readonly mounts: MountEntry[] = [];
  /** Folders and files by path. */
  readonly tree = new Map<string, { readonly kind: "directory" } | { readonly kind: "file"; text: string }>([
    ["/", { kind: "directory" }],
  ]);
  features: bigint | undefined = 0x1bfn;
  /** Filesystems that answer with EIO, by mount point. */
  readonly broken = new Set<string>();
  /** The filesystems that were made, in order: `<type> <image ID>`. */
  readonly formatted: string[] = [];
  #next = 0;

  constructor(readonly cluster: MemoryCluster) {}

  addDirectory(path: string): void {
    for (let at = path; at !== "/"; at = parentOf(at)) this.tree.set(at, { kind: "directory" });
  }

  /** Everything that outlives a driver, for comparison. */
  dump() {
    return {
      mapped: [...this.mappings.values()]
        .map(({ device, readOnly }) => `${imageSpec(device)}${readOnly ? " ro" : ""}`)
        .toSorted(),
      mounts: this.mounts.map(({ point, fsType, options }) => `${point} ${fsType} ${options.join(",")}`).toSorted(),
      tree: [...this.tree].map(([path, { kind }]) => `${path} ${kind}`).toSorted(),
    };
  }

  /** The files that are visible at a mount point. */
  files(point: string): Map<string, string> {
    const entry = mountsAt(this.mounts, point).at(-1);
    const mapping = entry && [...this.mappings.values()].find(({ device }) => mountsOf([entry], device).length > 0);
    const disk = mapping && diskOf(mapping.image);
    if (disk?.kind !== "filesystem") throw new Error(`no filesystem at ${point}`);
    return disk.files;
  }

  add(image: MemoryImage, request: MapRequest): MappedDevice {
    const id = this.#next++;
    const { mapper, pool, namespace, image: name, readOnly } = request;
    const watcherId = `client.${FIRST_CLIENT + id}`;
    const device: MappedDevice = {
      mapper,
      path: `/dev/rbd${id}`,
      major: MAJOR,
      minor: id * 16,
      pool,
      namespace,
      image: name,
      imageId: image.id,
      snapshot: "",
      fsid: "memory",
      watcherId,
      sizeBytes: image.sizeBytes,
      readOnly,
    };
    if (!readOnly) image.watchers.add(`10.0.0.1:0/1/${watcherId}`);
    this.mappings.set(device.path, { device, image, readOnly });
    return device;
  }

  drop({ device, image }: Mapping): void {
    image.watchers.delete(`10.0.0.1:0/1/${device.watcherId}`);
    this.mappings.delete(device.path);
  }

  mount(entry: Omit<MountEntry, "id" | "parent">): void {
    this.mounts.push({ ...entry, id: 100 + this.mounts.length, parent: 1 });
  }

  current({ device, image, readOnly }: Mapping): MappedDevice {
    return { ...device, sizeBytes: image.sizeBytes, readOnly };
  }
}

const parentOf = (path: string): string => path.slice(0, path.lastIndexOf("/")) || "/";

class Refused {
  constructor(readonly error: HostError) {}
}

const act = <A>(step: () => A): Effect.Effect<A, HostError> =>
  Effect.yieldNow.pipe(
    Effect.andThen(
      Effect.suspend(() => {
        try {
          return Effect.succeed(step());
        } catch (thrown) {
          if (thrown instanceof Refused) return Effect.fail(thrown.error);
          throw thrown;
        }
      }),
    ),
    Effect.tap(() => Effect.yieldNow),
  );

const fail = (op: string, subject: string, reason: string, errno = 0): never => {
  throw new Refused(new HostFailed({ op, subject, errno, reason }));
};
const refuse = (op: string, subject: string, reason: string): never => {
  throw new Refused(new HostRefused({ op, subject, reason }));
};
const inTheWay = (subject: string, reason: string): never => {
  throw new Refused(new PathInTheWay({ op: "path", subject, reason }));
};

/** The calls of one driver on a node. */
export const hostMemoryService = (node: MemoryNode): HostService => {
  const mapping = (op: string, path: string): Mapping => node.mappings.get(path) ?? fail(op, path, "no such device", 2);

  const make = (path: string, kind: "directory" | "file"): boolean => {
    node.addDirectory(parentOf(path));
    const there = node.tree.get(path);
    if (there !== undefined && there.kind !== kind) inTheWay(path, `is a ${there.kind}`);
    if (there === undefined) node.tree.set(path, kind === "file" ? { kind, text: "" } : { kind });
    return there === undefined;
  };

  const probe = (path: string): Content => {
    const disk = diskOf(mapping("probe", path).image);
    if (disk.kind === "blank") return { kind: "blank", zeroed: true };
    return { kind: disk.kind, type: disk.type };
  };

  return {
    mapperFeatures: () => act(() => node.features),
    mappedDevices: act(() => [...node.mappings.values()].map((each) => node.current(each))),

    map: (request) =>
      act(() => {
        const spec = imageSpec(request);
        const user = node.cluster.users.get(request.user);
        if (user?.key !== Redacted.value(request.key)) fail("map", spec, "Permission denied", 13);
        const image = node.cluster.namespace(request.pool, request.namespace)?.images.get(request.image);
        return image === undefined ? fail("map", spec, "No such file", 2) : node.add(image, request);
      }),
    unmap: (device) =>
      act(() => {
        const found = node.mappings.get(device.path);
        if (found === undefined || found.device.watcherId !== device.watcherId) return;
        const holders = mountsOf(node.mounts, device).map(({ point }) => `mount ${point}`);
        if (holders.length > 0) throw new Refused(new DeviceBusy({ op: "unmap", subject: device.path, holders }));
        node.drop(found);
      }),

    probe: (path) => act(() => probe(path)),
    mkfs: ({ device, type }) =>
      act(() => {
        const { image, readOnly } = mapping("mkfs", device);
        const found = probe(device);
        if (found.kind !== "blank") {
          throw new Refused(new UnexpectedContent({ op: "mkfs", subject: device, reason: `it holds ${found.type}` }));
        }
        if (readOnly) fail("mkfs", device, "Read-only", 30);
        node.formatted.push(`${type} ${image.id}`);
        image.hasData = true;
        setDisk(image, { kind: "filesystem", type, sizeBytes: image.sizeBytes, files: new Map() });
      }),
    fsck: ({ device }) =>
      act(() => {
        const disk = diskOf(mapping("fsck", device).image);
        return disk.kind === "filesystem" && disk.damaged === true ? fail("fsck", device, "damaged", 4) : "";
      }),
    growFilesystem: ({ device }, point) =>
      act(() => {
        const { image } = mapping("grow", device);
        const disk = diskOf(image);
        const entry = mountsAt(node.mounts, point).at(-1);
        if (disk.kind !== "filesystem" || entry === undefined) return fail("grow", point, "not mounted");
        if (disk.sizeBytes < image.sizeBytes && isReadOnly(entry)) fail("grow", point, "Read-only file system", 30);
        if (disk.sizeBytes < image.sizeBytes) disk.sizeBytes = image.sizeBytes;
        return disk.sizeBytes;
      }),
    deviceState: (path) =>
      act(() => {
        const found = node.mappings.get(path);
        return found && { sizeBytes: found.image.sizeBytes, readOnly: found.readOnly };
      }),
    setReadOnly: (path, readOnly) =>
      act(() => {
        const found = mapping("blockdev", path);
        if (found.device.readOnly && !readOnly) fail("blockdev", path, "Read-only file system", 30);
        found.readOnly = readOnly;
      }),

    mountTable: act(() => [...node.mounts]),
    resolvePath: (path) => act(() => (node.tree.get(parentOf(path))?.kind === "directory" ? path : undefined)),
    mount: ({ source, target, type, options }) =>
      act(() => {
        const own = [options.includes("ro") ? "ro" : "rw", ...options.filter((option) => PER_MOUNT.has(option))];
        const there = node.tree.get(target);
        if (there === undefined) return fail("mount", target, "mount point does not exist", 2);
        const seen = mountsAt(node.mounts, source).at(-1);
        if (options.includes("bind") && seen !== undefined) {
          // The kernel copies the options of what is bound. It forgets them if the copy gets options of its own.
          const changed = options.some((option) => option === "ro" || PER_MOUNT.has(option));
          return node.mount({ ...seen, point: target, options: changed ? own : seen.options });
        }
        const { device, image, readOnly } = mapping("mount", source);
        if (options.includes("bind")) {
          if (there.kind !== "file") fail("mount", target, "is not a file", 20);
          const root = source.slice("/dev".length);
          const devtmpfs = { major: 0, minor: 6, fsType: "devtmpfs", source: "udev", superOptions: ["rw"] };
          return node.mount({ ...devtmpfs, root, point: target, options: own });
        }
        const disk = diskOf(image);
        if (disk.kind !== "filesystem" || disk.type !== type) return refuse("mount", target, "wrong fs type");
        const skipsJournal = options.includes("noload") || options.includes("norecovery");
        if (disk.dirty === true && readOnly && !skipsJournal) fail("mount", target, "cannot mount read-only", 32);
        if (!readOnly) disk.dirty = false;
        // As mount(8), which mounts read-only what it cannot mount writable.
        const state = readOnly ? ["ro", ...own.slice(1)] : own;
        const { major, minor } = device;
        node.mount({
          major,
          minor,
          root: "/",
          point: target,
          options: state,
          fsType: disk.type,
          source,
          superOptions: state.slice(0, 1),
        });
      }),
    unmount: (point) =>
      act(() => {
        const top = node.mounts.findLastIndex((entry) => entry.point === point);
        if (top >= 0) node.mounts.splice(top, 1);
        node.broken.delete(point);
      }),
    pathKind: (path) => act(() => node.tree.get(path)?.kind ?? "absent"),
    makeDirectory: (path) => act(() => make(path, "directory")),
    makeFile: (path) => act(() => make(path, "file")),
    removePath: (path) =>
      act(() => {
        const there = node.tree.get(path);
        if (there === undefined) return;
        if (mountsAt(node.mounts, path).length > 0) fail("remove", path, "Device or resource busy", 16);
        const holds = [...node.tree.keys()].some((each) => each.startsWith(`${path}/`));
        if (holds || (there.kind === "file" && there.text !== "")) inTheWay(path, "is not empty");
        node.tree.delete(path);
      }),
    usage: (point) =>
      act(() => {
        if (node.broken.has(point)) fail("statfs", point, "Input/output error", 5);
        node.files(point);
        const entry = mountsAt(node.mounts, point).at(-1);
        const found = [...node.mappings.values()].find(({ device }) => device.minor === entry?.minor);
        const totalBytes = found?.image.sizeBytes ?? 0n;
        return { totalBytes, usedBytes: 0n, availableBytes: totalBytes, totalInodes: 1_000n, freeInodes: 990n };
      }),

    readText: (path) =>
      act(() => {
        const there = node.tree.get(path);
        if (there?.kind === "directory") fail("read", path, "it is not a regular file");
        return there?.kind === "file" ? there.text : undefined;
      }),
    writeText: (path, text) =>
      act(() => {
        if (!node.tree.has(parentOf(path))) fail("write", path, "no such folder", 2);
        node.tree.set(path, { kind: "file", text });
      }),
    removeText: (path) => act(() => void node.tree.delete(path)),
  };
};
