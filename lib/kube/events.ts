/**
 * Events of Kubernetes: what `kubectl describe` shows below an object.
 *
 * 1. An event that is repeated raises the count of the first one; a failing object does not flood the API.
 * 2. No work fails or waits long because an event could not be written: it is dropped, and the log says so on its lowest level.
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import { hostname } from "node:os";
import type { KubeFailed } from "./errors.ts";
import { Kube, type KubeService } from "./kube.ts";

export interface InvolvedObject {
  readonly apiVersion: string;
  readonly kind: string;
  /** Absent for an object of the whole cluster: its events are in `default`. */
  readonly namespace?: string;
  readonly name: string;
  readonly uid?: string;
}

export interface KubeEvent {
  readonly involved: InvolvedObject;
  readonly type: "Normal" | "Warning";
  readonly reason: string;
  readonly message: string;
}

interface Written {
  readonly path: string;
  count: number;
}

/** The API's limit for a message. */
const MAX_MESSAGE = 1024;
/** Events are kept for an hour by the server; as many as one process is likely to repeat in it. */
const REMEMBERED = 1_000;
const LIMIT = "5 seconds";

/** Per client, because it is known to one server. */
const written = new WeakMap<KubeService, Map<string, Written>>();

export const recordEvent = (event: KubeEvent): Effect.Effect<void, never, Kube> =>
  Effect.gen(function* () {
    const kube = yield* Kube;
    const known = written.get(kube) ?? new Map<string, Written>();
    written.set(kube, known);
    const { involved, type, reason, message } = event;
    const key = JSON.stringify([involved, type, reason, message]);
    const before = known.get(key);
    const repeated = before === undefined ? false : yield* repeat(kube, before);
    if (repeated) return;
    known.delete(key);
    known.set(key, yield* first(kube, event));
    const [oldest] = known.keys();
    if (known.size > REMEMBERED && oldest !== undefined) known.delete(oldest);
  }).pipe(
    Effect.timeout(LIMIT),
    Effect.catch(({ message }) => Effect.logDebug(`no event: ${message}`)),
  );

const timeNow = Effect.map(Clock.currentTimeMillis, (millis) => new Date(millis).toISOString().replace(/\.\d+/, ""));

/** False where the server has forgotten the first one. */
const repeat = ({ patch }: KubeService, event: Written): Effect.Effect<boolean, KubeFailed> =>
  Effect.gen(function* () {
    event.count += 1;
    yield* patch(event.path, { merge: { count: event.count, lastTimestamp: yield* timeNow } });
    return true;
  }).pipe(
    Effect.catchIf(
      ({ status }) => status === 404,
      () => Effect.succeed(false),
    ),
  );

const first = (
  { create }: KubeService,
  { involved, type, reason, message }: KubeEvent,
): Effect.Effect<Written, KubeFailed> =>
  Effect.gen(function* () {
    const namespace = involved.namespace ?? "default";
    const name = `${involved.name.slice(0, 200)}.${crypto.randomUUID().slice(0, 13).replace("-", "")}`;
    const time = yield* timeNow;
    const list = `/api/v1/namespaces/${namespace}/events`;
    yield* create(list, {
      apiVersion: "v1",
      kind: "Event",
      metadata: { name, namespace },
      involvedObject: { ...involved, namespace: involved.namespace ?? "" },
      type,
      reason,
      message: message.slice(0, MAX_MESSAGE),
      source: { component: "csi-rbd", host: hostname() },
      reportingComponent: "csi-rbd",
      reportingInstance: hostname(),
      firstTimestamp: time,
      lastTimestamp: time,
      count: 1,
    });
    return { path: `${list}/${name}`, count: 1 };
  });
