/**
 * The configuration of key stores: the section of a KMS ID, from the file, or from a ConfigMap where there is no file.
 *
 * Not here: what the options mean (each store's own file).
 *
 * 1. It is read anew at each look: an edit has its effect at once.
 * 2. The ConfigMap is asked only if the file does not exist. A file that cannot be read is an error.
 */
import * as Effect from "effect/Effect";
import { jsonOf } from "../text/json.ts";
import { KmsConfigInvalid, type KmsError, KmsUnknown } from "./errors.ts";
import type { KubeObjects, Section, Texts } from "./key-store.ts";
import { sectionOf } from "./section.ts";

const DEFAULT_CONFIG_MAP = "csi-kms-connection-details";

export interface KmsConfigPlaces {
  readonly file: string;
  readonly readFile: (path: string) => Effect.Effect<string | undefined, KmsError>;
  readonly kube: KubeObjects;
  readonly podNamespace: Effect.Effect<string, KmsError>;
  readonly env: Readonly<Record<string, string | undefined>>;
}

type Options = Readonly<Record<string, unknown>>;

/** The section of the KMS ID. */
export const findSection = Effect.fnUntraced(function* (
  kmsId: string,
  places: KmsConfigPlaces,
): Effect.fn.Return<Section, KmsError> {
  const text = yield* places.readFile(places.file);
  if (text !== undefined) return yield* sectionIn(places.file, kmsId, yield* objectIn(places.file, text));
  const namespace = yield* places.podNamespace;
  const name = places.env["KMS_CONFIGMAP_NAME"] || DEFAULT_CONFIG_MAP;
  const place = `ConfigMap ${namespace}/${name}`;
  const data = yield* places.kube.configMap(namespace, name);
  if (data === undefined) {
    const reason = `it does not exist, and neither does the file ${places.file}: create one of them with a section for ${kmsId}`;
    return yield* new KmsConfigInvalid({ place, reason });
  }
  return yield* sectionInMap(place, kmsId, data);
});

const sectionIn = (place: string, kmsId: string, sections: Options): Effect.Effect<Section, KmsError> => {
  const known = Object.keys(sections);
  if (!Object.hasOwn(sections, kmsId)) return Effect.fail(new KmsUnknown({ kmsId, place, known }));
  const options = sections[kmsId];
  return isObject(options)
    ? Effect.succeed(sectionOf(place, kmsId, options))
    : Effect.fail(new KmsConfigInvalid({ place, section: kmsId, reason: "is not a JSON object: write {…}" }));
};

/** Each key of the map is a section of its own; one that is broken does not harm the others. */
const sectionInMap = (place: string, kmsId: string, data: Texts): Effect.Effect<Section, KmsError> => {
  const text = Object.hasOwn(data, kmsId) ? data[kmsId] : undefined;
  if (text === undefined) return Effect.fail(new KmsUnknown({ kmsId, place, known: Object.keys(data) }));
  return Effect.map(objectIn(place, text, kmsId), (options) => sectionOf(place, kmsId, options));
};

/** The parser's own message is left out: it would show a part of the text. */
const objectIn = (place: string, text: string, section?: string): Effect.Effect<Options, KmsError> => {
  const reason = "is not a JSON object: correct it";
  const value = jsonOf(text);
  return isObject(value) ? Effect.succeed(value) : Effect.fail(new KmsConfigInvalid({ place, section, reason }));
};

const isObject = (value: unknown): value is Options =>
  typeof value === "object" && value !== null && !Array.isArray(value);
