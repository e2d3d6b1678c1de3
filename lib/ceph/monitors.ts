/**
 * Finds out which protocol a monitor speaks, and why no monitor answers. It opens a TCP connection, reads the greeting that
 * a monitor sends first, and closes the connection.
 *
 * Not here: connections to Ceph (./live/connection.ts).
 *
 * 1. A failure here never fails a connection: librados finds out the rest.
 * 2. It is needed because librados tries an address with an unusual port and without `v1:` or `v2:` as both kinds at once.
 *    The wrong kind never answers, so that a wrong key looks like a monitor that does not answer.
 * 3. librados takes a name only without `v1:` and `v2:`. Behind those it gets the addresses that the name has.
 */
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { lookup } from "node:dns/promises";
import { connect, isIP } from "node:net";

/** Ports whose protocol is fixed. */
const USUAL_PORTS: readonly number[] = [3300, 6789];
const GREETING = { v1: "ceph v0", v2: "ceph v2" } as const;
const LONGEST_GREETING = 9;

type Finding = "v1" | "v2" | "refuses" | "silent" | "unreachable" | "unknown name" | "stranger";

interface Address {
  readonly protocol: "v1" | "v2" | undefined;
  readonly host: string;
  readonly port: number;
  readonly isName: boolean;
}

const ADDRESS = /^(?:(v[12]):)?(?:\[([0-9a-fA-F:.]+)\]|([^\s:[\],/]+))(?::(\d+))?(?:\/\d+)?$/;

const addressIn = (text: string): Address | undefined => {
  const parts = ADDRESS.exec(text);
  const host = parts?.[2] ?? parts?.[3];
  if (host === undefined) return undefined;
  const protocol = parts?.[1] === "v1" || parts?.[1] === "v2" ? parts[1] : undefined;
  return { protocol, host, port: Number(parts?.[4] ?? 3300), isName: isIP(host) === 0 };
};

/** The entries of a list as librados splits it: at commas, semicolons and blanks, but not within "[v2:…,v1:…]". */
const entriesIn = (monitors: readonly string[]): readonly string[] =>
  monitors.flatMap((text) => text.match(/\[v[^\]]*\](?:[^,;\s]*)|[^,;\s]+/g) ?? []);

const findingOf = (code: string | undefined): Finding => {
  if (code === "ECONNREFUSED") return "refuses";
  return code === "ENOTFOUND" || code === "EAI_AGAIN" ? "unknown name" : "unreachable";
};

const greet = ({ host, port }: Pick<Address, "host" | "port">, limit: Duration.Duration): Effect.Effect<Finding> =>
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

/** Whether librados would try both protocols at the address. */
const isOpen = ({ protocol, port }: Address): boolean => protocol === undefined && !USUAL_PORTS.includes(port);

const addressesOf = ({ host, isName }: Address, limit: Duration.Duration): Effect.Effect<readonly string[]> =>
  isName
    ? Effect.tryPromise(() => lookup(host, { all: true })).pipe(
        Effect.map((found) => found.map(({ address }) => address)),
        Effect.timeout(limit),
        Effect.orElseSucceed(() => []),
      )
    : Effect.succeed([host]);

const withPort = (host: string, port: number): string => `${host.includes(":") ? `[${host}]` : host}:${port}`;

/** An entry in the forms that it may have in `mon_host`. */
interface Settled {
  readonly entry: string;
  /** Its addresses that told their protocol, with it. `undefined`: the entry stays as it is. */
  readonly told: readonly string[] | undefined;
}

const settle = (entry: string, limit: Duration.Duration): Effect.Effect<Settled> =>
  Effect.gen(function* () {
    const address = addressIn(entry);
    const isForm = address !== undefined && isOpen(address) && !(address.isName && entry.includes("/"));
    if (!isForm) return { entry, told: undefined };
    const hosts = yield* addressesOf(address, limit);
    if (hosts.length === 0) return { entry, told: undefined };
    const ask = (host: string) =>
      Effect.map(greet({ host, port: address.port }, limit), (found) =>
        found === "v1" || found === "v2" ? [`${found}:${withPort(host, address.port)}`] : [],
      );
    return { entry, told: (yield* Effect.forEach(hosts, ask, { concurrency: "unbounded" })).flat() };
  });

/**
 * Makes the list for `mon_host`: adds the protocol to each address that leaves it open. One that tells none is left out
 * where another tells: librados would wait for it, and a wrong key would look like a monitor that does not answer.
 */
export const monHost = (monitors: readonly string[], limit: Duration.Duration): Effect.Effect<string> =>
  Effect.forEach(entriesIn(monitors), (entry) => settle(entry, limit), { concurrency: "unbounded" }).pipe(
    Effect.map((list) => {
      const someTell = list.some(({ told = [] }) => told.length > 0);
      return list.flatMap(({ entry, told }) => (told === undefined || !someTell ? [entry] : told)).join(",");
    }),
  );

const STATES: Record<Finding, string> = {
  v1: "is there, but did not finish the login",
  v2: "is there, but did not finish the login",
  refuses: "refuses connections because nothing listens there",
  silent: "takes connections and sends nothing, so its process hangs",
  unreachable: "does not answer",
  "unknown name": "has a name that cannot be resolved",
  stranger: "is not a Ceph monitor",
};

/** Who answers at one entry; `unfit`: why librados takes no list that has it. */
interface Look {
  readonly finding?: Finding;
  readonly unfit?: string;
}

const look = (entry: string, limit: Duration.Duration): Effect.Effect<Look> =>
  Effect.suspend((): Effect.Effect<Look> => {
    const address = addressIn(entry);
    if (address === undefined) return Effect.succeed({ unfit: `"${entry}" is not an address` });
    if (address.isName && (address.protocol !== undefined || entry.includes("/"))) {
      const plain = withPort(address.host, address.port);
      return Effect.succeed({ unfit: `"${entry}" has a name in a form that is for addresses: write ${plain}` });
    }
    return Effect.map(greet(address, limit), (finding) => ({
      finding,
      ...(finding === "unknown name" && { unfit: `${entry} ${STATES[finding]}` }),
    }));
  });

/** The entries, and those of a list in brackets, one by one. */
const singly = (monitors: readonly string[]): readonly string[] =>
  entriesIn(monitors).flatMap((entry) => entry.replaceAll(/\[(?=v[12]:)|(?<=:\d+(?:\/\d+)?)\]$/g, "").split(","));

export interface MonitorState {
  readonly monitor: string;
  /** Why no client can use it from here, in one clause; absent: it greets. */
  readonly fault?: string;
}

/** Which monitors greet whoever connects from this machine; nobody logs in. */
export const monitorStates = (
  monitors: readonly string[],
  limit: Duration.Duration,
): Effect.Effect<readonly MonitorState[]> =>
  Effect.forEach(
    singly(monitors),
    (monitor) =>
      Effect.map(look(monitor, limit), ({ finding, unfit }): MonitorState => {
        if (unfit !== undefined) return { monitor, fault: unfit };
        if (finding === "v1" || finding === "v2") return { monitor };
        return { monitor, fault: `${monitor} ${STATES[finding ?? "unreachable"]}` };
      }),
    { concurrency: "unbounded" },
  );

/** Describes each monitor in one clause, for an error message; those that spoil the list, where there are such. */
export const diagnose = (monitors: readonly string[], limit: Duration.Duration): Effect.Effect<string> =>
  Effect.gen(function* () {
    const entries = singly(monitors);
    const found = yield* Effect.forEach(entries, (entry) => look(entry, limit), { concurrency: "unbounded" });
    const unfit = found.flatMap(({ unfit: clause }) => (clause === undefined ? [] : [clause]));
    // librados takes no list with such an entry, so that the other monitors have not been asked.
    if (unfit.length > 0) return unfit.join("; ");
    return found.map(({ finding = "unreachable" }, at) => `${entries[at]} ${STATES[finding]}`).join("; ");
  });
