/**
 * What the calls of a fiber are made for, such as a volume: while one of them hangs, changes for the same subject fail
 * at once instead of hanging, too.
 */
import * as Context from "effect/Context";

/** `undefined`: each call stands for itself. */
export const CallSubject = Context.Reference<string | undefined>("csi-rbd/CallSubject", {
  defaultValue: () => undefined,
});
