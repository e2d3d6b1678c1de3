/**
 * The key stores of Vault against a real server, OpenBao: both versions of its engine, its Kubernetes login and a
 * namespace. What ceph-csi writes is read, what is written is what it reads, and no key is overwritten.
 *
 * Not here: options and certificates (tests/unit/kms/vault-store.test.ts).
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { keyOf } from "../../lib/kms/new-key.ts";
import { failing, type KmsPlaces, openedKeeping } from "../support/kms-world.ts";
import { type OpenBao, startOpenBao } from "./openbao.ts";

const TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const KEY = "Zm9vYmFyLWJhel9xdXV4LTEyMzQ=";

let bao: OpenBao;
beforeAll(async () => {
  bao = await startOpenBao();
}, 600_000);
afterAll(async () => await bao?.stop());

const run = <A, E>(effect: Effect.Effect<A, E>) => Effect.runPromise(effect);

const pod = (more: Readonly<Record<string, unknown>> = {}, account = "rook-ceph/csi"): KmsPlaces => ({
  config: {
    kms: {
      encryptionKMSType: "vault",
      vaultAddress: bao.url,
      vaultAuthPath: "/v1/auth/kubernetes/login",
      vaultRole: "csi",
      vaultPassphrasePath: "ceph-csi/",
      ...more,
    },
  },
  files: { [TOKEN_FILE]: bao.accountToken(account) },
});

const ENGINES = [
  ["KV 2", { vaultBackend: "kv-v2" }, "secret/data/ceph-csi/"],
  ["KV 2, whose version is asked for", {}, "secret/data/ceph-csi/"],
  ["KV 1", { vaultBackend: "kv", vaultBackendPath: "old" }, "old/ceph-csi/"],
  ["KV 1, whose version is asked for", { vaultBackendPath: "old/" }, "old/ceph-csi/"],
  ["KV 2 in a namespace", { vaultNamespace: "tenants", vaultBackend: "kv-v2" }, "tenants/secret/data/ceph-csi/"],
  ["KV 2 in a namespace, whose version is asked for", { vaultNamespace: "tenants" }, "tenants/secret/data/ceph-csi/"],
] as const;

describe.each(ENGINES)("%s", (name, more, path) => {
  const id = (what: string) => `0001-${what}-${name.replaceAll(/[^A-Za-z0-9]/g, "")}`;

  test("A key is kept once, read, and removed, and then there is none", async () => {
    const store = await openedKeeping(pod(more));
    expect(await failing(store.read(id("life")))).toContain("KeyNotFound");
    await run(store.write(id("life"), keyOf(KEY)));
    expect(await failing(store.write(id("life"), keyOf("another")))).toContain("KeyExists");
    expect(Redacted.value(await run(store.read(id("life"))))).toBe(KEY);
    await run(store.remove(id("life")));
    expect(await failing(store.read(id("life")))).toContain("KeyNotFound");
    await run(store.remove(id("life")));
  });

  test("What is kept has ceph-csi's form, and what ceph-csi has kept is read", async () => {
    const store = await openedKeeping(pod(more));
    await run(store.write(id("ours"), keyOf(KEY)));
    const secret = { data: { passphrase: KEY } };
    const isSecond = path.includes("/data/");
    const kept = (await bao.administer("GET", path + id("ours"))) as { readonly data: unknown };
    expect(kept.data).toMatchObject(isSecond ? { data: secret } : secret);
    await bao.administer("PUT", path + id("theirs"), isSecond ? { data: secret } : secret);
    expect(Redacted.value(await run(store.read(id("theirs"))))).toBe(KEY);
  });

  test("A rotation replaces the key that it knows, and no other", async () => {
    const store = await openedKeeping(pod(more));
    await run(store.write(id("rotated"), keyOf(KEY)));
    expect(await failing(store.replace(id("rotated"), keyOf("another"), keyOf("next")))).toContain("KeyExists");
    await run(store.replace(id("rotated"), keyOf(KEY), keyOf("next")));
    expect(Redacted.value(await run(store.read(id("rotated"))))).toBe("next");
  });
});

test("Of many drivers that keep a first key at once with KV 2, one does, and all read its key", async () => {
  const stores = await Promise.all(Array.from({ length: 8 }, () => openedKeeping(pod({ vaultBackend: "kv-v2" }))));
  const results = await Promise.allSettled(stores.map((store, i) => run(store.write("0001-race", keyOf(`key ${i}`)))));
  const won = results.flatMap(({ status }, i) => (status === "fulfilled" ? [`key ${i}`] : []));
  expect(won).toHaveLength(1);
  const read = await Promise.all(stores.map((store) => run(store.read("0001-race"))));
  expect(new Set(read.map(Redacted.value))).toEqual(new Set(won));
});

test("A key that was removed softly can be undeleted, and a new one does not overwrite it", async () => {
  const store = await openedKeeping(pod({ vaultBackend: "kv-v2", vaultDestroyKeys: "false" }));
  await run(store.write("0001-soft", keyOf(KEY)));
  await run(store.remove("0001-soft"));
  expect(await failing(store.read("0001-soft"))).toContain("KeyNotFound");
  await run(store.write("0001-soft", keyOf("second")));
  await bao.administer("POST", "secret/undelete/ceph-csi/0001-soft", { versions: [1] });
  const first = (await bao.administer("GET", "secret/data/ceph-csi/0001-soft?version=1")) as {
    readonly data: { readonly data: unknown };
  };
  expect(first.data.data).toEqual({ data: { passphrase: KEY } });
  expect(Redacted.value(await run(store.read("0001-soft")))).toBe("second");
});

const refused: readonly (readonly [what: string, more: Record<string, unknown>, account: string, says: string])[] = [
  ["a ServiceAccount that the role does not take", {}, "elsewhere/csi", "KmsDenied"],
  ["a role that is unknown", { vaultRole: "other" }, "rook-ceph/csi", "as role other"],
  ["a login that is not there", { vaultAuthPath: "elsewhere" }, "rook-ceph/csi", "auth/elsewhere/login"],
  [
    "a path that the policy lacks",
    { vaultBackend: "kv", vaultPassphrasePath: "x" },
    "rook-ceph/csi",
    "Give the token a policy",
  ],
  [
    "an engine that is not there",
    { vaultBackendPath: "nowhere", vaultBackend: "" },
    "rook-ceph/csi",
    "vaultBackendPath",
  ],
  [
    "an engine that is not there and is not asked for",
    { vaultBackendPath: "nowhere", vaultBackend: "kv-v2" },
    "rook-ceph/csi",
    "there is no secrets engine",
  ],
  [
    "the version of another engine",
    { vaultBackendPath: "old", vaultBackend: "kv-v2", vaultPassphrasePath: "" },
    "rook-ceph/csi",
    "KeyNotFound",
  ],
];
test.each(refused)("With %s the message says what to change, and shows no secret", async (_, more, account, says) => {
  const store = await openedKeeping(pod({ vaultBackend: "kv-v2", ...more }, account));
  const message = await failing(store.read("0001-refused"));
  expect(message).toContain(says);
  expect(message).not.toContain(bao.accountToken(account).split(".")[1] ?? "");
});
