/**
 * Where a list goes on: a position in the order of clusterIDs, pool ids and request names, as an opaque text.
 *
 * A position names what was listed last, not how much was: what comes or goes between two pages moves nothing else, and
 * the position stays right when the volume that it names is gone. With a name of external-provisioner's and a clusterID
 * of 36 bytes a token keeps within CSI's 128 bytes.
 *
 * 1. What is no token of ours, of this form and for this kind of list, is refused; nothing in it is believed but its
 *    place in an order.
 */
import * as Result from "effect/Result";
import * as z from "zod";
import { InvalidToken } from "../csi/errors.ts";

export type ListKind = "volumes" | "snapshots";

export interface Position {
  readonly clusterId: string;
  readonly poolId: bigint;
  /** All names up to this one, in byte order, are listed. */
  readonly requestName: string;
}

/** Of the form; a token of another is not understood any more. */
const FORM: Readonly<Record<ListKind, string>> = { volumes: "v1", snapshots: "s1" };
const MAX_TOKEN = 1024;

const parts = z.tuple([z.string().min(1), z.string().regex(/^\d{1,19}$/), z.string().min(1)]);

export const encodeToken = (kind: ListKind, { clusterId, poolId, requestName }: Position): string =>
  FORM[kind] + Buffer.from(JSON.stringify([clusterId, poolId.toString(), requestName])).toString("base64url");

/** "" is the beginning. */
export const parseToken = (kind: ListKind, token: string): Result.Result<Position | undefined, InvalidToken> => {
  if (token === "") return Result.succeed(undefined);
  const refused = Result.fail(
    new InvalidToken({ message: `starting_token is none of this driver's for a list of ${kind}: list from the start` }),
  );
  if (token.length > MAX_TOKEN || !token.startsWith(FORM[kind])) return refused;
  const parsed = parts.safeParse(jsonIn(token.slice(FORM[kind].length)));
  if (!parsed.success) return refused;
  const [clusterId, pool, requestName] = parsed.data;
  const position = { clusterId, poolId: BigInt(pool), requestName };
  // Only one text stands for a position: whatever else decodes to it was not written here.
  return encodeToken(kind, position) === token ? Result.succeed(position) : refused;
};

const jsonIn = (text: string): unknown => {
  try {
    return JSON.parse(Buffer.from(text, "base64url").toString("utf8"));
  } catch {
    return undefined;
  }
};
