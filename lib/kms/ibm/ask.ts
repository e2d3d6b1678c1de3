/**
 * Requests to IBM Cloud, for its token service and Key Protect, by Bun's `fetch`.
 *
 * 1. What may pass is asked again (connection errors, 429, 5xx but 501): up to four times, with pauses that grow.
 * 2. One attempt has ATTEMPT_LIMIT, all of them together LIMIT.
 * 3. No body of a request and no token is in an error; of an answer, only IBM's own error texts are.
 */
import * as Data from "effect/Data";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Schedule from "effect/Schedule";
import * as z from "zod";
import { jsonOf } from "../../text/json.ts";
import { lateReason, within } from "../client-calls.ts";
import { KmsDenied, type KmsError, KmsRefused, KmsUnreachable } from "../errors.ts";

const ATTEMPT_LIMIT = Duration.seconds(30);
const LIMIT = Duration.seconds(60);
const RETRIES = 4;
const MESSAGE_CHARACTERS = 300;

export interface IbmCall {
  /** As messages name the service, with its address. */
  readonly store: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** What to change where it refuses the credential, and where it refuses the request. */
  readonly credential: string;
  readonly request: string;
  /** HTTP statuses by which it refuses the credential. */
  readonly denied: readonly number[];
}

/** No answer, or one that another attempt may better. */
class Passing extends Data.TaggedError("Passing")<{ readonly reason: string }> {}

/** The JSON of a successful answer. */
export const ask = (call: IbmCall): Effect.Effect<unknown, KmsError> =>
  attempt(call).pipe(
    Effect.retry({
      schedule: Schedule.exponential("1 second").pipe(Schedule.jittered),
      times: RETRIES,
      while: (error) => error._tag === "Passing",
    }),
    Effect.catchTag("Passing", ({ reason }) => Effect.fail(new KmsUnreachable({ store: call.store, reason }))),
    within(LIMIT, call.store),
  );

const attempt = (call: IbmCall): Effect.Effect<unknown, KmsError | Passing> =>
  Effect.tryPromise({
    try: async (signal) => {
      const { url, headers, body } = call;
      const response = await fetch(url, { method: "POST", headers, body, signal, redirect: "manual" });
      return { status: response.status, text: await response.text() };
    },
    catch: (error) => new Passing({ reason: error instanceof Error ? error.message : String(error) }),
  }).pipe(
    Effect.timeoutOrElse({
      duration: ATTEMPT_LIMIT,
      orElse: () => Effect.fail(new Passing({ reason: lateReason(ATTEMPT_LIMIT) })),
    }),
    Effect.flatMap(({ status, text }) => explained(call, status, jsonOf(text))),
  );

const explained = (
  { store, credential, request, denied }: IbmCall,
  status: number,
  body: unknown,
): Effect.Effect<unknown, KmsError | Passing> => {
  if (status >= 200 && status < 300 && body !== undefined) return Effect.succeed(body);
  const reason = `HTTP ${status}${saidIn(body)}`;
  if (status === 429 || (status >= 500 && status !== 501) || status < 300) return Effect.fail(new Passing({ reason }));
  return Effect.fail(
    denied.includes(status)
      ? new KmsDenied({ store, reason, remedy: credential })
      : new KmsRefused({ store, reason, remedy: request }),
  );
};

/** The token service and Key Protect each have a form of their own. */
const errorShape = z.union([
  z
    .object({ errorCode: z.string(), errorMessage: z.string() })
    .transform((it) => `${it.errorCode}: ${it.errorMessage}`),
  z
    .object({ resources: z.array(z.object({ errorMsg: z.string() })).min(1) })
    .transform(({ resources }) => resources[0]?.errorMsg ?? ""),
]);

const saidIn = (body: unknown): string => {
  const { data } = errorShape.safeParse(body);
  return data === undefined ? "" : `, ${data.replaceAll(/\s+/g, " ").slice(0, MESSAGE_CHARACTERS).replace(/\.$/, "")}`;
};
