/**
 * Runs csi-sanity against a driver that serves, and judges its report.
 *
 * Not what csi-sanity tests: the cases are its own. Here is only what they need to know of our cluster.
 *
 * 1. A case that skipped itself counts as a failure unless its reason is in the table below, and then only if the
 *    driver does not advertise the capability that the table names.
 * 2. A run without cases, or without a report, is a failure.
 * 3. Secrets are in a file of the owner's alone, removed with the run; never in an argument.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import {
  ControllerServiceCapability_RPC_Type as ControllerRpc,
  NodeServiceCapability_RPC_Type as NodeRpc,
  PluginCapability_Service_Type as PluginService,
} from "../../lib/gen/csi_pb.ts";
import type { Driver } from "../ceph/driver.ts";
import { run } from "../rig/place.ts";

export interface SanityRun {
  readonly driver: Driver;
  /** For its files; must exist. */
  readonly dir: string;
  /** Of the StorageClass that it makes volumes of. */
  readonly parameters: Readonly<Record<string, string>>;
  /** Of the VolumeSnapshotClass. */
  readonly snapshotParameters?: Readonly<Record<string, string>>;
  /** Of the VolumeAttributesClass. */
  readonly mutableParameters?: Readonly<Record<string, string>>;
  readonly secrets: Readonly<Record<string, string>>;
  readonly accessType: "mount" | "block";
  /** Regular expressions over the names of cases. */
  readonly focus?: string;
  readonly skip?: string;
  readonly limitMs: number;
}

export interface Verdict {
  readonly passed: readonly string[];
  /** Name and reason. */
  readonly failed: readonly string[];
  /** Name and reason; none of an advertised capability. */
  readonly leftOut: readonly string[];
}

/** Reason of a skip, as csi-sanity writes it, to the capability whose absence makes it right. */
const CAPABILITY_OF: Readonly<Record<string, string>> = {
  "GetCapacity not supported": "GET_CAPACITY",
  "ListVolumes not supported": "LIST_VOLUMES",
  "CreateVolume not supported": "CREATE_DELETE_VOLUME",
  "DeleteVolume not supported": "CREATE_DELETE_VOLUME",
  "Snapshot not supported": "CREATE_DELETE_SNAPSHOT",
  "CreateSnapshot not supported": "CREATE_DELETE_SNAPSHOT",
  "DeleteSnapshot not supported": "CREATE_DELETE_SNAPSHOT",
  "ListSnapshots not supported": "LIST_SNAPSHOTS",
  "GetSnapshot not supported": "GET_SNAPSHOT",
  "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported": "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS",
  "Volume Cloning not supported": "CLONE_VOLUME",
  "Modify volume not supported": "MODIFY_VOLUME",
  "Modify Volume not supported": "MODIFY_VOLUME",
  "ControllerModifyVolume not supported": "MODIFY_VOLUME",
  "ControllerPublishVolume not supported": "PUBLISH_UNPUBLISH_VOLUME",
  "ControllerPublishVolume.readonly field not supported": "PUBLISH_READONLY",
  "Controller Publish, UnpublishVolume not supported": "PUBLISH_UNPUBLISH_VOLUME",
  "ControllerUnpublishVolume not supported": "PUBLISH_UNPUBLISH_VOLUME",
  "ControllerExpandVolume not supported": "EXPAND_VOLUME",
  "ControllerGetVolumeHealth not supported": "GET_VOLUME_HEALTH",
  "ControllerListVolumeHealth not supported": "LIST_VOLUME_HEALTH",
  "GroupControllerService not supported": "GROUP_CONTROLLER_SERVICE",
  "VolumeGroupSnapshots not supported": "GROUP_CONTROLLER_SERVICE",
  "Service does not have single node multi writer capability": "node SINGLE_NODE_MULTI_WRITER",
  "NodeStageVolume not supported": "node STAGE_UNSTAGE_VOLUME",
  "NodeUnstageVolume not supported": "node STAGE_UNSTAGE_VOLUME",
  "NodeGetVolume not supported": "node GET_VOLUME_STATS",
  "NodeExpandVolume not supported": "node EXPAND_VOLUME",
  "NodeGetVolumeHealth not supported": "node GET_VOLUME_HEALTH",
  "NodeGetStorageHealth not supported": "node GET_STORAGE_HEALTH",
};

const advertised = async ({ identity, controller, node }: Driver): Promise<ReadonlySet<string>> => {
  const names = new Set<string>();
  const plugin = await identity.getPluginCapabilities({});
  for (const { type } of plugin.capabilities) {
    if (type.case === "service") names.add(PluginService[type.value.type]);
  }
  if (names.has("CONTROLLER_SERVICE")) {
    const { capabilities } = await controller.controllerGetCapabilities({});
    for (const { type } of capabilities) if (type.case === "rpc") names.add(ControllerRpc[type.value.type]);
  }
  // a controller alone has no Node service
  const found = await node.nodeGetCapabilities({}).catch(() => undefined);
  for (const { type } of found?.capabilities ?? []) {
    if (type.case === "rpc") names.add(`node ${NodeRpc[type.value.type]}`);
  }
  return names;
};

const Report = z.array(
  z.object({
    SpecReports: z.array(
      z.object({
        ContainerHierarchyTexts: z.array(z.string()).nullable(),
        LeafNodeType: z.string(),
        LeafNodeText: z.string(),
        State: z.string(),
        Failure: z.object({ Message: z.string() }).optional(),
      }),
    ),
  }),
);

/** `reason` "" is a case that the filters left out. */
export const judgeReport = (text: string, capabilities: ReadonlySet<string>): Verdict => {
  const verdict = { passed: [] as string[], failed: [] as string[], leftOut: [] as string[] };
  for (const spec of Report.parse(JSON.parse(text)).flatMap(({ SpecReports }) => SpecReports)) {
    const name = [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeText].join(" › ");
    const reason = spec.Failure?.Message ?? "";
    if (spec.State === "passed") {
      if (spec.LeafNodeType === "It") verdict.passed.push(name);
    } else if (spec.State === "skipped") {
      if (reason === "") continue;
      const capability = CAPABILITY_OF[reason];
      const fits = capability !== undefined && !capabilities.has(capability);
      (fits ? verdict.leftOut : verdict.failed).push(`${name}: skipped, ${reason}`);
    } else if (spec.State === "pending") {
      verdict.leftOut.push(`${name}: csi-sanity itself leaves it out`);
    } else {
      verdict.failed.push(`${name}: ${spec.State}, ${reason}`);
    }
  }
  return verdict;
};

const SECRETS_OF = [
  "CreateVolume DeleteVolume ControllerPublishVolume ControllerUnpublishVolume",
  "ControllerValidateVolumeCapabilities ControllerExpandVolume ControllerModifyVolume",
  "CreateSnapshot DeleteSnapshot ListSnapshots GetSnapshot NodeStageVolume NodePublishVolume",
].join(" ");

export const runSanity = async (options: SanityRun): Promise<Verdict> => {
  const binary = process.env["CSI_RBD_SANITY"] ?? "";
  if (binary === "") throw new Error("CSI_RBD_SANITY is not set: run `npm test -- conformance`");
  const { driver, dir, parameters, secrets, accessType, focus, skip, limitMs } = options;
  const folder = join(dir, `sanity-${accessType}`);
  // a second attempt begins with a folder of its own
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { mode: 0o700 });
  const file = (name: string, content: unknown): string => {
    // JSON is YAML
    writeFileSync(join(folder, name), JSON.stringify(content), { mode: 0o600 });
    return join(folder, name);
  };
  const secretsFile = file(
    "secrets.yaml",
    Object.fromEntries(SECRETS_OF.split(" ").map((rpc) => [`${rpc}Secret`, secrets])),
  );
  const report = join(folder, "report.json");
  const argv = [
    binary,
    `-csi.endpoint=unix://${driver.socket}`,
    `-csi.secrets=${secretsFile}`,
    `-csi.testvolumeparameters=${file("parameters.yaml", parameters)}`,
    `-csi.testvolumemutableparameters=${file("mutable-parameters.yaml", options.mutableParameters ?? {})}`,
    `-csi.testsnapshotparameters=${file("snapshot-parameters.yaml", options.snapshotParameters ?? {})}`,
    `-csi.testvolumeaccesstype=${accessType}`,
    `-csi.testvolumesize=${2 ** 30}`,
    `-csi.testvolumeexpandsize=${2 ** 31}`,
    `-csi.mountdir=${join(folder, "mount")}`,
    `-csi.stagingdir=${join(folder, "staging")}`,
    `-ginkgo.json-report=${report}`,
    "-ginkgo.no-color",
    ...(focus === undefined ? [] : [`-ginkgo.focus=${focus}`]),
    ...(skip === undefined ? [] : [`-ginkgo.skip=${skip}`]),
  ];
  const capabilities = await advertised(driver);
  try {
    const { stdout, stderr } = await run({}, argv, { timeoutMs: limitMs });
    writeFileSync(join(folder, "output"), stdout + stderr);
    const verdict = judgeReport(readFileSync(report, "utf8"), capabilities);
    return verdict.passed.length === 0 ? { ...verdict, failed: [...verdict.failed, "no case was run"] } : verdict;
  } finally {
    rmSync(secretsFile);
  }
};
