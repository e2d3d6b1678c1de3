/**
 * The CSI handle of volumes, snapshots and groups, as a pure codec. It asks no cluster and reads no configuration, and
 * cannot tell the three kinds of object apart, because their handles have the same form.
 *
 *   0001-0009-rook-ceph-0000000000000002-b0285c97-a0ce-11eb-8c66-0242ac110002
 *   │    │    │         │                └ uuid, 36 characters, names the journal object
 *   │    │    │         └ id of the image's pool: int64, 16 hex digits
 *   │    │    └ clusterID, raw, may itself hold "-"
 *   │    └ its length in bytes, 4 hex digits
 *   └ version, 4 hex digits, written 0001, any value read
 *
 * Not here: the handles of volumes that the in-tree plugin made (./migrated-volume-id.ts).
 *
 * 1. No text makes a function here throw.
 * 2. parseVolumeId reads a handle that encodeVolumeId wrote back to the same values.
 * 3. Every handle that ceph-csi has written parses. Handles that it never wrote, but would read (other separators, a
 *    uuid of other characters, a negative pool, more than 128 bytes), are refused: such a handle names no volume.
 */
import * as Data from "effect/Data";
import * as Result from "effect/Result";

export interface VolumeId {
  readonly clusterId: string;
  /** RADOS id of the image's pool. */
  readonly poolId: bigint;
  /** Letter case as in the handle: it is part of the names of RADOS objects. */
  readonly uuid: string;
}

/** The text is not a handle of this driver, or a handle cannot be made of the parts. The caller reads the `reason`. */
export class InvalidVolumeId extends Data.TaggedError("InvalidVolumeId")<{ readonly reason: string }> {
  override get message(): string {
    return `invalid volume ID: ${this.reason}`;
  }
}

/** Upper limit in bytes of a whole handle (CSI's limit for a string field). */
export const MAX_VOLUME_ID_BYTES = 128;
/** Bytes around the clusterID: version, length, pool, uuid and four separators. */
const FIXED_BYTES = 64;
/** The longest clusterID for which a handle can be written. */
export const MAX_CLUSTER_ID_BYTES = MAX_VOLUME_ID_BYTES - FIXED_BYTES;

const CLUSTER_AT = 10;
const MAX_POOL_ID = 2n ** 63n - 1n;
const HEX_4 = /^[0-9a-f]{4}$/i;
const HEX_16 = /^[0-9a-f]{16}$/i;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

const refuse = (reason: string): Result.Result<never, InvalidVolumeId> => Result.fail(new InvalidVolumeId({ reason }));

export const UUID_LENGTH = 36;

/** Whether the text is a uuid in its canonical 8-4-4-4-12 form, in any letter case. */
export const isUuid = (text: string): boolean => UUID.test(text);

/** Writes a handle. Fails if the clusterID does not fit into one, or if the pool id or the uuid is not valid. */
export const encodeVolumeId = (id: VolumeId): Result.Result<string, InvalidVolumeId> => {
  const length = Buffer.byteLength(id.clusterId, "utf8");
  if (length === 0) return refuse("the clusterID is empty");
  if (!id.clusterId.isWellFormed()) return refuse("the clusterID is not valid Unicode");
  if (length > MAX_CLUSTER_ID_BYTES) {
    return refuse(`the clusterID has ${length} bytes, and a volume ID has room for ${MAX_CLUSTER_ID_BYTES}`);
  }
  if (id.poolId < 0n || id.poolId > MAX_POOL_ID) return refuse(`${id.poolId} is not a pool id`);
  if (!isUuid(id.uuid)) return refuse("the object id is not a uuid");
  const lengthField = length.toString(16).padStart(4, "0");
  const poolField = id.poolId.toString(16).padStart(16, "0");
  return Result.succeed(`0001-${lengthField}-${id.clusterId}-${poolField}-${id.uuid}`);
};

/** Reads a handle. Offsets count bytes, as the length field does. */
export const parseVolumeId = (text: string): Result.Result<VolumeId, InvalidVolumeId> => {
  // Comes before anything is copied, because no UTF-8 form is shorter than its text.
  if (text.length > MAX_VOLUME_ID_BYTES) return refuse(`longer than ${MAX_VOLUME_ID_BYTES} bytes`);
  if (!text.isWellFormed()) return refuse("not valid Unicode");
  const bytes = Buffer.from(text, "utf8");
  if (bytes.length > MAX_VOLUME_ID_BYTES) return refuse(`longer than ${MAX_VOLUME_ID_BYTES} bytes`);
  if (bytes.length < FIXED_BYTES) return refuse(`shorter than ${FIXED_BYTES} bytes`);
  // latin1 has one character for each byte, so no slice cuts a character in two.
  const ascii = (from: number, to: number) => bytes.toString("latin1", from, to);
  if (!HEX_4.test(ascii(0, 4))) return refuse("the version is not 4 hex digits");
  if (!HEX_4.test(ascii(5, 9))) return refuse("the length of the clusterID is not 4 hex digits");
  const length = Number.parseInt(ascii(5, 9), 16);
  if (length === 0) return refuse("the clusterID is empty");
  if (bytes.length !== FIXED_BYTES + length) return refuse("its length does not fit the length of the clusterID");
  const poolAt = CLUSTER_AT + length + 1;
  const uuidAt = poolAt + 17;
  if ([4, 9, poolAt - 1, uuidAt - 1].some((at) => ascii(at, at + 1) !== "-")) {
    return refuse('its parts are not separated by "-"');
  }
  // The clusterID has "-" on both sides, so none of its characters is cut in two.
  const clusterId = bytes.toString("utf8", CLUSTER_AT, CLUSTER_AT + length);
  if (!HEX_16.test(ascii(poolAt, poolAt + 16))) return refuse("the pool id is not 16 hex digits");
  const poolId = BigInt(`0x${ascii(poolAt, poolAt + 16)}`);
  if (poolId > MAX_POOL_ID) return refuse("the pool id is out of range");
  const uuid = ascii(uuidAt, uuidAt + UUID_LENGTH);
  if (!isUuid(uuid)) return refuse("it does not end in a uuid");
  return Result.succeed({ clusterId, poolId, uuid });
};

/** The kind of a handle by its form alone: `other` is the image name of a static volume, or not a handle. */
export type VolumeKind = "dynamic" | "migrated" | "other";

/**
 * Recognises a handle. That of a migrated in-tree volume has `mig`, `image-` and `mons-` somewhere. A handle of this
 * driver is never mistaken for one, even if its clusterID holds these words, because no migration handle begins with hex
 * digits.
 */
export const volumeKind = (text: string): VolumeKind => {
  if (Result.isSuccess(parseVolumeId(text))) return "dynamic";
  return ["mig", "image-", "mons-"].every((mark) => text.includes(mark)) ? "migrated" : "other";
};
