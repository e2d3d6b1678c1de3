/** Where a node is: its labels as topology and as a CRUSH location, asked of an API server over real TLS. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as TestClock from "effect/testing/TestClock";
import type { Cluster } from "../../../lib/config/clusters.ts";
import { KubeAccessWrong } from "../../../lib/kube/errors.ts";
import { accountAccess, podAccess } from "../../../lib/kube/kubeconfig.ts";
import { crushLocation } from "../../../lib/kube/labels.ts";
import { Placement } from "../../../lib/kube/placement.ts";
import { virtual } from "../../support/in-test-time.ts";

const LABELS = {
  "topology.kubernetes.io/zone": "z1",
  "topology.kubernetes.io/region": "eu",
  "other/zone": "z2",
  "kubernetes.io/hostname": "node.one",
};
const TOKEN = "a-token-that-no-error-shows";
const account = mkdtempSync(join(tmpdir(), "csi-rbd-account-"));
let server: ReturnType<typeof Bun.serve>;
let asked = 0;

beforeAll(() => {
  const made = Bun.spawnSync(
    ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"].concat([
      "-addext",
      "subjectAltName=IP:127.0.0.1",
      "-keyout",
      join(account, "key"),
      "-out",
      join(account, "ca.crt"),
    ]),
  );
  expect(made.exitCode).toBe(0);
  writeFileSync(join(account, "token"), `${TOKEN}\n`);
  server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    tls: { key: readFileSync(join(account, "key")), cert: readFileSync(join(account, "ca.crt")) },
    fetch: (request) => {
      asked += 1;
      if (request.headers.get("authorization") !== `Bearer ${TOKEN}`) return new Response("", { status: 401 });
      const { pathname } = new URL(request.url);
      if (pathname === "/api/v1/nodes/node-1") return Response.json({ metadata: { name: "node-1", labels: LABELS } });
      return new Response("", { status: pathname.endsWith("forbidden") ? 403 : 404 });
    },
  });
});
afterAll(async () => {
  await server.stop(true);
  rmSync(account, { recursive: true });
});

const flags = {
  nodeId: "node-1",
  driverName: "RBD.csi.ceph.com",
  domainLabels: [],
  crushLocationLabels: [],
};
const access = () => Effect.sync(() => accountAccess(`https://127.0.0.1:${server.port}`, account));
const cluster = (enabled: boolean, crushLocationLabels: readonly string[] = []): Cluster => ({
  clusterId: "east",
  monitors: ["127.0.0.1:6789"],
  radosNamespace: "",
  netNamespaceFilePath: "",
  mirrorDaemonCount: 1,
  readAffinity: { enabled, crushLocationLabels },
});
const placed = <A>(
  given: Partial<Parameters<typeof Placement.layer>[0]>,
  ask: (placement: Placement["Service"]) => Effect.Effect<A>,
  to: Parameters<typeof Placement.layer>[1] = access(),
) =>
  Effect.runPromise(Effect.flatMap(Placement, ask).pipe(Effect.provide(Placement.layer({ ...flags, ...given }, to))));
const segments = (domainLabels: readonly string[], more = {}) =>
  placed({ domainLabels, ...more }, ({ segments: found }) => Effect.succeed(found));

describe("topology", () => {
  test("The topology has the labels that the flag names, under the driver's name in lower case", async () => {
    expect(await segments(["topology.kubernetes.io/zone", "topology.kubernetes.io/region"])).toEqual({
      "topology.rbd.csi.ceph.com/zone": "z1",
      "topology.rbd.csi.ceph.com/region": "eu",
    });
  });

  test("The driver asks Kubernetes for no labels where the flag names none", async () => {
    asked = 0;
    expect(await segments([])).toEqual({});
    expect(asked).toBe(0);
  });

  const wrong: readonly (readonly [string, readonly string[], object, string])[] = [
    ["a label that the node lacks", ["rack"], {}, "--domainlabels names the label rack, which this node does not have"],
    ["two labels of one name", ["topology.kubernetes.io/zone", "other/zone"], {}, "two labels that end in zone"],
    ["a name too long for a label", ["other/zone"], { driverName: "d".repeat(60) }, "--drivername is too long"],
    ["a node that is not there", ["other/zone"], { nodeId: "node-2" }, "HTTP 404"],
    ["an account without the right", ["other/zone"], { nodeId: "forbidden" }, 'the verb "get"'],
  ];
  for (const [what, labels, more, said] of wrong) {
    test(`The start fails for ${what}`, async () => {
      const outcome = await segments(labels, more).then(String, (error: Error) => error.message);
      expect(outcome).toContain(said);
      expect(outcome).not.toContain(TOKEN);
    });
  }

  test("The driver has access to Kubernetes only in a pod", () => {
    expect(podAccess({})).toBeUndefined();
    expect(podAccess({ KUBERNETES_SERVICE_HOST: "fd00::1", KUBERNETES_SERVICE_PORT: "6443" })?.url).toBe(
      "https://[fd00::1]:6443",
    );
  });
});

describe("read affinity", () => {
  const near = (one: Cluster, more = {}) => placed(more, ({ mapOptions }) => mapOptions(one));

  test("The cluster's entry turns read affinity on, with its own labels or else the flag's", async () => {
    const flag = { crushLocationLabels: ["topology.kubernetes.io/region"] };
    expect(await near(cluster(true, ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]), flag)).toBe(
      "read_from_replica=localize,crush_location=zone:z1|host:node-one",
    );
    expect(await near(cluster(true), flag)).toBe("read_from_replica=localize,crush_location=region:eu");
    expect(await near(cluster(false), flag)).toBe("");
    expect(await near(cluster(true))).toBe("");
  });

  test("Read affinity is left out where the driver can't read the labels", async () => {
    expect(await near(cluster(true, ["rack"]))).toBe("");
    expect(await near(cluster(true, ["other/zone"]), { nodeId: "node-2" })).toBe("");
  });

  test("A failed look at the labels is made again for the next volume, and a good one is kept", async () => {
    let looks = 0;
    const late = Effect.suspend(() =>
      ++looks === 1 ? Effect.fail(new KubeAccessWrong({ message: "the token is not there yet" })) : access(),
    );
    const one = cluster(true, ["topology.kubernetes.io/zone"]);
    const found = await placed({}, ({ mapOptions }) => Effect.replicateEffect(mapOptions(one), 3), late);
    const near = "read_from_replica=localize,crush_location=zone:z1";
    expect(found).toEqual(["", near, near]);
    expect(looks).toBe(2);
  });

  virtual("A volume does not wait long for labels that nobody tells", (log) =>
    Effect.gen(function* () {
      const { mapOptions } = yield* Placement;
      const asked = yield* Effect.forkChild(mapOptions(cluster(true, ["topology.kubernetes.io/zone"])));
      yield* TestClock.adjust("5 seconds");
      expect(yield* Fiber.join(asked)).toBe("");
      expect(log.join()).toContain("without read affinity: the node's labels were not read within 5 seconds");
    }).pipe(Effect.provide(Placement.layer(flags, Effect.never))),
  );

  test("Read affinity treats a label without a value as absent", () => {
    expect(crushLocation({ a: " ", b: "x.y" }, ["a", "b", "c"])).toBe("b:x-y");
  });
});
