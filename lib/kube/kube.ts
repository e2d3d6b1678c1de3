/**
 * The Kubernetes API as an Effect service: single requests, pages of a list, and one watch. Objects are JSON as it came;
 * whoever reads one states its fields as a zod schema, and so keeps no others.
 *
 * Not here: HTTP (./request.ts), and what is built on top: ./informer.ts, ./lease.ts, ./events.ts.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import type * as Stream from "effect/Stream";
import * as z from "zod";
import { isMissing, KubeFailed } from "./errors.ts";

/** One page of a list. */
export interface Page {
  readonly items: readonly unknown[];
  readonly resourceVersion: string;
  /** For the next page; "" on the last one. */
  readonly next: string;
}

export interface PageRequest {
  readonly limit: number;
  /** `next` of the page before; "" for the first one. */
  readonly after: string;
}

export interface WatchEvent {
  /** A bookmark carries a resource version, and no object of interest. */
  readonly type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK";
  readonly object: unknown;
}

/** RFC 6902. */
export interface JsonOperation {
  readonly op: "test" | "add" | "replace" | "remove";
  readonly path: string;
  readonly value?: unknown;
}

/** A merge patch (RFC 7386) or a JSON patch. */
export type Patch = { readonly merge: object } | { readonly json: readonly JsonOperation[] };

/** Paths are those of the REST API, without the host: `/api/v1/persistentvolumes/pv-1`. */
export interface KubeService {
  /** The namespace of this process. */
  readonly namespace: Effect.Effect<string>;
  readonly get: (path: string) => Effect.Effect<unknown, KubeFailed>;
  readonly list: (path: string, page: PageRequest) => Effect.Effect<Page, KubeFailed>;
  /**
   * Changes since that resource version. The stream ends when the server ends it, or says nothing for too long; it fails
   * with status 410 when the server has forgotten the version.
   */
  readonly watch: (path: string, resourceVersion: string) => Stream.Stream<WatchEvent, KubeFailed>;
  /** `path` is that of the list. */
  readonly create: (path: string, object: object) => Effect.Effect<unknown, KubeFailed>;
  /** Fails with status 409 unless `object` has the current resource version. */
  readonly update: (path: string, object: object) => Effect.Effect<unknown, KubeFailed>;
  readonly patch: (path: string, patch: Patch) => Effect.Effect<unknown, KubeFailed>;
}

export class Kube extends Context.Service<Kube, KubeService>()("csi-rbd/Kube") {}

/** A kind of object, and the fields that are read of it. */
export interface Shape<S extends z.ZodType> {
  /** As a message names it, with its article: "a Lease". */
  readonly kind: string;
  readonly schema: S;
}

/** The server's answer about the object at that path. */
export const answerAs = <S extends z.ZodType>(
  path: string,
  { kind, schema }: Shape<S>,
  answer: unknown,
): Effect.Effect<z.infer<S>, KubeFailed> => {
  const { data } = schema.safeParse(answer);
  return data === undefined
    ? Effect.fail(new KubeFailed({ verb: "get", path, reason: `the answer is not ${kind}` }))
    : Effect.succeed(data);
};

/** Reads an object; `undefined`: it does not exist. */
export const getIfThere = <S extends z.ZodType>(
  path: string,
  shape: Shape<S>,
): Effect.Effect<z.infer<S> | undefined, KubeFailed, Kube> =>
  Effect.flatMap(Kube, ({ get }) => get(path)).pipe(
    Effect.flatMap((answer) => answerAs(path, shape, answer)),
    Effect.catchIf(isMissing, () => Effect.succeed(undefined)),
  );

/** What every object has. */
const identified = z.object({
  metadata: z.object({ name: z.string(), namespace: z.string().default(""), resourceVersion: z.string().default("") }),
});

export interface ObjectIdentity {
  readonly name: string;
  readonly namespace: string;
  readonly resourceVersion: string;
}

/** `undefined` where the value is not an object of Kubernetes. */
export const identityOf = (object: unknown): ObjectIdentity | undefined => identified.safeParse(object).data?.metadata;

/**
 * Whether the version `a` is before `b`. Versions are opaque by the letter; every server gives whole numbers, which the
 * API promises to be comparable since 1.35. Where one is not, nothing is before anything.
 */
export const isBefore = (a: string, b: string): boolean =>
  /^\d+$/.test(a) && /^\d+$/.test(b) && (a.length === b.length ? a < b : a.length < b.length);
