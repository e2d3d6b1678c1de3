/**
 * A connection to a KMIP server: TLS with a client certificate, and one message after the other.
 *
 * Not here: what the messages say (./messages.ts).
 *
 * 1. Nothing waits without an end: connecting, writing and reading have limits.
 * 2. A connection is closed with the scope that opened it.
 */
import { connect, type SecureVersion, type TLSSocket } from "node:tls";
import * as Data from "effect/Data";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type * as Scope from "effect/Scope";
import { messageLength } from "./ttlv.ts";

const CONNECT_LIMIT = Duration.seconds(10);
/** An answer holds one key, or the text of one. */
const MAX_ANSWER_BYTES = 1 << 20;

export interface KmipEndpoint {
  readonly host: string;
  readonly port: number;
  /** The name that the server's certificate must have. */
  readonly serverName: string;
  readonly minVersion: SecureVersion;
  readonly readLimit: Duration.Duration;
  readonly writeLimit: Duration.Duration;
  readonly authority: string;
  readonly certificate: string;
  readonly key: Redacted.Redacted;
}

/**
 * Why no answer came. `untrusted`: the server's certificate is not one of the authority, or not of that name; `rejected`:
 * the server ended the handshake, as it does if it does not accept the client's certificate.
 */
export class ConnectionFailed extends Data.TaggedError("ConnectionFailed")<{
  readonly kind: "untrusted" | "rejected" | "unreachable";
  readonly reason: string;
}> {}

export interface Connection {
  /** Sends a message and gives the one that comes next. */
  readonly exchange: (message: Uint8Array) => Effect.Effect<Buffer, ConnectionFailed>;
}

export const openConnection = (endpoint: KmipEndpoint): Effect.Effect<Connection, ConnectionFailed, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => dial(endpoint)),
    ({ socket }) => Effect.sync(() => socket.destroy()),
  ).pipe(
    Effect.tap((line) => within(line.ready, CONNECT_LIMIT, "no connection")),
    Effect.map((line) => ({
      exchange: (message) =>
        Effect.andThen(
          within(line.send(message), endpoint.writeLimit, "the request was not taken"),
          within(line.next, endpoint.readLimit, "no answer"),
        ),
    })),
  );

const within = <A>(
  effect: Effect.Effect<A, ConnectionFailed>,
  duration: Duration.Duration,
  what: string,
): Effect.Effect<A, ConnectionFailed> =>
  Effect.timeoutOrElse(effect, {
    duration,
    orElse: () => Effect.fail(unreachable(`${what} within ${Duration.toSeconds(duration)} s`)),
  });

const unreachable = (reason: string): ConnectionFailed => new ConnectionFailed({ kind: "unreachable", reason });

/** OpenSSL's names of what is wrong with a certificate, as `error.code` has them. */
const UNTRUSTED = /^(?:CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_|HOSTNAME_|ERR_TLS_CERT_|INVALID_CA|PATH_LENGTH)/;
/** An alert that the server sent. */
const ALERT = /_ALERT_|alert/;

const failureOf = (error: Error & { readonly code?: unknown }): ConnectionFailed => {
  if (typeof error.code === "string" && UNTRUSTED.test(error.code)) {
    return new ConnectionFailed({ kind: "untrusted", reason: error.message });
  }
  return ALERT.test(error.message)
    ? new ConnectionFailed({ kind: "rejected", reason: error.message })
    : unreachable(error.message);
};

interface Line {
  readonly socket: TLSSocket;
  readonly ready: Effect.Effect<void, ConnectionFailed>;
  readonly send: (message: Uint8Array) => Effect.Effect<void, ConnectionFailed>;
  readonly next: Effect.Effect<Buffer, ConnectionFailed>;
}

/** A socket whose events are kept until somebody asks for them. */
const dial = ({ host, port, serverName, minVersion, authority, certificate, key }: KmipEndpoint): Line => {
  let connected = false;
  let failed: ConnectionFailed | undefined;
  let received: Buffer = Buffer.alloc(0);
  let wake = () => {};
  const socket = connect({
    host,
    port,
    servername: serverName,
    minVersion,
    ca: authority,
    cert: certificate,
    key: Redacted.value(key),
    rejectUnauthorized: true,
  });
  const changed = (change: () => void) => () => {
    change();
    wake();
  };
  socket.on(
    "secureConnect",
    changed(() => (connected = true)),
  );
  socket.on("data", (data: Buffer) => {
    received = Buffer.concat([received, data]);
    wake();
  });
  socket.on("error", (error) => changed(() => (failed ??= failureOf(error)))());
  socket.on(
    "close",
    changed(() => (failed ??= unreachable("the server closed the connection"))),
  );
  /** Waits until an event makes `look` give something. */
  const when = <A>(look: () => Effect.Effect<A, ConnectionFailed> | undefined): Effect.Effect<A, ConnectionFailed> =>
    Effect.callback((resume) => {
      const turn = () => {
        const found = look();
        if (found === undefined) return;
        wake = () => {};
        resume(found);
      };
      wake = turn;
      turn();
    });
  return {
    socket,
    ready: when(() => (connected ? Effect.void : failed && Effect.fail(failed))),
    send: (message) =>
      Effect.callback((resume) => {
        socket.write(message, (error) => resume(error ? Effect.fail(failed ?? failureOf(error)) : Effect.void));
      }),
    next: when(() => {
      const length = messageLength(received) ?? 0;
      if (length > MAX_ANSWER_BYTES) {
        return Effect.fail(unreachable(`its answer begins as one of ${length} bytes, which is not KMIP`));
      }
      if (length === 0 || received.length < length) return failed && Effect.fail(failed);
      const message = received.subarray(0, length);
      received = received.subarray(length);
      return Effect.succeed(message);
    }),
  };
};
