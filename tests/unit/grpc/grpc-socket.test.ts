/** What may be at a socket's path before, and must be there after: lib/grpc/socket.ts with real files and sockets. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer, type Server } from "node:net";
import { basename, join } from "node:path";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import { Identity } from "../../../lib/gen/csi_pb.ts";
import { startController } from "../../support/driver-process.ts";
import { client } from "../../support/grpc-client.ts";
import { serve } from "../../../lib/grpc/server.ts";
import { served } from "../../../lib/grpc/service.ts";
import { grpcAddress, prepareSocket, readEndpoint } from "../../../lib/grpc/socket.ts";
import * as Result from "effect/Result";
import { type Served, serving, temporaryDirectory, grace } from "../../support/grpc-serving.ts";

let directory: string;
let path: string;
const running: Served[] = [];
beforeEach(() => {
  directory = temporaryDirectory();
  path = join(directory, "csi.sock");
});
afterEach(async () => {
  for (const server of running.splice(0)) await server.stop();
  rmSync(directory, { recursive: true });
});

const services = [served(Identity, { probe: () => Effect.succeed({ ready: true }) })];

const start = async (options: { readonly group?: string } = {}): Promise<Served> => {
  const server = await serving({ services, path, stop: grace(0), ...options });
  running.push(server);
  return server;
};

const probe = async (endpoint = path): Promise<boolean | undefined> => {
  const identity = client(Identity, endpoint);
  try {
    return (await identity.probe({}, { timeoutMs: 2000 })).ready;
  } finally {
    identity.close();
  }
};

/** Why it can't listen at `endpoint`. */
const refusal = async (endpoint: string, group = ""): Promise<string> => {
  const exit = await Effect.runPromiseExit(Effect.scoped(serve({ endpoint, group, services })));
  if (Exit.isSuccess(exit)) throw new Error(`listens on ${endpoint}`);
  const [reason] = exit.cause.reasons;
  if (reason?._tag !== "Fail") throw new Error("not a failure");
  return reason.error.message;
};

const listening = async (at: string): Promise<Server> => {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => server.listen(at, resolve));
  return server;
};

/** A socket file that nobody listens on, as a killed driver leaves it. */
const leaveStale = async (): Promise<void> => {
  const server = await listening(`${path}.first`);
  linkSync(`${path}.first`, path);
  await new Promise((resolve) => server.close(resolve));
  rmSync(`${path}.first`, { force: true });
};

describe("the socket's file", () => {
  test("The socket is accessible to its owner alone, and no other file is beside it", async () => {
    await start();
    expect(lstatSync(path).isSocket()).toBe(true);
    expect(lstatSync(path).mode & 0o777).toBe(0o600);
    expect(readdirSync(directory)).toEqual(["csi.sock"]);
    expect(await probe()).toBe(true);
  });

  test.skipIf(process.getuid?.() !== 0).each([
    ["by number", "1234", 1234],
    ["by name", "daemon", Number(/^daemon:[^:]*:(\d+)/m.exec(readFileSync("/etc/group", "utf8"))?.[1])],
  ])("The socket is accessible to the group that the options name %s", async (_, group, gid) => {
    await start({ group });
    expect(lstatSync(path).mode & 0o777).toBe(0o660);
    expect(lstatSync(path).gid).toBe(gid);
  });

  test("The server leaves the umask as it was", async () => {
    const before = process.umask(0o027);
    try {
      await start();
      expect(process.umask()).toBe(0o027);
      expect(lstatSync(path).mode & 0o777).toBe(0o600);
    } finally {
      process.umask(before);
    }
  });

  test("The server removes the socket when it stops", async () => {
    const server = await start();
    running.pop();
    await server.stop();
    expect(readdirSync(directory)).toEqual([]);
  });

  test("The server does not remove a socket that replaced its own", async () => {
    const server = await start();
    running.pop();
    renameSync(path, join(directory, "moved"));
    const other = await listening(join(directory, "other"));
    renameSync(join(directory, "other"), path);
    const { ino } = lstatSync(path);
    await server.stop();
    expect(lstatSync(path).ino).toBe(ino);
    other.close();
  });
});

describe("a path that is taken", () => {
  test("The server takes over a stale socket", async () => {
    await leaveStale();
    expect(lstatSync(path).isSocket()).toBe(true);
    await start();
    expect(await probe()).toBe(true);
    expect(readdirSync(directory)).toEqual(["csi.sock"]);
  });

  test("The server takes over the socket of a killed driver", async () => {
    const child = await startController(path);
    expect(await probe()).toBe(true);
    child.kill("SIGKILL");
    await child.exited;
    expect(lstatSync(path).isSocket()).toBe(true);
    await start();
    expect(await probe()).toBe(true);
  }, 90_000);

  test("The server refuses the path of a running server, which goes on", async () => {
    await start();
    const { ino } = lstatSync(path);
    expect(await refusal(path)).toBe(`another process listens on ${path}; stop it or choose another endpoint`);
    expect(lstatSync(path).ino).toBe(ino);
    expect(await probe()).toBe(true);
    expect(readdirSync(directory)).toEqual(["csi.sock"]);
  });

  test.each([
    ["a file", () => writeFileSync(path, "precious")],
    ["a directory", () => mkdirSync(path)],
    ["a symbolic link", () => symlinkSync("/nowhere", path)],
  ])("The server refuses the path of %s, and does not remove it", async (_, make) => {
    make();
    const before = lstatSync(path);
    expect(await refusal(path)).toBe(`${path} exists and is not a socket; remove it or choose another endpoint`);
    expect(lstatSync(path).ino).toBe(before.ino);
    if (before.isFile()) expect(readFileSync(path, "utf8")).toBe("precious");
  });

  test("A hidden socket that a killed bind left is not an obstacle", async () => {
    const { bindPath: hidden } = await Effect.runPromise(prepareSocket(path, ""));
    await leaveStale();
    renameSync(path, hidden);
    await start();
    expect(readdirSync(directory)).toEqual(["csi.sock"]);
  });

  test("Two sockets of one folder have two hidden names, neither longer than csi.sock", async () => {
    const names = await Promise.all(
      ["one-reg.sock", "other-reg.sock"].map(async (name) => {
        const { bindPath } = await Effect.runPromise(prepareSocket(join(directory, name), ""));
        return basename(bindPath);
      }),
    );
    expect(new Set(names).size).toBe(2);
    for (const name of names) {
      expect(name).toStartWith(`.${process.pid.toString(36)}`);
      expect(name.length).toBeLessThanOrEqual("csi.sock".length);
    }
  });
});

describe("invalid socket paths", () => {
  test("The refusal of a socket path says what to do", async () => {
    expect(await refusal(join(directory, "none/csi.sock"))).toBe(
      `directory ${directory}/none of the socket does not exist; create it first`,
    );
    writeFileSync(join(directory, "file"), "");
    expect(await refusal(join(directory, "file/csi.sock"))).toContain("file");
    const long = join(directory, "x".repeat(107 - directory.length));
    expect(await refusal(long)).toContain("at most 107 bytes");
    expect(await refusal(path, "no-such-group")).toBe('group "no-such-group" is not in /etc/group; write its number');
    expect(existsSync(path)).toBe(false);
  });

  test("The server accepts a socket path of 107 bytes", async () => {
    path = join(directory, "x".repeat(107 - directory.length - 1));
    expect(Buffer.byteLength(path)).toBe(107);
    await start();
    expect(await probe()).toBe(true);
  });

  test.each([
    "",
    "http://x",
    "unix:",
    "unix://",
    "unix:///tmp/",
    "csi.sock",
    "tcp://",
    "tcp://host",
    "tcp://host:70000",
  ])("The refusal of the endpoint %p says what to write", async (endpoint) => {
    expect(await refusal(endpoint)).toContain("write unix:///path");
  });
});

describe("TCP", () => {
  test("The server on TCP port 0 listens on a free port, and reports it", async () => {
    const identityOverTcp = Effect.gen(function* () {
      const { endpoint } = yield* serve({ endpoint: "tcp://127.0.0.1:0", services, stop: grace(0) });
      expect(endpoint).toMatch(/^tcp:\/\/127\.0\.0\.1:[1-9]\d+$/);
      expect(yield* Effect.promise(() => probe(endpoint))).toBe(true);
      expect(yield* Effect.promise(() => refusal(endpoint))).toContain("cannot listen on 127.0.0.1:");
    });
    await Effect.runPromise(Effect.scoped(identityOverTcp));
  });
});

test("An endpoint is passed to grpc-js in the form that grpc-js reads", () => {
  const address = (text: string) => grpcAddress(Result.getOrThrow(readEndpoint(text)));
  expect(["unix:///a/b", "unix://a/b", "/a/b", "tcp://h:1", "tcp://:1", "tcp://[::1]:1"].map(address)).toEqual([
    "unix:/a/b",
    "unix:/a/b",
    "unix:/a/b",
    "h:1",
    "[::]:1",
    "[::1]:1",
  ]);
});
