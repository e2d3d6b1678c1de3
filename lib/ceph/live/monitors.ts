/**
 * Finds out which protocol a monitor speaks, and why no monitor answers. It opens a TCP connection, reads the greeting that
 * a monitor sends first, and closes the connection.
 *
 * Not here: connections to Ceph (./connection.ts).
 *
 * 1. A failure here never fails a connection: librados finds out the rest.
 * 2. It is needed because librados tries an address with an unusual port and without `v1:` or `v2:` as both kinds at once.
 *    The wrong kind never answers, so that a wrong key looks like a monitor that does not answer.
 */
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { connect } from "node:net";

/** Ports whose protocol is fixed. */
const USUAL_PORTS: readonly number[] = [3300, 6789];
const GREETING = { v1: "ceph v0", v2: "ceph v2" } as const;
const LONGEST_GREETING = 9;

type Finding = "v1" | "v2" | "refuses" | "silent" | "unreachable" | "unknown name" | "stranger";

interface Address {
  readonly host: string;
  readonly port: number;
}

const addressIn = (text: string): Address | undefined => {
  const parts = /^(?:v[12]:)?(?:\[([0-9a-fA-F:.]+)\]|([^\s:[\],/]+))(?::(\d+))?(?:\/\d+)?$/.exec(text.trim());
  const host = parts?.[1] ?? parts?.[2];
  return host === undefined ? undefined : { host, port: Number(parts?.[3] ?? 3300) };
};

const findingOf = (code: string | undefined): Finding => {
  if (code === "ECONNREFUSED") return "refuses";
  return code === "ENOTFOUND" || code === "EAI_AGAIN" ? "unknown name" : "unreachable";
};

const greet = ({ host, port }: Address, limit: Duration.Duration): Effect.Effect<Finding> =>
  Effect.suspend(() => {
    let connected = false;
    const answer = Effect.callback<Finding>((resume) => {
      let heard = "";
      const socket = connect({ host, port });
      const end = (finding: Finding) => {
        socket.destroy();
        resume(Effect.succeed(finding));
      };
      socket.on("connect", () => (connected = true));
      socket.on("data", (bytes: Buffer) => {
        heard += bytes.toString("latin1");
        if (heard.startsWith(GREETING.v2)) end("v2");
        else if (heard.startsWith(GREETING.v1)) end("v1");
        else if (heard.length >= LONGEST_GREETING) end("stranger");
      });
      socket.on("error", (error: NodeJS.ErrnoException) => end(findingOf(error.code)));
      socket.on("end", () => end("stranger"));
      return Effect.sync(() => socket.destroy());
    });
    const late = (): Effect.Effect<Finding> => Effect.succeed(connected ? "silent" : "unreachable");
    return Effect.timeoutOrElse(answer, { duration: limit, orElse: late });
  });

const hasUnusualPort = (text: string): boolean => {
  const port = /^(?:\[[0-9a-fA-F:.]+\]|[^\s:[\],/]+):(\d+)$/.exec(text)?.[1];
  return port !== undefined && !USUAL_PORTS.includes(Number(port));
};

/** Makes the list for `mon_host`: adds the protocol to each address that leaves it open. */
export const monHost = (monitors: readonly string[], limit: Duration.Duration): Effect.Effect<string> =>
  Effect.forEach(
    monitors.flatMap((entry) => (entry.includes("[v") ? [entry] : entry.split(","))).map((entry) => entry.trim()),
    (entry) => {
      const address = hasUnusualPort(entry) ? addressIn(entry) : undefined;
      if (address === undefined) return Effect.succeed(entry);
      return greet(address, limit).pipe(
        Effect.map((found) => (found === "v1" || found === "v2" ? `${found}:${entry}` : entry)),
      );
    },
    { concurrency: "unbounded" },
  ).pipe(Effect.map((list) => list.join(",")));

const STATES: Record<Finding, string> = {
  v1: "is there, but did not finish the login",
  v2: "is there, but did not finish the login",
  refuses: "refuses connections because nothing listens there",
  silent: "takes connections and sends nothing, so its process hangs",
  unreachable: "does not answer",
  "unknown name": "has a name that cannot be resolved",
  stranger: "is not a Ceph monitor",
};

/** Describes each monitor in one clause, for an error message. */
export const diagnose = (monitors: readonly string[], limit: Duration.Duration): Effect.Effect<string> =>
  Effect.forEach(
    monitors.flatMap((entry) => entry.replaceAll(/\[(?=v[12]:)|\]$/g, "").split(",")),
    (entry) => {
      const address = addressIn(entry);
      if (address === undefined) return Effect.succeed(`"${entry}" is not an address`);
      return greet(address, limit).pipe(Effect.map((found) => `${entry} ${STATES[found]}`));
    },
    { concurrency: "unbounded" },
  ).pipe(Effect.map((clauses) => clauses.join("; ")));
