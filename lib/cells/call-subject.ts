/**
 * The subject of the calls of a fiber, such as a volume: while one of them hangs, changes for the same subject fail at once
 * and do not hang, too.
 */
import * as Context from "effect/Context";

/** `undefined`: each call stands for itself. */
export const CallSubject = Context.Reference<string | undefined>("csi-rbd/CallSubject", {
  defaultValue: () => undefined,
});
