/**
 * Secrets as the API has them: where one is, and the texts that it holds.
 *
 * 1. What is read here is secret: it reaches no message.
 */
import * as z from "zod";

export const aSecret = { kind: "a Secret", schema: z.object({ data: z.record(z.string(), z.string()).default({}) }) };

export const secretPath = (namespace: string, name: string): string =>
  `/api/v1/namespaces/${encodeURIComponent(namespace)}/secrets/${encodeURIComponent(name)}`;

/** The values, of which the API has the base64 of their UTF-8. */
export const secretTexts = (data: Readonly<Record<string, string>>): Readonly<Record<string, string>> =>
  Object.fromEntries(Object.entries(data).map(([key, value]) => [key, Buffer.from(value, "base64").toString("utf8")]));
