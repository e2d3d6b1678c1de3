/** How a server stops: what running, waiting and new calls get, and how long it takes. */
import { afterEach, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { connect } from "node:http2";
import { createConnection } from "node:net";
import * as Effect from "effect/Effect";
import * as Stream from "effect/Stream";
import { Controller, SnapshotMetadata } from "../../../lib/gen/csi_pb.ts";
import { hanging } from "../../support/hanging.ts";
import { client } from "../../support/grpc-client.ts";
import { type ServiceImpl, served } from "../../../lib/grpc/service.ts";
import { Code } from "../../../lib/grpc/status.ts";
import { eventually, failure, type Served, serving, grace } from "../../support/grpc-serving.ts";

const closes: (() => void)[] = [];
afterEach(() => {
  for (const close of closes.splice(0)) close();
});

const fate = { started: 0, ended: 0, interrupted: 0 };

/** Calls that take the milliseconds in their name; "stuck" ones can't even be interrupted for two seconds. */
const impl: ServiceImpl<typeof Controller> = {
  createVolume: ({ name }) =>
    Effect.gen(function* () {
      fate.started++;
      yield* name === "stuck" ? Effect.uninterruptible(Effect.sleep(2000)) : Effect.sleep(Number(name));
      fate.ended++;
      return { volume: { volumeId: name } };
    }).pipe(Effect.onInterrupt(() => Effect.sync(() => void fate.interrupted++))),
};

const hang = hanging();

const setUp = async (graceSeconds: number) => {
  Object.assign(fate, { started: 0, ended: 0, interrupted: 0 });
  const message = { volumeCapacityBytes: 1n };
  const endless = Stream.forever(Stream.fromEffect(Effect.as(Effect.sleep(10), message)));
  // As a difference whose call in a cell takes long: an interruption waits for its end.
  const slow = Stream.concat(Stream.succeed(message), Stream.fromEffect(hang.around(Effect.succeed(message))));
  const server = await serving({
    stop: grace(graceSeconds),
    services: [
      served(Controller, impl),
      served(SnapshotMetadata, { getMetadataAllocated: () => endless, getMetadataDelta: () => slow }),
    ],
  });
  const controller = client(Controller, server.endpoint);
  const metadata = client(SnapshotMetadata, server.endpoint);
  closes.push(controller.close, metadata.close);
  return { server, controller, metadata };
};

const timed = async (server: Served): Promise<number> => {
  const since = performance.now();
  await server.stop();
  return performance.now() - since;
};

const started = (count: number) => eventually(() => fate.started === count, `${count} calls run`);

describe("a server that stops", () => {
  test("A server that stops lets a running call finish, and then ends", async () => {
    const { server, controller } = await setUp(5);
    const call = controller.createVolume({ name: "1500" }, { timeoutMs: 5000 });
    await started(1);
    const order: string[] = [];
    const stopping = server.stop().then(() => order.push("the server is gone"));
    const answered = call.then(({ volume }) => order.push(`volume ${volume?.volumeId}`));
    await eventually(() => !existsSync(server.path), "the socket is gone");
    expect(order).toEqual([]);
    await Promise.all([answered, stopping]);
    expect(order).toEqual(["volume 1500", "the server is gone"]);
    expect(fate).toEqual({ started: 1, ended: 1, interrupted: 0 });
    expect(server.finished()[0]?.annotations).toMatchObject({ code: "OK" });
  });

  test("A server that stops answers UNAVAILABLE to a call that outlasts the grace period, and interrupts it", async () => {
    const { server, controller } = await setUp(0.3);
    const calls = ["9000", "9000", "stuck"].map((name) =>
      failure(controller.createVolume({ name }, { timeoutMs: 9000 })),
    );
    await started(3);
    const since = performance.now();
    const stopping = timed(server);
    for (const call of calls) {
      const error = await call;
      expect([error.code, error.details]).toEqual([Code.UNAVAILABLE, "driver is stopping, retry"]);
    }
    // Not before the grace period, and long before the calls would have ended.
    expect(performance.now() - since).toBeWithin(290, 8000);
    expect(await stopping).toBeLessThan(8000);
    expect(fate).toMatchObject({ ended: 0, interrupted: 2 });
    expect(server.finished().map((line) => line.annotations["code"])).toEqual(["UNAVAILABLE", "UNAVAILABLE"]);
  });

  test("A server that stops ends streams the same way", async () => {
    const { server, metadata } = await setUp(0.2);
    const stream = metadata.getMetadataAllocated({}, { timeoutMs: 9000 })[Symbol.asyncIterator]();
    await stream.next();
    const stopping = timed(server);
    const error = await failure(
      (async () => {
        while ((await stream.next()).done !== true);
      })(),
    );
    expect([error.code, error.details]).toEqual([Code.UNAVAILABLE, "driver is stopping, retry"]);
    expect(await stopping).toBeLessThan(8000);
  });

  test("A server that stops does not wait for a stream whose caller has left, however long its call takes", async () => {
    const { server, metadata } = await setUp(5);
    const abort = new AbortController();
    const stream = metadata.getMetadataDelta({}, { timeoutMs: 20_000, signal: abort.signal })[Symbol.asyncIterator]();
    await stream.next();
    await eventually(() => hang.begun() === 1, "the call hangs");
    const left = failure(stream.next());
    abort.abort();
    expect((await left).code).toBe(Code.CANCELLED);
    // The grace period is five seconds.
    expect(await timed(server)).toBeLessThan(4500);
    hang.end();
  });

  test("A server that stops answers UNAVAILABLE to new calls on old connections", async () => {
    const { server, controller } = await setUp(1);
    const first = controller.createVolume({ name: "300" }, { timeoutMs: 5000 });
    await started(1);
    const stopping = timed(server);
    const error = await failure(controller.createVolume({ name: "1" }, { timeoutMs: 5000 }));
    expect(error.code).toBe(Code.UNAVAILABLE);
    expect((await first).volume?.volumeId).toBe("300");
    await stopping;
    expect(fate.started).toBe(1);
  });

  test("A server that stops cuts the connection of a request that never ends", async () => {
    const { server } = await setUp(0.2);
    const session = connect("http://localhost", { createConnection: () => createConnection(server.path) });
    session.on("error", () => {});
    const cut = new Promise<void>((resolve) => session.once("close", resolve));
    const stream = session.request({
      ":method": "POST",
      ":path": "/csi.v1.Controller/CreateVolume",
      "content-type": "application/grpc",
      te: "trailers",
    });
    stream.on("error", () => {});
    // half of a message's header
    stream.write(Buffer.from([0, 0, 0]));
    // The answer to a ping comes after the server has read what was sent before it.
    await new Promise((read) => session.ping(read));
    expect(await timed(server)).toBeLessThan(8000);
    await cut;
  }, 10_000);

  test("A server that stops does not wait for an idle connection", async () => {
    const { server, controller } = await setUp(5);
    await controller.createVolume({ name: "1" }, { timeoutMs: 5000 });
    // The grace period is five seconds.
    expect(await timed(server)).toBeLessThan(4500);
  });
});
