/** Which error each errno of librados and librbd becomes (lib/ceph/live/errno.ts), and what it says of the outcome. */
import { describe, expect, test } from "bun:test";
import { constants } from "node:os";
import { CellDown, CellErrno, type CellError, CellStuck } from "../../../lib/cells/errors.ts";
import { type CallContext, endsConnection, toCephError } from "../../../lib/ceph/live/errno.ts";
import { outcomeOf } from "../../../lib/operations/outcomes.ts";

const { errno: E } = constants;
const EBLOCKLISTED = 108;
const EUCLEAN = 117;

const context = (changes: boolean): CallContext => ({
  subject: "rbd/image",
  changes,
  user: "admin",
  pool: "rbd",
  namespace: "ns",
  dataPool: "data",
  sourcePool: "source",
  snapshot: "rbd/parent@snap",
  start: "rbd/parent@start",
  member: "other/member",
  memberPool: "other",
});
const failed = (op: string, errno: number, message = "", midway = false): CellError =>
  new CellErrno({ op, errno, message, midway });
const read = (error: CellError) => toCephError(error, context(false));
const write = (error: CellError) => toCephError(error, context(true));

/** Errnos that say that nothing happened: the function that answers, the errno, the error, and what it is about. */
const EXPLAINED: readonly (readonly [op: string, errno: number, tag: string, subject?: string])[] = [
  ["rbd_open", E.ENOENT, "ImageNotFound"],
  ["rbd_trash_move", E.ENOENT, "ImageNotFound"],
  ["rbd_open of the member", E.ENOENT, "ImageNotFound", "other/member"],
  ["rbd_open of a parent", E.ENOENT, "ParentLost"],
  ["rbd_open of a parent of the source", E.ENOENT, "ParentLost", "rbd/parent@snap"],
  ["rbd_snap_set", E.ENOENT, "ImageSnapshotNotFound", "rbd/parent@snap"],
  ["rbd_snap_set of the start", E.ENOENT, "ImageSnapshotNotFound", "rbd/parent@start"],
  ["rbd_group_open", E.ENOENT, "ObjectNotFound"],
  ["rados_write_op_operate", E.ENOENT, "ObjectNotFound"],
  ["rados_ioctx_create", E.ENOENT, "PoolNotFound", "rbd"],
  ["rados_ioctx_create of the source", E.ENOENT, "PoolNotFound", "source"],
  ["rados_ioctx_create of the member", E.ENOENT, "PoolNotFound", "other"],
  ["rados_pool_lookup", E.ENOENT, "PoolNotFound", "data"],
  ["rados_pool_reverse_lookup", E.ENOENT, "PoolNotFound", "rbd"],
  ["rbd_namespace_exists", E.ENOENT, "PoolNotFound", 'rbd/ns (a namespace: "rbd namespace create" makes one)'],
  ["rados_write_op_operate", E.ECANCELED, "Raced"],
  ["rbd_create", E.EEXIST, "Exists"],
  ["rbd_trash_remove", E.EBUSY, "Busy"],
  ["rbd_trash_remove", E.EMLINK, "Busy"],
  ["rbd_group_image_add", E.EBUSY, "Busy", "other/member"],
  ["rbd_trash_remove", E.ENOTEMPTY, "HasSnapshots"],
  ["rbd_create", E.ENOSPC, "NoSpace"],
  ["rbd_create", E.EDQUOT, "NoSpace"],
  ["rbd_create", E.EINVAL, "InvalidCall"],
  ["rbd_create", E.ERANGE, "InvalidCall"],
  ["rbd_create", E.EDOM, "InvalidCall"],
  ["rbd_create", E.ENOSYS, "InvalidCall"],
  ["rbd_create", E.EOPNOTSUPP, "InvalidCall"],
  ["rbd_create", E.E2BIG, "InvalidCall"],
  ["rbd_create", E.ENAMETOOLONG, "InvalidCall"],
  ["rbd_create", E.EACCES, "AccessDenied"],
  ["rbd_create", E.EPERM, "AccessDenied"],
  ["rbd_snap_create", E.EROFS, "CephFailed"],
  ["rbd_trash_remove", EUCLEAN, "CephFailed"],
  ["rados_mgr_command", E.EINVAL, "ManagerUnavailable"],
  ["rados_mgr_command", E.ENOENT, "ManagerUnavailable"],
];

describe("errnos that say that nothing happened", () => {
  test.each(EXPLAINED)(
    "A failure of %s with errno %d is %s, both of a read and of a change",
    (op, errno, tag, subject = "rbd/image") => {
      for (const error of [read(failed(op, errno)), write(failed(op, errno))]) {
        expect(error).toMatchObject({ _tag: tag, op, subject });
        if (tag !== "Raced") expect(outcomeOf(error)).toBe("none");
      }
    },
  );

  test.each(EXPLAINED)(
    "A failure of %s with errno %d leaves the outcome unknown after the call has changed something",
    (op, errno) => {
      const error = write(failed(op, errno, "", true));
      expect([error._tag, outcomeOf(error)]).toEqual(["CephUnexplained", "unknown"]);
      expect(read(failed(op, errno, "", true))).toEqual(read(failed(op, errno)));
    },
  );
});

test("An image in an RBD group is told from one that somebody has open, because rbd status shows nobody", () => {
  for (const [op, errno] of [
    ["rbd_trash_move", E.EMLINK],
    ["rbd_trash_remove", E.EMLINK],
    ["rbd_group_image_add", E.EBUSY],
  ] as const) {
    const { message } = write(failed(op, errno));
    expect(message).toContain('"rbd info"');
    expect(message).toContain('"rbd group image remove"');
    expect(message).not.toContain("rbd status");
  }
  expect(write(failed("rbd_trash_remove", E.EBUSY)).message).toContain("rbd status");
});

describe("errnos that explain nothing", () => {
  const known = (op: string) => EXPLAINED.flatMap(([each, errno]) => (each === op ? [errno] : []));
  const everywhere = EXPLAINED.filter(([op]) => op === "rbd_create").map(([, errno]) => errno);
  const rest = Object.values(E).filter(
    (errno) => ![...everywhere, E.EBUSY, E.EMLINK, E.ENOTEMPTY, E.EROFS, E.ETIMEDOUT].includes(errno),
  );
  const functions = ["rbd_create", "rbd_clone", "rbd_trash_remove", "rados_write_op_operate", "rbd_group_image_add"];

  for (const op of functions) {
    test(`An unexplained errno of ${op} leaves the outcome unknown, whatever its number`, () => {
      for (const errno of [0, EBLOCKLISTED, ...rest, 4095]) {
        if (known(op).includes(errno)) continue;
        const error = write(failed(op, errno, "as it says"));
        expect([errno, error._tag, outcomeOf(error)]).toEqual([errno, "CephUnexplained", "unknown"]);
      }
    });
  }

  test("An unexplained errno of a call that reads means that nothing changed", () => {
    for (const errno of [0, EBLOCKLISTED, ...rest, 4095]) {
      const error = read(failed("rados_read_op_operate", errno, "as it says"));
      expect([errno, error._tag, outcomeOf(error)]).toEqual([errno, "CephFailed", "none"]);
    }
  });

  test("An unexplained errno of a step before the change means that nothing changed", () => {
    for (const op of ["rados_ioctx_create", "rados_ioctx_create of the source", "rados_pool_lookup", "rbd_open"]) {
      for (const errno of [E.EIO, E.ENOTCONN, EBLOCKLISTED]) {
        expect(write(failed(op, errno))._tag).toBe("CephFailed");
        expect(write(failed(op, errno, "", true))._tag).toBe("CephUnexplained");
      }
    }
  });

  test("An unexplained errno of a look-up that should explain a change leaves the change's outcome unknown", () => {
    expect(write(failed("rados_exec get_id", E.EIO))._tag).toBe("CephUnexplained");
  });

  test("An unexplained errno is in the message, with the words of the function that failed", () => {
    expect(write(failed("rbd_create", 0, "a bug in a cell")).message).toContain("a bug in a cell");
    expect(write(failed("rbd_create", E.EIO)).message).toContain("EIO (5)");
    expect(read(failed("rbd_stat", E.ENOENT)).message).toContain("it is unknown what rbd_stat means by it");
    expect(write(failed("rbd_create", EBLOCKLISTED)).message).toContain("blocklist");
    expect(write(failed("rbd_metadata_set", E.EINVAL, "", true)).message).toContain("may have taken effect");
  });
});

test("A refusal for lack of space names the pool, and the data pool where the call writes data", () => {
  expect(write(failed("rbd_create", E.EDQUOT)).message).toStartWith("pool rbd is full, or its quota is used up");
  expect(write(failed("rbd_flatten", E.ENOSPC)).message).toStartWith(
    "pool rbd, or the data pool of the image, is full",
  );
});

test("An image that stays when it is moved to the trash is not taken for one that is absent", () => {
  expect(write(failed("rbd_trash_move of an image that is there", E.ENOENT))._tag).toBe("CephUnexplained");
});

test("A call that Ceph did not answer in time is TimedOut, at every step of the call", () => {
  for (const midway of [false, true]) {
    const error = write(failed("rbd_create", E.ETIMEDOUT, "", midway));
    expect([error._tag, outcomeOf(error)]).toEqual(["TimedOut", "unknown"]);
  }
});

test("The manager's words say what it did not find", () => {
  const of = (words: string) => read(failed("rados_mgr_command", E.ENOENT, words))._tag;
  expect(of("error getting image from trash")).toBe("ImageNotFound");
  expect(of("Image rbd/x does not exist")).toBe("ImageNotFound");
  expect(of("error opening pool 'x'")).toBe("PoolNotFound");
  expect(of("no such module")).toBe("ManagerUnavailable");
});

describe("worker failures", () => {
  test("A worker that ended during a call leaves the outcome of a change unknown, and a read without effect", () => {
    const down = new CellDown({ op: "imageCreate", reason: "its thread closed", ran: true });
    expect([write(down)._tag, outcomeOf(write(down))]).toEqual(["CephUnexplained", "unknown"]);
    expect([read(down)._tag, outcomeOf(read(down))]).toEqual(["CephFailed", "none"]);
    expect(write(down).message).toContain("its thread closed");
  });

  test("A call that no worker took, and a call that does not return, are CallStuck", () => {
    for (const error of [
      new CellDown({ op: "imageCreate", reason: "all are stuck", ran: false }),
      new CellStuck({ op: "imageCreate", subject: "rbd/image", seconds: 100, advice: "Look." }),
    ]) {
      expect([write(error)._tag, read(error)._tag, outcomeOf(write(error))]).toEqual([
        "CallStuck",
        "CallStuck",
        "unknown",
      ]);
    }
  });
});

test("A blocked or closed connection ends with the call, whatever the call was", () => {
  for (const errno of [EBLOCKLISTED, E.ENOTCONN]) {
    expect(endsConnection(write(failed("rbd_create", errno)))).toBe(true);
    expect(endsConnection(read(failed("rbd_stat", errno)))).toBe(true);
  }
  expect(endsConnection(write(failed("rbd_create", E.EIO)))).toBe(false);
  expect(endsConnection(read(failed("rbd_stat", E.EIO)))).toBe(false);
});
