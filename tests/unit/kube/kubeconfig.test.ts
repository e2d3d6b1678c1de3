/** Where the API server is and who this process is: by a pod's account, or by a kubeconfig. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import { type Credentials, kubeAccess, type KubeconfigVariable } from "../../../lib/kube/kubeconfig.ts";
import { temporaryDirectory } from "../../support/grpc-serving.ts";

const folder = temporaryDirectory();
afterAll(() => rmSync(folder, { recursive: true }));

const base64 = (text: string) => Buffer.from(text).toString("base64");
const path = join(folder, "config");
const config = (cluster: object, user: object, context: object = {}) => {
  writeFileSync(
    path,
    JSON.stringify({
      apiVersion: "v1",
      kind: "Config",
      "current-context": "here",
      clusters: [{ name: "c", cluster: { server: "https://k:6443/", ...cluster } }],
      users: [{ name: "u", user }],
      contexts: [{ name: "here", context: { cluster: "c", user: "u", ...context } }],
    }),
  );
  return Effect.runPromise(kubeAccess(path, {}));
};
const refusal = (act: Promise<unknown>) =>
  act.then(
    () => "accepted",
    (error: Error) => error.message,
  );

describe("a kubeconfig", () => {
  test("Authority and client certificate come from the text or from files beside it", async () => {
    writeFileSync(join(folder, "ca.pem"), "CA");
    const data = { "client-certificate-data": base64("CERT"), "client-key-data": base64("KEY") };
    const access = await config({ "certificate-authority": "ca.pem" }, data, { namespace: "storage" });
    expect(access.url).toBe("https://k:6443");
    expect(await Effect.runPromise(access.credentials)).toEqual({
      token: undefined,
      tls: { ca: "CA", cert: "CERT", key: "KEY" },
    });
    expect(await Effect.runPromise(access.namespace)).toBe("storage");
  });

  test("A token file is read at each use, and wins over a token", async () => {
    writeFileSync(join(folder, "token"), "one\n");
    const { credentials } = await config({ "insecure-skip-tls-verify": true }, { token: "fixed", tokenFile: "token" });
    expect((await Effect.runPromise(credentials)).token).toBe("one");
    writeFileSync(join(folder, "token"), "two");
    expect(await Effect.runPromise(credentials)).toEqual({ token: "two", tls: { rejectUnauthorized: false } });
  });

  test("YAML as kubectl writes it is read", async () => {
    writeFileSync(
      path,
      `apiVersion: v1
kind: Config
preferences: {}
clusters:
- cluster:
    certificate-authority-data: ${base64("CA")}
    server: https://10.0.0.1:6443
  name: kind
contexts:
- context:
    cluster: kind
    user: admin
  name: admin@kind
current-context: admin@kind
users:
- name: admin
  user:
    token: "12345"
`,
    );
    const { credentials, url } = await Effect.runPromise(kubeAccess(path, {}));
    expect(url).toBe("https://10.0.0.1:6443");
    expect(await Effect.runPromise(credentials)).toEqual({ token: "12345", tls: { ca: "CA" } });
  });

  const PLAIN: Credentials = { token: "abc", tls: {} };
  test.each<[object, object, object, Credentials]>([
    [{}, { tokenFile: "" }, {}, PLAIN],
    [{}, { tokenFile: null, exec: null, "auth-provider": null, username: "", password: "", as: "" }, {}, PLAIN],
    [{}, { exec: {}, "as-groups": [], "as-user-extra": {}, "as-uid": null }, {}, PLAIN],
    [
      {},
      { "client-certificate": "", "client-certificate-data": "", "client-key": null, "client-key-data": "" },
      {},
      PLAIN,
    ],
    [{ "certificate-authority": "", "certificate-authority-data": "" }, {}, {}, PLAIN],
    [{ "certificate-authority": null, "certificate-authority-data": null }, {}, {}, PLAIN],
    [{ "proxy-url": "", "tls-server-name": "", "insecure-skip-tls-verify": null }, {}, {}, PLAIN],
    [{ "proxy-url": null, "tls-server-name": null }, {}, { namespace: null }, PLAIN],
    [{}, {}, { namespace: "", extensions: null }, PLAIN],
    [
      { "certificate-authority": "", "certificate-authority-data": base64("CA") },
      { "client-certificate": "", "client-certificate-data": base64("CERT") },
      {},
      { token: "abc", tls: { ca: "CA", cert: "CERT" } },
    ],
  ])("Empty fields count as absent: cluster %j, user %j, context %j", async (cluster, user, context, found) => {
    const access = await config(cluster, { token: "abc", ...user }, context);
    expect(await Effect.runPromise(Effect.all([access.credentials, access.namespace]))).toEqual([found, "default"]);
  });

  test("Lists and entries that are not in use may be null", async () => {
    const clusters = [{ name: "c", cluster: { server: "https://k:6443" } }];
    const contexts = [
      { name: "here", context: { cluster: "c", user: "nobody" } },
      { name: "other", context: null },
    ];
    writeFileSync(path, JSON.stringify({ "current-context": "here", clusters, contexts, users: null }));
    const { credentials } = await Effect.runPromise(kubeAccess(path, {}));
    expect(await Effect.runPromise(credentials)).toEqual({ token: undefined, tls: {} });
  });

  test("A token stands in for a token file that cannot be read", async () => {
    const { credentials } = await config({}, { token: "fixed", tokenFile: "absent" });
    expect((await Effect.runPromise(credentials)).token).toBe("fixed");
  });

  test.each<[object, string]>([
    [{ server: "10.0.0.1:6443" }, "http://10.0.0.1:6443"],
    [{ server: "10.0.0.1:6443/", "certificate-authority": "ca.pem" }, "https://10.0.0.1:6443"],
    [{ server: "https://k:6443/clusters/a/" }, "https://k:6443/clusters/a"],
  ])("The cluster %j is reached as client-go does", async (cluster, url) => {
    expect((await config(cluster, {})).url).toBe(url);
  });

  test.each([
    ["a way to log in that is not here", { exec: { command: "aws" } }, 'does not have "exec" of a user'],
    ["another person", { token: "t", "as-groups": ["admins"] }, 'does not have "as-groups" of a user'],
    ["a password", { username: "u", password: "s3cret" }, 'does not have "username" of a user'],
  ])("%s is refused by name", async (_, user, said) => {
    const message = await refusal(config({}, user));
    expect(message).toContain(said);
    expect(message).not.toContain("s3cret");
  });

  test("A file that is not a kubeconfig, or names what it does not have, says what is wrong", async () => {
    writeFileSync(path, "token: s3cret: :");
    const broken = await refusal(Effect.runPromise(kubeAccess(path, {})));
    expect(broken).toContain(`--kubeconfig=${path}: it is not a kubeconfig`);
    expect(broken).not.toContain("s3cret");
    expect(await refusal(config({}, {}, { cluster: "other" }))).toContain('it has no cluster "other"');
    expect(await refusal(config({ server: "" }, {}))).toContain('its cluster "c" has no server');
    expect(await refusal(config({ "proxy-url": "http://p" }, {}))).toContain('"proxy-url"');
    expect(await refusal(Effect.runPromise(kubeAccess(join(folder, "absent"), {})))).toContain("ENOENT");
  });
});

describe("the place of the kubeconfig", () => {
  const write = (name: string, content: object) => {
    writeFileSync(join(folder, name), JSON.stringify(content));
    return join(folder, name);
  };
  const whole = (name: string) =>
    write(name, {
      "current-context": "here",
      clusters: [{ name: "c", cluster: { server: `https://${name}`, "certificate-authority": `${name}.pem` } }],
      contexts: [{ name: "here", context: { cluster: "c" } }],
    });
  const [one, two, three] = ["one", "two", "three"].map(whole) as [string, string, string];
  const absent = join(folder, "absent");
  const pod = { KUBERNETES_SERVICE_HOST: "pod", KUBERNETES_SERVICE_PORT: "443" };
  const both: readonly KubeconfigVariable[] = ["KUBERNETES_CONFIG_PATH", "KUBECONFIG"];
  const named = (kubeconfig: string, env: Record<string, string>, variables = both) =>
    Effect.runPromise(kubeAccess(kubeconfig, env, variables));

  test.each<[string, Record<string, string>, readonly KubeconfigVariable[], string]>([
    [one, { ...pod, KUBERNETES_CONFIG_PATH: two, KUBECONFIG: three }, both, "https://one"],
    ["", { ...pod, KUBERNETES_CONFIG_PATH: two, KUBECONFIG: three }, both, "https://two"],
    ["", { ...pod, KUBERNETES_CONFIG_PATH: "", KUBECONFIG: three }, both, "https://three"],
    ["", { ...pod, KUBECONFIG: three }, ["KUBERNETES_CONFIG_PATH"], "https://pod:443"],
    ["", { ...pod, KUBERNETES_CONFIG_PATH: two }, [], "https://pod:443"],
    ["", { ...pod, KUBERNETES_CONFIG_PATH: "", KUBECONFIG: "" }, both, "https://pod:443"],
    ["", { ...pod, KUBECONFIG: `${absent}:${two}::${three}` }, both, "https://two"],
  ])("--kubeconfig=%j with %j, where %j count, leads to %s", async (kubeconfig, env, variables, url) => {
    expect((await named(kubeconfig, env, variables)).url).toBe(url);
  });

  test("Of several files each adds what those before it lack, with its own files beside it", async () => {
    mkdirSync(join(folder, "sub"));
    writeFileSync(join(folder, "sub", "ca.pem"), "SUB");
    const context = write("context", { "current-context": "there", users: [{ name: "u", user: { token: "t" } }] });
    const rest = write("sub/rest", {
      "current-context": "lost",
      clusters: [{ name: "c", cluster: { server: "https://rest", "certificate-authority": "ca.pem" } }],
      users: [{ name: "u", user: { token: "not this one" } }],
      contexts: [{ name: "there", context: { cluster: "c", user: "u" } }],
    });
    const { url, credentials } = await named("", { KUBECONFIG: `${context}:${rest}` });
    expect(url).toBe("https://rest");
    expect(await Effect.runPromise(credentials)).toEqual({ token: "t", tls: { ca: "SUB" } });
  });

  test("A message about a kubeconfig says who named it", async () => {
    const broken = write("broken", { clusters: "s3cret" });
    const env = (name: KubeconfigVariable, value: string) => refusal(named("", { [name]: value }));
    expect(await env("KUBERNETES_CONFIG_PATH", absent)).toBe(
      `KUBERNETES_CONFIG_PATH=${absent}: cannot read ${absent}: ENOENT`,
    );
    expect(await env("KUBECONFIG", `${absent}:${absent}2`)).toContain(`KUBECONFIG=${absent}:${absent}2: cannot read`);
    expect(await env("KUBECONFIG", broken)).toContain(`KUBECONFIG=${broken}: it is not a kubeconfig`);
    expect(await refusal(named(absent, {}))).toBe(`--kubeconfig=${absent}: cannot read ${absent}: ENOENT`);
    expect(await refusal(named("", {}))).toContain("--kubeconfig or KUBERNETES_CONFIG_PATH or KUBECONFIG");
  });
});

test("Without a kubeconfig and outside of a pod there is no access, and the message names the flag", async () => {
  expect(await refusal(Effect.runPromise(kubeAccess("", {})))).toContain("--kubeconfig");
});
