/**
 * A small HTTP server for whoever watches this process: metrics, and checks of its health.
 *
 * Not here: what is told (./metrics.ts, services/).
 *
 * 1. A check never runs twice at once: who asks meanwhile gets the same answer.
 */
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";

export class NotListening extends Data.TaggedError("NotListening")<{ readonly message: string }> {}

export interface HttpAddress {
  readonly hostname: string;
  /** Names the flag that asked for it, for messages. */
  readonly flag: string;
  readonly port: number;
}

/** By their paths. */
export type Routes = Readonly<Record<string, () => Promise<Response>>>;

const shown = ({ hostname, port }: Pick<HttpAddress, "hostname" | "port">): string =>
  `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;

/** Listens until the scope closes. */
export const serveHttp = (address: HttpAddress, routes: Routes): Effect.Effect<void, NotListening, Scope.Scope> =>
  Effect.gen(function* () {
    const { hostname, port, flag } = address;
    const paths = Object.keys(routes);
    const answer = (request: Request): Response | Promise<Response> => {
      const { pathname } = new URL(request.url);
      const route = Object.hasOwn(routes, pathname) ? routes[pathname] : undefined;
      return route?.() ?? new Response(`here are: ${paths.join(", ")}\n`, { status: 404 });
    };
    const started = Effect.try({
      try: () => Bun.serve({ hostname, port, fetch: answer }),
      catch: (error) => {
        const why = error instanceof Error ? error.message : String(error);
        const message = `--${flag}: cannot listen on ${shown(address)} for ${paths.join(", ")}: ${why}`;
        return new NotListening({ message });
      },
    });
    const server = yield* Effect.acquireRelease(started, (running) => Effect.promise(() => running.stop(true)));
    const bound = shown({ hostname, port: server.port ?? port });
    yield* Effect.logInfo(`${paths.join(", ")} at http://${bound}`);
  });

/** Answers 200 "ok", or 500 with what is wrong; `check` gives that, or `undefined`. */
export const healthRoute = (check: Effect.Effect<string | undefined>): (() => Promise<Response>) => {
  let running: Promise<string | undefined> | undefined;
  return async () => {
    running ??= Effect.runPromise(check).finally(() => (running = undefined));
    const wrong = await running;
    return wrong === undefined ? new Response("ok") : new Response(`${wrong}\n`, { status: 500 });
  };
};
