/** `default`: the passphrase in the request's secrets is the key of all volumes. */
import * as Effect from "effect/Effect";

import type { PassphraseStore, Texts } from "../key-store.ts";
import { requestPassphrase } from "../passphrase.ts";

export const defaultStore = (secrets: Texts): PassphraseStore => ({
  kind: "passphrase",
  name: "the secret of the request",
  passphrase: Effect.suspend(() => requestPassphrase(secrets)),
});
