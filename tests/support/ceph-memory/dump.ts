/**
 * The state of a cluster in memory as plain JSON, for tests that compare what is left.
 *
 * 1. Plain JSON with sorted keys: two equal states give equal text. Namespaces that hold nothing are left out.
 * 2. It leaves out what differs between two runs with the same result: times, ids of snapshots, names in the trash of
 *    snapshots.
 */
import type { MemoryNamespace, MemoryPool, MemoryTrashed } from "./cluster.ts";
import { showContent } from "./content.ts";
import type { MemoryGroup } from "./group.ts";
import type { MemoryImage, MemorySnapshot } from "./image.ts";

interface SnapshotDump {
  /** In the trash: the name that it had. */
  readonly name: string;
  readonly kind: string;
  readonly sizeBytes: string;
  readonly content: readonly string[];
  readonly parent: string | null;
  readonly children: readonly string[];
}

interface TiesDump {
  readonly parent: string | null;
  readonly snapshots: readonly SnapshotDump[];
}

export interface ImageDump extends TiesDump {
  readonly id: string;
  readonly sizeBytes: string;
  readonly features: string;
  readonly objectSize: string;
  readonly stripeUnit: string;
  readonly stripeCount: string;
  readonly dataPool: string | null;
  readonly hasData: boolean;
  readonly content: readonly string[];
  readonly objectMap: string;
  readonly meta: Readonly<Record<string, string>>;
}

interface TrashDump extends TiesDump {
  readonly name: string;
  readonly source: string;
  readonly moving: boolean;
}

interface GroupDump {
  readonly images: readonly string[];
  readonly snapshots: Readonly<Record<string, "complete" | "incomplete">>;
}

interface NamespaceDump {
  readonly objects: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly images: Readonly<Record<string, ImageDump>>;
  readonly bareNames: Readonly<Record<string, string | null>>;
  readonly trash: Readonly<Record<string, TrashDump>>;
  readonly groups?: Readonly<Record<string, GroupDump>>;
}

export type ClusterDump = Readonly<Record<string, Readonly<Record<string, NamespaceDump>>>>;

const sorted = <V, W>(entries: ReadonlyMap<string, V>, show: (value: V) => W): Readonly<Record<string, W>> =>
  Object.fromEntries([...entries].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([key, value]) => [key, show(value)]));

const nameOf = ({ place: { pool, namespace, name } }: MemoryImage): string =>
  namespace === "" ? `${pool}/${name}` : `${pool}/${namespace}/${name}`;
const namesOf = (images: Iterable<MemoryImage>): readonly string[] => Array.from(images, nameOf).toSorted();

const shownName = ({ name, originalName }: MemorySnapshot): string => originalName ?? name;

const parentOf = ({ parent }: { readonly parent: MemorySnapshot | undefined }): string | null =>
  parent === undefined ? null : `${nameOf(parent.image)}@${shownName(parent)}`;

const dumpTies = (image: MemoryImage): TiesDump => ({
  parent: parentOf(image),
  snapshots: image.snapshots.map((snapshot) => ({
    name: shownName(snapshot),
    kind: snapshot.kind,
    sizeBytes: String(snapshot.sizeBytes),
    content: showContent(snapshot.content),
    parent: parentOf(snapshot),
    children: namesOf(snapshot.children),
  })),
});

const dumpImage = (image: MemoryImage): ImageDump => ({
  id: image.id,
  sizeBytes: String(image.sizeBytes),
  features: String(image.bornFeatures),
  objectSize: String(image.objectSize),
  stripeUnit: String(image.stripeUnit),
  stripeCount: String(image.stripeCount),
  dataPool: image.dataPool ?? null,
  hasData: image.hasData,
  content: showContent(image.content),
  objectMap: image.objectMap,
  meta: sorted(image.meta, String),
  ...dumpTies(image),
});

const dumpTrashed = ({ name, source, moving, image }: MemoryTrashed): TrashDump => ({
  name,
  source,
  moving,
  ...dumpTies(image),
});

const dumpGroup = ({ images, snapshots }: MemoryGroup): GroupDump => ({
  images: namesOf(images),
  snapshots: sorted(snapshots, ({ complete }) => (complete ? "complete" : "incomplete")),
});

const isUsed = ({ objects, images, bareNames, trash, groups }: MemoryNamespace): boolean =>
  objects.size + images.size + bareNames.size + trash.size + groups.size > 0;

export const dumpPools = (pools: ReadonlyMap<string, MemoryPool>): ClusterDump =>
  sorted(pools, ({ namespaces }) =>
    sorted(new Map([...namespaces].filter(([, content]) => isUsed(content))), (content) => ({
      objects: sorted(content.objects, (omap) => sorted(omap, String)),
      images: sorted(content.images, dumpImage),
      bareNames: sorted(content.bareNames, (id) => id ?? null),
      trash: sorted(content.trash, dumpTrashed),
      ...(content.groups.size === 0 ? {} : { groups: sorted(content.groups, dumpGroup) }),
    })),
  );
