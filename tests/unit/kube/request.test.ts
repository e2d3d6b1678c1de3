/** The client of the Kubernetes API over real HTTPS: who it is, what it asks, and what it makes of each answer. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Stream from "effect/Stream";
import type { KubeFailed } from "../../../lib/kube/errors.ts";
import type { WatchEvent } from "../../../lib/kube/kube.ts";
import { accountAccess } from "../../../lib/kube/kubeconfig.ts";
import { makeKube } from "../../../lib/kube/request.ts";
import { eventually } from "../../support/grpc-serving.ts";
import { type KubeServer, kubeServer, status, TOKEN } from "../../support/kube-server.ts";
import { type VirtualTime, virtualTime } from "../../support/virtual-time.ts";

let server: KubeServer;
beforeAll(() => void (server = kubeServer()));
afterAll(() => server.stop());
afterEach(() => {
  server.requests.length = 0;
  writeFileSync(join(server.folder, "token"), `${TOKEN}\n`);
});

const VAS = "/apis/storage.k8s.io/v1/volumeattachments";
const client = () => makeKube(accountAccess(server.url, server.folder));
const run = <A>(effect: Effect.Effect<A, KubeFailed>) => Effect.runPromise(effect);
const failed = (effect: Effect.Effect<unknown, KubeFailed>) => Effect.runPromise(Effect.flip(effect));
let count = 0;
const attachment = () => ({ metadata: { name: `va-${(count += 1)}` }, spec: { attacher: "a", nodeName: "n" } });

describe("single requests", () => {
  test("An object is created, read, updated with its version, and patched in both ways", async () => {
    const kube = client();
    const object = attachment();
    const path = `${VAS}/${object.metadata.name}`;
    await run(kube.create(VAS, object));
    const found = (await run(kube.get(path))) as { metadata: object; spec: object };
    await run(kube.update(path, { ...found, spec: { ...found.spec, nodeName: "m" } }));
    expect(await failed(kube.update(path, found))).toMatchObject({ status: 409, code: "Conflict" });
    await run(kube.patch(`${path}/status`, { merge: { status: { attached: true } } }));
    await run(kube.patch(path, { json: [{ op: "add", path: "/metadata/finalizers", value: ["f/a"] }] }));
    expect(server.memory.get(path)).toMatchObject({
      metadata: { finalizers: ["f/a"] },
      spec: { nodeName: "m" },
      status: { attached: true },
    });
    const test = kube.patch(path, { json: [{ op: "test", path: "/metadata/finalizers/0", value: "other" }] });
    expect(await failed(test)).toMatchObject({ status: 422 });
  });

  test("A long list comes in pages, all of one version", async () => {
    const kube = client();
    const list = "/api/v1/persistentvolumes";
    for (let n = 0; n < 5; n++) server.memory.create(list, { metadata: { name: `pv-${n}` } });
    const first = await run(kube.list(list, { limit: 3, after: "" }));
    const second = await run(kube.list(list, { limit: 3, after: first.next }));
    expect([first.items.length, second.items.length, second.next]).toEqual([3, 2, ""]);
    expect(second.resourceVersion).toBe(first.resourceVersion);
  });

  test("An error names the request and what the API says, and shows no credential", async () => {
    server.answerNext(() => status(403, "Forbidden", "attachments are forbidden"));
    const { message } = await failed(client().patch(`${VAS}/x`, { merge: {} }));
    expect(message).toBe(
      `cannot patch ${VAS}/x of the Kubernetes API: HTTP 403: attachments are forbidden. ` +
        'Grant the service account the verb "patch" for it',
    );
    server.answerNext(() => new Response("<html>", { status: 502 }));
    expect((await failed(client().get("/api/v1/nodes/n"))).message).toEndWith("HTTP 502");
  });

  test("A token that was renewed is read again, at once when the server refuses the old one", async () => {
    const kube = client();
    await run(kube.list(VAS, { limit: 1, after: "" }));
    writeFileSync(join(server.folder, "token"), "another-token");
    await run(kube.list(VAS, { limit: 1, after: "" }));
    expect(server.requests).toHaveLength(3);
  });

  test("A server whose certificate another authority signed is refused", async () => {
    const other = kubeServer();
    const kube = makeKube(accountAccess(other.url, server.folder));
    const { message, status: code } = await failed(kube.get("/api/v1/nodes/n"));
    await other.stop();
    expect(code).toBeUndefined();
    expect(message).toContain("certificate");
    expect(other.requests).toEqual([]);
  });
});

describe("a server that asks for patience", () => {
  const busy = (seconds: string) => () => status(429, "TooManyRequests", "too many", { "retry-after": seconds });
  const started = (time: VirtualTime, act: Effect.Effect<unknown, unknown>) =>
    Effect.runPromise(Effect.provide(act, time.layer));

  test("A request waits as long as Retry-After says, and is sent again", async () => {
    const time = virtualTime();
    server.answerNext(busy("7"));
    const ended = started(time, client().list(VAS, { limit: 1, after: "" }));
    await eventually(() => server.requests.length === 1, "the first request");
    await time.pass("6900 millis");
    expect(server.requests).toHaveLength(1);
    // The wait has begun for certain only when it has ended.
    const again = setInterval(() => void time.pass("2 seconds"), 20);
    await ended.finally(() => clearInterval(again));
    expect(server.requests).toHaveLength(2);
  });

  test("After ten answers of that kind the request fails", async () => {
    const time = virtualTime();
    for (let n = 0; n < 10; n++) server.answerNext(busy("1"));
    const ended = started(time, Effect.flip(client().get(`${VAS}/x`)));
    const again = setInterval(() => void time.pass("2 seconds"), 10);
    expect(await ended.finally(() => clearInterval(again))).toMatchObject({ status: 429 });
    expect(server.requests).toHaveLength(10);
  });
});

describe("watches", () => {
  const watching = (version: string) => {
    const events: WatchEvent[] = [];
    const fiber = Effect.runFork(
      Stream.runForEach(client().watch(VAS, version), (event) => Effect.sync(() => void events.push(event))),
    );
    return { events, ended: Effect.runPromiseExit(Fiber.join(fiber)), stop: Fiber.interrupt(fiber) };
  };

  test("Events come one by one as they happen, from the given version on, and the request asks for bookmarks", async () => {
    const version = server.memory.currentVersion();
    const first = attachment();
    server.memory.create(VAS, first);
    const watch = watching(version);
    await eventually(() => watch.events.length === 1, "what was before the watch");
    server.memory.merge(`${VAS}/${first.metadata.name}`, { metadata: { labels: { a: "ü" } } });
    server.memory.remove(`${VAS}/${first.metadata.name}`);
    await eventually(() => watch.events.length === 3, "all events");
    expect(watch.events.map(({ type }) => type)).toEqual(["ADDED", "MODIFIED", "DELETED"]);
    expect(server.requests[0]).toContain("allowWatchBookmarks=true");
    await Effect.runPromise(watch.stop);
    await eventually(() => server.watches() === 0, "the connection is closed");
  });

  test("A watch from a version that the server has forgotten fails with 410, before or in the stream", async () => {
    const old = server.memory.currentVersion();
    server.memory.compact();
    expect(String(await watching(old).ended)).toContain("410");
    const watch = watching(server.memory.currentVersion());
    await eventually(() => server.watches() === 1, "the watch is open");
    const object = { kind: "Status", code: 410, reason: "Expired", message: "too old" };
    server.cutWatches(`${JSON.stringify({ type: "ERROR", object })}\n`);
    expect(String(await watch.ended)).toContain("410");
  });

  test("A watch that the server ends is over; one that breaks inside a line fails", async () => {
    const version = server.memory.currentVersion();
    const whole = watching(version);
    await eventually(() => server.watches() === 1, "the watch is open");
    server.cutWatches("");
    expect((await whole.ended)._tag).toBe("Success");
    const broken = watching(version);
    await eventually(() => server.watches() === 1, "the watch is open");
    server.cutWatches('{"type":"ADD');
    expect(String(await broken.ended)).toContain("the answer is not an event");
  });

  test("A watch that says nothing for 150 seconds is given up, and its connection closed", async () => {
    const time = virtualTime();
    const watch = Stream.runDrain(client().watch(VAS, server.memory.currentVersion()));
    const state = { ended: false };
    const ended = Effect.runPromise(Effect.provide(watch, time.layer)).finally(() => void (state.ended = true));
    await eventually(() => server.watches() === 1, "the watch is open");
    await time.pass("100 seconds");
    expect(state.ended).toBe(false);
    const on = setInterval(() => void time.pass("10 seconds"), 10);
    await ended.finally(() => clearInterval(on));
    await eventually(() => server.watches() === 0, "the connection is closed");
  });
});
