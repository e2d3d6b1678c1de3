/**
 * How the key of a volume can be out of reach. Each message names the place and says what to change there.
 *
 * Not here: gRPC codes (lib/operations/outcomes.ts).
 *
 * 1. No key, passphrase, token or certificate is in an error: it holds names of places only.
 */
import * as Data from "effect/Data";
import type { InvalidSecret } from "../config/errors.ts";
import { oneLine } from "../text/printable.ts";

/** A volume asks for a KMS ID that the configuration does not have. */
export class KmsUnknown extends Data.TaggedError("KmsUnknown")<{
  readonly kmsId: string;
  /** The file, or the ConfigMap, that was read. */
  readonly place: string;
  readonly known: readonly string[];
}> {
  override get message(): string {
    const known = this.known.length === 0 ? "it has none" : `it has ${this.known.join(", ")}`;
    return `no KMS ${oneLine(this.kmsId)} in ${this.place} (${known}): add a section for it, or correct encryptionKMSID`;
  }
}

/** The configuration of a KMS cannot be used: the file, a section, or an object of Kubernetes that a section names. */
export class KmsConfigInvalid extends Data.TaggedError("KmsConfigInvalid")<{
  /** The file, the ConfigMap, or the Secret: `Secret tenant/name`. */
  readonly place: string;
  /** The KMS ID; absent where the whole file is wrong. */
  readonly section?: string | undefined;
  readonly key?: string | undefined;
  /** What is wrong, and what to write instead. */
  readonly reason: string;
}> {
  override get message(): string {
    const section = this.section === undefined ? "" : `, section ${oneLine(this.section)}`;
    const key = this.key === undefined ? "" : `, key ${this.key}`;
    return `${this.place}${section}${key}: ${this.reason}`;
  }
}

/** A key store, or Kubernetes, refuses the credential, or the passphrase is another than that of the wrapped key. */
export class KmsDenied extends Data.TaggedError("KmsDenied")<{
  /** The store, by its address: `Vault https://vault:8200`. */
  readonly store: string;
  readonly reason: string;
  /** What to change, and where: the Secret, the role, the policy. */
  readonly remedy: string;
}> {
  override get message(): string {
    return `${this.store} refuses: ${this.reason}. ${this.remedy}`;
  }
}

/** A key store answers that it does not do what it is asked: a key that is disabled, a name that it cannot have. */
export class KmsRefused extends Data.TaggedError("KmsRefused")<{
  readonly store: string;
  readonly reason: string;
  readonly remedy: string;
}> {
  override get message(): string {
    return `${this.store}: ${this.reason}. ${this.remedy}`;
  }
}

/** No answer came from a key store or from Kubernetes, or one that does not tell. The request may have taken effect. */
export class KmsUnreachable extends Data.TaggedError("KmsUnreachable")<{
  readonly store: string;
  readonly reason: string;
}> {
  override get message(): string {
    return `${this.store} does not answer: ${this.reason}. Check that it runs and that this pod reaches it; the retry asks again`;
  }
}

/** A stored key is there, and is not one: text of another format, or cut off. */
export class KeyDamaged extends Data.TaggedError("KeyDamaged")<{
  readonly volumeId: string;
  /** `image metadata rbd.csi.ceph.com/dek`, or the path in the store. */
  readonly place: string;
  readonly reason: string;
}> {
  override get message(): string {
    return `the key of ${this.volumeId} in ${this.place} cannot be read: ${this.reason}. Restore it from a backup; nothing was changed`;
  }
}

/** No key of the volume is there. It is never made anew for a volume that may hold data. */
export class KeyNotFound extends Data.TaggedError("KeyNotFound")<{
  readonly volumeId: string;
  readonly place: string;
}> {
  override get message(): string {
    return `there is no key of ${this.volumeId} in ${this.place}. Restore it there; without it the data cannot be read`;
  }
}

/** A key of the volume is there already, and another was to be written. It stays as it is. */
export class KeyExists extends Data.TaggedError("KeyExists")<{
  readonly volumeId: string;
  readonly place: string;
}> {
  override get message(): string {
    return `there is a key of ${this.volumeId} in ${this.place} already. It was not overwritten; retry`;
  }
}

/** The key of a volume was exchanged while the volume was copied: the copy may have no slot that the key opens. */
export class KeyChanged extends Data.TaggedError("KeyChanged")<{ readonly volumeId: string }> {
  override get message(): string {
    return `the key of ${this.volumeId} was exchanged (EncryptionKeyRotate) while it was copied. The copy was taken back; the automatic retry takes it with the new key`;
  }
}

/** Whatever can be wrong when a store is asked, besides the presence of the key. */
export type KmsError =
  | InvalidSecret
  | KmsUnknown
  | KmsConfigInvalid
  | KmsDenied
  | KmsRefused
  | KmsUnreachable
  | KeyDamaged;
