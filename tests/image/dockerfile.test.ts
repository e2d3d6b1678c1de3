/** The Dockerfile against the image that is built without an engine: one list, one script, one configuration. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "bun:test";
import { ENTRYPOINT, ENVIRONMENT, LABELS } from "../../container/build.ts";
import { codenames } from "../rig/roots.ts";
import { checkout } from "../rig/suite.ts";

const text = readFileSync(join(checkout, "container/Dockerfile"), "utf8");
/** Its instructions, each on one line. */
const lines = text
  .replaceAll("\\\n", "")
  .split("\n")
  .filter((line) => line !== "" && !line.startsWith("#"))
  .map((line) => line.replaceAll(/ +/g, " "));

test("the Dockerfile takes Debian's files from container/collect, the driver from dist, and adds nothing else", () => {
  expect(lines.filter((line) => /^(FROM|COPY|ADD|RUN|USER|ARG) /.test(line))).toEqual([
    `ARG DEBIAN=${codenames[18]}`,
    "FROM debian:${DEBIAN}-slim AS debian",
    "COPY container/content container/collect /container/",
    "RUN apt-get update && /container/collect /work",
    "FROM scratch",
    "COPY --from=debian /work/tree/ /",
    `COPY --chmod=755 dist/csi-rbd ${ENTRYPOINT}`,
  ]);
  expect(text).toContain(`--build-arg DEBIAN=${codenames[20]}`);
});

test("the Dockerfile's configuration is that of the image built without an engine", () => {
  const labels = Object.entries(LABELS).map(([name, value]) => `${name}="${value}"`);
  expect(lines.filter((line) => /^(ENV|LABEL|ENTRYPOINT|CMD) /.test(line))).toEqual([
    ...Object.entries(ENVIRONMENT).map(([name, value]) => `ENV ${name}=${value}`),
    `LABEL ${labels.join(" ")}`,
    `ENTRYPOINT ["${ENTRYPOINT}"]`,
  ]);
});
