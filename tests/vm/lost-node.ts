/**
 * What Kubernetes shows of node A, for tests of fencing: its boot and its taints.
 */
import type { KubeServer } from "../support/kube-server.ts";

const NODE = "/api/v1/nodes/node-a";
/** With it a node is out of service. */
export const TAINT = { key: "node.kubernetes.io/out-of-service", value: "nodeshutdown", effect: "NoExecute" };

/** Sets the object of node A; makes those of both nodes first. */
export const showNode = ({ memory }: KubeServer, bootID: string, taints: readonly object[]): void => {
  if (memory.find(NODE) === undefined) {
    for (const name of ["node-a", "node-b"]) memory.create("/api/v1/nodes", { metadata: { name } });
  }
  const conditions = [{ type: "Ready", status: "True" }];
  memory.merge(NODE, { spec: { taints }, status: { conditions, nodeInfo: { bootID, machineID: "machine-a" } } });
};
