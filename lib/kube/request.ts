/**
 * The Kubernetes API over HTTPS, by Bun's `fetch`.
 *
 * Own code, because the libraries fail where it matters here: Bun does not use the certificate authority that
 * @kubernetes/client-node 2 hands to undici, and version 1 works on some releases of Bun only. Neither asks for
 * bookmarks, recovers a watch from any error, heeds 429, or elects a leader, so the larger part would be our own anyway;
 * what is left is this file.
 *
 * Not here: where the server is and who we are (./kubeconfig.ts), and what survives the end of a watch (./informer.ts).
 *
 * 1. A request waits no longer than its limit. A watch that says nothing, not even a bookmark, for SILENCE ends.
 * 2. When the server asks for patience (429, or 503 with Retry-After), the request waits and is sent again: neither has
 *    changed anything.
 * 3. Credentials are read again every few seconds, and after a 401 at once, because they are renewed on disk.
 */
import * as Clock from "effect/Clock";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Random from "effect/Random";
import type * as Scope from "effect/Scope";
import * as Stream from "effect/Stream";
import * as z from "zod";
import { jsonOf } from "../text/json.ts";
import { type KubeAccessWrong, KubeFailed, type Verb } from "./errors.ts";
import { Kube, type KubeService, type Page, type Patch, type WatchEvent } from "./kube.ts";
import type { Credentials, KubeAccess } from "./kubeconfig.ts";

const LIMIT = Duration.seconds(30);
/** The server sends a bookmark every minute; after more than two without one the peer is probably dead. */
const SILENCE = Duration.seconds(150);
const CREDENTIALS_FOR_MS = 5_000;
const MAX_ATTEMPTS = 10;
/** No server means more than this, and a controller must look at its world again at some time. */
const LONGEST_WAIT_MS = 60_000;

interface Call {
  readonly verb: Verb;
  readonly method: "GET" | "POST" | "PUT" | "PATCH";
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: { readonly type: string; readonly value: object };
}

type Open = (call: Call) => Effect.Effect<Response, KubeFailed, Scope.Scope>;

export const kubeLayer = (found: Effect.Effect<KubeAccess, KubeAccessWrong>): Layer.Layer<Kube, KubeAccessWrong> =>
  Layer.effect(
    Kube,
    Effect.map(found, (access) => Kube.of(makeKube(access))),
  );

export const makeKube = (access: KubeAccess): KubeService => {
  const open = patiently(opener(access));
  const ask = (call: Call): Effect.Effect<unknown, KubeFailed> =>
    open(call).pipe(
      Effect.flatMap((response) => reading(call, () => response.json())),
      Effect.scoped,
    );
  return {
    namespace: access.namespace,
    get: (path) => ask({ verb: "get", method: "GET", path }),
    list: (path, { limit, after }) =>
      ask({
        verb: "list",
        method: "GET",
        path,
        query: { limit: String(limit), ...(after !== "" && { continue: after }) },
      }).pipe(Effect.flatMap((answer) => pageOf(path, answer))),
    watch: (path, resourceVersion) => watching(open, path, resourceVersion),
    create: (path, value) => ask({ verb: "create", method: "POST", path, body: { type: "application/json", value } }),
    update: (path, value) => ask({ verb: "update", method: "PUT", path, body: { type: "application/json", value } }),
    patch: (path, patch) => ask({ verb: "patch", method: "PATCH", path, body: bodyOf(patch) }),
  };
};

const bodyOf = (patch: Patch) =>
  "merge" in patch
    ? { type: "application/merge-patch+json", value: patch.merge }
    : { type: "application/json-patch+json", value: patch.json };

/** -> the answer's head, if it is a success. The connection is closed with the scope, unless the body has been read. */
const opener = (access: KubeAccess): Open => {
  const credentials = remembered(access.credentials);
  const attempt = (call: Call, { token, tls }: Credentials) =>
    Effect.gen(function* () {
      const abort = yield* Effect.acquireRelease(
        Effect.sync(() => new AbortController()),
        (controller) => Effect.sync(() => controller.abort()),
      );
      const query = call.query === undefined ? "" : `?${new URLSearchParams(call.query).toString()}`;
      const send = () =>
        fetch(access.url + call.path + query, {
          method: call.method,
          headers: {
            accept: "application/json",
            "user-agent": "csi-rbd",
            ...(token !== undefined && { authorization: `Bearer ${token}` }),
            ...(call.body && { "content-type": call.body.type }),
          },
          ...(call.body && { body: JSON.stringify(call.body.value) }),
          tls,
          signal: abort.signal,
          // Bun's own limit would cut a watch that has nothing to say; ours are LIMIT and SILENCE.
          timeout: false,
        } as RequestInit);
      const response = yield* reading(call, send);
      return response.ok ? response : yield* refused(call, response);
    });
  return (call) => {
    const once = (fresh: boolean) =>
      credentials(fresh).pipe(
        Effect.mapError(({ message: reason }) => new KubeFailed({ verb: call.verb, path: call.path, reason })),
        Effect.flatMap((found) => attempt(call, found)),
      );
    return Effect.catchIf(
      once(false),
      ({ status }) => status === 401,
      () => once(true),
    );
  };
};

const remembered = <E>(read: Effect.Effect<Credentials, E>) => {
  let known: { readonly credentials: Credentials; readonly until: number } | undefined;
  return (fresh: boolean): Effect.Effect<Credentials, E> =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      if (!fresh && known !== undefined && now < known.until) return Effect.succeed(known.credentials);
      return Effect.tap(read, (credentials) =>
        Effect.sync(() => void (known = { credentials, until: now + CREDENTIALS_FOR_MS })),
      );
    });
};

/** A promise of the answer, within the limit. */
const reading = <A>({ verb, path }: Call, act: () => Promise<A>): Effect.Effect<A, KubeFailed> =>
  Effect.tryPromise({ try: act, catch: (error) => new KubeFailed({ verb, path, reason: textOf(error) }) }).pipe(
    Effect.timeoutOrElse({
      duration: LIMIT,
      orElse: () =>
        Effect.fail(new KubeFailed({ verb, path, reason: `no answer within ${Duration.toSeconds(LIMIT)} s` })),
    }),
  );

const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const statusShape = z.object({
  message: z.string().default(""),
  reason: z.string().default(""),
  code: z.number().optional(),
  details: z.object({ retryAfterSeconds: z.number().optional() }).optional(),
});

const refused = (call: Call, response: Response): Effect.Effect<never, KubeFailed> =>
  reading(call, () => response.text()).pipe(
    Effect.orElseSucceed(() => ""),
    Effect.flatMap((text) => {
      const after = response.headers.get("retry-after");
      return Effect.fail(failureOf(call, response.status, jsonOf(text), after === null ? undefined : Number(after)));
    }),
  );

/** From the API's `Status`, if there is one. */
const failureOf = (
  { verb, path }: Pick<Call, "verb" | "path">,
  status: number,
  body: unknown,
  after?: number,
): KubeFailed => {
  const { message = "", reason = "", details } = statusShape.safeParse(body).data ?? {};
  const seconds = Number.isFinite(after) ? after : details?.retryAfterSeconds;
  return new KubeFailed({
    verb,
    path,
    status,
    code: reason,
    reason: `HTTP ${status}${message === "" ? "" : `: ${message.slice(0, 500)}`}`,
    ...(seconds !== undefined && { retryAfterMs: seconds * 1000 }),
  });
};

const patiently = (open: Open): Open => {
  const from =
    (attempt: number): Open =>
    (call) =>
      Effect.catchIf(
        open(call),
        (failed) => attempt < MAX_ATTEMPTS && asksForPatience(failed),
        ({ retryAfterMs = 1000 }) =>
          Effect.flatMap(Random.next, (random) =>
            Effect.delay(from(attempt + 1)(call), Math.min(retryAfterMs, LONGEST_WAIT_MS) + random * 1000),
          ),
      );
  return from(1);
};

const asksForPatience = ({ status, retryAfterMs }: KubeFailed): boolean =>
  status === 429 || (status === 503 && retryAfterMs !== undefined);

const listShape = z.object({
  metadata: z.object({ resourceVersion: z.string(), continue: z.string().default("") }),
  items: z.array(z.unknown()).nullish(),
});

const pageOf = (path: string, answer: unknown): Effect.Effect<Page, KubeFailed> => {
  const { data } = listShape.safeParse(answer);
  if (data === undefined)
    return Effect.fail(new KubeFailed({ verb: "list", path, reason: "the answer is not a list" }));
  const { resourceVersion, continue: next } = data.metadata;
  return Effect.succeed({ items: data.items ?? [], resourceVersion, next });
};

const watching = (open: Open, path: string, resourceVersion: string): Stream.Stream<WatchEvent, KubeFailed> => {
  const opened = Effect.gen(function* () {
    // Spread, so that the watches of many clients do not end together.
    const timeout = 300 + Math.floor((yield* Random.next) * 300);
    const query = {
      watch: "true",
      allowWatchBookmarks: "true",
      resourceVersion,
      timeoutSeconds: String(timeout),
    };
    const response = yield* open({ verb: "watch", method: "GET", path, query });
    const { body } = response;
    if (body === null) return Stream.empty;
    const onError = (error: unknown) => new KubeFailed({ verb: "watch", path, reason: textOf(error) });
    return Stream.fromReadableStream({ evaluate: () => body, onError }).pipe(
      Stream.timeout(SILENCE),
      Stream.decodeText,
      Stream.splitLines,
      Stream.filter((line) => line !== ""),
      Stream.mapEffect((line) => eventOf(path, line)),
    );
  });
  return Stream.unwrap(opened);
};

const eventShape = z.object({
  type: z.enum(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]),
  object: z.unknown(),
});

/** One line of a watch. */
const eventOf = (path: string, line: string): Effect.Effect<WatchEvent, KubeFailed> => {
  const { data } = eventShape.safeParse(jsonOf(line));
  // The last line of a broken connection is cut off.
  if (data === undefined)
    return Effect.fail(new KubeFailed({ verb: "watch", path, reason: "the answer is not an event" }));
  const { type, object } = data;
  if (type !== "ERROR") return Effect.succeed({ type, object });
  return Effect.fail(failureOf({ verb: "watch", path }, statusShape.safeParse(object).data?.code ?? 500, object));
};
