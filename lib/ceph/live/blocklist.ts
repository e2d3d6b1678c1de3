/**
 * The methods of `Blocklist`, each one call in a cell.
 *
 * Not here: the calls themselves (lib/ceph/cell/blocklist.ts).
 *
 * 1. All are made by the quick cells, also the proof, which takes seconds in a large pool: a volume of a lost node waits for
 *    it, and so it waits for no flatten, no difference and no removal. Past their patience those cells get further ones beside
 *    them, so it holds up no others.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type { BlocklistCalls } from "../blocklist.ts";
import { AccessDenied, type CephError } from "../errors.ts";
import type { Calls } from "./call.ts";

/** A question to the monitors, then a short one to each placement group, of which a pool may have thousands. */
const REACHED_LIMIT = Duration.minutes(2);

export const blocklistCalls = ({ inCluster, inPool }: Calls): BlocklistCalls => ({
  blocklist: (access) => inCluster(access, "blocklist", {}, { key: "blocklist", subject: "the blocklist" }),
  blocklistAdd: (access, blocked, seconds) => {
    const { address: subject } = blocked;
    const about = { key: `blocklist ${subject}`, subject, changes: true };
    return named("osd blocklist add", inCluster(access, "blocklistAdd", { blocked, seconds }, about));
  },
  blocklistRemove: (access, blocked) => {
    const { address: subject } = blocked;
    const about = { key: `blocklist ${subject}`, subject, changes: true };
    return named("osd blocklist rm", inCluster(access, "blocklistRemove", { blocked }, about), CAPS);
  },
  blocklistReached: (pool, blocked) =>
    inPool(pool, "blocklistReached", blocked.address, { blocked }, { limit: REACHED_LIMIT }),
  clusterIdentity: (access) => inCluster(access, "clusterIdentity", {}, { key: "identity" }),
});

const CAPS = `mon 'profile rbd, allow command "osd blocklist"'`;

/** Names the command that was denied, and what it takes: `profile rbd` alone permits only to add. */
const named = <A>(op: string, call: Effect.Effect<A, CephError>, caps?: string) =>
  Effect.catchTag(call, "AccessDenied", ({ subject, user }) =>
    Effect.fail(new AccessDenied({ op, subject, user, ...(caps !== undefined && { caps }) })),
  );
