/** What a request asks for without effect: no error, so that the log is where an administrator reads of it. */
import * as Effect from "effect/Effect";
import { CallInfo } from "../grpc/call.ts";

/** Puts the remarks into the line that ends the call, or into lines of their own where no call is answered. */
export const remark = (texts: readonly string[]): Effect.Effect<void> =>
  Effect.flatMap(CallInfo, ({ remarks }) =>
    remarks === undefined
      ? Effect.forEach(texts, (text) => Effect.logWarning(text), { discard: true })
      : Effect.sync(() => void remarks.push(...texts)),
  );
