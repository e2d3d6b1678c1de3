/**
 * Text that a person wrote, as it can be shown: on one line, without control characters. Pure.
 */

/** A value as it can be shown in a one-line message: quoted, escaped, cut. */
export const oneLine = (value: string, limit = 60): string =>
  JSON.stringify(value.length > limit ? `${value.slice(0, limit)}…` : value);

// oxlint-disable-next-line no-control-regex -- control characters are what it looks for
const CONTROL = /[\u0000-\u001f\u007f]/u;

/** Whether the text holds NUL or another control character: none can pass into a C string, a log line or a name. */
export const hasControl = (text: string): boolean => CONTROL.test(text);
