/**
 * Volume capabilities of a request as the driver's own values. Capabilities that RBD does not have are refused. Pure.
 *
 * Not here: what a recipe does with a capability (lib/node, lib/volume).
 */
import * as Result from "effect/Result";
import { type VolumeCapability, VolumeCapability_AccessMode_Mode as Mode } from "../gen/csi_pb.ts";
import { InvalidRequest } from "./errors.ts";
import { FILE_ENCRYPTION, refusalOfMount, refusalOfType } from "./filesystems.ts";
import { readMountFlags } from "./mount-flags.ts";

export interface Capability {
  readonly access:
    | { readonly kind: "block" }
    /** `mountFlags` is one option of mount(8) each; `ro` and `rw` are not among them. */
    | { readonly kind: "filesystem"; readonly type: string; readonly mountFlags: readonly string[] };
  readonly mode: Mode;
  /** Whether nobody is permitted to write, by the access mode or by the mount flag `ro`. */
  readonly readOnly: boolean;
  /** Whether several nodes may have the volume at the same time. */
  readonly multiNode: boolean;
}

const READ_ONLY: ReadonlySet<Mode> = new Set([Mode.SINGLE_NODE_READER_ONLY, Mode.MULTI_NODE_READER_ONLY]);
const MULTI_NODE: ReadonlySet<Mode> = new Set([
  Mode.MULTI_NODE_READER_ONLY,
  Mode.MULTI_NODE_SINGLE_WRITER,
  Mode.MULTI_NODE_MULTI_WRITER,
]);

/** Refuses a capability that is incomplete, or that RBD does not have: a filesystem is written by one node only. */
export const readCapability = (
  field: string,
  capability: VolumeCapability | undefined,
): Result.Result<Capability, InvalidRequest> => {
  const refuse = (reason: string) => Result.fail(new InvalidRequest({ field, reason }));
  if (capability === undefined) return refuse("is missing");
  const { accessType, accessMode } = capability;
  if (accessType.case === undefined) return refuse("must ask for block or for mount");
  const mode = accessMode?.mode ?? Mode.UNKNOWN;
  if (mode === Mode.UNKNOWN || Mode[mode] === undefined)
    return refuse(`has access_mode ${mode}, which CSI does not define`);
  const multiNode = MULTI_NODE.has(mode);
  const readers = READ_ONLY.has(mode);
  if (accessType.case === "block")
    return Result.succeed({ access: { kind: "block" }, mode, readOnly: readers, multiNode });
  // A filesystem that is mounted with `ro` still replays its journal, so this is no matter of mount flags. Nomad asks for a
  // single writer of many nodes where one node after another has the volume, and no stage gives it to two.
  if (mode === Mode.MULTI_NODE_MULTI_WRITER) {
    return refuse(
      `asks for ${Mode[mode]} on a filesystem, which several nodes cannot write to at the same time. Use volumeMode Block`,
    );
  }
  const { fsType: type, mountFlags } = accessType.value;
  return readMountFlags(mountFlags).pipe(
    Result.mapError((reason) => new InvalidRequest({ field: `${field}.mount.mount_flags`, reason })),
    Result.map((flags) => ({
      access: { kind: "filesystem", type, mountFlags: flags.options },
      mode,
      readOnly: readers || flags.readOnly,
      multiNode,
    })),
  );
};

/** All capabilities of a request; refuses a request without any. */
export const readCapabilities = (
  field: string,
  capabilities: readonly VolumeCapability[],
): Result.Result<readonly Capability[], InvalidRequest> =>
  Result.gen(function* () {
    if (capabilities.length === 0) return yield* Result.fail(new InvalidRequest({ field, reason: "is missing" }));
    const read: Capability[] = [];
    for (const [at, capability] of capabilities.entries())
      read.push(yield* readCapability(`${field}[${at}]`, capability));
    return read;
  });

/** The types of filesystem that are asked for; "" is for any. */
export const filesystemsOf = (capabilities: readonly Capability[]): readonly string[] =>
  capabilities.flatMap(({ access }) => (access.kind === "filesystem" ? [access.type] : []));

/** The first filesystem that no node makes; `undefined`: each makes all of them. */
export const refusalOfTypes = (field: string, capabilities: readonly Capability[]): Refusal | undefined =>
  firstRefusal(field, capabilities, ".mount.fs_type", ({ access }) =>
    access.kind === "filesystem" ? refusalOfType(access.type) : undefined,
  );

/** The first filesystem that no node mounts as it is asked for; `undefined`: each mounts all of them. */
export const refusalOfMounts = (field: string, capabilities: readonly Capability[]): Refusal | undefined =>
  firstRefusal(field, capabilities, ".mount.fs_type", ({ access, readOnly }) =>
    access.kind === "filesystem" ? refusalOfMount(access.type, readOnly) : undefined,
  );

interface Refusal {
  readonly field: string;
  readonly reason: string;
}

/** `part`: of a capability, which is wrong. */
const firstRefusal = (
  field: string,
  capabilities: readonly Capability[],
  part: string,
  refusalOf: (capability: Capability) => string | undefined,
): Refusal | undefined => {
  for (const [at, capability] of capabilities.entries()) {
    const reason = refusalOf(capability);
    if (reason !== undefined) return { field: `${field}[${at}]${part}`, reason };
  }
  return undefined;
};

/** The first capability with which no files are encrypted (encryptionType file); `undefined`: all serve. */
export const refusalOfFileEncryption = (field: string, capabilities: readonly Capability[]): Refusal | undefined =>
  firstRefusal(field, capabilities, "", ({ access }) => refusalOfEncryptedFiles(access));

/** The first capability by which several nodes write, to a layer with integrity; `undefined`: there is none. */
export const refusalOfIntegrity = (field: string, capabilities: readonly Capability[]): Refusal | undefined =>
  firstRefusal(field, capabilities, "", ({ mode, multiNode, readOnly }) =>
    multiNode && !readOnly ? refusalOfTags(Mode[mode]) : undefined,
  );

/** Each node keeps the tags of a layer with integrity by itself, and has a journal of its last writes on the image. */
export const refusalOfTags = (mode: string): string =>
  `asks for ${mode}, and the volume has integrity (integrityMode), which one node alone can write to: with several the older data of one go over those of another. Use ReadWriteOnce, or a volume without integrityMode`;

/** Why no files are encrypted with this access. "" is for the default, or what is there. */
export const refusalOfEncryptedFiles = (access: Capability["access"]): string | undefined => {
  const remedy = `Use ${FILE_ENCRYPTION}, or encryptionType: block`;
  if (access.kind === "block")
    return `asks for raw block, and encryptionType is file: a raw block volume has no files. ${remedy}`;
  if (access.type === "" || access.type === FILE_ENCRYPTION) return undefined;
  return `asks for ${access.type}, and encryptionType is file, which this release serves in ${FILE_ENCRYPTION} only. ${remedy}`;
};
