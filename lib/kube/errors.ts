/**
 * How a request to the Kubernetes API can fail.
 *
 * 1. No credential is in a message: neither a header nor the text of a kubeconfig.
 */
import * as Data from "effect/Data";

/** What RBAC calls the request. */
export type Verb = "get" | "list" | "watch" | "create" | "update" | "patch";

export class KubeFailed extends Data.TaggedError("KubeFailed")<{
  readonly verb: Verb;
  readonly path: string;
  /** The HTTP status; absent where no answer came. */
  readonly status?: number;
  /** The API's word for it, such as `NotFound` or `Conflict`. */
  readonly code?: string;
  readonly reason: string;
  /** How long the server asks its client to wait, in milliseconds. */
  readonly retryAfterMs?: number;
}> {
  override get message() {
    const denied = this.status === 403 ? `. Grant the service account the verb "${this.verb}" for it` : "";
    return `cannot ${this.verb} ${this.path} of the Kubernetes API: ${this.reason}${denied}`;
  }
}

/** A resource version that the server has forgotten: list again. */
export const isExpired = ({ status }: KubeFailed): boolean => status === 410;

/** By the API's own word: a 404 alone may come from a proxy before it, or from a path that leads elsewhere. */
export const isMissing = ({ status, code }: KubeFailed): boolean => status === 404 && code === "NotFound";

/** The object has changed since it was read. */
export const isStale = ({ status }: KubeFailed): boolean => status === 409;

/** As `isStale`, of a JSON patch that begins with a test: one that fails has the status of any patch that is not valid. */
export const maybeStale = (failed: KubeFailed): boolean => isStale(failed) || failed.status === 422;

/** A kubeconfig, or a service account, that cannot be used. */
export class KubeAccessWrong extends Data.TaggedError("KubeAccessWrong")<{ readonly message: string }> {}
