/**
 * The clients of Ceph by which nodes have a volume, in the metadata of its image: whom to fence when a node is lost.
 *
 *   .rbd.csi.ceph.com/clientAddress/<node ID>   10.0.0.1:0/3412     address and nonce of the client, as a blocklist has it
 *   .rbd.csi.ceph.com/userID/<node ID>          csi-rbd-node        its user
 *   .rbd.csi.ceph.com/bootID/<node ID>          6f1c… 10.0.0.1:0/3412     the boot of the node under which that client came to be
 *   .rbd.csi.ceph.com/machine/<node ID>         10.0.0.1:0/3412 4c4c… 9d1e…     that client, and the machine that Kubernetes
 *                                               showed of the node under that boot: its machineID and its systemUUID
 *   .rbd.csi.ceph.com/fenced/<client>           {"nodeId":…,"bootId":…,"shownBootId":…,"machine":…}   one that was fenced:
 *                                               whose it was, its boot, and what Kubernetes showed of the node then
 *
 * ceph-csi has `clientAddress/<node ID>` in its first release that fences, and `clientaddress/<volume ID>/<node ID>`, with
 * the address alone, since. Both are read.
 *
 * Not here: when a node records itself (lib/node/client-record.ts), and fencing (lib/fencing).
 *
 * 1. librbd copies no key that begins with `.rbd` to a clone or a mirror: a copy of the image begins without records.
 * 2. A node replaces what ceph-csi recorded for it. So where ceph-csi's record is there too, it is the newer one, and
 *    counts.
 * 3. A record is removed by another than its node only if it is still the one that was read: the node may have got another
 *    client since.
 * 4. A boot and a machine count for the client that stands beside them only: ceph-csi writes another client over it, and
 *    leaves them.
 * 5. A record that cannot be read is never "nobody". Whom it concerns is for the caller to say: it is no reason to keep the
 *    volume from other nodes.
 */
import { isIP } from "node:net";
import * as Effect from "effect/Effect";
import * as z from "zod";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { Rbd } from "../ceph/rbd.ts";
import { JournalCorrupt } from "../csi/errors.ts";
import { SERVICE_ACCOUNTS } from "../csi/service-accounts.ts";
import { jsonOf } from "../text/json.ts";

const PREFIX = ".rbd.csi.ceph.com/";
const CLIENT = `${PREFIX}clientAddress/`;
const USER = `${PREFIX}userID/`;
const BOOT = `${PREFIX}bootID/`;
const MACHINE = `${PREFIX}machine/`;
const FENCED = `${PREFIX}fenced/`;
/** Of ceph-csi: further on a volume ID, a slash and a node ID. */
const THEIR_CLIENT = `${PREFIX}clientaddress/`;
const THEIR_USER = `${PREFIX}userid/`;

type Entries = Readonly<Record<string, string | undefined>>;

/** An image and the volume that it is. */
export interface RecordedImage {
  readonly volumeId: string;
  readonly pool: PoolRef;
  readonly imageName: string;
}

export interface ClientRecord {
  readonly nodeId: string;
  /** As a blocklist has it: `10.0.0.1:0/3412`. */
  readonly client: string;
  /** Whether that is one client; else all of the address, because the record has no nonce. */
  readonly exact: boolean;
  /** "" if it is not known. */
  readonly bootId: string;
  /** As Kubernetes shows it; "" if it is not known, as of older drivers. */
  readonly machine: string;
  /** Where the client stands in the metadata, and as what: whoever removes the record proves that it is still this one. */
  readonly written: Readonly<Record<string, string>>;
}

export interface FencedClient {
  readonly client: string;
  readonly nodeId: string;
  /** The boot under which the client came to be; "" if it is not known. */
  readonly bootId: string;
  /** The boot and the machine that Kubernetes showed of the node when it was fenced; "" if it showed none. */
  readonly shownBootId: string;
  readonly machine: string;
}

export interface UnreadableRecord {
  /** `undefined`: it is that of a fence. */
  readonly nodeId: string | undefined;
  readonly error: JournalCorrupt;
}

export interface Records {
  readonly clients: readonly ClientRecord[];
  readonly fenced: readonly FencedClient[];
  /** A node that is here may be among the clients as well, by another record: that of the other driver. */
  readonly unreadable: readonly UnreadableRecord[];
  /** The ServiceAccounts that the image is restricted to, which is in the same metadata; "": none. */
  readonly serviceAccounts: string;
}

const ADDRESS = /^(?:(?:v[12]|any):)?((?:\[[0-9a-fA-F:.]+\]|[0-9.]+):\d+\/\d+)(?:\/client\.\d+)?$/;

/** The client of a watcher, `10.0.0.1:0/3412/client.4123`, as a blocklist has it; `undefined`: it is not such a text. */
export const clientOf = (watcher: string): string | undefined => ADDRESS.exec(watcher)?.[1];

/** Whether it is one client; with a nonce of 0 it is all of an address. */
export const isOneClient = (client: string): boolean => !client.endsWith("/0");

/** `client` may be an address without a nonce. */
const parseClient = (text: string): Pick<ClientRecord, "client" | "exact"> | undefined => {
  const client = clientOf(text);
  if (client !== undefined) return { client, exact: isOneClient(client) };
  const family = isIP(text);
  if (family === 0) return undefined;
  return { client: `${family === 6 ? `[${text}]` : text}:0/0`, exact: false };
};

/** Who has the volume, or has been fenced from it; one call. */
export const readRecords = Effect.fn("journal.readRecords")(function* (
  image: RecordedImage,
): Effect.fn.Return<Records, CephError, Rbd> {
  const found = yield* (yield* Rbd).imageMetaList(image.pool, image.imageName, PREFIX);
  const clients = new Map<string, ClientRecord>();
  const unreadable: UnreadableRecord[] = [];
  const add = (key: string, nodeId: string, text: string): void => {
    const parsed = parseClient(text);
    if (parsed === undefined) {
      unreadable.push({ nodeId, error: unreadableError(image, key) });
      return;
    }
    const [boot = "", its] = found.get(BOOT + nodeId)?.split(" ") ?? [];
    const bootId = its === parsed.client ? boot : "";
    const [whose, ...ids] = found.get(MACHINE + nodeId)?.split(" ") ?? [];
    const machine = whose === parsed.client ? ids.join(" ") : "";
    clients.set(nodeId, { nodeId, bootId, machine, written: { [key]: text }, ...parsed });
  };
  for (const [key, text] of found) if (key.startsWith(CLIENT)) add(key, key.slice(CLIENT.length), text);
  const theirs = `${THEIR_CLIENT}${image.volumeId}/`;
  for (const [key, text] of found) {
    if (!key.startsWith(theirs)) continue;
    const nodeId = key.slice(theirs.length);
    add(key, nodeId, text);
    const record = clients.get(nodeId);
    if (record !== undefined) clients.set(nodeId, { ...record, bootId: "", machine: "" });
  }
  const fenced: FencedClient[] = [];
  for (const [key, text] of found) {
    if (!key.startsWith(FENCED)) continue;
    const { data } = fencedForm.safeParse(jsonOf(text));
    if (data === undefined) unreadable.push({ nodeId: undefined, error: unreadableError(image, key) });
    else fenced.push({ client: key.slice(FENCED.length), ...data });
  }
  const serviceAccounts = found.get(SERVICE_ACCOUNTS) ?? "";
  return { clients: [...clients.values()], fenced, unreadable, serviceAccounts };
});

const fencedForm = z.object({
  nodeId: z.string(),
  bootId: z.string(),
  shownBootId: z.string().default(""),
  machine: z.string().default(""),
});

const unreadableError = ({ pool, imageName }: RecordedImage, key: string) =>
  new JournalCorrupt({
    subject: `image ${imageLabel(pool, imageName)}`,
    problem: `has a record of a client that cannot be read: ${key}`,
    remedy: `Find out which client it means ("rbd image-meta get"), fence that by hand if its node is lost, and remove the key`,
  });

/** What makes a node's record go, ceph-csi's too. */
const without = (volumeId: string, nodeId: string): Entries => ({
  [CLIENT + nodeId]: undefined,
  [USER + nodeId]: undefined,
  [BOOT + nodeId]: undefined,
  [MACHINE + nodeId]: undefined,
  [`${THEIR_CLIENT}${volumeId}/${nodeId}`]: undefined,
  [`${THEIR_USER}${volumeId}/${nodeId}`]: undefined,
});

const write = (
  { pool, imageName }: RecordedImage,
  entries: Entries,
  compare?: ClientRecord["written"],
): Effect.Effect<void, CephError, Rbd> =>
  Effect.flatMap(Rbd, (rbd) => rbd.imageMetaSet(pool, imageName, entries, compare));

/** Records the client by which a node has the volume, in place of any earlier one. */
export const recordClient = (
  image: RecordedImage,
  { nodeId, client, bootId, machine }: Pick<ClientRecord, "nodeId" | "client" | "bootId" | "machine">,
): Effect.Effect<void, CephError, Rbd> =>
  write(image, {
    ...without(image.volumeId, nodeId),
    [CLIENT + nodeId]: client,
    [USER + nodeId]: image.pool.access.user,
    [BOOT + nodeId]: bootId === "" ? undefined : `${bootId} ${client}`,
    [MACHINE + nodeId]: machine === "" ? undefined : `${client} ${machine}`,
  });

/** What `recordClient` writes of a client that proves later that the record is still this one. */
export const writtenAs = (nodeId: string, client: string): Pick<ClientRecord, "written"> => ({
  written: { [CLIENT + nodeId]: client },
});

/** `was`: the record that goes, `Raced` if it is not there any more. */
export const forgetClient = (
  image: RecordedImage,
  nodeId: string,
  was: Pick<ClientRecord, "written">,
): Effect.Effect<void, CephError, Rbd> => write(image, without(image.volumeId, nodeId), was.written);

/**
 * Whether the client is proven to be none of the boot that the node has now, and not proven to be of its machine: it may
 * still run, on a machine that had the node's name before. So to fence it stops nothing of the node that has the name now.
 */
export const isOfAnotherMachine = (
  { exact, bootId, machine }: Pick<ClientRecord, "exact" | "bootId" | "machine">,
  now: Pick<ClientRecord, "bootId" | "machine">,
): boolean =>
  exact && machine !== "" && machine !== now.machine && bootId !== "" && now.bootId !== "" && bootId !== now.bootId;

/**
 * Writes down that a node's client is to be fenced, and leaves the record of the client: until `forgetClient` the next call
 * fences again. `Raced` if the node has recorded another client meanwhile.
 */
export const recordFence = (
  image: RecordedImage,
  { nodeId, client, bootId, written }: ClientRecord,
  shown: Pick<FencedClient, "shownBootId" | "machine">,
): Effect.Effect<void, CephError, Rbd> =>
  write(image, { [FENCED + client]: JSON.stringify({ nodeId, bootId, ...shown }) }, written);

export const forgetFence = (image: RecordedImage, client: string): Effect.Effect<void, CephError, Rbd> =>
  write(image, { [FENCED + client]: undefined });
