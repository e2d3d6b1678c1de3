/**
 * The record of a wipe in the metadata of an image (lib/kms/image-keys.ts, WIPING): who wipes its layer, and whether another
 * stage may begin the wipe anew. It is one line of JSON.
 *
 * A wipe cannot be called back: what a node has given to its kernel is written when its network returns, however late. So a
 * record stands until it is replaced by a stage that proves that nothing of the earlier wipe can be written any more:
 *
 *   same node, same boot       it is this very kernel, which has nothing of the image mapped any more: it ends a mapping
 *                              only after its last write.
 *   same node and machine,     the kernel that wiped does not run any more. The machine is that of the node's firmware,
 *   another boot               because another one may have got the node's name.
 *   client on the blocklist    and each OSD of the image's pools knows that, as after a fence (lib/fencing): they refuse its
 *                              writes. Only one client counts, and no range of addresses. An entry ends, and the client may
 *                              write then: so it is prolonged before the proof. No client is put there that was not.
 *
 * Anybody else is refused, which is safe: nobody has written data to the image yet.
 *
 * Not here: that no other client has the image open (./mappable.ts, ./crypt-layer.ts), and who counts as lost (lib/fencing).
 *
 * 1. What is not known proves nothing: an empty ID is not the same as another empty one, and a number that many machines show
 *    is none.
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import * as z from "zod";
import { blockedClient, Blocklist, FENCE_SECONDS, poolsWritten } from "../ceph/blocklist.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { ImageStatus } from "../ceph/rbd.ts";
import { Precondition } from "../csi/errors.ts";
import type { HostError } from "../host/errors.ts";
import { Host } from "../host/host.ts";
import { imageSpec } from "../host/mapped-device.ts";
import { clientOf, isOneClient } from "../journal/client-records.ts";
import { WIPING } from "../kms/image-keys.ts";
import { jsonOf } from "../text/json.ts";
import { bootIdNow, ClientRecord } from "./client-record.ts";
import { toImageName, type VolumeImage } from "./volume-context.ts";

/** The firmware's number of the machine, which Kubernetes shows as its systemUUID. */
const MACHINE = "/sys/class/dmi/id/product_uuid";

/** What firmware shows that has no number of its own. */
const PLACEHOLDER = /^(03000200-0400-0500-0006-000700080009|[0-]*|[fF-]*)$/;
const machineIn = (text: string): string => (PLACEHOLDER.test(text.trim()) ? "" : text.trim());

const form = z.object({
  /** Another one for each wipe. */
  id: z.string(),
  nodeId: z.string(),
  bootId: z.string(),
  machine: z.string(),
  /** Address and nonce, as a blocklist has it; "" if more than one client may be it. */
  client: z.string(),
  /** ISO 8601. */
  since: z.string(),
});
type WipeRecord = z.infer<typeof form>;

const here = Effect.gen(function* () {
  const { nodeId } = yield* ClientRecord;
  const machine = yield* Effect.catch((yield* Host).readText(MACHINE), () => Effect.succeed(""));
  return { nodeId, bootId: yield* bootIdNow, machine: machineIn(machine ?? "") };
});

/** The record of a wipe that begins now. `watcher`: the node's client among the image's watchers, if it is known. */
export const newWipeRecord = Effect.fnUntraced(function* (
  watcher: string | undefined,
): Effect.fn.Return<string, HostError, ClientRecord | Host> {
  const id = yield* Effect.sync(() => crypto.randomUUID());
  const client = clientOf(watcher ?? "") ?? "";
  const since = new Date(yield* Clock.currentTimeMillis).toISOString();
  return JSON.stringify({ id, ...(yield* here), client, since } satisfies WipeRecord);
});

/** Fails unless nothing of the wipe with that record can be written any more. */
export const proveWipeOver = Effect.fnUntraced(function* (
  image: VolumeImage,
  status: Pick<ImageStatus, "dataPool">,
  text: string,
): Effect.fn.Return<void, CephError | HostError | Precondition, Blocklist | ClientRecord | Host> {
  const subject = `image ${imageLabel(image.pool, image.imageName)}`;
  const { data: record } = form.safeParse(jsonOf(text));
  if (record === undefined) {
    return yield* new Precondition({
      subject,
      problem: `has a record of a wipe that cannot be read: ${WIPING}. Nothing was changed`,
      remedy: "Nobody has written to the volume yet: it may be deleted and made anew",
    });
  }
  const { nodeId, bootId, machine } = yield* here;
  const isNode = record.nodeId === nodeId && record.bootId !== "" && bootId !== "";
  if (isNode && (record.bootId === bootId || (machine !== "" && machineIn(record.machine) === machine))) return;
  if (yield* isRefused(image, status, record.client)) return;
  const { client } = record;
  const whom =
    client === "" ? "" : `, or put its client on the blocklist ("ceph osd blocklist add ${client} ${FENCE_SECONDS}")`;
  return yield* new Precondition({
    subject,
    problem: `is being wiped by node ${record.nodeId} since ${record.since}, which may still write to it. Nothing was changed`,
    remedy: `Nobody has written to the volume yet. Stage it on that node again, which completes the wipe. Or shut that node down and taint it out-of-service so that it is fenced (--enable-fencing)${whom}. Or delete the volume, and make it anew. "rbd image-meta get ${imageSpec(toImageName(image))} ${WIPING}" shows the record`,
  });
});

/** Whether every OSD to which clients of the image write refuses the client. */
const isRefused = Effect.fnUntraced(function* (
  { pool }: VolumeImage,
  { dataPool }: Pick<ImageStatus, "dataPool">,
  client: string,
): Effect.fn.Return<boolean, CephError, Blocklist> {
  if (client === "" || !isOneClient(client)) return false;
  const { blocklist, blocklistAdd, blocklistReached } = yield* Blocklist;
  const its = blockedClient(client);
  const proven = Effect.gen(function* () {
    const entries = yield* blocklist(pool.access);
    if (!entries.some(({ kind, address }) => kind === its.kind && address === its.address)) return false;
    yield* blocklistAdd(pool.access, its, FENCE_SECONDS);
    for (const written of poolsWritten(pool, dataPool)) {
      if (!(yield* blocklistReached(written, its))) return false;
    }
    return true;
  });
  return yield* Effect.catchTag(proven, "AccessDenied", () => Effect.succeed(false));
});
