/**
 * The errors of configuration: files, parameters, secrets. Each message names the place and says what to write there.
 *
 * Not here: gRPC codes (lib/operations/outcomes.ts).
 *
 * Invariant: a message never holds a secret's value, and is one line.
 */
import * as Data from "effect/Data";
import { oneLine } from "../text/printable.ts";

/** config.json was read, and has no entry with this clusterID. */
export class ConfigMissing extends Data.TaggedError("ConfigMissing")<{
  readonly clusterId: string;
  readonly path: string;
  readonly known: ReadonlyArray<string>;
}> {
  override get message(): string {
    const known = this.known.length === 0 ? "it has no usable entry" : `it has ${this.known.join(", ")}`;
    return `no cluster with clusterID ${oneLine(this.clusterId)} in ${this.path} (${known}): add an entry for it`;
  }
}

/**
 * A file, or the entry asked for in it, cannot be used. `kind`: `file-missing`, `file-unreadable` (also: no answer in
 * time), `not-json` (also: JSON of another shape), `bad-entry` (this entry only, others are fine).
 */
export class ConfigInvalid extends Data.TaggedError("ConfigInvalid")<{
  readonly kind: "file-missing" | "file-unreadable" | "not-json" | "bad-entry";
  readonly path: string;
  readonly reason: string;
}> {
  override get message(): string {
    return `${this.path}: ${this.reason}`;
  }
}

export type ConfigError = ConfigMissing | ConfigInvalid;

/** A parameter of a StorageClass (or volume_context, which is a copy of them) is missing or wrong. */
export class InvalidParameter extends Data.TaggedError("InvalidParameter")<{
  readonly field: string;
  readonly reason: string;
}> {
  override get message(): string {
    return `parameter ${this.field}: ${this.reason}`;
  }
}

/** A key of the request's secrets is missing or unusable. Names the key, never its value. */
export class InvalidSecret extends Data.TaggedError("InvalidSecret")<{
  readonly key: string;
  readonly reason: string;
}> {
  override get message(): string {
    return `secret ${this.key}: ${this.reason}`;
  }
}
