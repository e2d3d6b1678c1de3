/**
 * The facts of a call that its handler can read besides the request: a reference that the bridge sets per call.
 *
 * Not here: what travels back. Headers are the caller's text: not to be logged.
 */
import * as Context from "effect/Context";

export interface CallInfo {
  /** The full path, `/csi.v1.Controller/CreateVolume`. */
  readonly rpc: string;
  /** The RPC's own name, `CreateVolume`. */
  readonly method: string;
  /** Milliseconds since the epoch; past it the caller has left. Absent: the caller waits for ever. */
  readonly deadline: number | undefined;
  /** Short, unique within this process: what log lines of one call share. */
  readonly id: string;
  /** The first value of a request header. */
  readonly header: (name: string) => string | undefined;
  /** What the line that ends the call warns of. Absent: no such line is written. */
  readonly remarks?: string[];
}

/** Outside of a call: an empty one. */
export const CallInfo = Context.Reference<CallInfo>("csi-rbd/CallInfo", {
  defaultValue: () => ({ rpc: "-", method: "-", deadline: undefined, id: "-", header: () => undefined }),
});
