/**
 * Files as administrators and their tools write them (tests/golden/field), read as the container runtime, the sidecars,
 * kubelet and Nomad read them, and given to the product's own readers.
 */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as Result from "effect/Result";
import { parseFlags } from "../../../lib/config/flags.ts";
import { VolumeCapability_AccessMode_Mode as Mode } from "../../../lib/gen/csi_pb.ts";
import { MEMORY_KEY, type MemoryCluster } from "../../support/ceph-memory/memory.ts";
import { MemoryNode } from "../../support/host-memory.ts";
import { aNode, nodeOn, STAGING, staging } from "../../support/node-world.ts";
import { keepingStore } from "../../support/key-stores.ts";
import { aDriver, type Driver } from "../../support/one-world.ts";
import { aCluster, asBlock, creation, failureOf, GIB, seedImage } from "../../support/world.ts";
import { readHcl } from "./hcl.ts";

const textOf = (name: string): string => readFileSync(join(import.meta.dir, "../../golden/field", name), "utf8");

type Strings = Readonly<Record<string, string>>;

interface Container {
  readonly from: string;
  readonly args: readonly string[];
  readonly warnings?: readonly string[];
  readonly withoutEffect?: readonly string[];
  readonly refused?: string;
}

interface KubernetesObject {
  readonly metadata: { readonly name: string; readonly annotations?: { answer?: string; remarks?: string } };
}

interface StorageClass extends KubernetesObject {
  readonly parameters: Strings;
  readonly mountOptions?: readonly string[];
}

interface PersistentVolume extends KubernetesObject {
  readonly spec: {
    readonly accessModes: readonly ("ReadWriteOnce" | "ReadWriteMany")[];
    readonly volumeMode: "Filesystem" | "Block";
    readonly mountOptions?: readonly string[];
    readonly csi: { readonly fsType?: string; readonly volumeHandle: string; readonly volumeAttributes: Strings };
  };
}

/** Every document of a file, or every element of its list. */
const documents = (name: string): unknown => Bun.YAML.parse(textOf(name));
// oxlint-disable typescript/no-unsafe-type-assertion -- the files are ours; a wrong one fails its test
const CONTAINERS = documents("arguments.yaml") as readonly Container[];
const STORAGE_CLASSES = documents("storage-classes.yaml") as readonly StorageClass[];
const PERSISTENT_VOLUMES = documents("persistent-volumes.yaml") as readonly PersistentVolume[];
// oxlint-enable typescript/no-unsafe-type-assertion

const filesystem = (fsType: string, mountFlags: readonly string[] = [], mode = Mode.SINGLE_NODE_WRITER) => ({
  accessType: { case: "mount" as const, value: { fsType, mountFlags: [...mountFlags] } },
  accessMode: { mode },
});

/** What the object's annotations say of the answer and the log. */
const expectAnswer = async (driver: Driver, { metadata }: KubernetesObject, call: Promise<unknown>) => {
  const failure = await failureOf(call);
  const answer = failure === undefined ? "OK" : `${failure.code}: ${failure.message}`;
  const { answer: expected = "OK", remarks } = metadata.annotations ?? {};
  expect(answer).toStartWith(expected);
  const remarked = driver.log.filter((line) => line.startsWith("parameter"));
  if (remarks === undefined) expect(remarked).toEqual([]);
  else expect(remarked).toEqual([expect.stringContaining(remarks)]);
  return failure === undefined;
};

/** A node of the cluster without any volume. */
const aNodeOf = (cluster: MemoryCluster): MemoryNode => {
  const host = new MemoryNode(cluster);
  host.addDirectory(STAGING);
  return host;
};

describe("rendered arguments", () => {
  test.each(CONTAINERS.map((container) => [container.from, container] as const))(
    "The flags are read as the file says: %s",
    (_, { args, warnings = [], withoutEffect = [], refused }) => {
      const parsed = parseFlags(args);
      if (Result.isFailure(parsed)) {
        expect(parsed.failure).toStartWith(refused ?? "(accepted)");
        return;
      }
      expect(refused).toBeUndefined();
      const namesIn = (lines: readonly string[]) => lines.map((line) => /--[\w-]+/.exec(line)?.[0] ?? line);
      expect(namesIn(parsed.success.warnings)).toEqual([...warnings]);
      expect(namesIn(parsed.success.withoutEffect)).toEqual([...withoutEffect]);
    },
  );
});

describe("StorageClasses", () => {
  /** As external-provisioner passes them on, with --extra-create-metadata. */
  const passedOn = (parameters: Strings): Record<string, string> => ({
    ...Object.fromEntries(
      Object.entries(parameters).filter(
        ([key]) => !/^csi\.storage\.k8s\.io\/(fstype|.+-secret-(name|namespace))$/.test(key),
      ),
    ),
    "csi.storage.k8s.io/pv/name": "pvc-1",
    "csi.storage.k8s.io/pvc/name": "data",
    "csi.storage.k8s.io/pvc/namespace": "default",
  });
  const segments = { "topology.rbd.csi.ceph.com/region": "east", "topology.rbd.csi.ceph.com/zone": "zone2" };
  const topology = { requisite: [{ segments }], preferred: [{ segments }] };

  test.each(STORAGE_CLASSES.map((each) => [each.metadata.name, each] as const))(
    "A volume of the class is created and staged, or refused as the file says: %s",
    async (_, storageClass) => {
      const { parameters, mountOptions = [] } = storageClass;
      const cluster = aCluster();
      const capability = filesystem(parameters["csi.storage.k8s.io/fstype"] ?? "ext4", mountOptions);
      const volumeCapabilities = [capability];
      const request = creation({
        parameters: passedOn(parameters),
        volumeCapabilities,
        ...("topologyConstrainedPools" in parameters && { accessibilityRequirements: topology }),
      });
      const stores = { vault: keepingStore(new Map()) };
      await using controller = aDriver(cluster, { stores });
      if (!(await expectAnswer(controller, storageClass, controller.createVolume(request)))) {
        expect(cluster.dump()).toEqual(aCluster().dump());
        return;
      }
      const { volume } = await controller.createVolume(request);
      await using node = nodeOn(aNodeOf(cluster), { stores });
      const stage = { volumeId: volume?.volumeId ?? "", volumeContext: volume?.volumeContext ?? {} };
      expect(await failureOf(node.stage(staging({ ...stage, volumeCapability: capability })))).toBeUndefined();
    },
  );
});

describe("PersistentVolumes", () => {
  test.each(PERSISTENT_VOLUMES.map((each) => [each.metadata.name, each] as const))(
    "The volume is staged, or refused as the file says: %s",
    async (_, persistentVolume) => {
      const { accessModes, volumeMode, mountOptions, csi } = persistentVolume.spec;
      const mode = accessModes.includes("ReadWriteMany") ? Mode.MULTI_NODE_MULTI_WRITER : Mode.SINGLE_NODE_WRITER;
      const volumeCapability =
        volumeMode === "Block" ? asBlock(mode) : filesystem(csi.fsType ?? "", mountOptions, mode);
      const { cluster, host } = await aNode();
      await seedImage(cluster, "made-by-hand");
      await using node = nodeOn(host);
      const request = staging({ volumeId: csi.volumeHandle, volumeContext: csi.volumeAttributes, volumeCapability });
      await expectAnswer(node, persistentVolume, node.stage(request));
    },
  );
});

describe("a Nomad volume file", () => {
  const file = readHcl(textOf("volume.nomad.hcl"));
  const block = (name: string) => file.blocks.find((each) => each.name === name)?.body;
  const MODES: Readonly<Record<string, Mode>> = { "single-node-writer": Mode.SINGLE_NODE_WRITER };
  const { fs_type: fsType = "" } = block("mount_options")?.values ?? {};
  const flags = block("mount_options")?.lists["mount_flags"];
  const capabilities = file.blocks
    .filter(({ name }) => name === "capability")
    .map(({ body: { values } }) => {
      const mode = MODES[values["access_mode"] ?? ""] ?? Mode.UNKNOWN;
      return values["attachment_mode"] === "block-device" ? asBlock(mode) : filesystem(fsType, flags, mode);
    });
  const secrets = { ...block("secrets")?.values, userKey: MEMORY_KEY };
  const gib = (size = "") => BigInt(size.replace("GiB", "")) * GIB;

  test("`nomad volume create` makes the volume, and a client stages it", async () => {
    const cluster = aCluster();
    await using controller = aDriver(cluster);
    const { volume } = await controller.createVolume(
      creation({
        name: file.values["name"] ?? "",
        capacityRange: {
          requiredBytes: gib(file.values["capacity_min"]),
          limitBytes: gib(file.values["capacity_max"]),
        },
        volumeCapabilities: capabilities,
        parameters: { ...block("parameters")?.values },
        secrets,
      }),
    );
    expect(volume?.capacityBytes).toBe(GIB);
    await using node = nodeOn(aNodeOf(cluster));
    const [volumeCapability] = capabilities;
    const request = { volumeId: volume?.volumeId ?? "", volumeContext: volume?.volumeContext ?? {}, secrets };
    await node.stage(staging({ ...request, ...(volumeCapability && { volumeCapability }) }));
  });

  test("`nomad volume register` has a client stage the image that exists", async () => {
    const { cluster, host } = await aNode();
    await seedImage(cluster, file.values["external_id"] ?? "");
    await using node = nodeOn(host);
    const [, volumeCapability] = capabilities;
    const request = {
      volumeId: file.values["external_id"] ?? "",
      volumeContext: { ...block("context")?.values },
      secrets,
    };
    await node.stage(staging({ ...request, ...(volumeCapability && { volumeCapability }) }));
  });
});
