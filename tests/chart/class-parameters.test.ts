/**
 * Each parameter that the chart can write into a class has an effect: a sidecar reads it, or the driver's reading of the
 * class differs without it.
 */
import { describe, expect, test } from "bun:test";
import * as Result from "effect/Result";
import { readGroupParameters } from "../../lib/group/parameters.ts";
import { parseNodeParameters } from "../../lib/config/node-parameters.ts";
import { parseParameters } from "../../lib/config/parameters.ts";
import { readSnapshotParameters } from "../../lib/snapshot/parameters.ts";
import { only, render, type Tree } from "./helm.ts";

type Parameters = Readonly<Record<string, string>>;

const POOL = { poolName: "a", domainSegments: [{ domainLabel: "zone", value: "z1" }] };

/** Every value of the classes that becomes a parameter. */
const ALL = {
  storageClass: {
    clusterID: "prod",
    pool: "replicapool",
    dataPool: "ec",
    imageFeatures: "layering,exclusive-lock",
    mounter: "rbd-nbd",
    tryOtherMounters: "true",
    cephLogDir: "/var/log/rbd",
    cephLogStrategy: "compress",
    volumeNamePrefix: "team-",
    encrypted: "true",
    encryptionType: "file",
    encryptionKMSID: "vault",
    topologyConstrainedPools: [POOL],
    mapOptions: "nbd:try-netlink",
    unmapOptions: "nbd:force",
    mkfsOptions: "-m0",
    stripeUnit: "65536",
    stripeCount: "2",
    objectSize: "4194304",
    provisionerSecret: "s",
    controllerExpandSecret: "s",
    nodeStageSecret: "s",
    controllerPublishSecret: "s",
    fstype: "xfs",
  },
  volumeSnapshotClass: {
    clusterID: "prod",
    snapshotNamePrefix: "team-",
    topologyConstrainedPools: [POOL],
    snapshotterSecret: "s",
  },
  volumeGroupSnapshotClass: {
    clusterID: "prod",
    pool: "replicapool",
    volumeGroupNamePrefix: "team-",
    topologyConstrainedPools: [POOL],
    groupSnapshotterSecret: "s",
  },
} as const;

interface Class {
  readonly kind: string;
  /** What the driver makes of it. */
  readonly read: (parameters: Parameters) => readonly Result.Result<unknown, unknown>[];
  /** Those whose Secret it names. */
  readonly sidecars: readonly string[];
  /** Further parameters of sidecars. */
  readonly more: readonly string[];
}

/** By the class's name among the values. */
const CLASSES: Readonly<Record<keyof typeof ALL, Class>> = {
  storageClass: {
    kind: "StorageClass",
    read: (parameters: Parameters) => [parseParameters(parameters), parseNodeParameters(parameters)],
    sidecars: ["provisioner", "controller-expand", "node-stage", "controller-publish"],
    more: ["csi.storage.k8s.io/fstype"],
  },
  volumeSnapshotClass: {
    kind: "VolumeSnapshotClass",
    read: (parameters: Parameters) => [readSnapshotParameters(parameters)],
    sidecars: ["snapshotter"],
    more: [],
  },
  volumeGroupSnapshotClass: {
    kind: "VolumeGroupSnapshotClass",
    read: (parameters: Parameters) => [readGroupParameters(parameters)],
    sidecars: ["group-snapshotter"],
    more: [],
  },
};

const without = (parameters: Parameters, name: string): Parameters =>
  Object.fromEntries(Object.entries(parameters).filter(([key]) => key !== name));

describe("the parameters of a class", () => {
  for (const [name, values] of Object.entries(ALL)) {
    const { kind, read, sidecars, more } = CLASSES[name as keyof typeof CLASSES];
    test(`Each parameter that the chart writes into a ${kind} has an effect`, async () => {
      const rendered = await render({ [name]: { create: true, ...values } });
      const parameters = only(rendered, kind)["parameters"] as Parameters;
      const secrets = sidecars.flatMap((sidecar) =>
        ["name", "namespace"].map((what) => `csi.storage.k8s.io/${sidecar}-secret-${what}`),
      );
      const ofSidecars = [...secrets, ...more];
      const ofDriver = Object.keys(values).filter((key) => !key.endsWith("Secret") && key !== "fstype");
      expect(Object.keys(parameters).toSorted()).toEqual([...ofDriver, ...ofSidecars].toSorted());
      const whole = read(parameters);
      for (const result of whole) expect(Result.isSuccess(result)).toBe(true);
      const idle = ofDriver.filter((key) => Bun.deepEquals(read(without(parameters, key)), whole));
      expect(idle).toEqual([]);
    });
  }

  test("Every value of a class that the chart knows is among them, or is not a parameter", async () => {
    const known = (await Bun.file(
      new URL("../../charts/csi-rbd/files/known-keys.json", import.meta.url),
    ).json()) as Tree;
    const others =
      /^(create|name|annotations|extraParameters|reclaimPolicy|allowVolumeExpansion|volumeBindingMode|allowedTopologies|mountOptions|deletionPolicy|.*SecretNamespace)$/;
    for (const [name, values] of Object.entries(ALL)) {
      const keys = Object.keys(known[name] as Tree).filter((key) => !others.test(key));
      expect(keys.toSorted()).toEqual(Object.keys(values).toSorted());
    }
  });
});
