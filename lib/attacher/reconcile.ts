/**
 * Compares the attachments with the driver's own list of which volume is published where, and has those that differ done
 * again.
 *
 * 1. An attachment that changed since the list was asked for is left to the next comparison.
 */
import * as Effect from "effect/Effect";
import { CsiDriver } from "./csi-driver.ts";
import type { Known } from "./csi-handler.ts";
import type { Attachment } from "./objects.ts";
import { migrated } from "./source.ts";

export const reconcile = (known: Known, again: (key: string) => void): Effect.Effect<void, never, CsiDriver> =>
  Effect.gen(function* () {
    const driver = yield* CsiDriver;
    const before = [...known.attachments.entries()];
    const published = yield* driver.publishedNodes;
    for (const [key, attachment] of before) {
      const [volumeId, nodeId] = [handleOf(known, attachment), nodeIdOf(known, attachment, driver.name)];
      if (volumeId === undefined || nodeId === undefined || known.attachments.get(key) !== attachment) continue;
      const isPublished = published.get(volumeId)?.has(nodeId) ?? false;
      if (isPublished === attachment.attached) continue;
      yield* Effect.logWarning(
        `${key}: volume ${volumeId} is ${isPublished ? "" : "not "}published on node ${nodeId}, ` +
          `but the attachment says otherwise: doing it again`,
      );
      again(key);
    }
  }).pipe(
    Effect.catch(({ message }) =>
      Effect.logWarning(`cannot compare attachments with the driver's volumes: ${message}`),
    ),
  );

const handleOf = ({ volumes, departed }: Known, { volume, inline, handle }: Attachment): string | undefined => {
  if (inline !== undefined) return migrated(inline).csi?.volumeHandle;
  const known = volume === undefined ? undefined : (volumes.get(volume) ?? departed.get(volume));
  return (handle ?? known?.handle) || undefined;
};

const nodeIdOf = ({ nodes }: Known, { nodeName, nodeId }: Attachment, driver: string): string | undefined =>
  nodes.get(nodeName)?.ids.get(driver) ?? nodeId;
