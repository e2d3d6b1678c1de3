/** Values of the flags that say how a leader is elected, checked against each other. */
import * as Duration from "effect/Duration";
import { goBool } from "../text/go-values.ts";
import type { ELECTION_FLAGS } from "./flag-table.ts";
import type { ValuesOf } from "./read-flags.ts";

export type ElectionFlags = ValuesOf<typeof ELECTION_FLAGS>;

/** Without an election nothing reads its other flags. */
export const electionFlagUse = (name: string, given: ReadonlyMap<string, string>): "none" | undefined =>
  name.startsWith("leader-election-") && goBool(given.get("leader-election") ?? "false") === false ? "none" : undefined;

/** A leader must have stopped, after a few tries, before others may lead. -> what is wrong. */
export const wrongElection = (flags: ElectionFlags): string | undefined => {
  const [lease, renew, retry] = [flags.leaseDuration, flags.renewDeadline, flags.retryPeriod].map((each) =>
    Duration.toMillis(each),
  ) as [number, number, number];
  if (renew >= lease) return "--leader-election-renew-deadline must be shorter than --leader-election-lease-duration";
  if (retry * 1.2 >= renew)
    return "--leader-election-renew-deadline must be more than 1.2 times --leader-election-retry-period";
  return undefined;
};
