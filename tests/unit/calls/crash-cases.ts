/** What some tests of crashes start from (tests/support/crash-world.ts) and no other room has: they try a death at each of these calls. */
import rows from "../../golden/crash-calls.json";
import { aWorld, scenarios, SETTINGS } from "../../support/crash-world.ts";
import type { Case, Room } from "./room.ts";

const theirs = rows.map(({ rpc, case: name }) => `${rpc}: ${name}`);

export const crashRoom: Room = {
  name: "crashes",
  rows,
  world: async () => ({ cluster: await aWorld({}) }),
  cases: Object.fromEntries(
    scenarios
      .filter(({ row }) => theirs.includes(row))
      .map(({ row, prepare, call, ceph: faults, code }): [string, Case] => [
        row,
        {
          given: SETTINGS,
          prepare: async ({ cluster }) => prepare?.(cluster),
          call: ({ driver }) => call(driver),
          ...(faults && { faults }),
          ...(code !== undefined && { code }),
        },
      ]),
  ),
};
