/** Secrets, ConfigMaps and tokens of ServiceAccounts for key stores, and what a refusal says. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import { KubeFailed } from "../../../lib/kube/errors.ts";
import type { KubeService } from "../../../lib/kube/kube.ts";
import { kubeObjects } from "../../../lib/kms/kube-objects.ts";
import { failing } from "../../support/kms-world.ts";

type Answer = object | { readonly status: number };

/** An API that has these objects by `verb path`; a number is the status of a refusal. */
const objectsOf = (answers: Readonly<Record<string, Answer | number>>) => {
  const asked: string[] = [];
  const answer = (verb: "get" | "create", path: string) =>
    Effect.suspend(() => {
      asked.push(`${verb} ${path}`);
      const found = answers[`${verb} ${path}`] ?? 404;
      return typeof found === "number"
        ? Effect.fail(
            new KubeFailed({
              verb,
              path,
              status: found,
              code: found === 404 ? "NotFound" : "",
              reason: `status ${found}`,
            }),
          )
        : Effect.succeed(found);
    });
  const unused = () => Effect.die("unused");
  const service = {
    namespace: Effect.succeed("rook-ceph"),
    get: (path: string) => answer("get", path),
    create: (path: string) => answer("create", path),
    list: unused,
    watch: unused,
    update: unused,
    patch: unused,
  } as unknown as KubeService;
  return { objects: kubeObjects(Effect.succeed(service)), asked };
};

const run = <A, E>(effect: Effect.Effect<A, E>) => Effect.runPromise(effect);
const base64 = (text: string) => Buffer.from(text).toString("base64");
const SECRET = "/api/v1/namespaces/tenant/secrets/s";
const ACCOUNT = "/api/v1/namespaces/tenant/serviceaccounts/sa";

test("A Secret's keys are read as bytes and as text, and one that is not there is undefined", async () => {
  const { objects } = objectsOf({ [`get ${SECRET}`]: { data: { token: base64("a token\n"), raw: "/w==" } } });
  const secret = await run(objects.secret("tenant", "s"));
  expect(secret?.place).toBe("Secret tenant/s");
  expect(secret?.keys).toEqual(["token", "raw"]);
  expect(secret?.text("token") && Redacted.value(secret.text("token") ?? Redacted.make(""))).toBe("a token\n");
  expect(secret?.bytes("raw")).toEqual(new Uint8Array([255]));
  expect([secret?.text("other"), secret?.bytes("toString")]).toEqual([undefined, undefined]);
  expect(JSON.stringify(secret?.text("token"))).not.toContain("a token");
  expect(await run(objects.secret("tenant", "other"))).toBeUndefined();
});

test("A ConfigMap's texts are read, and one that is not there is undefined", async () => {
  const { objects } = objectsOf({ "get /api/v1/namespaces/tenant/configmaps/c": { data: { a: "1" } } });
  expect(await run(objects.configMap("tenant", "c"))).toEqual({ a: "1" });
  expect(await run(objects.configMap("tenant", "d"))).toBeUndefined();
});

test("A ServiceAccount's token is asked for, once the account is there", async () => {
  const { objects, asked } = objectsOf({
    [`get ${ACCOUNT}`]: { metadata: { name: "sa" } },
    [`create ${ACCOUNT}/token`]: { status: { token: "jwt" } },
  });
  const token = await run(objects.serviceAccountToken("tenant", "sa"));
  expect(token && Redacted.value(token)).toBe("jwt");
  expect(asked).toEqual([`get ${ACCOUNT}`, `create ${ACCOUNT}/token`]);
  expect(await run(objects.serviceAccountToken("tenant", "other"))).toBeUndefined();
});

test("Where no token is given, that of a Secret of the ServiceAccount is used", async () => {
  const { objects } = objectsOf({
    [`get ${ACCOUNT}`]: { secrets: [{ name: "gone" }, { name: "s" }] },
    [`get ${SECRET}`]: { data: { token: base64("old jwt") } },
  });
  const token = await run(objects.serviceAccountToken("tenant", "sa"));
  expect(token && Redacted.value(token)).toBe("old jwt");
});

test("A refusal is KmsDenied and names the verb to grant; no answer is KmsUnreachable", async () => {
  const { objects } = objectsOf({ [`get ${SECRET}`]: 403, "get /api/v1/namespaces/tenant/configmaps/c": 500 });
  const denied = await failing(objects.secret("tenant", "s"));
  expect(denied).toContain("KmsDenied: the Kubernetes API refuses");
  expect(denied).toContain('Grant the service account the verb "get"');
  expect(await failing(objects.configMap("tenant", "c"))).toContain(
    "KmsUnreachable: the Kubernetes API does not answer",
  );
});

test("A ServiceAccount that may not get a token, and has none in a Secret, ends with the refusal", async () => {
  const { objects } = objectsOf({ [`get ${ACCOUNT}`]: {}, [`create ${ACCOUNT}/token`]: 403 });
  expect(await failing(objects.serviceAccountToken("tenant", "sa"))).toContain('the verb "create"');
});
