/**
 * Endpoints, and the file that a unix socket is.
 *
 * 1. A path that somebody listens on, or that is not a socket, is never touched; one is stale only when a connection is
 *    refused. "Could not tell" counts as in use.
 * 2. The socket shows up under its name with its final mode and owner, already listening: it is bound under a hidden
 *    name beside it and then linked (never renamed over what may have come meanwhile).
 * 3. At the end only the very file that was put there is removed. Our listening socket pins its inode, so an equal
 *    inode number can't be a newcomer's: call `release` before the socket is closed.
 */
import { createHash } from "node:crypto";
import { chmodSync, chownSync, linkSync, lstatSync, readFileSync, statSync, unlinkSync } from "node:fs";
import { connect } from "node:net";
import { basename, dirname, join } from "node:path";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { ENDPOINT_FORM, type Endpoint, MAX_SOCKET_PATH, parseEndpoint } from "./endpoint.ts";

/** The message names the endpoint and says what to do. */
export class ListenError extends Data.TaggedError("ListenError")<{ readonly message: string }> {}

const PROBE_LIMIT = 1000;

/** The form of `--endpoint`, or an absolute path alone. */
export const readEndpoint = (text: string): Result.Result<Endpoint, ListenError> =>
  Result.mapError(
    parseEndpoint(text.startsWith("/") ? `unix://${text}` : text),
    () => new ListenError({ message: `endpoint "${text}" is not valid; write ${ENDPOINT_FORM}` }),
  );

/** The form of grpc-js. Without a host it means every address of this machine. */
export const grpcAddress = (endpoint: Endpoint): string => {
  if (endpoint.kind === "unix") return `unix:${endpoint.path}`;
  const host = endpoint.host === "" ? "[::]" : endpoint.host.includes(":") ? `[${endpoint.host}]` : endpoint.host;
  return `${host}:${endpoint.port}`;
};

export interface SocketFile {
  /** The hidden name to bind. Bind under umask 077, so that nobody connects before `publish`. */
  readonly bindPath: string;
  /** After the bind: gives the socket its owner and mode, then its name. */
  readonly publish: Effect.Effect<PublishedSocket, ListenError>;
}

export interface PublishedSocket {
  /** The file at the path is still ours. */
  readonly isThere: () => boolean;
  /** Removes the file if it is still ours. */
  readonly release: () => void;
}

const errnoOf = (error: unknown): string =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : String(error);

const lstat = (path: string) => lstatSync(path, { throwIfNoEntry: false, bigint: true });

const trySync = <A>(what: string, body: () => A): Effect.Effect<A, ListenError> =>
  Effect.try({ try: body, catch: (error) => asListenError(what, error) });

const asListenError = (what: string, error: unknown): ListenError =>
  error instanceof ListenError ? error : new ListenError({ message: `${what}: ${errnoOf(error)}` });

/** Checks that a socket can be put at `path`; `group` (name or number) gets access to it; "": the owner alone. */
export const prepareSocket = (path: string, group: string): Effect.Effect<SocketFile, ListenError> =>
  Effect.gen(function* () {
    const bindPath = join(dirname(path), hiddenName(basename(path)));
    const gid = yield* trySync(`group "${group}"`, () => (group === "" ? undefined : groupId(group)));
    yield* trySync(`socket ${path}`, () => checkPath(path, bindPath));
    const stale = yield* findStale(path);
    yield* trySync(`socket ${bindPath}`, () => {
      // Left by a process of our own number that was killed between bind and link; in containers that is common.
      if (lstat(bindPath)?.isSocket() === true) unlinkSync(bindPath);
    });
    const publish = trySync(`socket ${path}`, () => {
      try {
        if (gid !== undefined) chownSync(bindPath, process.getuid?.() ?? -1, gid);
        chmodSync(bindPath, gid === undefined ? 0o600 : 0o660);
        if (stale !== undefined && lstat(path)?.ino === stale) unlinkSync(path);
        linkSync(bindPath, path);
      } finally {
        unlinkSync(bindPath);
      }
      return released(path);
    });
    return { bindPath, publish };
  });

/**
 * The same for the next process of our number, and another one for another socket: in a folder that containers share, all
 * of them are process 1. It is no longer than `csi.sock`.
 */
const hiddenName = (name: string): string => {
  const mark = createHash("sha256").update(name).digest("base64url").slice(0, 2);
  return `.${process.pid.toString(36)}${mark}`;
};

const checkPath = (path: string, bindPath: string): void => {
  const longest = Math.max(Buffer.byteLength(path), Buffer.byteLength(bindPath));
  if (longest > MAX_SOCKET_PATH)
    refuse(`socket path ${path} needs ${longest} bytes; the system allows ${MAX_SOCKET_PATH}`);
  const parent = statSync(dirname(path), { throwIfNoEntry: false });
  if (parent === undefined) refuse(`directory ${dirname(path)} of the socket does not exist; create it first`);
  if (parent?.isDirectory() === false) refuse(`${dirname(path)}, which is to hold the socket, is not a directory`);
};

const refuse = (message: string): never => {
  throw new ListenError({ message });
};

/** What is at a socket's path. */
export type Occupant =
  | { readonly kind: "nothing" | "no socket" | "listener" }
  | { readonly kind: "stale socket"; readonly inode: bigint }
  | { readonly kind: "unclear"; readonly why: string };

/** Finds out what is at the path: whether somebody listens, by connecting. */
export const occupantOf = (path: string): Effect.Effect<Occupant, ListenError> =>
  Effect.gen(function* () {
    const found = yield* trySync(`socket ${path}`, () => lstat(path));
    if (found === undefined) return { kind: "nothing" } as const;
    if (!found.isSocket()) return { kind: "no socket" } as const;
    const outcome = yield* probe(path);
    if (outcome === "refused") return { kind: "stale socket", inode: found.ino } as const;
    if (outcome === "gone") return { kind: "nothing" } as const;
    return outcome === "listening" ? ({ kind: "listener" } as const) : ({ kind: "unclear", why: outcome } as const);
  });

/** Removes a socket that nobody listens on, and nothing else. -> what was at the path. */
export const removeStaleSocket = (path: string): Effect.Effect<Occupant, ListenError> =>
  Effect.gen(function* () {
    const occupant = yield* occupantOf(path);
    if (occupant.kind !== "stale socket") return occupant;
    yield* trySync(`socket ${path}`, () => {
      if (lstat(path)?.ino === occupant.inode) unlinkSync(path);
    });
    return occupant;
  });

/** The inode of a socket that nobody listens on; fails when the path is taken in any other way (1). */
const findStale = (path: string): Effect.Effect<bigint | undefined, ListenError> =>
  Effect.gen(function* () {
    const occupant = yield* occupantOf(path);
    switch (occupant.kind) {
      case "nothing":
        return undefined;
      case "stale socket":
        return occupant.inode;
      case "no socket":
        return yield* new ListenError({
          message: `${path} exists and is not a socket; remove it or choose another endpoint`,
        });
      case "listener":
        return yield* new ListenError({
          message: `another process listens on ${path}; stop it or choose another endpoint`,
        });
      case "unclear":
        return yield* new ListenError({
          message: `cannot find out whether a process listens on ${path} (${occupant.why}); remove the file if none does`,
        });
    }
  });

const PROBED: { readonly [errno: string]: string } = { ECONNREFUSED: "refused", ENOENT: "gone", EAGAIN: "listening" };

const probe = (path: string): Effect.Effect<string> =>
  Effect.callback<string>((resume) => {
    const socket = connect(path);
    const done = (outcome: string) => {
      socket.destroy();
      resume(Effect.succeed(outcome));
    };
    socket.once("connect", () => done("listening"));
    socket.on("error", (error) => done(PROBED[errnoOf(error)] ?? errnoOf(error)));
    return Effect.sync(() => socket.destroy());
  }).pipe(Effect.timeoutOrElse({ duration: PROBE_LIMIT, orElse: () => Effect.succeed("no answer within 1 s") }));

const released = (path: string): PublishedSocket => {
  const ours = lstatSync(path, { bigint: true });
  const isThere = () => {
    try {
      const now = lstat(path);
      return now?.ino === ours.ino && now.dev === ours.dev;
    } catch {
      return false;
    }
  };
  return {
    isThere,
    release: () => {
      try {
        if (isThere()) unlinkSync(path);
      } catch {
        // The process is ending; the next start finds the file stale.
      }
    },
  };
};

const groupId = (group: string): number => {
  if (/^\d+$/.test(group)) return Number(group);
  const line = readFileSync("/etc/group", "utf8")
    .split("\n")
    .find((entry) => entry.startsWith(`${group}:`));
  const gid = Number(line?.split(":")[2] ?? Number.NaN);
  if (Number.isNaN(gid)) throw new ListenError({ message: `group "${group}" is not in /etc/group; write its number` });
  return gid;
};
