/** For whom the calls of a fiber are made, such as an RPC: calls that wait for a cell are made in turns of their callers. */
import * as Context from "effect/Context";

export const Caller = Context.Reference<string>("csi-rbd/Caller", { defaultValue: () => "" });
