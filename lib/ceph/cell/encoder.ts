/**
 * Encodes what the driver writes in Ceph's encoding: little-endian numbers, and texts and bytes with their length (32
 * bits) before them.
 */
export type Field =
  | { readonly u8: number }
  | { readonly u32: number }
  | { readonly u64: bigint }
  | { readonly i64: bigint }
  | { readonly text: string }
  | { readonly bytes: Uint8Array }
  | { readonly version: number; readonly of: readonly Field[] };

export const encode = (...fields: readonly Field[]): Uint8Array => Buffer.concat(fields.map(bytesOf));

const bytesOf = (field: Field): Buffer => {
  if ("u8" in field) return Buffer.from([field.u8]);
  if ("u32" in field) return lengthOf(field.u32);
  if ("text" in field) return withLength(Buffer.from(field.text));
  if ("bytes" in field) return withLength(Buffer.from(field.bytes));
  if ("version" in field) {
    // version 1 of every structure here can be read by readers of version 1
    return Buffer.concat([Buffer.from([field.version, 1]), withLength(Buffer.from(encode(...field.of)))]);
  }
  const number = Buffer.alloc(8);
  if ("u64" in field) number.writeBigUInt64LE(field.u64);
  else number.writeBigInt64LE(field.i64);
  return number;
};

const withLength = (bytes: Buffer): Buffer => Buffer.concat([lengthOf(bytes.length), bytes]);

const lengthOf = (count: number): Buffer => {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(count);
  return length;
};
