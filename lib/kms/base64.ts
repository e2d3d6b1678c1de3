/** Standard base64, read strictly: Buffer alone skips what it does not know. Pure. */
import * as z from "zod";

/** `undefined`: the text is not base64, or is empty. */
export const bytesOfBase64 = (text: string): Buffer | undefined =>
  text !== "" && z.base64().safeParse(text).success ? Buffer.from(text, "base64") : undefined;
