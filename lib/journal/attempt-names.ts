/**
 * Names of what one driver makes and another may make anew while the first is still at it: the RBD group of a group
 * snapshot, and the images of its members. The journal has the name of the latest attempt, `<prefix><uuid>` for the first,
 * `<prefix>try1.<uuid>` for the second. The UUID stays at the end, where ceph-csi looks for it.
 *
 * Not here: the writes that replace a name (./group-snapshots.ts, ./journal.ts).
 *
 * 1. An attempt takes over from the one before by a compare-and-set of the name. Whoever was overtaken can no longer record
 *    what it made as complete, and whatever it still makes or removes is not the new attempt's.
 * 2. Whoever takes over first removes what is left of the attempt before, then replaces the name, then removes what the
 *    latest has made. A driver that was overtaken and lives removes what it still makes; what one makes that then dies is
 *    found by its name.
 */

interface Attempt {
  readonly prefix: string;
  /** 0: the first. */
  readonly number: number;
  readonly isGivenUp: boolean;
}

/** An attempt is overtaken only where a driver died in it, or is too slow. */
const MOST_EARLIER = 32;

const HEAD = /^(.*?)(?:(try|undo)(\d{1,9})\.)?$/s;

const attemptIn = (name: string, uuid: string): Attempt => {
  const head = name.endsWith(uuid) ? name.slice(0, -uuid.length) : name;
  const [, prefix = "", word, number = "0"] = HEAD.exec(head) ?? [];
  return { prefix, number: Number(number), isGivenUp: word === "undo" };
};

const nameOf = ({ prefix, number }: Attempt, uuid: string): string =>
  number === 0 ? prefix + uuid : `${prefix}try${number}.${uuid}`;

/** The name of the attempt after that one. */
export const nextName = (name: string, uuid: string): string => {
  const attempt = attemptIn(name, uuid);
  return nameOf({ ...attempt, number: attempt.number + 1 }, uuid);
};

/** The name of the attempt before that one, of which there may be something left; none before the first. */
export const previousNames = (name: string, uuid: string): readonly string[] => {
  const attempt = attemptIn(name, uuid);
  return attempt.number === 0 ? [] : [nameOf({ ...attempt, number: attempt.number - 1 }, uuid)];
};

/**
 * The names of all attempts before that one, the latest first: an overtaken driver may have made something late, and died.
 * For removals at the end, of what nobody needs by then.
 */
export const earlierNames = (name: string, uuid: string): readonly string[] => {
  const attempt = attemptIn(name, uuid);
  return Array.from({ length: Math.min(attempt.number, MOST_EARLIER) }, (_, at) =>
    nameOf({ ...attempt, number: attempt.number - 1 - at }, uuid),
  );
};

/** Whether an attempt of the latter name took over from one of the former. */
export const isOvertaken = (name: string, latest: string, uuid: string): boolean => {
  const [attempt, last] = [attemptIn(name, uuid), attemptIn(latest, uuid)];
  return name.endsWith(uuid) && attempt.prefix === last.prefix && attempt.number < last.number;
};

/** What the journal has instead once the attempt is given up: nothing is to be made under this UUID any more. */
export const givenUpName = (name: string, uuid: string): string => {
  const { prefix, number } = attemptIn(name, uuid);
  return `${prefix}undo${number}.${uuid}`;
};

export const isGivenUp = (name: string, uuid: string): boolean => attemptIn(name, uuid).isGivenUp;

/** The name of what the attempt made, also once it is given up. */
export const ownName = (name: string, uuid: string): string => nameOf(attemptIn(name, uuid), uuid);

/** What stands before the UUID, and before the number of the attempt. */
export const prefixOf = (name: string, uuid: string): string => attemptIn(name, uuid).prefix;
