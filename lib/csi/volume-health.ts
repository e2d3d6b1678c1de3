/**
 * What is wrong with a volume, as CSI 1.13 says it (VolumeHealth); 1.12's VolumeCondition has its words only.
 *
 * Not here: who finds it (lib/listing/volume-health.ts for the cluster, lib/node/health.ts for a node).
 */
import { VolumeHealthErrorType as Status } from "../gen/csi_pb.ts";

export interface Fault {
  /** Inaccessible: the volume cannot be used, from anywhere or from the node that says so. */
  readonly status: "degraded" | "inaccessible" | "data loss";
  /** One CamelCase word, for programs. */
  readonly reason: string;
  /** For people. */
  readonly message: string;
}

const STATUS: Readonly<Record<Fault["status"], Status>> = {
  degraded: Status.DEGRADED,
  inaccessible: Status.INACCESSIBLE,
  "data loss": Status.DATA_LOSS,
};

/** The message `VolumeHealth`; no faults: the volume is healthy. */
export const healthMessage = (volumeId: string, faults: readonly Fault[]) => ({
  volumeId,
  healthStatuses: faults.map((fault) => ({ ...fault, status: STATUS[fault.status] })),
});

/** The same for people, in one line; `undefined`: the volume is healthy. */
export const wordsOf = (faults: readonly Fault[]): string | undefined =>
  faults.length === 0 ? undefined : faults.map(({ message }) => message).join("; ");
