/** Which cells make which calls (lib/ceph/live/call.ts): what somebody waits for does not wait for what takes hours. */
import { expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type { CellPool } from "../../../lib/cells/pool.ts";
import { blocklistCalls } from "../../../lib/ceph/live/blocklist.ts";
import { makeCalls } from "../../../lib/ceph/live/call.ts";
import type { Connections } from "../../../lib/ceph/live/connection.ts";
import { memoryAccess } from "../../support/ceph-memory/memory.ts";

const pool = { access: memoryAccess, pool: "rbd", namespace: "" };
const connection = { handle: 1n, running: 0, aside: 0, damaged: false, forgotten: false, retired: false };
const connections: Connections = { use: (_, call) => call(connection), back: () => {} };
const state: CellPool["state"] = () => ({ running: [], waiting: 0, cells: 0, stuck: [], healthy: true });
/** All of its cells are busy. */
const full: CellPool = { call: () => Effect.never, state };
const free: CellPool = { call: <A>() => Effect.succeed(true as A), state };

test("A fence is made and proven while all cells for long calls, and those for snapshots, are busy", async () => {
  const limit = Duration.seconds(30);
  const cells = { quick: free, slow: full, waiting: full };
  const fence = Effect.gen(function* () {
    const blocklist = blocklistCalls(yield* makeCalls(cells, connections, { osdTimeout: limit, monTimeout: limit }));
    const client = { kind: "client", address: "10.0.0.1:0/3412" } as const;
    yield* blocklist.blocklistAdd(memoryAccess, client, 60);
    return yield* blocklist.blocklistReached(pool, client);
  });
  expect(await Effect.runPromise(Effect.timeout(fence, "2 seconds"))).toBe(true);
});
