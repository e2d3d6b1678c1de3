/**
 * One image of the cluster in memory with its snapshots: its state, its ties to parents and clones, and which layouts
 * and features Ceph takes.
 *
 * Not here: where images are and what is done with them (./cluster.ts, ./memory.ts).
 *
 * 1. A snapshot knows each image whose head, or a snapshot of whose head, it is the parent of: those are its children.
 * 2. A snapshot in the trash of snapshots is removed with its last child.
 * 3. A clone whose parent does not know it, because its client crashed on the way, loses its parent with the snapshot and
 *    cannot be opened from then on.
 */
import { FEATURE_BITS } from "../../../lib/ceph/feature-bits.ts";
import type { AdvisoryLock, CloneSpec, ImageSpec, ImageStatus, Snapshot } from "../../../lib/ceph/rbd.ts";
import { type Content, overlay, put, sparsified, ZEROS } from "./content.ts";
import type { MemoryGroup } from "./group.ts";

/** What Ceph's own default of `rbd_default_features` comes to: layering to deep-flatten. */
export const DEFAULT_FEATURES = 61n;

/** Those that Ceph sets by itself; a clone does not inherit them. */
const IMPLICIT =
  FEATURE_BITS.striping | FEATURE_BITS["data-pool"] | FEATURE_BITS["fast-diff"] | FEATURE_BITS.operations;

/** Prefix of image metadata that a clone does not get from its parent. */
const UNINHERITED = ".rbd";

/** Where an image is, or was when it went to the trash. */
export interface Place {
  readonly pool: string;
  readonly namespace: string;
  readonly name: string;
}

/** The place, id and time of a new image. */
export interface Birth extends Place {
  readonly id: string;
  readonly createdAt: number;
}

interface Layout {
  readonly features: bigint;
  readonly objectSize: bigint;
  readonly stripeUnit: bigint;
  readonly stripeCount: bigint;
  readonly dataPool: string | undefined;
}

export class MemorySnapshot {
  name: string;
  kind: Snapshot["kind"];
  originalName: string | undefined;
  readonly children = new Set<MemoryImage>();
  readonly sizeBytes: bigint;
  /** What the image itself had, and where the rest came from. */
  content: Content;
  parent: MemorySnapshot | undefined;
  gone = false;

  constructor(
    readonly image: MemoryImage,
    readonly id: bigint,
    name: string,
    kind: Snapshot["kind"],
    readonly createdAt: number,
  ) {
    this.name = name;
    this.kind = kind;
    this.sizeBytes = image.sizeBytes;
    this.content = image.content;
    this.parent = image.parent;
  }

  /** What one reads from it. */
  holds(): Content {
    return overlay(this.content, this.parent?.holds() ?? []);
  }
}

export class MemoryImage {
  readonly id: string;
  readonly createdAt: number;
  readonly meta = new Map<string, string>();
  readonly watchers = new Set<string>();
  locks: readonly AdvisoryLock[] = [];
  /** As `ImageStatus` has it. */
  writer: string | undefined;
  /** How often the watchers were told of settings of the client. */
  notices = 0;
  /** In the order of their making. */
  readonly snapshots: MemorySnapshot[] = [];
  sizeBytes: bigint;
  /** What it has itself. */
  content: Content = [];
  parent: MemorySnapshot | undefined;
  group: MemoryGroup | undefined;
  /** Lost: what a crash in the middle of a creation leaves. */
  objectMap: "whole" | "lost" | "none";
  mirror: ImageStatus["mirror"] = "disabled";
  /** What counts only for a non-primary image. */
  mirrorReplays = false;
  readonly objectSize: bigint;
  readonly stripeUnit: bigint;
  readonly stripeCount: bigint;
  readonly dataPool: string | undefined;
  /** Those that it was made with; `features` has what came since. */
  readonly bornFeatures: bigint;
  readonly #born: Birth;
  #writes = 0;

  constructor(born: Birth, sizeBytes: bigint, layout: Layout) {
    this.id = born.id;
    this.createdAt = born.createdAt;
    this.#born = born;
    this.sizeBytes = sizeBytes;
    this.bornFeatures = layout.features;
    this.objectSize = layout.objectSize;
    this.stripeUnit = layout.stripeUnit;
    this.stripeCount = layout.stripeCount;
    this.dataPool = layout.dataPool;
    this.objectMap = (layout.features & FEATURE_BITS["object-map"]) === 0n ? "none" : "whole";
  }

  get place(): Place {
    const { pool, namespace, name } = this.#born;
    return { pool, namespace, name };
  }

  get features(): bigint {
    const operations =
      this.parents().size > 0 ||
      this.group !== undefined ||
      this.snapshots.some(({ kind, children }) => kind === "trash" || children.size > 0);
    return operations ? this.bornFeatures | FEATURE_BITS.operations : this.bornFeatures;
  }

  /** What one reads from it. */
  holds(): Content {
    return overlay(this.content, this.parent?.holds() ?? []);
  }

  /** Whether it, or a parent of it, holds anything; set, it is as if somebody had written its first block, or emptied it. */
  get hasData(): boolean {
    return this.holds().length > 0;
  }
  set hasData(has: boolean) {
    if (has) this.write(0n, 4096n);
    else this.discard(0n, this.sizeBytes);
  }

  /** As a client would that has the image open: new bytes, different from all others. */
  write(offset: bigint, length: bigint): void {
    this.#writes += 1;
    this.content = put(this.content, { offset, end: offset + length, stamp: `${this.id}.${this.#writes}` });
  }

  /** As a client that writes zeros, where one that discards would free space. */
  writeZeros(offset: bigint, length: bigint): void {
    this.content = put(this.content, { offset, end: offset + length, stamp: ZEROS });
  }

  sparsify(): void {
    this.content = sparsified(this.content, this.objectSize, this.parent !== undefined);
  }

  discard(offset: bigint, length: bigint): void {
    this.content = put(this.content, { offset, end: offset + length, stamp: "" });
    if (this.parent === undefined) this.content = overlay(this.content, []);
  }

  /** The parents of its head and of its snapshots: one after a flatten that leaves snapshots alone. */
  parents(): ReadonlySet<MemorySnapshot> {
    const parents = [this.parent, ...this.snapshots.map(({ parent }) => parent)];
    return new Set(parents.filter((parent) => parent !== undefined));
  }

  /** Whether one of those is gone that it reads from. */
  get lostParent(): boolean {
    for (let { parent } = this as { parent: MemorySnapshot | undefined }; parent !== undefined; { parent } = parent) {
      if (parent.gone) return true;
    }
    return false;
  }

  /** Whether a lock that somebody has put on it keeps everybody from writing to it. */
  isLocked(): boolean {
    return this.locks.length > 0 && (this.features & FEATURE_BITS["exclusive-lock"]) !== 0n;
  }

  snapshotNamed(name: string): MemorySnapshot | undefined {
    return this.snapshots.find((snapshot) => snapshot.kind === "user" && snapshot.name === name);
  }

  takeSnapshot(id: bigint, name: string, kind: "user" | "group", createdAt: number): MemorySnapshot {
    const made = new MemorySnapshot(this, id, name, kind, createdAt);
    this.snapshots.push(made);
    return made;
  }

  /** With children it stays, in the snapshots' trash. */
  dropSnapshot(snapshot: MemorySnapshot): void {
    if (snapshot.children.size > 0) {
      toSnapshotTrash(snapshot);
      return;
    }
    const at = this.snapshots.indexOf(snapshot);
    if (at < 0) return;
    this.snapshots.splice(at, 1);
    snapshot.gone = true;
    this.#leave(snapshot.parent);
  }

  adopt(parent: MemorySnapshot): void {
    this.parent = parent;
    parent.children.add(this);
  }

  /** Its snapshots keep their parents unless the image has `deep-flatten`. */
  flatten(): void {
    const deep = (this.bornFeatures & FEATURE_BITS["deep-flatten"]) !== 0n;
    const before = this.parents();
    for (const held of deep ? [this, ...this.snapshots] : [this]) {
      held.content = held.holds();
      held.parent = undefined;
    }
    for (const parent of before) this.#leave(parent);
  }

  /** Before it is removed for good: no parent knows it any more. */
  leaveParents(): void {
    const before = this.parents();
    for (const snapshot of this.snapshots.splice(0)) snapshot.gone = true;
    this.parent = undefined;
    for (const parent of before) this.#leave(parent);
  }

  #leave(parent: MemorySnapshot | undefined): void {
    if (parent === undefined || this.parents().has(parent)) return;
    parent.children.delete(this);
    if (parent.kind === "trash" && parent.children.size === 0) parent.image.dropSnapshot(parent);
  }
}

/** Also what a removal leaves that is cut off, of a snapshot without children. */
export const toSnapshotTrash = (snapshot: MemorySnapshot): void => {
  if (snapshot.kind === "trash") return;
  snapshot.originalName = snapshot.name;
  snapshot.kind = "trash";
  snapshot.name = `00000000-0000-4000-8000-${snapshot.id.toString(16).padStart(12, "0")}`;
};

const DEFAULT_OBJECT_SIZE = 4_194_304n;
const has = (features: bigint, feature: bigint): boolean => (features & feature) !== 0n;
const powerOfTwo = (n: bigint): boolean => n > 0n && (n & (n - 1n)) === 0n;

/** `undefined` for what Ceph refuses as invalid. */
export const makeImage = (born: Birth, spec: ImageSpec, defaultFeatures: bigint): MemoryImage | undefined => {
  const objectSize = spec.objectSize ?? DEFAULT_OBJECT_SIZE;
  const stripeUnit = spec.stripeUnit ?? 0n;
  const stripeCount = spec.stripeCount ?? 0n;
  const striped = stripeUnit !== 0n && stripeCount !== 0n && (stripeUnit !== objectSize || stripeCount !== 1n);
  let features = spec.features ?? defaultFeatures;
  if (
    !powerOfTwo(objectSize) ||
    objectSize < 4096n ||
    objectSize > 33_554_432n ||
    (stripeUnit === 0n) !== (stripeCount === 0n) ||
    (striped && (objectSize % stripeUnit !== 0n || stripeUnit > objectSize)) ||
    (has(features, FEATURE_BITS["object-map"]) && !has(features, FEATURE_BITS["exclusive-lock"])) ||
    (has(features, FEATURE_BITS.journaling) && !has(features, FEATURE_BITS["exclusive-lock"]))
  ) {
    return undefined;
  }
  // neither is asked about: fast-diff comes with object-map, and goes without it
  if (has(features, FEATURE_BITS["object-map"])) features |= FEATURE_BITS["fast-diff"];
  else features &= ~FEATURE_BITS["fast-diff"];
  if (striped) features |= FEATURE_BITS.striping;
  if (spec.dataPool !== undefined) features |= FEATURE_BITS["data-pool"];
  return new MemoryImage(born, spec.sizeBytes, {
    features,
    objectSize,
    stripeUnit: striped ? stripeUnit : objectSize,
    stripeCount: striped ? stripeCount : 1n,
    dataPool: spec.dataPool,
  });
};

/** `undefined` for what Ceph refuses: parent and clone need `layering`, and the clone a layout that Ceph can do. */
export const makeClone = (born: Birth, spec: CloneSpec, parent: MemorySnapshot): MemoryImage | undefined => {
  const { bornFeatures, objectSize, stripeUnit, stripeCount, meta } = parent.image;
  const features = spec.features ?? bornFeatures & ~IMPLICIT;
  if (!has(features, FEATURE_BITS.layering) || !has(bornFeatures, FEATURE_BITS.layering)) return undefined;
  const inherited = { sizeBytes: parent.sizeBytes, objectSize, stripeUnit, stripeCount };
  const made = makeImage(born, { ...inherited, ...spec, features }, features);
  made?.adopt(parent);
  for (const [key, value] of meta) if (!key.startsWith(UNINHERITED)) made?.meta.set(key, value);
  return made;
};

/** What Ceph makes of a name without a header when it is moved to the trash: an image of nothing. */
export const bareImage = (born: Birth): MemoryImage =>
  new MemoryImage(born, 0n, {
    features: 0n,
    objectSize: DEFAULT_OBJECT_SIZE,
    stripeUnit: DEFAULT_OBJECT_SIZE,
    stripeCount: 1n,
    dataPool: undefined,
  });
