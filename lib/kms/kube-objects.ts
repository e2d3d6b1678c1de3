/**
 * The objects of Kubernetes that key stores read, over the Kubernetes API.
 *
 * 1. An object that does not exist is `undefined`; what cannot be told is an error, and what is refused names the verb to
 *    grant.
 * 2. What a Secret holds is Redacted, or bytes: it reaches no message.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as z from "zod";
import type { KubeFailed } from "../kube/errors.ts";
import { answerAs, getIfThere, Kube, type KubeService, type Shape } from "../kube/kube.ts";
import { aSecret, secretPath } from "../kube/secrets.ts";
import { KmsDenied, type KmsError, KmsUnreachable } from "./errors.ts";
import type { KubeObjects, KubeSecret } from "./key-store.ts";

const STORE = "the Kubernetes API";

const configMapShape = {
  kind: "a ConfigMap",
  schema: z.object({ data: z.record(z.string(), z.string()).default({}) }),
};
const accountShape = {
  kind: "a ServiceAccount",
  schema: z.object({ secrets: z.array(z.object({ name: z.string() })).default([]) }),
};
const tokenShape = { kind: "a TokenRequest", schema: z.object({ status: z.object({ token: z.string().min(1) }) }) };

/** `kube`: how to reach it, or why it cannot be reached. */
export const kubeObjects = (kube: Effect.Effect<KubeService, KmsError>): KubeObjects => {
  const get = <S extends z.ZodType>(path: string, shape: Shape<S>): Effect.Effect<z.infer<S> | undefined, KmsError> =>
    Effect.flatMap(kube, (service) => getIfThere(path, shape).pipe(Effect.provideService(Kube, service), explained));
  const secret: KubeObjects["secret"] = (namespace, name) =>
    Effect.map(
      get(secretPath(namespace, name), aSecret),
      (found) => found && secretOf(`Secret ${namespace}/${name}`, found.data),
    );
  return {
    secret,
    configMap: (namespace, name) =>
      Effect.map(get(pathOf(namespace, "configmaps", name), configMapShape), (found) => found?.data),
    serviceAccountToken: Effect.fnUntraced(function* (namespace, name) {
      const path = pathOf(namespace, "serviceaccounts", name);
      const account = yield* get(path, accountShape);
      if (account === undefined) return undefined;
      const asked = Effect.flatMap(kube, (service) => tokenBy(service, path).pipe(explained));
      return yield* Effect.catch(asked, (error) => tokenIn(secret, namespace, account.secrets, error));
    }),
  };
};

const pathOf = (namespace: string, kind: string, name: string): string =>
  `/api/v1/namespaces/${encodeURIComponent(namespace)}/${kind}/${encodeURIComponent(name)}`;

const explained = <A, R>(asked: Effect.Effect<A, KubeFailed, R>): Effect.Effect<A, KmsError, R> =>
  Effect.mapError(asked, (error) => {
    if (error.status !== 401 && error.status !== 403) {
      return new KmsUnreachable({ store: STORE, reason: error.message });
    }
    const remedy = "Correct the permissions of this driver's service account";
    return new KmsDenied({ store: STORE, reason: error.message, remedy });
  });

const secretOf = (place: string, data: Readonly<Record<string, string>>): KubeSecret => {
  const bytes = (key: string) => {
    const encoded = Object.hasOwn(data, key) ? data[key] : undefined;
    return encoded === undefined ? undefined : new Uint8Array(Buffer.from(encoded, "base64"));
  };
  const text = (key: string) => {
    const found = bytes(key);
    return found && Redacted.make(Buffer.from(found).toString("utf8"), { label: place });
  };
  return { place, keys: Object.keys(data), bytes, text };
};

/** For the default audience and lifetime, as ceph-csi asks. */
const tokenBy = (kube: KubeService, account: string): Effect.Effect<Redacted.Redacted, KubeFailed> =>
  kube.create(`${account}/token`, { apiVersion: "authentication.k8s.io/v1", kind: "TokenRequest", spec: {} }).pipe(
    Effect.flatMap((answer) => answerAs(`${account}/token`, tokenShape, answer)),
    Effect.map(({ status }) => Redacted.make(status.token, { label: "token of a ServiceAccount" })),
  );

/** Kubernetes before 1.24 kept a token in a Secret of the ServiceAccount. */
const tokenIn = Effect.fnUntraced(function* (
  secret: KubeObjects["secret"],
  namespace: string,
  secrets: readonly { readonly name: string }[],
  error: KmsError,
): Effect.fn.Return<Redacted.Redacted, KmsError> {
  for (const { name } of secrets) {
    const token = (yield* secret(namespace, name))?.text("token");
    if (token !== undefined) return token;
  }
  return yield* error;
});
