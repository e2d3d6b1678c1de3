/**
 * The key stores `vault`, `vaulttokens` and `vaulttenantsa` over HTTP: the requests and bytes of ceph-csi, keys that are
 * kept once, and what an administrator reads where something is wrong.
 *
 * Not here: a real Vault (tests/support/vault-server.ts says what its answers were compared with).
 */
import { afterEach, describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { KeepingStore } from "../../../lib/kms/key-store.ts";
import { keyOf } from "../../../lib/kms/new-key.ts";
import golden from "../../golden/kms/vault.json";
import { failing, type KmsPlaces, opened, openedKeeping, opening } from "../../support/kms-world.ts";
import { vaultServer, type VaultOptions, type VaultServerMemory } from "../../support/vault-server.ts";

const ID = "0001-id";
const KEY = keyOf("KEY");
const JWT = "account token\n";
const TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token";

const servers: VaultServerMemory[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop();
});
const aServer = (options: VaultOptions = {}): VaultServerMemory => {
  const server = vaultServer({ logins: { [`kubernetes csi ${JWT}`]: "root" }, ...options });
  servers.push(server);
  return server;
};

const run = <A, E>(effect: Effect.Effect<A, E>) => Effect.runPromise(effect);
const readKey = async (store: KeepingStore, id = ID) => Redacted.value(await run(store.read(id)));
const asked = ({ requests }: VaultServerMemory) =>
  requests.map(({ method, path, body }) => ({ method, path, ...(body !== undefined && { body }) }));

const VAULT = {
  encryptionKMSType: "vault",
  vaultAuthPath: "/v1/auth/kubernetes/login",
  vaultRole: "csi",
  vaultPassphrasePath: "ceph-csi/",
};

/** A pod whose section `kms` is of the type `vault`, but for what `more` says. */
const vaultPod = (server: VaultServerMemory, more: Readonly<Record<string, unknown>> = {}): KmsPlaces => ({
  config: { kms: { ...VAULT, vaultAddress: server.url, vaultBackend: "kv-v2", ...more } },
  files: { [TOKEN_FILE]: JWT },
});

describe("vault", () => {
  test.each([
    ["kv-v2", 2, golden.v2],
    ["kv", 1, golden.v1],
  ] as const)(
    "With the backend %s a key is written, read and removed by ceph-csi's requests",
    async (backend, version, wire) => {
      const server = aServer({ mounts: { secret: version } });
      const store = await openedKeeping(vaultPod(server, { vaultBackend: backend }));
      await run(store.write(ID, KEY));
      expect(Object.values(server.secrets())).toEqual([wire.stored]);
      expect(await readKey(store)).toBe("KEY");
      await run(store.remove(ID));
      expect(server.secrets()).toEqual({});
      const looks = version === 1 ? [wire.read] : [];
      expect(asked(server)).toEqual([golden.login, ...looks, wire.write, wire.read, wire.remove]);
    },
  );

  test("With vaultDestroyKeys of any other text the key can be undeleted, and a new one does not overwrite it", async () => {
    const server = aServer();
    const store = await openedKeeping(vaultPod(server, { vaultDestroyKeys: "True" }));
    await run(store.write(ID, KEY));
    await run(store.remove(ID));
    expect(asked(server).at(-1)).toEqual(golden.v2.removeSoftly);
    expect(await failing(store.read(ID))).toContain("KeyNotFound");
    await run(store.write(ID, keyOf("SECOND")));
    expect(asked(server).at(-1)).toMatchObject({ body: { options: { cas: 1 } } });
    expect(await readKey(store)).toBe("SECOND");
  });

  test.each([
    [true, golden.v2.remove],
    [false, golden.v2.removeSoftly],
  ] as const)("vaultDestroyKeys may be JSON's %p", async (vaultDestroyKeys, wire) => {
    const server = aServer();
    const store = await openedKeeping(vaultPod(server, { vaultDestroyKeys }));
    await run(store.write(ID, KEY));
    await run(store.remove(ID));
    expect(asked(server).at(-1)).toEqual(wire);
  });

  test.each([
    ["kv-v2", 2],
    ["kv", 1],
  ] as const)("With the backend %s a key that is there is never overwritten", async (backend, version) => {
    const server = aServer({ mounts: { secret: version } });
    const store = await openedKeeping(vaultPod(server, { vaultBackend: backend }));
    await run(store.write(ID, KEY));
    expect(await failing(store.write(ID, keyOf("OTHER")))).toContain("KeyExists: there is a key of 0001-id");
    expect(await readKey(store)).toBe("KEY");
  });

  test("Of two drivers that keep a key at once, one does", async () => {
    const server = aServer();
    const stores = [await openedKeeping(vaultPod(server)), await openedKeeping(vaultPod(server))];
    const results = await Promise.allSettled(stores.map((store, i) => run(store.write(ID, keyOf(`KEY ${i}`)))));
    expect(results.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected"]);
    const won = results.findIndex(({ status }) => status === "fulfilled");
    expect(await readKey(await openedKeeping(vaultPod(server)))).toBe(`KEY ${won}`);
  });

  test("A rotation replaces the key that it knows, and no other", async () => {
    const server = aServer();
    const store = await openedKeeping(vaultPod(server));
    expect(await failing(store.replace(ID, KEY, keyOf("NEW")))).toContain("KeyNotFound");
    await run(store.write(ID, KEY));
    expect(await failing(store.replace(ID, keyOf("OTHER"), keyOf("NEW")))).toContain("KeyExists");
    await run(store.replace(ID, KEY, keyOf("NEW")));
    expect(await readKey(store)).toBe("NEW");
  });

  test.each([
    ["absent", undefined],
    ["kv-v1, which is neither", "kv-v1"],
  ])("The version of the engine is asked for where vaultBackend is %s", async (_, vaultBackend) => {
    for (const version of [1, 2] as const) {
      const server = aServer({ mounts: { secret: version, other: version === 1 ? 2 : 1 } });
      const { config, ...pod } = vaultPod(server);
      const { vaultBackend: __, ...section } = (config as { readonly kms: Record<string, unknown> }).kms;
      const kms = { ...section, ...(vaultBackend !== undefined && { vaultBackend }) };
      const store = await openedKeeping({ ...pod, config: { kms } });
      await run(store.write(ID, KEY));
      expect(Object.keys(server.secrets())).toEqual([
        version === 2 ? "secret/data/ceph-csi/0001-id" : "secret/ceph-csi/0001-id",
      ]);
      expect(asked(server).filter(({ path }) => path === "sys/mounts")).toHaveLength(1);
    }
  });

  test("vaultPassphraseRoot takes the place of vaultBackendPath, without its /v1/", async () => {
    const server = aServer({ mounts: { "team/keys": 2 } });
    const store = await openedKeeping(
      vaultPod(server, { vaultPassphraseRoot: "/v1/team/keys/", vaultPassphrasePath: "" }),
    );
    await run(store.write(ID, KEY));
    expect(Object.keys(server.secrets())).toEqual(["team/keys/data/0001-id"]);
  });

  test("A namespace is in the path of the key, and in the header of the login", async () => {
    const server = aServer({ mounts: { "tenants/a/secret": 2 }, tokens: { root: [""] } });
    const store = await openedKeeping(vaultPod(server, { vaultNamespace: "tenants/a" }));
    await run(store.write(ID, KEY));
    expect(server.requests.map(({ path, namespace }) => [path, namespace])).toEqual([
      ["auth/kubernetes/login", "tenants/a"],
      ["tenants/a/secret/data/ceph-csi/0001-id", ""],
    ]);
  });

  test("Where the login is in another namespace, a second one is made in that of the keys", async () => {
    const server = aServer({ mounts: { "keys/secret": 2 } });
    const store = await openedKeeping(
      vaultPod(server, { vaultNamespace: "keys", vaultAuthNamespace: "people", vaultBackend: "kv-v2" }),
    );
    await run(store.write(ID, KEY));
    expect(server.requests.map(({ path, namespace }) => [path, namespace])).toEqual([
      ["auth/kubernetes/login", "keys"],
      ["keys/secret/data/ceph-csi/0001-id", ""],
    ]);
  });

  test("VAULT_TOKEN of the driver's environment takes the place of the login", async () => {
    const server = aServer();
    const store = await openedKeeping({ ...vaultPod(server), env: { VAULT_TOKEN: "root" } });
    await run(store.write(ID, KEY));
    expect(asked(server)).toEqual([golden.v2.write]);
  });

  test("The authority in the request's secrets is trusted, and no other is", async () => {
    const made = Bun.spawnSync([
      "sh",
      "-c",
      "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=vault -addext subjectAltName=IP:127.0.0.1 -keyout - -out - 2>/dev/null",
    ]).stdout.toString();
    const cert = made.slice(made.indexOf("-----BEGIN CERTIFICATE"));
    const server = aServer({ tls: { cert, key: made.slice(0, made.indexOf("-----BEGIN CERTIFICATE")) } });
    const pod = vaultPod(server, { vaultCAFromSecret: "vault-ca" });
    const store = await openedKeeping(pod, { secrets: { "vault-ca": cert } });
    await run(store.write(ID, KEY));
    const without = await openedKeeping(vaultPod(server));
    const message = await failing(without.read(ID));
    expect(message).toContain(
      `KmsConfigInvalid: /etc/kms/config.json, section "kms", key vaultCAFromSecret: Vault ${server.url} is not trusted`,
    );
    await run((await openedKeeping(vaultPod(server, { vaultCAVerify: false }))).read(ID));
    expect(await failing(opening(pod))).toContain("names vault-ca, which the secrets of the request do not have");
  });
});

describe("vault: what ceph-csi takes, too", () => {
  test.each([
    ["/v1/auth/kubernetes/login", "kubernetes"],
    ["auth/kubernetes/login", "kubernetes"],
    ["/v1/auth/kubernetes", "kubernetes"],
    ["/auth/kube/two/login/", "kube/two"],
    ["/v1/auth/kubernetes/login/login", "kubernetes"],
    ["kubernetes", "kubernetes"],
    ["/kube/two/", "kube/two"],
  ])("vaultAuthPath %p is the login at %p", async (vaultAuthPath, mount) => {
    const server = aServer({ logins: { [`${mount} csi ${JWT}`]: "root" } });
    await run((await openedKeeping(vaultPod(server, { vaultAuthPath }))).write(ID, KEY));
    expect(asked(server)[0]?.path).toBe(`auth/${mount}/login`);
  });

  test("White space around an option is not part of it", async () => {
    const server = aServer({ mounts: { own: 1 } });
    const more = {
      vaultAddress: ` ${server.url}/\n`,
      vaultBackend: "kv\n",
      vaultBackendPath: " own/ ",
      vaultRole: "csi\n",
      vaultAuthPath: "/v1/auth/kubernetes/login\n",
    };
    await run((await openedKeeping(vaultPod(server, more))).write(ID, KEY));
    expect(Object.keys(server.secrets())).toEqual(["own/ceph-csi/0001-id"]);
  });

  test("The engine that no option names is that of VAULT_BACKEND_PATH and VAULT_BACKEND, and else secret", async () => {
    const env = { VAULT_BACKEND: "kv", VAULT_BACKEND_PATH: "own" };
    const paths = async (more: Readonly<Record<string, unknown>>) => {
      const server = aServer({ mounts: { own: 1, secret: 1 } });
      const pod = { ...vaultPod(server, { vaultBackend: undefined, ...more }), env };
      await run((await openedKeeping(pod)).write(ID, KEY));
      return Object.keys(server.secrets());
    };
    expect(await paths({})).toEqual(["own/ceph-csi/0001-id"]);
    expect(await paths({ vaultBackendPath: "" })).toEqual(["secret/ceph-csi/0001-id"]);
    expect(await paths({ vaultPassphraseRoot: "" })).toEqual(["secret/ceph-csi/0001-id"]);
    expect(await paths({ vaultPassphraseRoot: "/v1/secret" })).toEqual(["secret/ceph-csi/0001-id"]);
  });
});

describe("vault: what is wrong, and where", () => {
  test.each<[what: string, more: Record<string, unknown>, says: string]>([
    ["no address", { vaultAddress: "" }, 'section "kms", key vaultAddress: is missing'],
    ["an address without a scheme", { vaultAddress: "vault:8200" }, "key vaultAddress: must begin with http"],
    ["no role", { vaultRole: undefined }, "key vaultRole: is missing"],
    ["no login", { vaultAuthPath: undefined }, "key vaultAuthPath: is missing"],
    ["no path", { vaultPassphrasePath: undefined }, "key vaultPassphrasePath: is missing"],
    ["a number where a text belongs", { vaultNamespace: 1 }, "key vaultNamespace: write a text"],
    ["a word for a boolean", { vaultCAVerify: "perhaps" }, 'key vaultCAVerify: write "true" or "false"'],
    ["an unknown type", { encryptionKMSType: "secrets" }, '"secrets" is not a key store: write one of '],
  ])("A section with %s is refused before anybody is asked", async (_, more, says) => {
    const server = aServer();
    expect(await failing(opening(vaultPod(server, more)))).toContain(`KmsConfigInvalid: /etc/kms/config.json, `);
    expect(await failing(opening(vaultPod(server, more)))).toContain(says);
    expect(server.requests).toEqual([]);
  });

  const denied: readonly (readonly [
    what: string,
    options: VaultOptions,
    more: Record<string, unknown>,
    says: string,
  ])[] = [
    [
      "a role that is unknown",
      {},
      { vaultRole: "other" },
      'KmsDenied: Vault URL refuses: login at auth/kubernetes/login as role other: invalid role name "other". Bind the ServiceAccount',
    ],
    [
      "a ServiceAccount that the role does not take",
      { logins: { "kubernetes csi another": "root" } },
      {},
      "KmsDenied: Vault URL refuses: PUT auth/kubernetes/login: permission denied. Bind the ServiceAccount of the token",
    ],
    [
      "a policy without the path",
      { tokens: { root: ["secret/data/elsewhere"] } },
      {},
      'Give the token a policy with "create", "read", "update" and "delete" on secret/data/ceph-csi/0001-id',
    ],
    [
      "a policy without sys/mounts",
      { tokens: { root: ["secret/"] } },
      { vaultBackend: "" },
      "Set vaultBackend to kv or kv-v2",
    ],
    [
      "a path without an engine",
      {},
      { vaultBackendPath: "nowhere" },
      "KmsRefused: Vault URL: nowhere/data/ceph-csi/0001-id: there is no secrets engine. Correct vaultBackendPath",
    ],
    [
      "a path without an engine, that is probed",
      {},
      { vaultBackendPath: "nowhere", vaultBackend: "" },
      "key vaultBackendPath: Vault URL has no secrets engine at nowhere",
    ],
  ];
  test.each(denied)("The message about %s says what to change", async (_, options, more, says) => {
    const server = aServer(options);
    const store = await openedKeeping(vaultPod(server, more));
    const message = await failing(store.write(ID, KEY));
    expect(message).toContain(says.replace("URL", server.url));
    for (const secret of [JWT.trim(), "KEY", "root"]) expect(message).not.toContain(secret);
  });

  test.each<[what: string, answer: () => Response, tag: string]>([
    ["is sealed", () => Response.json({ errors: ["Vault is sealed"] }, { status: 503 }), "KmsUnreachable"],
    ["is limiting requests", () => new Response("", { status: 429 }), "KmsUnreachable"],
    [
      "stands by, and lags behind",
      () => Response.json({ errors: ["missing state"] }, { status: 412 }),
      "KmsUnreachable",
    ],
    ["is an ingress without Vault", () => new Response("default backend - 404", { status: 404 }), "KmsUnreachable"],
    ["sends nowhere", () => new Response("", { status: 307 }), "KmsRefused"],
    ["sends to no server", () => new Response("", { status: 307, headers: { location: "file:///x" } }), "KmsRefused"],
  ])("A server that %s is no key that is missing", async (_, answer, tag) => {
    const server = aServer();
    const store = await openedKeeping(vaultPod(server));
    server.answerNext(answer);
    expect(await failing(store.read(ID))).toContain(`${tag}: Vault ${server.url}`);
  });

  test.each([301, 302, 307])(
    "A server that stands by sends to the active one by %i, which is asked once",
    async (status) => {
      const [standby, active] = [aServer(), aServer()];
      const store = await openedKeeping(vaultPod(standby));
      standby.seed(`secret/data/ceph-csi/${ID}`, { data: { passphrase: "KEY" } });
      const login = "auth/kubernetes/login";
      const redirect = (to: VaultServerMemory) => () =>
        new Response("", { status, headers: { location: `${to.url}/v1/${login}` } });
      standby.answerNext(redirect(active));
      expect(await readKey(store)).toBe("KEY");
      expect(asked(active)).toEqual([{ method: "PUT", path: login, body: { jwt: JWT, role: "csi" } }]);
      standby.answerNext(redirect(active));
      active.answerNext(redirect(standby));
      expect(await failing((await openedKeeping(vaultPod(standby))).read(ID))).toContain(
        `KmsRefused: Vault ${standby.url}`,
      );
    },
  );

  test("A path without an engine is no key that is missing", async () => {
    const store = await openedKeeping(vaultPod(aServer(), { vaultBackendPath: "nowhere" }));
    expect(await failing(store.read(ID))).toContain("nowhere/data/ceph-csi/0001-id: there is no secrets engine");
    expect(await failing(store.remove(ID))).toContain("nowhere/metadata/ceph-csi/0001-id: there is no secrets engine");
  });

  test("A server that is not there leaves the outcome open", async () => {
    const server = aServer();
    const store = await openedKeeping(vaultPod(server));
    await server.stop();
    expect(await failing(store.write(ID, KEY))).toContain(`KmsUnreachable: Vault ${server.url} does not answer`);
  });

  test("A secret of another form is a damaged key, and its text is not in the message", async () => {
    const server = aServer();
    server.seed("secret/data/ceph-csi/0001-id", { data: { password: "hunter2" } });
    const message = await failing((await openedKeeping(vaultPod(server))).read(ID));
    expect(message).toContain("KeyDamaged: the key of 0001-id in Vault");
    expect(message).not.toContain("hunter2");
  });

  test("A pod without the token of its ServiceAccount is told so", async () => {
    const { config } = vaultPod(aServer());
    expect(await failing((await openedKeeping({ config: config ?? {} })).read(ID))).toContain(
      `${TOKEN_FILE}: does not exist`,
    );
  });
});

describe("tenants of Vault", () => {
  const tokens = { encryptionKMSType: "vaulttokens", vaultBackend: "kv-v2" };
  const tenantSecret = { "tenant/ceph-csi-kms-token": { token: " tenant-token\n" } };
  const anyone = { tokens: { "tenant-token": ["secret/", "own/"] } };

  test("vaulttokens uses the token of the tenant's Secret, trimmed, and the ID alone as path", async () => {
    const server = aServer(anyone);
    const store = await openedKeeping({
      config: { kms: { ...tokens, vaultAddress: server.url } },
      secrets: tenantSecret,
    });
    await run(store.write(ID, KEY));
    expect(server.requests).toEqual([
      {
        method: "PUT",
        path: "secret/data/0001-id",
        namespace: "",
        token: "tenant-token",
        body: { data: { data: { passphrase: "KEY" } }, options: { cas: 0 } },
      },
    ]);
  });

  test("vaulttenantsa logs in with the tenant's ServiceAccount, by the default mount and role", async () => {
    const server = aServer({ logins: { "kubernetes csi-kubernetes tenant-jwt": "root" } });
    const store = await openedKeeping({
      config: { kms: { ...tokens, encryptionKMSType: "vaulttenantsa", vaultAddress: server.url } },
      accounts: { "tenant/ceph-csi-vault-sa": "tenant-jwt" },
    });
    await run(store.write(ID, KEY));
    expect(asked(server)[0]).toEqual({
      method: "PUT",
      path: "auth/kubernetes/login",
      body: { jwt: "tenant-jwt", role: "csi-kubernetes" },
    });
  });

  test("The tenant's ConfigMap overrides what it may, and nothing else", async () => {
    const server = aServer({ ...anyone, mounts: { own: 1 } });
    const data = { vaultAddress: server.url, vaultBackend: "kv", vaultBackendPath: "own", tenantTokenName: "stolen" };
    const store = await openedKeeping({
      config: { kms: { ...tokens, vaultAddress: "http://127.0.0.1:1" } },
      secrets: tenantSecret,
      configMaps: { "tenant/ceph-csi-kms-config": data },
    });
    await run(store.write(ID, KEY));
    expect(Object.keys(server.secrets())).toEqual(["own/0001-id"]);
  });

  test("A tenant's account, role and login come from its ConfigMap with vaulttenantsa", async () => {
    const server = aServer({ logins: { "kube/two mine tenant-jwt": "root" } });
    const data = { tenantSAName: "sa", vaultRole: "mine", vaultAuthPath: "/v1/auth/kube/two/login" };
    const store = await openedKeeping({
      config: { kms: { ...tokens, encryptionKMSType: "vaulttenantsa", vaultAddress: server.url } },
      accounts: { "tenant/sa": "tenant-jwt" },
      configMaps: { "tenant/ceph-csi-kms-config": data },
    });
    await run(store.write(ID, KEY));
    expect(asked(server)[0]?.path).toBe("auth/kube/two/login");
  });

  test.each([
    ["follows its namespace where both were one", {}, "mine"],
    ["follows its namespace where the login's is empty", { vaultNamespace: "all", vaultAuthNamespace: "" }, "mine"],
    ["stays where the section has it elsewhere", { vaultNamespace: "all", vaultAuthNamespace: "people" }, "people"],
  ])("The login of a tenant that sets vaultNamespace alone %s", async (_, more, expected) => {
    const server = aServer({
      logins: { "kubernetes csi-kubernetes tenant-jwt": "root" },
      mounts: { "mine/secret": 2 },
    });
    const section = {
      ...tokens,
      vaultBackend: "",
      encryptionKMSType: "vaulttenantsa",
      vaultAddress: server.url,
      ...more,
    };
    const store = await openedKeeping({
      config: { kms: section },
      accounts: { "tenant/ceph-csi-vault-sa": "tenant-jwt" },
      configMaps: { "tenant/ceph-csi-kms-config": { vaultNamespace: "mine" } },
    });
    await run(store.read(ID)).catch(() => undefined);
    const logins = server.requests.filter(({ path }) => path.endsWith("login")).map(({ namespace }) => namespace);
    expect(logins).toContain(expected);
    expect(server.requests.filter(({ path }) => path === "sys/mounts").map(({ namespace }) => namespace)).toEqual([
      expected,
    ]);
  });

  test("The names of Vault's environment are read where the section has KMS_PROVIDER", async () => {
    const server = aServer({ ...anyone, mounts: { own: 1 } });
    const section = {
      KMS_PROVIDER: "vaulttokens",
      VAULT_ADDR: server.url,
      VAULT_BACKEND: "kv",
      VAULT_BACKEND_PATH: "own/",
      VAULT_SKIP_VERIFY: "true",
      tenantTokenName: "without effect",
    };
    const store = await openedKeeping({ config: { kms: section }, secrets: tenantSecret });
    await run(store.write(ID, KEY));
    expect(Object.keys(server.secrets())).toEqual(["own/0001-id"]);
    const wrong = { config: { kms: { ...section, VAULT_SKIP_VERIFY: "maybe" } } };
    expect(await failing(opening(wrong))).toContain('key VAULT_SKIP_VERIFY: write "true" or "false"');
    expect(await failing(opening({ config: { kms: { KMS_PROVIDER: "vaulttokens" } } }))).toContain(
      "key VAULT_ADDR: is missing",
    );
  });

  test("VAULT_DESTROY_KEYS may be JSON's false", async () => {
    const server = aServer(anyone);
    const section = {
      KMS_PROVIDER: "vaulttokens",
      VAULT_ADDR: server.url,
      VAULT_BACKEND: "kv-v2",
      VAULT_DESTROY_KEYS: false,
    };
    const store = await openedKeeping({ config: { kms: section }, secrets: tenantSecret });
    await run(store.write(ID, KEY));
    await run(store.remove(ID));
    expect(asked(server).at(-1)).toMatchObject({ method: "DELETE", path: "secret/data/0001-id" });
  });

  test.each([
    ["", "data"],
    ["true", "metadata"],
  ])("VAULT_DESTROY_KEYS %p is a text as others: only true removes all versions", async (text, part) => {
    const server = aServer(anyone);
    const section = { KMS_PROVIDER: "vaulttokens", VAULT_ADDR: server.url, VAULT_BACKEND: "kv-v2" };
    const config = { kms: { ...section, VAULT_DESTROY_KEYS: text } };
    await run((await openedKeeping({ config, secrets: tenantSecret })).remove(ID));
    expect(asked(server).at(-1)).toMatchObject({ method: "DELETE", path: `secret/${part}/0001-id` });
  });

  test("An empty tenantConfigName leaves the tenant nothing to override", async () => {
    const server = aServer(anyone);
    const store = await openedKeeping({
      config: { kms: { ...tokens, vaultAddress: server.url, tenantConfigName: "" } },
      secrets: tenantSecret,
      configMaps: { "tenant/ceph-csi-kms-config": { vaultBackendPath: "own" } },
    });
    await run(store.write(ID, KEY));
    expect(Object.keys(server.secrets())).toEqual(["secret/data/0001-id"]);
  });

  test("The section tenants changes nothing, as in ceph-csi", async () => {
    const server = aServer(anyone);
    const section = {
      ...tokens,
      vaultAddress: server.url,
      tenants: { tenant: { vaultAddress: "http://127.0.0.1:1" } },
    };
    const store = await openedKeeping({ config: { kms: section }, secrets: tenantSecret });
    await run(store.write(ID, KEY));
    expect(Object.keys(server.secrets())).toHaveLength(1);
  });

  test("Certificates are looked for in the tenant's namespace, then in the driver's", async () => {
    const section = { ...tokens, vaultAddress: "https://127.0.0.1:1", vaultCAFromSecret: "ca" };
    const pod = { config: { kms: section }, secrets: tenantSecret };
    expect(await failing(opening(pod))).toContain(
      "key vaultCAFromSecret: names Secret ca, which exists neither in the namespace tenant nor",
    );
    const empty = { ...pod, secrets: { ...tenantSecret, "tenant/ca": { other: "x" } } };
    expect(await failing(opening(empty))).toContain("KmsConfigInvalid: Secret tenant/ca, key cert: is missing");
    expect((await opened({ ...pod, secrets: { ...tenantSecret, "rook-ceph/ca": { cert: "PEM" } } })).kind).toBe(
      "keeping",
    );
  });

  test.each<[what: string, places: KmsPlaces, type: string, owner: string | undefined, says: string]>([
    [
      "without a token",
      {},
      "vaulttokens",
      "tenant",
      "key tenantTokenName: names Secret tenant/ceph-csi-kms-token, which does not exist",
    ],
    [
      "whose Secret has no token",
      { secrets: { "tenant/ceph-csi-kms-token": {} } },
      "vaulttokens",
      "tenant",
      "Secret tenant/ceph-csi-kms-token, key token: is missing",
    ],
    [
      "without a ServiceAccount",
      {},
      "vaulttenantsa",
      "tenant",
      "key tenantSAName: names ServiceAccount tenant/ceph-csi-vault-sa, which does not exist",
    ],
    ["that the journal does not know", {}, "vaulttokens", undefined, "needs the namespace of the claim"],
  ])("A tenant %s is told what to add", async (_, places, encryptionKMSType, owner, says) => {
    const server = aServer();
    const config = { kms: { ...tokens, encryptionKMSType, vaultAddress: server.url } };
    const read = Effect.flatMap(opening({ ...places, config }, { owner }), (store) =>
      store.kind === "keeping" ? store.read(ID) : Effect.die("kind"),
    );
    expect(await failing(read)).toContain(says);
  });
});
