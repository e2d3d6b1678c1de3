/** What a key store is opened with: a section, and the Secrets of a Kubernetes that has these objects and no others. */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import type { KubeSecret, StoreContext } from "../../lib/kms/key-store.ts";
import { sectionOf } from "../../lib/kms/section.ts";

export type Values = Readonly<Record<string, string | Uint8Array>>;

export interface ContextParts {
  readonly options: Readonly<Record<string, unknown>>;
  /** By `namespace/name`. */
  readonly secrets?: Readonly<Record<string, Values>>;
  readonly owner?: string | undefined;
  readonly files?: Readonly<Record<string, string>>;
  readonly env?: Readonly<Record<string, string>>;
}

export const POD_NAMESPACE = "storage";

export const secretOf = (place: string, values: Values): KubeSecret => {
  const bytes = (key: string) => {
    const value = Object.hasOwn(values, key) ? values[key] : undefined;
    return typeof value === "string" ? Buffer.from(value) : value;
  };
  return {
    place: `Secret ${place}`,
    keys: Object.keys(values),
    bytes,
    text: (key) => {
      const found = bytes(key);
      return found && Redacted.make(new TextDecoder().decode(found));
    },
  };
};

export const storeContext = ({ options, secrets = {}, owner, files = {}, env = {} }: ContextParts): StoreContext => ({
  section: sectionOf("/etc/kms/config.json", "my-kms", options),
  owner,
  secrets: {},
  podNamespace: Effect.succeed(POD_NAMESPACE),
  kube: {
    secret: (namespace, name) => {
      const values = secrets[`${namespace}/${name}`];
      return Effect.succeed(values && secretOf(`${namespace}/${name}`, values));
    },
    configMap: () => Effect.succeed(undefined),
    serviceAccountToken: () => Effect.succeed(undefined),
  },
  env,
  readFile: (path) => Effect.succeed(Object.hasOwn(files, path) ? files[path] : undefined),
});
