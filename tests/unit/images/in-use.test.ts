/** Who counts as a user of an image, for mapping it and for removing it. */
import { describe, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import type { PoolRef } from "../../../lib/ceph/rados.ts";
import type { ImageStatus } from "../../../lib/ceph/rbd.ts";
import { otherWatchers, provePrimary, proveUnused } from "../../../lib/images/in-use.ts";
import { memoryAccess } from "../../support/ceph-memory/memory.ts";

const OURS = "10.0.0.1:0/123/client.4123";
const THEIRS = "10.0.0.2:0/456/client.41234";
const DAEMON = "10.0.0.3:0/789/client.9";

const watched = (watchers: readonly string[], mirror: ImageStatus["mirror"] = "disabled") => ({ watchers, mirror });

describe("the other watchers of an image", () => {
  for (const [what, image, options, expected] of [
    ["are all watchers, if none is the caller's own", watched([OURS, THEIRS]), {}, [OURS, THEIRS]],
    [
      "are all but the caller's own",
      watched([OURS, THEIRS]),
      { own: [{ watcherId: "client.4123", addresses: [] }] },
      [THEIRS],
    ],
    [
      "include a client whose ID only begins like the caller's",
      watched([THEIRS]),
      { own: [{ watcherId: "client.4123", addresses: [] }] },
      [THEIRS],
    ],
    [
      "are none if it is primary and has as many watchers as there are mirror daemons",
      watched([DAEMON], "primary"),
      { mirrorDaemons: 1 },
      [],
    ],
    [
      "are all watchers if it is primary and has one more than there are mirror daemons",
      watched([DAEMON, THEIRS], "primary"),
      { mirrorDaemons: 1 },
      [DAEMON, THEIRS],
    ],
    [
      "are none if it is primary and only a mirror daemon and the caller have it open",
      watched([DAEMON, OURS], "primary"),
      { mirrorDaemons: 1, own: [{ watcherId: "client.4123", addresses: [] }] },
      [],
    ],
    [
      "are all watchers if it is not mirrored, whatever the number of mirror daemons",
      watched([DAEMON]),
      { mirrorDaemons: 1 },
      [DAEMON],
    ],
  ] as const) {
    test(`The other watchers of an image ${what}`, () =>
      expect(otherWatchers(image, { mirrorDaemons: 0, ...options })).toEqual([...expected]));
  }
});

describe("the proof that an image is unused", () => {
  const pool: PoolRef = { access: memoryAccess, pool: "rbd", namespace: "" };
  const prove = (image: Pick<ImageStatus, "watchers" | "mirror">) =>
    Effect.runPromise(Effect.flip(proveUnused(pool, "csi-vol-1", image as ImageStatus, { mirrorDaemons: 0 })));

  test("The proof that an image is unused names the addresses of its users, and what to do", async () => {
    const failure = await prove(watched([THEIRS]));
    expect(failure).toMatchObject({ _tag: "Busy", watchers: [THEIRS] });
    expect(failure.message).toStartWith(`image rbd/csi-vol-1 is in use by ${THEIRS}. End that use`);
    expect(failure.message).toContain("ceph osd blocklist add ADDRESS 157784760");
  });

  test("The proof that an image is unused fails for a mirror's secondary image as mapping does, whoever has it open", async () => {
    const failure = await prove(watched([THEIRS], "non-primary"));
    const mapping = await Effect.runPromise(Effect.flip(provePrimary(pool, "csi-vol-1", { mirror: "non-primary" })));
    expect([failure._tag, failure.message]).toEqual(["Precondition", mapping.message]);
    expect(failure.message).toContain("Promote this image only if");
  });
});
