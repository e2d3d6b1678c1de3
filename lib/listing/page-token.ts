/**
 * The token that says where a list goes on: a position in the order of clusterIDs, pool ids and request names, as an
 * opaque text. Pure.
 *
 * A position names what was listed last and not how much was listed. So what comes or goes between two pages moves
 * nothing else, and the position stays right when the volume that it names is gone. With a name that external-provisioner
 * gives and a clusterID of 36 bytes a token keeps within CSI's 128 bytes.
 *
 * 1. A token that is not of this form and for this kind of list is refused; nothing in a token is trusted but its place
 *    in the order.
 */
import * as Result from "effect/Result";
import * as z from "zod";
import { InvalidToken } from "../csi/errors.ts";
import { jsonOf } from "../text/json.ts";

export type ListKind = "volumes" | "snapshots" | "volume health";

export interface Position {
  readonly clusterId: string;
  readonly poolId: bigint;
  /** All names up to this one, in byte order, are listed. */
  readonly requestName: string;
}

/** Begins every token of the form below; a token that begins with another text is not understood. */
const FORM: Readonly<Record<ListKind, string>> = { volumes: "v1", snapshots: "s1", "volume health": "h1" };
const MAX_TOKEN = 1024;

const parts = z.tuple([z.string().min(1), z.string().regex(/^\d{1,19}$/), z.string().min(1)]);

export const encodeToken = (kind: ListKind, { clusterId, poolId, requestName }: Position): string =>
  FORM[kind] + Buffer.from(JSON.stringify([clusterId, poolId.toString(), requestName])).toString("base64url");

/** The position after which the list goes on; `undefined` for "", which is the beginning. */
export const parseToken = (kind: ListKind, token: string): Result.Result<Position | undefined, InvalidToken> => {
  if (token === "") return Result.succeed(undefined);
  const refused = Result.fail(
    new InvalidToken({
      message: `starting_token is not one of this driver for a list of ${kind}. List from the start`,
    }),
  );
  if (token.length > MAX_TOKEN || !token.startsWith(FORM[kind])) return refused;
  const parsed = parts.safeParse(jsonOf(Buffer.from(token.slice(FORM[kind].length), "base64url").toString("utf8")));
  if (!parsed.success) return refused;
  const [clusterId, pool, requestName] = parsed.data;
  const position = { clusterId, poolId: BigInt(pool), requestName };
  // A position has exactly one text: another text that decodes to it was not written here.
  return encodeToken(kind, position) === token ? Result.succeed(position) : refused;
};
