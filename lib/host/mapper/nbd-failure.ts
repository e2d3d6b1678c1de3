/**
 * Why rbd-nbd has not mapped an image, and what to do. Its exit status is 1 whatever happens, so its words tell.
 *
 * Loaded in host cells: no Effect. All functions are pure.
 */
import { type Finished, outputOf } from "../child.ts";
import type { Failure, MapArg } from "./mapper.ts";

const ETIMEDOUT = 110;

const ADVICE: readonly (readonly [RegExp, (request: MapArg) => string])[] = [
  [
    /unknown args|unknown command|invalid argument for|error parsing/i,
    ({ options }) =>
      `rbd-nbd does not take one of the options ${options}. Correct the nbd part of mapOptions in the StorageClass for new volumes; this one has it in the volumeAttributes of its PersistentVolume, which has to be made anew`,
  ],
  [
    /failed to load nbd kernel module|failed to find unused device|netlink interface not supported/i,
    () =>
      "this node's kernel has no network block devices. Load its module nbd, or map with the kernel's driver (mounter: rbd)",
  ],
  [
    /operation not permitted|permission denied/i,
    ({ user }) =>
      `Ceph denied client.${user} to map this image. Compare the key in the Secret, and the caps, with "ceph auth get client.${user}": mon, osd and mgr need "profile rbd" for this pool. "ceph auth caps" replaces all caps, so name the others too`,
  ],
];

export const failureOfNbd = (done: Finished, request: MapArg): Failure => {
  const detail = outputOf(done);
  if (done.timedOut) {
    const reason = `rbd-nbd had no answer from the cluster. Check "ceph -s" and the network of this node. rbd-nbd says: ${detail}`;
    return { kind: "failed", errno: ETIMEDOUT, reason };
  }
  const advice = ADVICE.find(([words]) => words.test(done.stderr))?.[1](request);
  if (advice === undefined) return { kind: "failed", errno: 0, reason: detail };
  return { kind: "refused", errno: done.code, reason: `${advice}. rbd-nbd says: ${detail}`, unfit: false };
};
