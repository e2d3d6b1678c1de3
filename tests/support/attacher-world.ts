/** An attacher over the API and a driver in memory, in virtual time. */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { type AttacherSettings, runAttacher } from "../../lib/attacher/controller.ts";
import type { CsiAbilities } from "../../lib/attacher/csi-driver.ts";
import { ATTACHMENTS, NODES, VOLUMES } from "../../lib/attacher/objects.ts";
import { ABLE, DriverMemory, driverMemoryLayer } from "./csi-driver-memory.ts";
import type { AroundKube, KubeObject } from "./kube-memory.ts";
import { kubeWorld } from "./kube-world.ts";

export const DRIVER = "test.csi.example.com";
export const FINALIZER = "external-attacher/test-csi-example-com";

const SETTINGS: AttacherSettings = {
  workers: 10,
  resync: Duration.minutes(10),
  retryStart: Duration.seconds(1),
  retryMax: Duration.minutes(5),
  reconcileSync: Duration.minutes(1),
  defaultFsType: "ext4",
};

export const attacherWorld = (abilities: CsiAbilities = ABLE) => {
  const world = kubeWorld();
  const { memory } = world;
  const driver = new DriverMemory();
  const node = (name: string, drivers: readonly string[] = [DRIVER]) =>
    memory.create(NODES, {
      metadata: { name },
      spec: { drivers: drivers.map((each) => ({ name: each, nodeID: `id-of-${name}`, topologyKeys: null })) },
    });
  const volume = (name: string, csi: object = {}, spec: object = {}, metadata: object = {}) =>
    memory.create(VOLUMES, {
      metadata: { name, finalizers: ["kubernetes.io/pv-protection"], ...metadata },
      spec: {
        accessModes: ["ReadWriteOnce"],
        csi: { driver: DRIVER, volumeHandle: `handle-${name}`, ...csi },
        ...spec,
      },
    });
  const attachment = (name: string, source: string | object, nodeName = "node-1", more: object = {}) =>
    memory.create(ATTACHMENTS, {
      metadata: { name, ...more },
      spec: {
        attacher: DRIVER,
        nodeName,
        source: typeof source === "string" ? { persistentVolumeName: source } : source,
      },
      status: { attached: false },
    });
  const find = (name: string): KubeObject | undefined => memory.find(`${ATTACHMENTS}/${name}`);
  const status = (name: string) => find(name)?.["status"] as Record<string, Record<string, unknown>> | undefined;
  const finalizersOf = (path: string) => memory.find(path)?.metadata.finalizers ?? [];
  /** Requests that change something, since the last look. */
  const writes = () =>
    memory.requests
      .splice(0)
      .filter((request) => !/^(list|watch)/.test(request))
      .map((request) => request.replace("/apis/storage.k8s.io/v1/", "").replace("/api/v1/", ""));
  return {
    ...world,
    driver,
    node,
    volume,
    attachment,
    find,
    status,
    finalizersOf,
    writes,
    remove: (name: string) => memory.remove(`${ATTACHMENTS}/${name}`),
    attach: (settings: Partial<AttacherSettings> = {}, around?: AroundKube) =>
      world.start(
        Effect.provide(runAttacher({ ...SETTINGS, ...settings }), driverMemoryLayer(driver, abilities, DRIVER)),
        around,
      ),
  };
};
