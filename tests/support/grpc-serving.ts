/**
 * A real server on a real unix socket, with what it logs: for the tests of lib/grpc.
 *
 * Everything started here ends in `stop`, which tests await in a `finally` or through `afterEach`.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ServiceError } from "@grpc/grpc-js";
import * as Cause from "effect/Cause";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import type { LogLevel } from "effect/LogLevel";
import * as References from "effect/References";
import * as Scope from "effect/Scope";
import { serve, type ServeOptions } from "../../lib/grpc/server.ts";

export interface LogLine {
  readonly level: LogLevel;
  readonly message: string;
  readonly annotations: Readonly<Record<string, unknown>>;
  /** All of it, as a log backend could print it. */
  readonly text: string;
}

export interface Served {
  readonly endpoint: string;
  readonly path: string;
  readonly log: LogLine[];
  /** Lines of finished calls. */
  readonly finished: () => LogLine[];
  readonly stop: () => Promise<void>;
}

export const temporaryDirectory = (): string => mkdtempSync(join(tmpdir(), "csi-rbd-"));

const recorder = (log: LogLine[]) =>
  Logger.make<unknown, void>(({ cause, fiber, logLevel, message }) => {
    const annotations = fiber.getRef(References.CurrentLogAnnotations);
    const parts = [message].flat().map((part) => (typeof part === "string" ? part : Bun.inspect(part, { depth: 20 })));
    log.push({
      level: logLevel,
      message: parts.join(" "),
      annotations,
      text: [...parts, Bun.inspect(annotations, { depth: 20 }), Cause.pretty(cause)].join(" "),
    });
  });

export const serving = async (
  options: Omit<ServeOptions<never>, "endpoint"> & { readonly path?: string; readonly level?: LogLevel },
): Promise<Served> => {
  const directory = options.path === undefined ? temporaryDirectory() : undefined;
  const path = options.path ?? join(directory ?? "", "csi.sock");
  const log: LogLine[] = [];
  const environment = Layer.mergeAll(
    Logger.layer([recorder(log)]),
    Layer.succeed(References.MinimumLogLevel, options.level ?? "Debug"),
  );
  const scope = Scope.makeUnsafe();
  await Effect.runPromise(
    serve({ ...options, endpoint: `unix://${path}` }).pipe(Scope.provide(scope), Effect.provide(environment)),
  );
  return {
    endpoint: `unix://${path}`,
    path,
    log,
    finished: () => log.filter((line) => line.message === "call finished"),
    stop: async () => {
      await Effect.runPromise(Scope.close(scope, Exit.void).pipe(Effect.provide(environment)));
      if (directory !== undefined) rmSync(directory, { recursive: true });
    },
  };
};

/** Drains for that long, and closes in a second more. */
export const grace = (seconds: number) =>
  Effect.sync(() => ({ drainBy: Date.now() + seconds * 1000, closeBy: Date.now() + seconds * 1000 + 1000 }));

/** The error that a call ends with; throws when it succeeds. */
export const failure = async (call: Promise<unknown>): Promise<ServiceError> => {
  try {
    await call;
  } catch (error) {
    if (error instanceof Error && "code" in error && "details" in error && "metadata" in error) {
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- has all that a ServiceError adds to an Error
      return error as ServiceError;
    }
    throw error;
  }
  throw new Error("the call succeeded");
};

/** Waits until `condition` holds; fails after that many seconds, because the machine may be busy. */
export const eventually = async (condition: () => boolean, what: string, seconds = 10): Promise<void> => {
  const limit = Date.now() + seconds * 1000;
  while (!condition()) {
    if (Date.now() > limit) throw new Error(`not within ${seconds} seconds: ${what}`);
    await Bun.sleep(5);
  }
};
