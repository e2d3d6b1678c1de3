/**
 * Connections to clusters: one for each (monitors, user, key). A cell makes it when it is first needed, all cells use it,
 * and it is shut down when it is idle.
 *
 * Not here: the calls made over one (./live.ts).
 *
 * 1. A connection that could not be made is not remembered: the next call tries again.
 * 2. A connection is never shut down while a call still uses it, one that was put aside or one whose caller did not wait for
 *    its end, nor after a cell died in a call, because librados would be torn down under that thread. It is shut down when the
 *    last such call returns, or stays. The end of the process waits for none.
 * 3. It is shut down once. A login that ends after its limit is shut down, too: nobody will use it.
 * 4. No key is in a message, a log line or an argument list.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as RcMap from "effect/RcMap";
import * as Redacted from "effect/Redacted";
import type * as Scope from "effect/Scope";
import type { CellErrno, CellError } from "../../cells/errors.ts";
import type { CellPool } from "../../cells/pool.ts";
import type { CellCalls } from "../cell/cell.ts";
import { AccessDenied, CallStuck, type CephError, CephFailed, ConfFileInvalid, Unreachable } from "../errors.ts";
import type { ClusterAccess } from "../rados.ts";
import { kindOfKey } from "./cephx-key.ts";
import { EACCES, EINVAL, endsConnection, ENOENT, EOPNOTSUPP, EPERM, ETIMEDOUT, nameOf, tooOld } from "./errno.ts";
import { diagnose, monHost } from "../monitors.ts";

export interface ConnectionOptions {
  readonly connectTimeout: Duration.Duration;
  readonly osdTimeout: Duration.Duration;
  /** Read first, if it is there; what this driver has to set is set after it. */
  readonly cephConf: string;
  /** A connection that no call used for that long is closed. */
  readonly idle: Duration.Duration;
}

/** A connected `rados_t`, and the reasons not to shut it down. */
export interface Connection {
  readonly handle: bigint;
  /** Calls over it that have not ended. */
  running: number;
  /** Calls over it that were put aside and have not returned. */
  aside: number;
  /** A cell died in a call over it. */
  damaged: boolean;
  /** A call over it has failed so that further ones need another one. */
  forgotten: boolean;
  /** Nobody uses it any more, but for calls that were put aside, or those that run when the process ends. */
  retired: boolean;
}

interface Identity {
  readonly monitors: string;
  readonly user: string;
  readonly key: Redacted.Redacted;
}

/** The key of a connection in `RcMap`: a text, because it is hashed and compared at each call. */
const toText = ({ monitors, user, key }: ClusterAccess): string =>
  JSON.stringify([monitors.join(","), user, Redacted.value(key)]);

const fromText = (text: string): Identity => {
  const [monitors = "", user = "", key = ""] = JSON.parse(text) as readonly string[];
  return { monitors, user, key: Redacted.make(key) };
};

export interface Connections {
  readonly use: <A>(
    access: ClusterAccess,
    call: (connection: Connection) => Effect.Effect<A, CephError>,
  ) => Effect.Effect<A, CephError>;
  /** Counts a call that was put aside as returned, and shuts the connection down if only that call kept it. */
  readonly back: (connection: Connection) => void;
}

const SHUTDOWN_LIMIT = Duration.seconds(15);
/** librados ends a login later than its own limit, which must come first. */
const CONNECT_MARGIN = Duration.seconds(10);
/** From this release on, librados answers EOPNOTSUPP for a type of key that it cannot read; before, EINVAL. */
const FIRST_WITH_NEWER_KEYS = 20;
const GREETING_LIMIT = Duration.seconds(1);

/** How long librados tries to log in, and how long it waits for one answer before it asks anew, in seconds. */
interface Patience {
  readonly limit: number;
  readonly answer: number;
}

/**
 * The logins of one attempt to connect, one after the other. A monitor of Ceph 20 closes the connection (messenger v1) as
 * it refuses a key, and librados often loses the refusal, more often than not on a busy machine. It then asks anew when
 * its wait for an answer is over. So after a first login the second one asks many times, of which one hears the refusal.
 * A monitor that is slow to answer is asked with patience for most of the time.
 */
const logins = (limit: Duration.Duration): readonly Patience[] => {
  const whole = Math.max(1, Math.ceil(Duration.toSeconds(limit)));
  const first: readonly Patience[] = whole < 4 ? [] : [FIRST_LOGIN, MANY_ASKS];
  const rest = first.reduce((left, each) => left - each.limit, whole);
  const half = Math.floor(rest / 2);
  const long = (rest < 6 ? [rest] : [half, rest - half]).map((each) => ({
    limit: each,
    answer: Math.min(3, each / 2),
  }));
  return [...first, ...long];
};

const FIRST_LOGIN: Patience = { limit: 1, answer: 0.4 };
const MANY_ASKS: Patience = { limit: 2, answer: 0.1 };

/** Options of librados. They override the configuration file. */
const settings = (
  host: string,
  key: string,
  { limit, answer }: Patience,
  osdTimeout: Duration.Duration,
): readonly (readonly [string, string])[] => [
  ["mon_host", host],
  ["key", key],
  // otherwise librados reads a keyring of the node first and complains about it
  ["keyring", ""],
  ["client_mount_timeout", `${limit}`],
  ["mon_client_hunt_interval", `${answer}`],
  // otherwise each wait for an answer is longer than the one before
  ["mon_client_hunt_interval_backoff", "1"],
  ["rados_osd_op_timeout", seconds(osdTimeout)],
  // No limit here: after one, rados_mgr_command frees the place of its answer, and the late answer is written into
  // freed memory (seen: SIGSEGV of the process). Calls to the monitors or the manager end by the limit of their cell.
  ["rados_mon_op_timeout", "0"],
  // the driver reads and writes no image data
  ["rbd_cache", "false"],
  ["log_file", ""],
  ["log_to_stderr", "false"],
  ["err_to_stderr", "false"],
  ["log_to_syslog", "false"],
  ["admin_socket", ""],
];

const seconds = (time: Duration.Duration): string => `${Math.max(1, Math.ceil(Duration.toSeconds(time)))}`;

export const makeConnections = (
  cells: CellPool,
  options: ConnectionOptions,
): Effect.Effect<Connections, never, Scope.Scope> =>
  Effect.gen(function* () {
    const runFork = Effect.runForkWith(yield* Effect.context());

    const shutdown = ({ handle }: Pick<Connection, "handle">): Effect.Effect<void> =>
      cells
        .call("shutdown", { cluster: handle }, { limit: SHUTDOWN_LIMIT, subject: "a connection" })
        .pipe(
          Effect.catch((error) =>
            Effect.logWarning(
              `a connection to Ceph was not shut down cleanly: ${error.message}. It stays open until the driver ends`,
            ),
          ),
        );

    const late = (handle: unknown): void => {
      if (typeof handle === "bigint") runFork(shutdown({ handle }));
    };

    const retire = (connection: Connection): Effect.Effect<void> =>
      Effect.suspend(() => {
        connection.retired = true;
        if (isFree(connection)) return shutdown(connection);
        return Effect.logWarning("a connection to Ceph stays open because a call over it has not returned");
      });

    const connections = yield* RcMap.make({
      lookup: (text: string) => Effect.acquireRelease(connect(cells, fromText(text), options, late), retire),
      idleTimeToLive: options.idle,
    });

    const use: Connections["use"] = (access, call) =>
      Effect.scoped(
        Effect.suspend(() => {
          const identity = toText(access);
          const forget = () => RcMap.invalidate(connections, identity);
          return Effect.flatMap(Effect.tapError(RcMap.get(connections, identity), forget), (connection) =>
            Effect.tapError(counted(connection, call(connection)), (error) => {
              // only the first failure does this: later ones would have the new connection forgotten
              if (connection.forgotten || !(connection.damaged || endsConnection(error))) return Effect.void;
              connection.forgotten = true;
              return forget();
            }),
          );
        }),
      );

    const shutdownIfLast = (connection: Connection): void => {
      if (connection.retired && isFree(connection)) runFork(shutdown(connection));
    };
    const counted = <A>(connection: Connection, call: Effect.Effect<A, CephError>) =>
      Effect.acquireUseRelease(
        Effect.sync(() => void (connection.running += 1)),
        () => call,
        () =>
          Effect.sync(() => {
            connection.running -= 1;
            shutdownIfLast(connection);
          }),
      );
    const back: Connections["back"] = (connection) => {
      connection.aside -= 1;
      shutdownIfLast(connection);
    };

    return { use, back };
  });

const isFree = ({ running, aside, damaged }: Connection): boolean => running === 0 && aside === 0 && !damaged;

const connect = (
  cells: CellPool,
  identity: Identity,
  options: ConnectionOptions,
  /** Gets the handle of a login that ended after its limit. */
  onLate: (handle: unknown) => void,
): Effect.Effect<Connection, CephError> =>
  Effect.gen(function* () {
    const { monitors: subject, user, key } = identity;
    const monitors = subject.split(",");
    const denied = (op: string) => new AccessDenied({ op, subject, user });
    if (subject === "") return yield* new Unreachable({ op: "rados_connect", subject, reason: "none is configured" });
    const kind = kindOfKey(key);
    if (kind === "malformed") return yield* denied("rados_connect because its key is malformed,");
    const host = yield* monHost(monitors, GREETING_LIMIT);
    const login = (each: Patience): Effect.Effect<bigint, CellError> => {
      const arg: Parameters<CellCalls["connect"]>[0] = {
        user,
        confFile: options.cephConf,
        settings: settings(host, Redacted.value(key), each, options.osdTimeout),
      };
      const limit = Duration.sum(Duration.seconds(each.limit), CONNECT_MARGIN);
      return cells.call<bigint>("connect", arg, {
        limit,
        subject,
        key: `connect ${user} ${subject}`,
        place: subject,
        onLate,
      });
    };
    const handle = yield* logins(options.connectTimeout)
      .map(login)
      .reduce((soFar, next) => Effect.catchIf(soFar, isTimeout, () => next))
      .pipe(
        Effect.catch((error: CellError) => {
          if (error._tag !== "CellErrno") {
            return Effect.fail(new CallStuck({ op: "rados_connect", subject, reason: error.message }));
          }
          return Effect.flatMap(
            explain(cells, error, { identity, kind, denied, confFile: options.cephConf }),
            Effect.fail,
          );
        }),
      );
    return { handle, running: 0, aside: 0, damaged: false, forgotten: false, retired: false };
  });

const isTimeout = (error: CellError): boolean =>
  error._tag === "CellErrno" && error.op === "rados_connect" && error.errno === ETIMEDOUT;

interface Refusal {
  readonly identity: Identity;
  readonly kind: "usual" | "newer";
  readonly denied: (op: string) => CephError;
  readonly confFile: string;
}

const explain = (
  cells: CellPool,
  { op, errno, message }: CellErrno,
  { identity, kind, denied, confFile }: Refusal,
): Effect.Effect<CephError> => {
  const { monitors: subject } = identity;
  if (op === "rados_conf_read_file") {
    return Effect.succeed(new ConfFileInvalid({ op, subject: confFile, reason: message }));
  }
  if (op !== "rados_connect") {
    return Effect.succeed(new CephFailed({ op, subject, errno, reason: errno === 0 ? message : nameOf(errno) }));
  }
  const silence = Effect.map(
    diagnose(subject.split(","), GREETING_LIMIT),
    (reason) => new Unreachable({ op, subject, reason }),
  );
  switch (errno) {
    case EACCES:
    case EPERM:
      return Effect.succeed(denied(op));
    case EINVAL:
    case EOPNOTSUPP: {
      // librados cannot read the key, the list of monitors, or a name in it
      if (kind === "usual" && errno === EINVAL) return silence;
      const what =
        kind === "newer" ? `the key of client.${identity.user} is of a newer type` : "it asks for a newer login";
      return cells.call<string | undefined>("release", undefined, { limit: GREETING_LIMIT, subject: "librados" }).pipe(
        Effect.orElseSucceed(() => undefined),
        Effect.flatMap((release): Effect.Effect<CephError> => {
          const reads = Number.parseInt(release ?? "0") >= FIRST_WITH_NEWER_KEYS;
          return reads && errno === EINVAL ? silence : Effect.succeed(tooOld(subject, release, what));
        }),
      );
    }
    case ETIMEDOUT:
    case ENOENT:
      return silence;
    default:
      return Effect.succeed(new CephFailed({ op, subject, errno, reason: nameOf(errno) }));
  }
};
