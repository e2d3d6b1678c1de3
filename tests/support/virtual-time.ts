/**
 * Time that passes when the test says so: a clock for one driver or several, so that waits of seconds take none, and
 * what a driver does in them is exact.
 *
 * 1. Before time moves, everything that can run without it has run: nothing here waits for the machine's clock.
 */
import * as Clock from "effect/Clock";
import * as Context from "effect/Context";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Scope from "effect/Scope";
import * as TestClock from "effect/testing/TestClock";

export interface VirtualTime {
  readonly layer: Layer.Layer<never>;
  /** Milliseconds since the epoch, at which it begins. */
  readonly now: () => number;
  readonly pass: (duration: Duration.Input) => Promise<void>;
  /** Lets time pass until the call has ended; fails when that takes more than ten minutes. */
  readonly until: <A>(call: Promise<A>) => Promise<A>;
}

const STEP = Duration.millis(50);
const LONGEST = Duration.toMillis("10 minutes");

/** Turns of the event loop that are more than any call in memory needs to come to a wait. */
const TURNS = 20;

/** Everything that needs no time has run when this returns. */
export const settled = async (): Promise<void> => {
  for (let n = 0; n < TURNS; n++) await new Promise((resolve) => setImmediate(resolve));
};

export const virtualTime = (): VirtualTime => {
  const build = Layer.buildWithScope(TestClock.layer({ warningDelay: "1 minute" }), Scope.makeUnsafe());
  const context = Effect.runSync(build);
  const now = () => Context.get(context, Clock.Clock).currentTimeMillisUnsafe();
  const pass = async (duration: Duration.Input) => {
    await settled();
    await Effect.runPromise(Effect.provideContext(TestClock.adjust(duration), context));
    await settled();
  };
  return {
    layer: Layer.succeedContext(context),
    now,
    pass,
    until: async (call) => {
      const state = { ended: false };
      const end = () => void (state.ended = true);
      call.then(end, end);
      const since = now();
      await settled();
      while (!state.ended) {
        if (now() - since > LONGEST) throw new Error("the call has not ended within ten minutes");
        await pass(STEP);
      }
      return call;
    },
  };
};
