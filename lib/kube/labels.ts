/**
 * Reads the labels of a node: its topology (`--domainlabels`), and its place in the CRUSH map
 * (`--crush-location-labels`).
 *
 * 1. If the node lacks a label of `--domainlabels`, the driver does not start. Otherwise its volumes would be placed
 *    where it cannot reach them.
 */
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import * as z from "zod";
import { topologyPrefix } from "../csi/topology-prefix.ts";
import { KubeFailed } from "./errors.ts";
import type { KubeService } from "./kube.ts";

export class NodeLabelWrong extends Data.TaggedError("NodeLabelWrong")<{ readonly message: string }> {}

export type Labels = Readonly<Record<string, string>>;

const nodeObject = z.object({ metadata: z.object({ labels: z.record(z.string(), z.string()).default({}) }) });

export const nodeLabels = ({ get }: KubeService, node: string): Effect.Effect<Labels, KubeFailed> => {
  const path = `/api/v1/nodes/${encodeURIComponent(node)}`;
  return Effect.flatMap(get(path), (json) => {
    const parsed = nodeObject.safeParse(json);
    return parsed.success
      ? Effect.succeed(parsed.data.metadata.labels)
      : Effect.fail(new KubeFailed({ verb: "get", path, reason: "the answer is not a Node" }));
  });
};

/** A label's name without its prefix: `zone` of `topology.kubernetes.io/zone`. */
const nameOf = (label: string): string => label.slice(label.indexOf("/") + 1);

/** Kubernetes' limit for the prefix of a label. */
const MAX_PREFIX = 63;

/** A segment `topology.<driver name>/<label name>` for each label that the flag names. */
export const topologySegments = (
  labels: Labels,
  domainLabels: readonly string[],
  driverName: string,
): Result.Result<Labels, NodeLabelWrong> => {
  const refuse = (message: string) => Result.fail(new NodeLabelWrong({ message }));
  const prefix = topologyPrefix(driverName);
  if (prefix.length > MAX_PREFIX) {
    return refuse(
      `--drivername is too long for --domainlabels: ${prefix} has more than ${MAX_PREFIX} characters. Use a shorter name`,
    );
  }
  const segments: Record<string, string> = {};
  for (const label of domainLabels) {
    const value = labels[label];
    const key = `${prefix}/${nameOf(label)}`;
    if (value === undefined)
      return refuse(
        `--domainlabels names the label ${label}, which this node does not have. Label the node, or correct the flag`,
      );
    if (Object.hasOwn(segments, key))
      return refuse(`--domainlabels names two labels that end in ${nameOf(label)}. Leave one of them out`);
    segments[key] = value;
  }
  return Result.succeed(segments);
};

/** krbd's option `crush_location`: pairs `type:value`, joined by `|`; "" if no label has a value. */
export const crushLocation = (labels: Labels, crushLabels: readonly string[]): string =>
  crushLabels
    .flatMap((label) => {
      const name = nameOf(label);
      const value = labels[label]?.trim().replaceAll(".", "-");
      return value ? [`${name === "hostname" ? "host" : name}:${value}`] : [];
    })
    .join("|");
