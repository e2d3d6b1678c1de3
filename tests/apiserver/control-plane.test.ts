/** What the rig promises of its Kubernetes: the tests beside this one build on it. */
import { readFileSync } from "node:fs";
import { expect, test } from "bun:test";
import { z } from "zod";
import { openControlPlane } from "../rig/kubernetes/control-plane.ts";

const MINUTES = 300_000;
const NAMESPACES = "/api/v1/namespaces";
const plane = openControlPlane();
const tls = { ca: readFileSync(plane.caFile, "utf8") };

const get = (path: string, token = plane.tokenOf("admin")) =>
  fetch(`${plane.url}${path}`, { tls, headers: { authorization: `Bearer ${token}` } });
const List = z.object({
  metadata: z.object({ resourceVersion: z.string() }),
  items: z.array(z.object({ metadata: z.object({ name: z.string() }) })),
});
const list = async (path: string) => List.parse(await (await get(path)).json());
const namesIn = async (path: string) => (await list(path)).items.map(({ metadata }) => metadata.name);

test(
  "the controller-manager works: a new namespace gets its service account, whose token is known but may not list nodes",
  async () => {
    await plane.kubectl(["create", "namespace", "rig-manager"]);
    await plane.kubectl(["wait", "--for=create", "--timeout=120s", "-n", "rig-manager", "serviceaccount/default"]);
    const token = await plane.serviceAccountToken("rig-manager", "default");
    expect((await get("/version", token)).status).toBe(200);
    expect((await get("/api/v1/nodes", token)).status).toBe(403);
    expect((await get("/api/v1/nodes", "unknown")).status).toBe(401);
  },
  MINUTES,
);

test(
  "an API server that was killed comes back at its address with all objects",
  async () => {
    await plane.kubectl(["create", "namespace", "rig-killed"]);
    await plane.endApiServer();
    expect(await get(NAMESPACES).catch(() => "refused")).toBe("refused");
    await plane.startApiServer();
    expect(await namesIn(NAMESPACES)).toContain("rig-killed");
  },
  MINUTES,
);

test(
  "after a compaction and a new start a watch from an old revision is expired",
  async () => {
    const { resourceVersion } = (await list(NAMESPACES)).metadata;
    await plane.kubectl(["create", "namespace", "rig-later"]);
    await plane.endApiServer();
    await plane.compact();
    await plane.startApiServer();
    const watched = await get(`${NAMESPACES}?watch=1&timeoutSeconds=5&resourceVersion=${resourceVersion}`);
    expect(JSON.parse((await watched.text()).split("\n")[0] ?? "")).toMatchObject({
      type: "ERROR",
      object: { code: 410, reason: "Expired" },
    });
  },
  MINUTES,
);
