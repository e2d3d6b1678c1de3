/** Requests as external-provisioner and external-resizer make them, and how those two go on after a failure. */
import { VolumeCapability_AccessMode_Mode as Mode } from "../../lib/gen/csi_pb.ts";
import { Code } from "../../lib/grpc/status.ts";
import { rig } from "../rig/cluster.ts";

export const GIB = 1n << 30n;
export const MIB = 1n << 20n;
export const CLUSTER = "test-cluster";

export const secrets = (): Record<string, string> => ({ userID: rig().user, userKey: rig().key });

export const filesystem = {
  accessType: { case: "mount" as const, value: { fsType: "ext4" } },
  accessMode: { mode: Mode.SINGLE_NODE_WRITER },
};
export const rawBlock = {
  accessType: { case: "block" as const, value: {} },
  accessMode: { mode: Mode.MULTI_NODE_MULTI_WRITER },
};

export const createRequest = (name: string, parameters: Readonly<Record<string, string>>, requiredBytes = GIB) => ({
  name,
  capacityRange: { requiredBytes },
  volumeCapabilities: [filesystem],
  parameters: { clusterID: CLUSTER, ...parameters },
  secrets: secrets(),
});

export const deleteRequest = (volumeId: string) => ({
  volumeId,
  secrets: secrets(),
});

export const expandRequest = (volumeId: string, requiredBytes: bigint) => ({
  volumeId,
  capacityRange: { requiredBytes },
  volumeCapability: filesystem,
  secrets: secrets(),
});

export interface Failed {
  readonly code: number;
  readonly details: string;
}

export const isFailed = (value: unknown): value is Failed =>
  value instanceof Error && "code" in value && typeof value.code === "number" && "details" in value;

/** The failure of a call that must fail. */
export const failureOf = async (call: Promise<unknown>): Promise<Failed> => {
  const outcome = await call.then(
    (answer) => ({ answer }),
    (error: unknown) => ({ error }),
  );
  if ("answer" in outcome) throw new Error(`expected a failure, got ${String(outcome.answer)}`);
  if (!isFailed(outcome.error)) throw outcome.error;
  return { code: outcome.error.code, details: outcome.error.details };
};

/** Codes after which the sidecars ask again: external-provisioner's "may be in the background", and INTERNAL. */
export const RETRIED: ReadonlySet<number> = new Set([
  Code.CANCELLED,
  Code.DEADLINE_EXCEEDED,
  Code.ABORTED,
  Code.UNAVAILABLE,
  Code.INTERNAL,
]);
