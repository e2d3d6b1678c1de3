/** A timestamp of protobuf as the journal writes times. */
export const journalTime = ({ seconds, nanos }: { readonly seconds: bigint; readonly nanos: number }): string =>
  new Date(Number(seconds) * 1000 + Math.round(nanos / 1e6)).toISOString();
