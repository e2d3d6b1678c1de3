/**
 * What a node's labels mean to the driver: its topology (`--domainlabels`) and its place in the CRUSH map
 * (`--crush-location-labels`).
 *
 * 1. A label that a flag names and the node lacks is an error at the start, not a volume in the wrong place later.
 */
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import * as z from "zod";
import { getObject, type KubeAccess, KubeFailed } from "./client.ts";

export class NodeLabelWrong extends Data.TaggedError("NodeLabelWrong")<{ readonly message: string }> {}

export type Labels = Readonly<Record<string, string>>;

const nodeObject = z.object({ metadata: z.object({ labels: z.record(z.string(), z.string()).default({}) }) });

export const nodeLabels = (access: KubeAccess, node: string): Effect.Effect<Labels, KubeFailed> => {
  const path = `/api/v1/nodes/${encodeURIComponent(node)}`;
  return Effect.flatMap(getObject(access, path), (json) => {
    const parsed = nodeObject.safeParse(json);
    return parsed.success
      ? Effect.succeed(parsed.data.metadata.labels)
      : Effect.fail(new KubeFailed({ path, reason: "its answer is no Node" }));
  });
};

/** What follows the last part of a label's prefix: `zone` of `topology.kubernetes.io/zone`. */
const nameOf = (label: string): string => label.slice(label.indexOf("/") + 1);

const MAX_PREFIX = 63;

/** Segments `topology.<driver>/<name>` for each label that the flag names. */
export const topologySegments = (
  labels: Labels,
  domainLabels: readonly string[],
  driverName: string,
): Result.Result<Labels, NodeLabelWrong> => {
  const refuse = (message: string) => Result.fail(new NodeLabelWrong({ message }));
  const prefix = `topology.${driverName.toLowerCase()}`;
  if (prefix.length > MAX_PREFIX) {
    return refuse(`--drivername is too long for topology: ${prefix} has more than ${MAX_PREFIX} characters`);
  }
  const segments: Record<string, string> = {};
  for (const label of domainLabels) {
    const value = labels[label];
    const key = `${prefix}/${nameOf(label)}`;
    if (value === undefined) return refuse(`--domainlabels names ${label}, and this node has no such label`);
    if (Object.hasOwn(segments, key)) return refuse(`--domainlabels names two labels that end in ${nameOf(label)}`);
    segments[key] = value;
  }
  return Result.succeed(segments);
};

/** krbd's `crush_location`: `type:value` pairs, joined by `|`; "" when no label has a value. */
export const crushLocation = (labels: Labels, crushLabels: readonly string[]): string =>
  crushLabels
    .flatMap((label) => {
      const name = nameOf(label);
      const value = labels[label]?.trim().replaceAll(".", "-");
      return value ? [`${name === "hostname" ? "host" : name}:${value}`] : [];
    })
    .join("|");
