/** One call at a time through lib/grpc/bridge.ts: a real grpc-js client, a real unix socket, a real server. */
import { afterEach, describe, expect, test } from "bun:test";
import { connect } from "node:http2";
import { createConnection } from "node:net";
import { Client as RawClient, credentials } from "@grpc/grpc-js";
import * as Deferred from "effect/Deferred";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Stream from "effect/Stream";
import { Controller, Identity, Node, SnapshotMetadata } from "../../../lib/gen/csi_pb.ts";
import { CallInfo } from "../../../lib/grpc/call.ts";
import { remark } from "../../../lib/operations/remark.ts";
import { type CallSettings, client } from "../../support/grpc-client.ts";
import { type ServiceImpl, served } from "../../../lib/grpc/service.ts";
import { Code, codeName, RpcError } from "../../../lib/grpc/status.ts";
import { eventually, failure, type Served, grace, serving } from "../../support/grpc-serving.ts";

const cleanup: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of cleanup.splice(0).toReversed()) await end();
});

const start = async (...args: Parameters<typeof serving>): Promise<Served> => {
  const server = await serving({ stop: grace(1), ...args[0] });
  cleanup.push(server.stop);
  return server;
};

const controllerWith = async (
  impl: ServiceImpl<typeof Controller>,
  options: Partial<Parameters<typeof serving>[0]> = {},
) => {
  const server = await start({ services: [served(Controller, impl)], ...options });
  const controller = client(Controller, server.endpoint);
  cleanup.push(controller.close);
  return { server, controller };
};

const settings = (more: CallSettings = {}): CallSettings => ({ timeoutMs: 5000, ...more });

describe("unary calls", () => {
  test("A unary call carries request and response, and logs one line", async () => {
    const { server, controller } = await controllerWith({
      createVolume: (request) =>
        Effect.succeed({
          volume: { volumeId: `of ${request.name}`, capacityBytes: request.capacityRange?.requiredBytes ?? 0n },
        }),
    });
    const request = { name: "pvc-ä", capacityRange: { requiredBytes: 2n ** 62n } };
    const { volume } = await controller.createVolume(request, settings());
    expect(volume?.volumeId).toBe("of pvc-ä");
    expect(volume?.capacityBytes).toBe(2n ** 62n);
    const [line, ...rest] = server.finished();
    expect(rest).toEqual([]);
    expect(line?.level).toBe("Info");
    expect(line?.annotations).toMatchObject({ rpc: "CreateVolume", code: "OK", ms: expect.any(Number) });
    expect(line?.annotations["call"]).toMatch(/^[0-9a-z]+-[0-9a-z]+$/);
  });

  test("A unary call shows the handler its deadline, headers and id", async () => {
    let seen: CallInfo | undefined;
    const { server, controller } = await controllerWith({
      deleteVolume: () =>
        Effect.map(CallInfo, (info) => {
          seen = info;
          return {};
        }),
    });
    const before = Date.now();
    await controller.deleteVolume({}, settings({ timeoutMs: 30_000, metadata: { "x-from": "test" } }));
    expect(seen?.rpc).toBe("/csi.v1.Controller/DeleteVolume");
    expect(seen?.method).toBe("DeleteVolume");
    expect(seen?.deadline).toBeWithin(before + 29_900, Date.now() + 30_001);
    expect(seen?.header("x-from")).toBe("test");
    expect(seen?.header("x-none")).toBeUndefined();
    expect(server.finished()[0]?.annotations["call"]).toBe(seen?.id);
    await controller.deleteVolume({});
    expect(seen?.deadline).toBeUndefined();
  });

  test("A call whose request holds what has no effect ends with one line that warns of it", async () => {
    const { server, controller } = await controllerWith({
      createVolume: () => Effect.as(remark(["a has no effect", "b has none"]), {}),
      deleteVolume: () => Effect.succeed({}),
    });
    await controller.createVolume({}, settings());
    await controller.deleteVolume({}, settings());
    const [warned, plain] = server.finished();
    expect(warned).toMatchObject({
      level: "Warn",
      annotations: { code: "OK", warnings: "a has no effect; b has none" },
    });
    expect(plain).toMatchObject({ level: "Info" });
    expect(plain?.annotations).not.toHaveProperty("warnings");
  });

  test("A unary call ends with the handler's own code and text", async () => {
    const { server, controller } = await controllerWith({
      createVolume: () => Effect.fail(new RpcError({ code: Code.ABORTED, message: "größe 50 %\nbusy" })),
    });
    const error = await failure(controller.createVolume({}, settings()));
    expect([error.code, error.details]).toEqual([Code.ABORTED, "größe 50 %\nbusy"]);
    expect(server.finished()[0]?.annotations).toMatchObject({ code: "ABORTED", error: "größe 50 %\nbusy" });
  });

  test.each([
    ["half a surrogate pair", "\ud83d", "\ufffd"],
    ["far too long a text", "x".repeat(100_000), `${"x".repeat(4096)}…`],
  ])("A unary call whose handler fails with %s carries a text that gRPC can send", async (_, message, arrives) => {
    const { controller } = await controllerWith({
      createVolume: () => Effect.fail(new RpcError({ code: Code.INTERNAL, message })),
    });
    const error = await failure(controller.createVolume({}, settings()));
    expect([error.code, error.details]).toEqual([Code.INTERNAL, arrives]);
  });

  test("A unary call never passes a failure off as OK", async () => {
    const { controller } = await controllerWith({
      createVolume: () => Effect.fail(new RpcError({ code: Code.OK, message: "odd" })),
    });
    expect((await failure(controller.createVolume({}, settings()))).code).toBe(Code.INTERNAL);
  });

  test.each([
    [
      "a throw in the handler",
      () => {
        throw new Error("private /etc/ceph/key");
      },
    ],
    ["a defect in the effect", () => Effect.die(new Error("private /etc/ceph/key"))],
    [
      "a response that can't be encoded",
      () => Effect.succeed({ volume: { capacityBytes: 2n ** 80n, volumeId: "private /etc/ceph/key" } }),
    ],
  ])("A unary call answers INTERNAL to %s, and keeps the text in the log", async (_, createVolume) => {
    const { server, controller } = await controllerWith({ createVolume });
    const error = await failure(controller.createVolume({}, settings()));
    expect(error.code).toBe(Code.INTERNAL);
    expect(error.details).toStartWith("internal error");
    expect(error.details).not.toContain("private");
    const id = server.finished()[0]?.annotations["call"];
    expect(error.details).toContain(String(id));
    const defect = server.log.find((line) => line.level === "Error");
    expect(defect?.annotations["call"]).toBe(id);
    expect(defect?.text).toMatch(/private \/etc\/ceph\/key|int64/);
  });

  test("A unary call of an unknown method answers UNIMPLEMENTED with the method's name", async () => {
    const { server, controller } = await controllerWith({});
    const error = await failure(controller.listVolumes({}, settings()));
    expect(error.code).toBe(Code.UNIMPLEMENTED);
    expect(error.details).toContain("csi.v1.Controller/ListVolumes");
    expect(server.finished()[0]?.annotations).toMatchObject({ rpc: "ListVolumes", code: "UNIMPLEMENTED" });
    const node = client(Node, server.endpoint);
    cleanup.push(node.close);
    expect((await failure(node.nodeGetInfo({}, settings()))).code).toBe(Code.UNIMPLEMENTED);
  });

  test("A unary call with bytes that are not a message answers INVALID_ARGUMENT", async () => {
    const { server } = await controllerWith({ createVolume: () => Effect.succeed({}) });
    const raw = new RawClient(`unix:${server.path}`, credentials.createInsecure());
    cleanup.push(() => raw.close());
    const call = (bytes: number[]) =>
      new Promise((resolve, reject) => {
        const same = (message: Buffer) => message;
        raw.makeUnaryRequest("/csi.v1.Controller/CreateVolume", same, same, Buffer.from(bytes), (error, response) =>
          error === null ? resolve(response) : reject(error),
        );
      });
    await call([]);
    for (const bytes of [[0x0a, 0x7f, 0x41], [0xff], [0x0a, 0x01, 0xff]]) {
      const error = await failure(call(bytes));
      expect([error.code, error.details]).toEqual([
        Code.INVALID_ARGUMENT,
        "request is not a valid csi.v1.CreateVolumeRequest",
      ]);
    }
  });

  test("A unary call reports its end once to the observer", async () => {
    const seen: [string, number, boolean][] = [];
    const { controller } = await controllerWith(
      {
        createVolume: () => Effect.succeed({}),
        deleteVolume: () => Effect.fail(new RpcError({ code: Code.ABORTED, message: "no" })),
      },
      { observe: (rpc, code, seconds) => seen.push([rpc, code, seconds >= 0 && seconds < 5]) },
    );
    await controller.createVolume({}, settings());
    await failure(controller.deleteVolume({}, settings()));
    expect(seen).toEqual([
      ["/csi.v1.Controller/CreateVolume", Code.OK, true],
      ["/csi.v1.Controller/DeleteVolume", Code.ABORTED, true],
    ]);
  });

  test("A unary call reports its end for housekeeping when it has nothing left to do", async () => {
    let ends = 0;
    const { server, controller } = await controllerWith(
      {
        createVolume: () => Effect.succeed({}),
        deleteVolume: () => Effect.fail(new RpcError({ code: Code.ABORTED, message: "no" })),
      },
      { onEnd: () => (ends += 1) },
    );
    await controller.createVolume({}, settings());
    await failure(controller.deleteVolume({}, settings()));
    await eventually(() => ends === 2, "both calls have ended");
    expect(server.finished().length).toBe(2);
  });

  test("Unary calls run side by side", async () => {
    let running = 0;
    const all = Deferred.makeUnsafe<void>();
    // No call ends before all of them run: if one waited for another, none ever would.
    const { controller } = await controllerWith({
      createVolume: ({ name }) =>
        Effect.gen(function* () {
          if (++running === 200) yield* Deferred.succeed(all, undefined);
          yield* Deferred.await(all);
          return { volume: { volumeId: name } };
        }),
    });
    const names = Array.from({ length: 200 }, (_, i) => `v${i}`);
    const answers = await Promise.all(names.map((name) => controller.createVolume({ name }, settings())));
    expect(answers.map(({ volume }) => volume?.volumeId)).toEqual(names);
  });
});

describe("callers that leave", () => {
  /** A handler that waits for ever, and what became of it. */
  const waiting = () => {
    const fate = { started: 0, interrupted: 0, operationDone: false };
    const letGo = Deferred.makeUnsafe<void>();
    const operation = Effect.map(Deferred.await(letGo), () => {
      fate.operationDone = true;
    });
    const impl: ServiceImpl<typeof Controller> = {
      createVolume: () =>
        Effect.gen(function* () {
          fate.started++;
          yield* Effect.forkDetach(operation);
          return yield* Effect.never;
        }).pipe(
          Effect.onInterrupt(() =>
            Effect.sync(() => {
              fate.interrupted++;
            }),
          ),
        ),
    };
    return { fate, impl, letGo: () => Deferred.doneUnsafe(letGo, Exit.void) };
  };

  test("A caller that cancels interrupts the waiting fiber, and not the operation", async () => {
    const { fate, impl, letGo } = waiting();
    const { server, controller } = await controllerWith(impl);
    const abort = new AbortController();
    const call = failure(controller.createVolume({}, settings({ signal: abort.signal })));
    await eventually(() => fate.started === 1, "the handler runs");
    abort.abort();
    expect((await call).code).toBe(Code.CANCELLED);
    await eventually(() => fate.interrupted === 1, "the fiber is interrupted");
    await eventually(() => server.finished().length === 1, "the call is logged");
    expect(server.finished()[0]?.annotations).toMatchObject({ code: "CANCELLED" });
    expect(fate.operationDone).toBe(false);
    letGo();
    await eventually(() => fate.operationDone, "the operation goes on");
    expect(server.log.filter((line) => line.level === "Error")).toEqual([]);
  });

  test("A caller whose deadline passes gets DEADLINE_EXCEEDED", async () => {
    const { fate, impl } = waiting();
    const seen: number[] = [];
    const { server, controller } = await controllerWith(impl, { observe: (_, code) => seen.push(code) });
    // The handler never ends, so only the deadline can.
    expect((await failure(controller.createVolume({}, { timeoutMs: 1000 }))).code).toBe(Code.DEADLINE_EXCEEDED);
    await eventually(() => fate.interrupted === fate.started, "the fiber is interrupted");
    await eventually(() => server.finished().length === 1, "the call is logged");
    // Whichever of the two the server hears first, its own clock or the caller's farewell.
    const either = [Code.DEADLINE_EXCEEDED, Code.CANCELLED];
    expect(either.map(codeName)).toContain(String(server.finished()[0]?.annotations["code"]));
    expect(seen.map(codeName)).toEqual([String(server.finished()[0]?.annotations["code"])]);
  });

  test("A caller that closes its connection interrupts the waiting fiber", async () => {
    const { fate, impl } = waiting();
    const { server } = await controllerWith(impl);
    // As the kernel does for a process that was killed.
    const socket = createConnection(server.path);
    const session = connect("http://localhost", { createConnection: () => socket });
    session.on("error", () => {});
    const stream = session.request({
      ":method": "POST",
      ":path": "/csi.v1.Controller/CreateVolume",
      "content-type": "application/grpc",
      te: "trailers",
    });
    stream.on("error", () => {});
    // A whole request: an empty message.
    stream.end(Buffer.from([0, 0, 0, 0, 0]));
    await eventually(() => fate.started === 1, "the call has arrived");
    socket.destroy();
    await eventually(() => fate.interrupted === 1, "the fiber is interrupted");
  });
});

describe("limits of messages", () => {
  test("A request over 4 MiB answers RESOURCE_EXHAUSTED, and one below it passes", async () => {
    const { controller } = await controllerWith({
      createVolume: ({ name }) => Effect.succeed({ volume: { volumeId: String(name.length) } }),
    });
    const below = 4 * 1024 * 1024 - 100;
    expect((await controller.createVolume({ name: "x".repeat(below) }, settings())).volume?.volumeId).toBe(
      String(below),
    );
    const error = await failure(controller.createVolume({ name: "x".repeat(5 * 1024 * 1024) }, settings()));
    expect(error.code).toBe(Code.RESOURCE_EXHAUSTED);
    expect((await controller.createVolume({ name: "x" }, settings())).volume?.volumeId).toBe("1");
  });

  test("The limits are configurable, and apply to responses too", async () => {
    const { server, controller } = await controllerWith(
      { createVolume: ({ name }) => Effect.succeed({ volume: { volumeId: name.repeat(10) } }) },
      { maxReceiveBytes: 1000, maxSendBytes: 2000 },
    );
    expect((await failure(controller.createVolume({ name: "x".repeat(1100) }, settings()))).code).toBe(
      Code.RESOURCE_EXHAUSTED,
    );
    const error = await failure(controller.createVolume({ name: "x".repeat(900) }, settings()));
    expect(error.code).toBe(Code.RESOURCE_EXHAUSTED);
    expect(error.details).toContain("2000");
    expect(server.finished().at(-1)?.annotations).toMatchObject({ code: "RESOURCE_EXHAUSTED" });
    await controller.createVolume({ name: "x".repeat(100) }, settings());
  });
});

describe("server streams", () => {
  const metadataWith = async (impl: ServiceImpl<typeof SnapshotMetadata>) => {
    const server = await start({ services: [served(SnapshotMetadata, impl)] });
    const metadata = client(SnapshotMetadata, server.endpoint);
    cleanup.push(metadata.close);
    return { server, metadata };
  };

  test("A server stream delivers every message in order and ends", async () => {
    const { server, metadata } = await metadataWith({
      getMetadataAllocated: ({ startingOffset }) =>
        Stream.range(0, 999).pipe(
          Stream.map((i) => ({ blockMetadata: [{ byteOffset: startingOffset + BigInt(i), sizeBytes: 1n }] })),
        ),
    });
    const offsets: bigint[] = [];
    for await (const { blockMetadata } of metadata.getMetadataAllocated({ startingOffset: 5n }, settings())) {
      offsets.push(...blockMetadata.map((block) => block.byteOffset));
    }
    expect(offsets).toEqual(Array.from({ length: 1000 }, (_, i) => BigInt(i + 5)));
    await eventually(() => server.finished().length === 1, "the call is logged");
    expect(server.finished()[0]?.annotations).toMatchObject({ rpc: "GetMetadataAllocated", code: "OK" });
  });

  test("A server stream may fail after some messages, and may be unimplemented", async () => {
    const { metadata } = await metadataWith({
      getMetadataAllocated: () =>
        Stream.make({ volumeCapacityBytes: 1n }, { volumeCapacityBytes: 2n }).pipe(
          Stream.concat(Stream.fail(new RpcError({ code: Code.OUT_OF_RANGE, message: "past the end" }))),
        ),
    });
    const sizes: bigint[] = [];
    const reading = (async () => {
      for await (const { volumeCapacityBytes } of metadata.getMetadataAllocated({}, settings()))
        sizes.push(volumeCapacityBytes);
    })();
    const error = await failure(reading);
    expect([error.code, error.details, sizes]).toEqual([Code.OUT_OF_RANGE, "past the end", [1n, 2n]]);
    const missing = (async () => {
      for await (const message of metadata.getMetadataDelta({}, settings()))
        throw new Error(`got ${message.$typeName}`);
    })();
    expect((await failure(missing)).code).toBe(Code.UNIMPLEMENTED);
  });

  test("A server stream makes a message only after the caller took the one before, and stops when the caller stops", async () => {
    let made = 0;
    const stopped = Deferred.makeUnsafe<void>();
    const filler = Array.from({ length: 2000 }, (_, i) => ({ byteOffset: BigInt(i) << 40n, sizeBytes: 1n << 40n }));
    const { metadata } = await metadataWith({
      getMetadataAllocated: () =>
        Stream.range(1, 100_000).pipe(
          Stream.rechunk(1),
          Stream.map(() => {
            made++;
            return { blockMetadata: filler };
          }),
          Stream.ensuring(Deferred.succeed(stopped, undefined)),
        ),
    });
    const reader = metadata.getMetadataAllocated({}, settings({ timeoutMs: 25_000 }))[Symbol.asyncIterator]();
    await reader.next();
    // The buffers are full when both sides have nothing left to do. They share this thread: turns count, not time.
    let early = -1;
    for (let looks = 0; looks < 100 && made !== early; looks++) {
      early = made;
      for (let turn = 0; turn < 200; turn++) await new Promise((resolve) => setImmediate(resolve));
    }
    expect(made).toBe(early);
    // About 36 kB each: what the connection's windows and buffers hold, and no more.
    expect(early).toBeLessThan(500);
    for (let i = 0; i < 600; i++) await reader.next();
    expect(made).toBeGreaterThan(600);
    await reader.return?.();
    await Effect.runPromise(Deferred.await(stopped).pipe(Effect.timeout("20 seconds")));
  }, 30_000);
});

describe("the log of calls", () => {
  test("The log has routine calls at debug level only, unless they fail", async () => {
    const probe = { ready: true };
    const server = await start({
      level: "Info",
      services: [
        served(Identity, {
          probe: () =>
            probe.ready
              ? Effect.succeed({ ready: true })
              : Effect.fail(new RpcError({ code: Code.UNAVAILABLE, message: "no" })),
          getPluginCapabilities: () => Effect.succeed({}),
        }),
        served(Controller, {
          controllerGetCapabilities: () => Effect.succeed({}),
          deleteVolume: () => Effect.succeed({}),
        }),
      ],
    });
    const [identity, controller] = [client(Identity, server.endpoint), client(Controller, server.endpoint)];
    cleanup.push(identity.close, controller.close);
    await identity.probe({}, settings());
    await identity.getPluginCapabilities({}, settings());
    await controller.controllerGetCapabilities({}, settings());
    expect(server.finished()).toEqual([]);
    await controller.deleteVolume({}, settings());
    probe.ready = false;
    await failure(identity.probe({}, settings()));
    expect(server.finished().map((line) => line.annotations["rpc"])).toEqual(["DeleteVolume", "Probe"]);
  });

  test("The log shows requests at debug level, with secrets masked, and none at info level", async () => {
    const request = { volumeId: "0001-shown", secrets: { userID: "admin-hidden", userKey: "AQ-hidden" } };
    for (const level of ["Debug", "Info"] as const) {
      const { server, controller } = await controllerWith({ deleteVolume: () => Effect.succeed({}) }, { level });
      await controller.deleteVolume(request, settings());
      const text = server.log.map((line) => line.text).join("\n");
      expect(text.includes("0001-shown")).toBe(level === "Debug");
      expect(text.includes("userKey")).toBe(level === "Debug");
      expect(text).not.toContain("hidden");
    }
  });
});
