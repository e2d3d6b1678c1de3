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
  HostUnexplained,
  type HostError,
  MapRefused,
  PathInTheWay,
  UnexpectedContent,
} from "../../lib/host/errors.ts";
import {
  type Content,
  type CryptFolder,
  type CryptFolderKey,
  type CryptHeader,
  ENCRYPTED_FOLDER,
  type FilesystemLack,
  type HostService,
  type IoLimits,
  LEAST_RESIZED_BTRFS,
  type MapRequest,
  type Trouble,
} from "../../lib/host/host.ts";
import { type CryptDevice, imageSpec, type MappedCluster, type MappedDevice } from "../../lib/host/mapped-device.ts";
import { type BlockDevice, isReadOnly, type MountEntry, mountsAt, mountsOf } from "../../lib/host/mountinfo.ts";

const NO_TROUBLE: Trouble = { blocklisted: false, imageGone: false, ioErrors: 0, filesystemErrors: 0 };

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
      /** Whether its mkfs was cut off, as xfs says of itself. */
      unfinished?: true;
      /** Whether it has the feature by which files are encrypted. */
      encryptsFiles?: boolean;
      /** Its encrypted folder. */
      folder?: Folder;
      /** Whether there are wrapped keys of a folder that was not made. */
      halfMade?: boolean;
    }
  | { readonly kind: "other"; readonly type: string }
  | {
      readonly kind: "luks";
      /** Of its key slot 0; `undefined`: it has none, because its format was killed. */
      key: string | undefined;
      /** Of its other key slots. */
      more?: Map<number, string>;
      /** What is seen through the layer. */
      inside: Disk;
      /** Whether each sector has a tag, so that all of the layer was written once. */
      integrity?: true;
    };

/** The folder whose files are encrypted, with what its key is wrapped with. */
export interface Folder extends Pick<CryptFolderKey, "source"> {
  readonly key: string;
  readonly files: Map<string, string>;
}

interface Mapping {
  readonly device: MappedDevice;
  readonly image: MemoryImage;
  /** As `blockdev` has set it since it was mapped. */
  readOnly: boolean;
  /** Of rbd-nbd: its process has died. */
  dead?: boolean;
  /** The size that the kernel knows, where it does not follow the image's. */
  knownBytes?: bigint;
}

/** A LUKS layer that is open over a mapping. `key`: of its header, which is not on the device. */
interface Layer {
  readonly key?: string;
  readonly crypt: CryptDevice;
  readonly below: Mapping;
  readOnly: boolean;
  sizeBytes: bigint;
}

/** A block device, be it mapped or a layer. */
interface Block {
  readonly device: BlockDevice;
  readonly image: MemoryImage;
  readonly readOnly: boolean;
  readonly sizeBytes: bigint;
  /** Where its bytes begin in the image. */
  readonly offset: bigint;
  readonly integrity: boolean;
  disk: Disk;
  setReadOnly: (readOnly: boolean) => void;
}

/** What a LUKS header takes of an image. */
export const HEADER_BYTES = 16n << 20n;
/** What the tags of a layer with integrity take of it: as good as any number. */
export const TAG_BYTES = 64n << 20n;
/** What one call writes or reads of a layer. */
const PART_BYTES = 512n << 20n;

type ToAdd = Omit<MapRequest, "monitors" | "user" | "key" | "options" | "netNamespace">;

const disks = new WeakMap<MemoryImage, Disk>();

/** The content of an image. It is the same for all nodes. */
export const diskOf = (image: MemoryImage): Disk => disks.get(image) ?? { kind: "blank" };
export const setDisk = (image: MemoryImage, disk: Disk): void => void disks.set(image, disk);

/** Options of one mount alone. */
const PER_MOUNT = new Set(["noexec", "nosuid", "nodev", "noatime"]);

const MAJOR = 252;
const DM_MAJOR = 253;
const NBD_MAJOR = 43;
const FIRST_CLIENT = 9_000;
/** As Ceph sees this node's clients. */
const ADDRESS = "10.0.0.1";

export type Luks = Extract<Disk, { kind: "luks" }>;

/** The keys of a header by the number of their slot. */
export const slotsOf = ({ key, more = new Map() }: Luks): ReadonlyMap<number, string> =>
  new Map([...(key === undefined ? [] : [[0, key] as const]), ...more]);

const opens = (disk: Luks, key: Redacted.Redacted): boolean =>
  [...slotsOf(disk).values()].includes(Redacted.value(key));

/** Puts a key into a slot of a header, or empties it. */
export const setSlot = (disk: Luks, slot: number, key: string | undefined): void => {
  if (slot === 0) disk.key = key;
  else if (key === undefined) disk.more?.delete(slot);
  else (disk.more ??= new Map()).set(slot, key);
};

export class MemoryNode {
  readonly mappings = new Map<string, Mapping>();
  /** Open LUKS layers by name. */
  readonly layers = new Map<string, Layer>();
  readonly mounts: MountEntry[] = [];
  /** Folders and files by path. */
  readonly tree = new Map<string, { readonly kind: "directory" } | { readonly kind: "file"; text: string }>([
    ["/", { kind: "directory" }],
  ]);
  features: bigint | undefined = 0x1bfn;
  /** Filesystems that answer with EIO, by mount point. */
  readonly broken = new Set<string>();
  /** What the kernel says of the clusters of its devices. */
  clusters: readonly MappedCluster[] = [];
  /** What the kernel has noticed about devices, by path. */
  readonly troubles = new Map<string, Partial<Trouble>>();
  /** Whether krbd cannot map images for a reason that shows in the map alone, as a key of a newer type. */
  krbdUnfit = false;
  /** Whether rbd-nbd, which never says the ID of its client, is a client that Ceph sees under this address. */
  nbdAddress = ADDRESS;
  /** Whether a device of rbd-nbd keeps its size when its image grows, as with Ceph 16. */
  nbdKeepsSize = false;
  /** The logs of rbd-nbd processes, by path; a compressed one has another name. */
  readonly logs = new Set<string>();
  /** The filesystems that were made, in order: `<type> <image ID>`. */
  readonly formatted: string[] = [];
  /** The layers with integrity that were prepared to be wiped, in order: the image's ID. */
  readonly wipesBegun: string[] = [];
  /** Those that were wiped to their end. */
  readonly wiped: string[] = [];
  /** The IDs of images that hold something where the key slots of a header go, and nothing before that. */
  readonly noisySlots = new Set<string>();
  /** The IDs of images with a layer of which a sector has no tag. */
  readonly untagged = new Set<string>();
  /** Whether the write of a header is cut off: it has no key slot then. */
  killsSeal = false;
  /** The control groups of pods by UID: what each may do with a device, by its number. */
  readonly podGroups = new Map<string, Map<string, IoLimits>>();
  /** Why it limits no I/O, as a machine without control groups of version 2. */
  limitsNoIo: string | undefined;
  /** What it lacks for filesystems, by their types. */
  readonly lacks = new Map<string, FilesystemLack>();
  /** What was trimmed, in order. */
  readonly trims: { readonly point: string; readonly offset: bigint; readonly end: bigint }[] = [];
  /** Whether a mkfs is killed halfway: it has written, and blkid finds nothing. */
  killsMkfs = false;
  /** The IDs of images on which a mkfs was killed. */
  readonly cutOff = new Set<string>();
  /** The IDs of images whose encrypted folder is unlocked, until their filesystem is unmounted. */
  readonly unlocked = new Set<string>();
  /** The encrypted folders that were made, in order: the image's ID. */
  readonly foldersMade: string[] = [];
  /** The LUKS headers that were made, in order: the image's ID. */
  readonly encrypted: string[] = [];
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
      layers: [...this.layers.values()]
        .map(({ crypt, below }) => `${crypt.name} over ${imageSpec(below.device)}`)
        .toSorted(),
      mounts: this.mounts.map(({ point, fsType, options }) => `${point} ${fsType} ${options.join(",")}`).toSorted(),
      tree: [...this.tree].map(([path, { kind }]) => `${path} ${kind}`).toSorted(),
    };
  }

  /** The files that are visible at a mount point. */
  files(point: string): Map<string, string> {
    const entry = mountsAt(this.mounts, point).at(-1);
    const block = this.blockOf(entry);
    if (block?.disk.kind !== "filesystem") throw new Error(`no filesystem at ${point}`);
    if (entry?.root !== `/${ENCRYPTED_FOLDER}`) return block.disk.files;
    if (!this.unlocked.has(block.image.id)) throw new Error(`the files at ${point} are locked`);
    return block.disk.folder?.files ?? new Map();
  }

  /** Every block device of the node. */
  blocks(): readonly Block[] {
    return [...[...this.mappings.values()].map(blockOfMapping), ...[...this.layers.values()].map(blockOfLayer)];
  }

  /** The block device that a mount is of. */
  blockOf(entry: MountEntry | undefined): Block | undefined {
    return entry && this.blocks().find(({ device }) => mountsOf([entry], device).length > 0);
  }

  openLayer(name: string, below: Mapping, readOnly: boolean, key?: string): CryptDevice {
    const id = this.#next++;
    const disk = diskOf(below.image);
    const integrity = key !== undefined || (disk.kind === "luks" && disk.integrity === true);
    const sizeBytes = below.image.sizeBytes - HEADER_BYTES - (integrity ? TAG_BYTES : 0n);
    const node = { path: `/dev/mapper/${name}`, kernelPath: `/dev/dm-${id}`, major: DM_MAJOR, minor: id };
    const crypt = { name, ...node, sizeBytes, readOnly, ...(integrity && { integrity }) };
    this.layers.set(name, { crypt, below, readOnly, sizeBytes, ...(key !== undefined && { key }) });
    return crypt;
  }

  add(image: MemoryImage, request: ToAdd): MappedDevice {
    const id = this.#next++;
    const { mapper, pool, namespace, image: name, readOnly, cookie, logFile } = request;
    const isNbd = mapper === "rbd-nbd";
    const clientId = `client.${FIRST_CLIENT + id}`;
    const device: MappedDevice = {
      mapper,
      path: isNbd ? `/dev/nbd${id}` : `/dev/rbd${id}`,
      major: isNbd ? NBD_MAJOR : MAJOR,
      minor: id * 16,
      pool,
      namespace,
      image: name,
      imageId: isNbd ? "" : image.id,
      snapshot: "",
      fsid: isNbd ? "" : "memory",
      watcherId: isNbd ? "" : clientId,
      addresses: isNbd ? ["127.0.0.1", ADDRESS] : [],
      cookie: isNbd ? cookie : "",
      served: true,
      sizeBytes: image.sizeBytes,
      readOnly,
    };
    if (isNbd) this.logs.add(logFile);
    if (isNbd || !readOnly) image.watchers.add(this.watch(device));
    this.mappings.set(device.path, { device, image, readOnly });
    return device;
  }

  /** The watch that the device's client has on its image. */
  watch({ path, watcherId }: MappedDevice): string {
    const id = watcherId === "" ? `client.${FIRST_CLIENT + Number(/\d+$/.exec(path)?.[0])}` : watcherId;
    return `${watcherId === "" ? this.nbdAddress : ADDRESS}:0/1/${id}`;
  }

  /** The rbd-nbd process of a device dies. Ceph forgets its watch after a while, or, with `forgotten`, at once. */
  killProcess(path: string, forgotten = true): void {
    const mapping = this.mappings.get(path);
    if (mapping?.device.mapper !== "rbd-nbd") throw new Error(`${path} is not a device of rbd-nbd`);
    mapping.dead = true;
    if (forgotten) mapping.image.watchers.delete(this.watch(mapping.device));
  }

  drop({ device, image }: Mapping): void {
    image.watchers.delete(this.watch(device));
    this.mappings.delete(device.path);
  }

  mount(entry: Omit<MountEntry, "id" | "parent">): void {
    this.mounts.push({ ...entry, id: 100 + this.mounts.length, parent: 1 });
  }

  sizeOf({ device, image, knownBytes }: Mapping): bigint {
    return this.nbdKeepsSize && device.mapper === "rbd-nbd" ? (knownBytes ?? device.sizeBytes) : image.sizeBytes;
  }

  current(mapping: Mapping): MappedDevice {
    const { device, readOnly, dead } = mapping;
    const layer = [...this.layers.values()].find(({ below }) => below.device === device);
    const crypt = layer && { ...layer.crypt, sizeBytes: layer.sizeBytes, readOnly: layer.readOnly };
    const now = { ...device, sizeBytes: this.sizeOf(mapping), readOnly, ...(crypt && { crypt }) };
    return dead === true ? { ...now, pool: "", namespace: "", image: "", addresses: [], served: false } : now;
  }
}

/** What the first write behind the header does to an image, whatever it holds. */
const destroy = (image: MemoryImage): void => {
  const disk = diskOf(image);
  const noise: Disk = { kind: "other", type: "noise" };
  if (disk.kind === "luks") setDisk(image, { ...disk, inside: noise });
  else if (disk.kind !== "blank") setDisk(image, noise);
};

const blockOfMapping = (mapping: Mapping): Block => ({
  device: mapping.device,
  image: mapping.image,
  readOnly: mapping.readOnly,
  sizeBytes: mapping.image.sizeBytes,
  offset: 0n,
  integrity: false,
  get disk() {
    return diskOf(mapping.image);
  },
  set disk(disk) {
    setDisk(mapping.image, disk);
  },
  setReadOnly: (readOnly) => void (mapping.readOnly = readOnly),
});

const blockOfLayer = (layer: Layer): Block => {
  const around = () => {
    const disk = diskOf(layer.below.image);
    if (disk.kind !== "luks") throw new Error(`the LUKS header under ${layer.crypt.name} is gone`);
    return disk;
  };
  return {
    device: layer.crypt,
    image: layer.below.image,
    readOnly: layer.readOnly,
    sizeBytes: layer.sizeBytes,
    offset: HEADER_BYTES,
    integrity: layer.crypt.integrity === true,
    get disk() {
      return around().inside;
    },
    set disk(disk) {
      around().inside = disk;
    },
    setReadOnly: (readOnly) => void (layer.readOnly = readOnly),
  };
};

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

  const block = (op: string, path: string): Block =>
    node.blocks().find(({ device }) => device.path === path) ?? fail(op, path, "no such device", 2);

  const probe = (path: string): Content => {
    const { disk, image, offset, integrity } = block("probe", path);
    if (integrity && node.untagged.has(image.id)) fail("probe", path, "Input/output error", 5);
    // What nobody has written through a layer is not zeros: it is what the cipher makes of zeros.
    if (disk.kind === "blank") return { kind: "blank", zeroed: offset === 0n || integrity };
    if (disk.kind === "filesystem" && disk.unfinished) return { kind: "filesystem", type: disk.type, unfinished: true };
    return disk.kind === "luks" ? { kind: "other", type: "crypto_LUKS" } : { kind: disk.kind, type: disk.type };
  };

  const cryptHeader = (path: string): CryptHeader => {
    const { disk, image } = block("luksDump", path);
    const zeroed = disk.kind === "blank";
    const allZeroed = zeroed && !node.noisySlots.has(image.id);
    if (disk.kind !== "luks") return { kind: "none", content: probe(path), zeroed, allZeroed };
    if (slotsOf(disk).size === 0) return { kind: "half-made" };
    return { kind: "whole", ...(disk.integrity === true && { integrity: true as const }) };
  };

  /** Fails on a device on which a header would go over anything. */
  const proveFree = (path: string, over: "blank" | "half-made", all = false): void => {
    const found = cryptHeader(path);
    const isFree = found.kind === "none" && found.zeroed && (found.allZeroed || !all);
    if (isFree || found.kind === over) return;
    throw new Refused(new UnexpectedContent({ op: "luksFormat", subject: path, reason: `it is ${found.kind}` }));
  };

  const luksOf = (op: string, path: string): Luks => {
    const { disk } = block(op, path);
    if (disk.kind !== "luks") return fail(op, path, "is not a LUKS device", 22);
    return disk;
  };

  /** The filesystem that is mounted there, and its image. */
  const mountedAt = (op: string, point: string) => {
    const entry = mountsAt(node.mounts, point).at(-1);
    const found = node.blockOf(entry);
    if (entry === undefined || found?.disk.kind !== "filesystem") return fail(op, point, "not mounted");
    return { disk: found.disk, image: found.image, readOnly: isReadOnly(entry) };
  };

  const folderAt = (point: string): CryptFolder => {
    const { disk, image } = mountedAt("fscrypt status", point);
    if (disk.folder !== undefined) return { kind: node.unlocked.has(image.id) ? "unlocked" : "locked" };
    if (disk.files.size > 0) return { kind: "other", reason: "it holds files that are not encrypted" };
    return { kind: disk.halfMade === true ? "half-made" : "none" };
  };

  const holdersOf = (device: BlockDevice): string[] => [
    ...[...node.layers.values()].filter(({ below }) => below.device === device).map(({ crypt }) => crypt.path),
    ...mountsOf(node.mounts, device).map(({ point }) => `mount ${point}`),
  ];

  /** The image of a request by a user whose key is right. */
  const imageOf = (op: string, request: MapRequest): MemoryImage => {
    const spec = imageSpec(request);
    const user = node.cluster.users.get(request.user);
    if (user?.key !== Redacted.value(request.key)) fail(op, spec, "Permission denied", 13);
    const image = node.cluster.namespace(request.pool, request.namespace)?.images.get(request.image);
    return image ?? fail(op, spec, "No such file", 2);
  };

  return {
    mapperFeatures: (mapper) => act(() => (mapper === "rbd-nbd" ? undefined : node.features)),
    mappedClusters: act(() => node.clusters),
    mappedDevices: act(() => [...node.mappings.values()].map((each) => node.current(each))),

    map: (request) =>
      act(() => {
        const image = imageOf("map", request);
        if (request.mapper === "krbd" && node.krbdUnfit) {
          const about = { op: "map", subject: imageSpec(request), errno: 22, unfit: true };
          throw new Refused(new MapRefused({ ...about, reason: "the kernel is too old for the key" }));
        }
        return node.add(image, request);
      }),
    attach: (device, request) =>
      act(() => {
        const image = imageOf("attach", request);
        const found = node.mappings.get(device.path);
        // A kernel that keeps no cookie takes any process.
        if (found === undefined || !["", request.cookie].includes(found.device.cookie))
          return fail("attach", device.path, "is gone");
        if (found.image !== image) fail("attach", device.path, "is of another image");
        found.dead = false;
        found.knownBytes = image.sizeBytes;
        image.watchers.add(node.watch(found.device));
        return node.current(found);
      }),
    detach: (device) => act(() => node.killProcess(device.path)),
    unmap: (device) =>
      act(() => {
        const found = node.mappings.get(device.path);
        if (found === undefined || found.device.watcherId !== device.watcherId) return;
        if (found.device.cookie !== device.cookie) return;
        const holders = holdersOf(found.device);
        if (holders.length > 0) throw new Refused(new DeviceBusy({ op: "unmap", subject: device.path, holders }));
        node.drop(found);
      }),

    cryptHeader: (path) => act(() => cryptHeader(path)),
    formatCrypt: ({ device: path, key, over }) =>
      act(() => {
        const { image, readOnly } = mapping("luksFormat", path);
        proveFree(path, over);
        if (readOnly) fail("luksFormat", path, "Read-only", 30);
        node.encrypted.push(image.id);
        image.write(0n, HEADER_BYTES);
        setDisk(image, { kind: "luks", key: Redacted.value(key), inside: { kind: "blank" } });
        return HEADER_BYTES;
      }),
    prepareCrypt: ({ device: path, key, name, over }) =>
      act(() => {
        const below = mapping("luksFormat", path);
        proveFree(path, over, true);
        if (below.readOnly) fail("luksFormat", path, "Read-only", 30);
        if (node.layers.has(name)) return refuse("luksOpen", path, `the name ${name} is taken`);
        node.wipesBegun.push(below.image.id);
        destroy(below.image);
        below.image.write(HEADER_BYTES, 4096n);
        const crypt = node.openLayer(name, below, false, Redacted.value(key));
        return { crypt, header: [{ at: 0, bytes: new TextEncoder().encode(Redacted.value(key)) }] };
      }),
    wipeCrypt: (crypt, from) =>
      act(() => {
        const { below, sizeBytes } = node.layers.get(crypt.name) ?? fail("wipe", crypt.path, "is not active", 4);
        const next = sizeBytes - from < PART_BYTES ? sizeBytes : from + PART_BYTES;
        destroy(below.image);
        below.image.write(HEADER_BYTES + from, next - from);
        if (next === sizeBytes) node.wiped.push(below.image.id);
        return next;
      }),
    sealCrypt: ({ device: path, header, over }) =>
      act(() => {
        const { image, readOnly } = mapping("luksFormat", path);
        proveFree(path, over, true);
        if (readOnly) fail("luksFormat", path, "Read-only", 30);
        image.write(0n, HEADER_BYTES);
        const half = { kind: "luks", key: undefined, inside: { kind: "blank" }, integrity: true } as const;
        setDisk(image, half);
        if (node.killsSeal) {
          throw new Refused(new HostUnexplained({ op: "luksFormat", subject: path, reason: "Input/output error" }));
        }
        node.encrypted.push(image.id);
        setDisk(image, { ...half, key: new TextDecoder().decode(header[0]?.bytes) });
        return HEADER_BYTES;
      }),
    lookForData: (path, from) =>
      act(() => {
        const { disk, image, sizeBytes } = block("read", path);
        if (disk.kind !== "blank" || node.cutOff.has(image.id)) return { kind: "data" };
        return { kind: "zeros", next: sizeBytes - from < PART_BYTES ? sizeBytes : from + PART_BYTES };
      }),
    openCrypt: ({ device: path, name, key, readOnly }) =>
      act(() => {
        const below = mapping("luksOpen", path);
        const disk = diskOf(below.image);
        if (disk.kind !== "luks" || !opens(disk, key)) return refuse("luksOpen", path, "wrong key");
        if (node.layers.has(name)) return refuse("luksOpen", path, `the name ${name} is taken`);
        return { crypt: node.openLayer(name, below, readOnly), headerBytes: HEADER_BYTES };
      }),
    closeCrypt: (crypt) =>
      act(() => {
        const found = node.layers.get(crypt.name);
        if (found === undefined || found.crypt.minor !== crypt.minor) return;
        const holders = holdersOf(found.crypt);
        if (holders.length > 0) throw new Refused(new DeviceBusy({ op: "luksClose", subject: crypt.path, holders }));
        node.layers.delete(crypt.name);
      }),
    resizeCrypt: (crypt) =>
      act(() => {
        const found = node.layers.get(crypt.name) ?? fail("cryptsetup resize", crypt.path, "is not active", 4);
        if (crypt.integrity === true) return refuse("cryptsetup resize", crypt.path, "it has integrity");
        found.sizeBytes = found.below.image.sizeBytes - HEADER_BYTES;
        return found.sizeBytes;
      }),

    cryptKeySlot: ({ device, key, slot }) =>
      act(() => {
        const found = [...slotsOf(luksOf("cryptsetup open", device))].filter(
          ([, text]) => text === Redacted.value(key),
        );
        return found.find(([each]) => slot === undefined || each === slot)?.[0];
      }),
    addCryptKey: ({ device, key, slot, next }) =>
      act(() => {
        const disk = luksOf("luksAddKey", device);
        if (!opens(disk, key)) refuse("luksAddKey", device, "No key available with this passphrase");
        if (slotsOf(disk).has(slot)) refuse("luksAddKey", device, `Key slot ${slot} is full`);
        setSlot(disk, slot, Redacted.value(next));
      }),
    killCryptSlot: ({ device, key, slot, by }) =>
      act(() => {
        const disk = luksOf("luksKillSlot", device);
        const isProven = by !== slot && slotsOf(disk).get(by) === Redacted.value(key);
        if (!isProven) refuse("luksKillSlot", device, `the key does not open key slot ${by}`);
        setSlot(disk, slot, undefined);
      }),

    cryptFolder: (point) => act(() => folderAt(point)),
    setUpCryptFolder: ({ point, source, key }) =>
      act(() => {
        const { disk, image, readOnly } = mountedAt("fscrypt encrypt", point);
        const { kind } = folderAt(point);
        if (kind !== "none" && kind !== "half-made") refuse("fscrypt encrypt", point, `it is ${kind}`);
        if (readOnly) fail("fscrypt encrypt", point, "Read-only file system", 30);
        if (disk.encryptsFiles !== true) refuse("fscrypt encrypt", point, "encryption not enabled");
        node.foldersMade.push(image.id);
        disk.folder = { source, key: Redacted.value(key), files: new Map() };
        disk.halfMade = false;
        node.unlocked.add(image.id);
      }),
    unlockCryptFolder: ({ point, source, key }) =>
      act(() => {
        const { disk, image } = mountedAt("fscrypt unlock", point);
        const { folder } = disk;
        if (folder === undefined) return refuse("fscrypt unlock", point, "it is not encrypted");
        if (folder.source !== source || folder.key !== Redacted.value(key)) {
          refuse("fscrypt unlock", point, "incorrect key provided");
        }
        node.unlocked.add(image.id);
      }),

    filesystemLack: (type) => act(() => node.lacks.get(type)),
    probe: (path) => act(() => probe(path)),
    mkfs: ({ device, type, encryptsFiles = false }) =>
      act(() => {
        const made = block("mkfs", device);
        const { image, readOnly, offset, sizeBytes } = made;
        const found = probe(device);
        if (found.kind !== "blank") {
          throw new Refused(new UnexpectedContent({ op: "mkfs", subject: device, reason: `it holds ${found.type}` }));
        }
        if (readOnly) fail("mkfs", device, "Read-only", 30);
        if (node.killsMkfs) {
          image.write(offset + (1n << 20n), 4096n);
          node.cutOff.add(image.id);
          fail(`mkfs.${type}`, device, "killed by SIGKILL");
        }
        node.formatted.push(`${type} ${image.id}`);
        image.write(offset, 4096n);
        made.disk = { kind: "filesystem", type, sizeBytes, files: new Map(), encryptsFiles };
      }),
    fsck: ({ device }) =>
      act(() => {
        const { disk } = block("fsck", device);
        return disk.kind === "filesystem" && disk.damaged === true ? fail("fsck", device, "damaged", 4) : "";
      }),
    growFilesystem: ({ device }, point) =>
      act(() => {
        const { disk, sizeBytes } = block("grow", device);
        const entry = mountsAt(node.mounts, point).at(-1);
        if (disk.kind !== "filesystem" || entry === undefined) return fail("grow", point, "not mounted");
        if (disk.type === "btrfs" && sizeBytes < LEAST_RESIZED_BTRFS) return disk.sizeBytes;
        if (disk.sizeBytes < sizeBytes && isReadOnly(entry)) fail("grow", point, "Read-only file system", 30);
        if (disk.sizeBytes < sizeBytes) disk.sizeBytes = sizeBytes;
        return disk.sizeBytes;
      }),
    deviceState: (path) =>
      act(() => {
        const found = node.blocks().find(({ device }) => device.path === path);
        const mapped = node.mappings.get(path);
        return found && { sizeBytes: mapped ? node.sizeOf(mapped) : found.sizeBytes, readOnly: found.readOnly };
      }),
    setReadOnly: (path, readOnly) =>
      act(() => {
        const found = block("blockdev", path);
        const wasReadOnly =
          node.mappings.get(path)?.device.readOnly ??
          node.layers.get(path.slice("/dev/mapper/".length))?.crypt.readOnly;
        if (wasReadOnly === true && !readOnly) fail("blockdev", path, "Read-only file system", 30);
        found.setReadOnly(readOnly);
      }),

    mountTable: act(() => [...node.mounts]),
    resolvePath: (path) => act(() => (node.tree.get(parentOf(path))?.kind === "directory" ? path : undefined)),
    mount: ({ source, target, type, options }) =>
      act(() => {
        const own = [options.includes("ro") ? "ro" : "rw", ...options.filter((option) => PER_MOUNT.has(option))];
        const there = node.tree.get(target);
        if (there === undefined) return fail("mount", target, "mount point does not exist", 2);
        if (options.includes("remount")) {
          const at = node.mounts.findLastIndex(({ point }) => point === target);
          const old = node.mounts[at] ?? fail("mount", target, "mount point not mounted", 32);
          node.mounts[at] = { ...old, options: own };
          return;
        }
        const folder = source.endsWith(`/${ENCRYPTED_FOLDER}`) ? `/${ENCRYPTED_FOLDER}` : undefined;
        const around = mountsAt(node.mounts, folder === undefined ? source : source.slice(0, -folder.length)).at(-1);
        const seen = around && { ...around, root: folder ?? around.root };
        if (options.includes("bind") && seen !== undefined) {
          // The kernel copies the options of what is bound. It forgets them if the copy gets options of its own.
          const changed = options.some((option) => option === "ro" || PER_MOUNT.has(option));
          return node.mount({ ...seen, point: target, options: changed ? own : seen.options });
        }
        const { device, disk, readOnly } = block("mount", source);
        if (options.includes("bind")) {
          if (there.kind !== "file") fail("mount", target, "is not a file", 20);
          const root = source.slice("/dev".length);
          const devtmpfs = { major: 0, minor: 6, fsType: "devtmpfs", source: "udev", superOptions: ["rw"] };
          return node.mount({ ...devtmpfs, root, point: target, options: own });
        }
        // The kernel's ext4 mounts what was made by its forerunners.
        const mounts = type === "ext4" ? ["ext2", "ext3", "ext4"] : [type];
        if (type === undefined || disk.kind !== "filesystem" || !mounts.includes(disk.type)) {
          return refuse("mount", target, "wrong fs type");
        }
        const skipsJournal = ["noload", "norecovery", "rescue=nologreplay"].some((option) => options.includes(option));
        if (disk.dirty === true && readOnly && !skipsJournal) fail("mount", target, "cannot mount read-only", 32);
        if (!readOnly) disk.dirty = false;
        // As mount(8), which mounts read-only what it cannot mount writable.
        const state = readOnly ? ["ro", ...own.slice(1)] : own;
        // btrfs has numbers of its own.
        const { major, minor } = disk.type === "btrfs" ? { major: 0, minor: 40 + device.minor } : device;
        node.mount({
          major,
          minor,
          root: "/",
          point: target,
          options: state,
          fsType: type,
          source,
          superOptions: state.slice(0, 1),
        });
      }),
    unmount: (point) =>
      act(() => {
        const top = node.mounts.findLastIndex((entry) => entry.point === point);
        const image = node.blockOf(node.mounts[top])?.image;
        if (top >= 0) node.mounts.splice(top, 1);
        const isMounted = node.mounts.some((entry) => node.blockOf(entry)?.image === image);
        if (image !== undefined && !isMounted) node.unlocked.delete(image.id);
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
    trim: (point, { offset, length = 1n << 62n }) =>
      act(() => {
        const entry = mountsAt(node.mounts, point).at(-1);
        const found = node.blockOf(entry) ?? fail("fstrim", point, "not mounted", 22);
        if (found.offset > 0n) refuse("fstrim", point, "the discard operation is not supported");
        if (entry !== undefined && isReadOnly(entry)) fail("fstrim", point, "Read-only file system", 30);
        if (offset >= found.sizeBytes) fail("fstrim", point, "Invalid argument", 22);
        const end = offset + length < found.sizeBytes ? offset + length : found.sizeBytes;
        node.trims.push({ point, offset, end });
        return 0n;
      }),
    usage: (point) =>
      act(() => {
        if (node.broken.has(point)) fail("statfs", point, "Input/output error", 5);
        node.files(point);
        const entry = mountsAt(node.mounts, point).at(-1);
        const totalBytes = node.blockOf(entry)?.sizeBytes ?? 0n;
        const [totalInodes, freeInodes] = entry?.fsType === "btrfs" ? [0n, 0n] : [1_000n, 990n];
        return { totalBytes, usedBytes: 0n, availableBytes: totalBytes, totalInodes, freeInodes };
      }),

    trouble: ({ path }) => act(() => ({ ...NO_TROUBLE, ...node.troubles.get(path) })),
    limitIo: ({ podUid, major, minor, limits }) =>
      act(() => {
        if (node.limitsNoIo !== undefined) return { kind: "unsupported", reason: node.limitsNoIo };
        const group = node.podGroups.get(podUid);
        if (group === undefined) return { kind: "no-group" };
        const number = `${major}:${minor}`;
        const isThere = node.blocks().some(({ device }) => device.major === major && device.minor === minor);
        if (!isThere) return { kind: "gone" };
        if (Object.keys(limits).length === 0) group.delete(number);
        else group.set(number, limits);
        return { kind: "set" };
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
    removeText: (path) => act(() => [path, `${path}.new`].forEach((each) => node.tree.delete(each))),
    endLog: ({ path, strategy }) =>
      act(() => {
        if (strategy === "preserve" || !node.logs.delete(path)) return;
        if (strategy === "compress") node.logs.add(path.replace(/log$/, "gz"));
      }),
  };
};
