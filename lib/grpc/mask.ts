/**
 * A message as the log may show it.
 *
 * 1. What a field option marks as secret is never part of the result, at any depth; of a secret map the keys stay,
 *    since they are the names of the secrets.
 * 2. The option is read from the descriptor; there is no list of names, so a new contract needs no change here.
 * 3. Unknown fields are left out, because they could hold a secret.
 */
import { type DescField, type DescMessage, getOption, type Message } from "@bufbuild/protobuf";
import { isReflectMessage, type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { isWrapperDesc } from "@bufbuild/protobuf/wkt";
import { csi_secret } from "../gen/csi_pb.ts";

const HIDDEN = "***";

const secretFields = new WeakMap<DescField, boolean>();

const isSecret = (field: DescField): boolean => {
  let secret = secretFields.get(field);
  if (secret === undefined) {
    secret = getOption(field, csi_secret);
    secretFields.set(field, secret);
  }
  return secret;
};

/**
 * JSON-able: fields that are set, by their proto names; enums by name, 64-bit integers as text, bytes as a length,
 * wrappers as what they wrap.
 */
export const masked = (schema: DescMessage, message: Message): Record<string, unknown> =>
  maskedFields(reflect(schema, message));

const maskedFields = (message: ReflectMessage): Record<string, unknown> => {
  const shown: Record<string, unknown> = {};
  for (const field of message.fields) {
    if (message.isSet(field)) shown[field.name] = shownField(message, field);
  }
  return shown;
};

const shownField = (message: ReflectMessage, field: DescField): unknown => {
  const hidden = isSecret(field);
  switch (field.fieldKind) {
    case "map":
      return Object.fromEntries(
        [...message.get(field)].map(([key, value]) => [String(key), hidden ? HIDDEN : shownValue(field, value)]),
      );
    case "list":
      return hidden ? HIDDEN : Array.from(message.get(field), (value) => shownValue(field, value));
    default:
      return hidden ? HIDDEN : shownValue(field, message.get(field));
  }
};

const shownValue = (field: DescField, value: unknown): unknown => {
  if (isReflectMessage(value)) {
    // A wrapper only distinguishes "false" or 0 from "absent": show the wrapped value.
    const [wrapped] = isWrapperDesc(value.desc) ? value.fields : [];
    return wrapped === undefined ? maskedFields(value) : shownValue(wrapped, value.get(wrapped));
  }
  if (field.enum !== undefined && typeof value === "number") return field.enum.value[value]?.name ?? value;
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  return value;
};
