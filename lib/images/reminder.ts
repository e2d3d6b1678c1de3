/**
 * Says a thing of an image again only after some time, or when it has changed: the log stays readable while a person has
 * something to do.
 */
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";

const AGAIN_MS = 6 * 3_600_000;
const MOST = 4096;

export const makeReminder: Effect.Effect<(subject: string, line: string) => Effect.Effect<void>> = Effect.sync(() => {
  const said = new Map<string, { readonly line: string; readonly at: number }>();
  return (subject, line) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const last = said.get(subject);
      if (last?.line === line && now - last.at < AGAIN_MS) return Effect.void;
      if (said.size >= MOST) said.clear();
      said.set(subject, { line, at: now });
      return Effect.logWarning(line);
    });
});
