/** Warnings about states that last: each is logged as it begins, and not again until it is over. */
import * as Effect from "effect/Effect";

export interface Warnings {
  /** Logs a text, unless it was the last one of this key. */
  readonly once: (key: string, text: string) => Effect.Effect<void>;
  readonly over: (key: string) => void;
  readonly keep: (isKept: (key: string) => boolean) => void;
}

export const makeWarnings = (): Warnings => {
  const said = new Map<string, string>();
  return {
    once: (key, text) =>
      Effect.suspend(() => {
        if (said.get(key) === text) return Effect.void;
        said.set(key, text);
        return Effect.logWarning(text);
      }),
    over: (key) => void said.delete(key),
    keep: (isKept) => {
      for (const key of said.keys()) if (!isKept(key)) said.delete(key);
    },
  };
};
