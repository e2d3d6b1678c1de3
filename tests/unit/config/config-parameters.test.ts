// StorageClass parameters, image features and volume_context.
import { describe, expect, test } from "bun:test";
import * as Result from "effect/Result";
import * as fc from "fast-check";
import { FEATURE_BITS } from "../../../lib/ceph/feature-bits.ts";
import { featureNames, parseImageFeatures } from "../../../lib/ceph/features.ts";
import { parseParameters, volumeContext, type VolumeParameters } from "../../../lib/config/parameters.ts";

const BASE = { clusterID: "east", pool: "rbd" };
const ok = (more: Record<string, string>): VolumeParameters =>
  Result.getOrThrowWith(parseParameters({ ...BASE, ...more }), (error) => error);
const refused = (parameters: Record<string, string>): string => {
  const parsed = parseParameters(parameters);
  return Result.isFailure(parsed) ? parsed.failure.message : "(accepted)";
};

test("Parameters that are absent get their defaults", () => {
  expect(ok({})).toEqual({
    clusterId: "east",
    pool: "rbd",
    topologyConstrainedPools: undefined,
    dataPool: undefined,
    volumeNamePrefix: "csi-vol-",
    features: undefined,
    striping: undefined,
    objectOrder: undefined,
    mappedBy: "krbd",
    mapsReadOnly: false,
    mkfsOptions: undefined,
    encryption: undefined,
    remarks: [],
  });
});

test.each<[Record<string, string>, string[]]>([
  [
    { mounter: "krbd" },
    ['parameter mounter: "krbd" is not a mounter, so the kernel maps the volume: write rbd or rbd-nbd'],
  ],
  [
    { mounter: "a\nb" },
    ['parameter mounter: "a\\nb" is not a mounter, so the kernel maps the volume: write rbd or rbd-nbd'],
  ],
  [{ mounter: "" }, []],
  [{ mounter: "rbd" }, []],
  [{ tryOtherMounters: "false" }, []],
  [{ tryOtherMounters: "1" }, []],
  [{ mounter: "rbd-nbd", mapOptions: "nbd:anything=1;krbd:unknown", unmapOptions: "nbd:x;krbd:unknown" }, []],
  [{ mounter: "rbd-nbd", imageFeatures: "exclusive-lock,journaling" }, []],
  [{ tryOtherMounters: "true", imageFeatures: "exclusive-lock,journaling" }, []],
  [
    { mounter: "rbd-nbd", cephLogStrategy: "rotate" },
    ['parameter cephLogStrategy: "rotate" is unknown, so logs are kept: write remove, compress or preserve'],
  ],
  [{ imageFeature: "layering" }, ['parameter "imageFeature" has no effect: write imageFeatures']],
  [{ dataPol: "ec" }, ['parameter "dataPol" has no effect: write dataPool']],
  [{ encryptionKmsID: "vault" }, ['parameter "encryptionKmsID" has no effect: write encryptionKMSID']],
  [{ imageFormat: "2", baseIops: "100", "csi.storage.k8s.io/fstyp": "ext4", thickProvision: "true" }, []],
])("The parser accepts the parameters %j, and remarks what has no effect", (more, remarks) => {
  expect(ok(more).remarks).toEqual(remarks);
});

test.each<[Record<string, string>, VolumeParameters["mappedBy"]]>([
  [{ mounter: "rbd-nbd", tryOtherMounters: "true" }, "rbd-nbd"],
  [{ tryOtherMounters: "true" }, "either"],
  [{ mounter: "krbd" }, "krbd"],
])("The parser tells what maps a volume with %j: %s", (more, mappedBy) => {
  expect(ok(more).mappedBy).toBe(mappedBy);
});

test("The parser reads every parameter", () => {
  const all = ok({
    dataPool: "ec",
    radosNamespace: "without effect",
    volumeNamePrefix: "vol-",
    imageFeatures: "layering,exclusive-lock",
    stripeUnit: "65536",
    stripeCount: "16",
    objectSize: "8388608",
    encrypted: "F",
    encryptionType: "file",
    encryptionKMSID: "vault",
    mounter: "rbd",
    tryOtherMounters: "1",
    mapOptions: "lock_on_read;nbd:try-netlink",
    unmapOptions: "force",
    mkfsOptions: "-m0",
    thickProvision: "true",
    unknown: "\0kept",
  });
  expect(all).toMatchObject({
    dataPool: "ec",
    volumeNamePrefix: "vol-",
    striping: { unit: 65536n, count: 16n },
    objectOrder: 23,
  });
  expect(all.features).toEqual({ names: ["layering", "exclusive-lock"], mask: 5n, needsNbd: false });
});

test.each<[string, Record<string, string>, Partial<VolumeParameters>]>([
  ["a count of 0 stripes nothing", { stripeUnit: "4096", stripeCount: "0" }, { striping: undefined }],
  ["empty numbers are absent", { stripeUnit: "", stripeCount: "", objectSize: "" }, { objectOrder: undefined }],
  ["the smallest object", { objectSize: "4096" }, { objectOrder: 12 }],
  ["the largest object", { objectSize: "33554432" }, { objectOrder: 25 }],
  ["not encrypted, whatever the type", { encrypted: "false", encryptionType: "?" }, {}],
  ["encrypted, with the defaults", { encrypted: "T" }, { encryption: { kmsId: "default", type: "block" } }],
  [
    "encrypted, with an empty KMS ID",
    { encrypted: "true", encryptionKMSID: "" },
    { encryption: { kmsId: "default", type: "block" } },
  ],
  [
    "encrypted, with all that is said of it",
    { encrypted: "1", encryptionType: "block", encryptionKMSID: "vault 1" },
    { encryption: { kmsId: "vault 1", type: "block" } },
  ],
  [
    "with its files encrypted",
    { encrypted: "true", encryptionType: "file", encryptionCipher: "aes-xts-plain64", integrityMode: "hmac-sha256" },
    { encryption: { kmsId: "default", type: "file" } },
  ],
  ["no integrity mode that cryptsetup knows, without a cipher", { encrypted: "true", integrityMode: "?" }, {}],
  ["an empty mounter", { mounter: "" }, {}],
])("The parser accepts edge values: %s", (_, more, expected) => {
  expect(ok(more)).toMatchObject(expected);
});

test("The pool may come from the topology", () => {
  const parsed = Result.getOrThrow(parseParameters({ clusterID: "east", topologyConstrainedPools: "[]" }));
  expect(parsed).toMatchObject({ pool: undefined, topologyConstrainedPools: "[]" });
});

describe("refused parameters", () => {
  test.each<[Record<string, string>, string]>([
    [{}, "parameter clusterID: is missing"],
    [{ ...BASE, clusterID: "" }, "parameter clusterID: must not be empty"],
    [{ ...BASE, clusterID: "c".repeat(65) }, "parameter clusterID: must have at most 64 bytes"],
    [{ clusterID: "east" }, "parameter pool: is missing"],
    [{ clusterID: "east", topologyConstrainedPools: "" }, "parameter pool: is missing"],
    [{ ...BASE, pool: "" }, "parameter pool: must not be empty"],
    [{ ...BASE, pool: "", topologyConstrainedPools: "[]" }, "parameter pool: must not be empty"],
    [{ ...BASE, pool: "a\0" }, "parameter pool: must not hold control characters"],
    [{ ...BASE, dataPool: "" }, "parameter dataPool: must not be empty"],
    [{ ...BASE, radosNamespace: "" }, "parameter radosNamespace: must not be empty"],
    [{ ...BASE, volumeNamePrefix: "" }, "parameter volumeNamePrefix: must not be empty"],
    [{ ...BASE, volumeNamePrefix: "a/b" }, 'parameter volumeNamePrefix: must not hold "/" or "@"'],
    [{ ...BASE, volumeNamePrefix: "a@b" }, 'parameter volumeNamePrefix: must not hold "/" or "@"'],
    [{ ...BASE, volumeNamePrefix: "a\nb" }, "parameter volumeNamePrefix: must not hold control characters"],
    [{ ...BASE, volumeNamePrefix: "ü".repeat(101) }, "parameter volumeNamePrefix: must have at most 200 bytes"],
    [{ ...BASE, imageFeatures: "" }, "parameter imageFeatures: is empty: leave it out"],
    [{ ...BASE, imageFeatures: "\n" }, "parameter imageFeatures: is empty: leave it out"],
    [{ ...BASE, imageFeatures: "layering, object-map" }, "imageFeatures: object-map needs exclusive-lock: add it"],
    [{ ...BASE, imageFeatures: "layering object-map" }, 'imageFeatures: unknown feature "layering object-map"'],
    [
      { ...BASE, imageFeatures: "layering,journaling,exclusive-lock" },
      "imageFeatures: journaling is not for the kernel's driver: leave it out, or write mounter: rbd-nbd",
    ],
    [{ ...BASE, stripeUnit: "4096" }, "parameter stripeCount: is missing: stripeUnit needs it"],
    [{ ...BASE, stripeCount: "1", stripeUnit: "" }, "parameter stripeUnit: is missing: stripeCount needs it"],
    [{ ...BASE, stripeUnit: "x", stripeCount: "1" }, "parameter stripeUnit: write a decimal number"],
    [{ ...BASE, stripeUnit: "-1", stripeCount: "1" }, "parameter stripeUnit: write a decimal number"],
    [{ ...BASE, stripeUnit: "18446744073709551616", stripeCount: "1" }, "parameter stripeUnit: write a decimal number"],
    [{ ...BASE, stripeUnit: "0", stripeCount: "2" }, "parameter stripeUnit: must not be 0"],
    [{ ...BASE, stripeUnit: "3000", stripeCount: "2", objectSize: "4096" }, "stripeUnit: must divide objectSize"],
    [{ ...BASE, objectSize: "0" }, "parameter objectSize: write a power of two from 4096"],
    [{ ...BASE, objectSize: "4097" }, "parameter objectSize: write a power of two from 4096"],
    [{ ...BASE, objectSize: "67108864" }, "parameter objectSize: write a power of two from 4096"],
    [{ ...BASE, objectSize: "0x1000" }, "parameter objectSize: write a power of two from 4096"],
    [{ ...BASE, encrypted: "yes" }, "parameter encrypted: write true or false"],
    [{ ...BASE, encrypted: "" }, "parameter encrypted: write true or false"],
    [{ ...BASE, encrypted: "true", encryptionType: "" }, 'parameter encryptionType: is "": write block or file'],
    [
      { ...BASE, encrypted: "true", encryptionType: "Block" },
      'parameter encryptionType: is "Block": write block or file',
    ],
    [
      { ...BASE, encrypted: "true", encryptionCipher: "aes-xts-plain64", integrityMode: "crc32" },
      "parameter integrityMode: must be hmac-sha256",
    ],
    [{ ...BASE, encrypted: "true", encryptionKMSID: "a\n" }, "parameter encryptionKMSID: must not hold control"],
    [{ ...BASE, tryOtherMounters: "maybe" }, "parameter tryOtherMounters: write true or false"],
    [{ ...BASE, mapOptions: "ceph:x" }, 'parameter mapOptions: unknown mounter "ceph"'],
    [{ ...BASE, unmapOptions: "x:y" }, 'parameter unmapOptions: unknown mounter "x"'],
    [{ ...BASE, mkfsOptions: "-L \0" }, "parameter mkfsOptions: must not hold control characters"],
  ])("The refusal names the field of the parameters %j", (parameters, message) => {
    expect(refused(parameters)).toContain(message);
  });
});

describe("image features", () => {
  test.each([
    ["layering", 1n],
    ["exclusive-lock", 4n],
    ["layering,exclusive-lock,object-map,fast-diff,deep-flatten", 61n],
    ["fast-diff,object-map,exclusive-lock", 28n],
    ["layering,layering", 1n],
    [" layering,\n  exclusive-lock\n", 5n],
    ["exclusive-lock,journaling", 68n],
  ])("The parser reads the image features %s", (text, mask) => {
    expect(Result.getOrThrow(parseImageFeatures(text)).mask).toBe(mask);
  });

  test.each([
    ["object-map", "object-map needs exclusive-lock"],
    ["exclusive-lock,fast-diff", "fast-diff needs object-map"],
    ["journaling", "journaling needs exclusive-lock"],
    ["layering,", 'unknown feature ""'],
    ["Layering", 'unknown feature "Layering"'],
    ["striping", 'unknown feature "striping"'],
    ["data-pool", 'unknown feature "data-pool"'],
    ["toString", 'unknown feature "toString"'],
  ])("The parser refuses the image features %s", (text, reason) => {
    const parsed = parseImageFeatures(text);
    expect(Result.isFailure(parsed) ? parsed.failure : "").toContain(reason);
  });

  test("Features are converted between bits and names", () => {
    expect(FEATURE_BITS).toMatchObject({ striping: 2n, "object-map": 8n, "fast-diff": 16n, "data-pool": 128n });
    expect(featureNames(0x81n)).toEqual({ names: ["layering", "data-pool"], unknown: 0n });
    expect(featureNames(1n << 40n)).toEqual({ names: [], unknown: 1n << 40n });
  });
});

describe("volume_context", () => {
  const driver = {
    pool: "chosen",
    journalPool: "chosen",
    imageName: "csi-vol-1",
    radosNamespace: "",
    dataPool: undefined,
  };

  test("In volume_context parameters replace the driver's values, and the sidecars' keys are left out", () => {
    const parameters = {
      ...BASE,
      topologyConstrainedPools: "[]",
      "csi.storage.k8s.io/pvc/name": "claim",
      unknown: "kept",
    };
    expect(volumeContext(parameters, driver)).toEqual({
      clusterID: "east",
      pool: "rbd",
      journalPool: "chosen",
      imageName: "csi-vol-1",
      unknown: "kept",
    });
  });

  test("volume_context names the namespace and the data pool only where there are any", () => {
    const context = volumeContext({ clusterID: "east" }, { ...driver, radosNamespace: "ns", dataPool: "ec" });
    expect(context).toMatchObject({ pool: "chosen", radosNamespace: "ns", dataPool: "ec" });
  });
});

test("No parameters make the parser throw", () => {
  const key = fc.constantFrom(
    "clusterID",
    "pool",
    "imageFeatures",
    "stripeUnit",
    "objectSize",
    "mapOptions",
    "__proto__",
  );
  const value = fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom("1", "layering", "true", "4096"));
  fc.assert(
    fc.property(fc.dictionary(key, value), fc.boolean(), (parameters, based) => {
      const parsed = parseParameters(based ? { ...BASE, ...parameters } : parameters);
      if (Result.isFailure(parsed)) expect(parsed.failure.message).not.toContain("\n");
    }),
    { numRuns: 1000 },
  );
});
