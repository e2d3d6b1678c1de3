/**
 * An attacher, alone beside a driver that publishes volumes, on a real API server: its objects, and how they end.
 *
 * 1. Each world has a driver name of its own, so that tests share one server and see nothing of each other.
 * 2. The attacher is the executable in a process of its own, or Kubernetes' own (./upstream.ts); it dies with the test.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import { ATTACHMENTS, finalizerOf, NODES, VOLUMES } from "../../lib/attacher/objects.ts";
import { type KubeFailed, isMissing } from "../../lib/kube/errors.ts";
import { kubeAccess } from "../../lib/kube/kubeconfig.ts";
import { makeKube } from "../../lib/kube/request.ts";
import { openControlPlane } from "../rig/kubernetes/control-plane.ts";
import { startProcess } from "../support/driver-process.ts";
import { temporaryDirectory } from "../support/grpc-serving.ts";
import { PublishingDriver } from "../support/publishing-driver.ts";
import { type Attacher, startUpstream, upstream } from "./upstream.ts";

export const plane = openControlPlane();
export const MINUTES = 300_000;

const kube = makeKube(await Effect.runPromise(kubeAccess(plane.kubeconfig, {})));
const run = <A>(act: Effect.Effect<A, KubeFailed>) => Effect.runPromise(act);

interface Found {
  readonly metadata: {
    readonly finalizers?: readonly string[];
    readonly annotations?: Readonly<Record<string, string>>;
    readonly deletionTimestamp?: string;
  };
  readonly spec: Readonly<Record<string, unknown>>;
  readonly status?: {
    readonly attached: boolean;
    readonly attachmentMetadata?: Readonly<Record<string, string>>;
    readonly attachError?: { readonly message: string; readonly time: string; readonly errorCode?: number };
    readonly detachError?: { readonly message: string; readonly time: string };
  };
}

export const find = (path: string): Promise<Found | undefined> =>
  run(kube.get(path).pipe(Effect.catchIf(isMissing, () => Effect.succeed(undefined)))) as Promise<Found | undefined>;

/** Ends when `condition` holds; fails after two minutes, because the machine may be busy. */
export const until = async (condition: () => Promise<boolean> | boolean, what: string): Promise<void> => {
  const limit = Date.now() + 120_000;
  while (!(await condition())) {
    if (Date.now() > limit) throw new Error(`not within two minutes: ${what}`);
    await Bun.sleep(50);
  }
};

let worlds = 0;

export const attacherWorld = () => {
  const own = `w${process.pid}-${(worlds += 1)}`;
  const name = `${own}.csi.example.com`;
  const directory = temporaryDirectory();
  const driver = new PublishingDriver(name, join(directory, "csi.sock"));
  const children: Attacher[] = [];
  const attachmentPath = (va: string) => `${ATTACHMENTS}/${own}-${va}`;
  const volumePath = (pv: string) => `${VOLUMES}/${own}-${pv}`;
  const attachment = (va: string) => find(attachmentPath(va));
  return {
    name,
    own,
    driver,
    finalizer: finalizerOf(name),
    attachmentPath,
    volumePath,
    attachment,
    node: () =>
      run(
        kube.create(NODES, {
          apiVersion: "storage.k8s.io/v1",
          kind: "CSINode",
          metadata: { name: own },
          spec: { drivers: [{ name, nodeID: `id-of-${own}`, topologyKeys: null }] },
        }),
      ),
    volume: (pv: string) =>
      run(
        kube.create(VOLUMES, {
          apiVersion: "v1",
          kind: "PersistentVolume",
          metadata: { name: `${own}-${pv}` },
          spec: {
            capacity: { storage: "1Gi" },
            accessModes: ["ReadWriteOnce"],
            persistentVolumeReclaimPolicy: "Retain",
            csi: { driver: name, volumeHandle: `handle-${pv}` },
          },
        }),
      ),
    attach: (va: string, pv: string) =>
      run(
        kube.create(ATTACHMENTS, {
          apiVersion: "storage.k8s.io/v1",
          kind: "VolumeAttachment",
          metadata: { name: `${own}-${va}` },
          spec: { attacher: name, nodeName: own, source: { persistentVolumeName: `${own}-${pv}` } },
        }),
      ),
    remove: (path: string) => plane.kubectl(["delete", "--wait=false", ...kindAndName(path)]),
    isAttached: async (va: string) => (await attachment(va))?.status?.attached === true,
    isGone: async (path: string) => (await find(path)) === undefined,
    /** Starts an attacher; `pod` is who it is in an election. */
    start: (pod: string, ...more: readonly string[]): Attacher => {
      const flags = [
        `--csi-address=${driver.path}`,
        `--kubeconfig=${plane.kubeconfig}`,
        "--retry-interval-start=200ms",
        "--retry-interval-max=2s",
        ...more,
      ];
      const other = upstream();
      const child =
        other === undefined
          ? startProcess(["attacher", ...flags], { environment: { POD_NAME: pod } })
          : startUpstream(other, pod, flags, join(plane.dir, "log", `${own}-${pod}.log`));
      children.push(child);
      return child;
    },
    /** Who leads, by the Lease. */
    leader: async () => {
      const list = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
      const lease = await find(`${list}/external-attacher-leader-${name.replaceAll(".", "-")}`);
      return lease?.spec["holderIdentity"];
    },
    close: async () => {
      for (const child of children) {
        child.kill("SIGKILL");
        await child.exited;
      }
      await driver.stop();
      rmSync(directory, { recursive: true });
    },
  };
};

/** For kubectl, from a path of the API. */
const kindAndName = (path: string): readonly string[] => {
  const [kind = "", name = ""] = path.split("/").slice(-2);
  return [kind, name];
};
