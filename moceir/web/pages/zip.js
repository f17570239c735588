// A ZIP file of files that are compressed already: they are stored as they are.

const LIMIT = 2 ** 32 - 1; // larger ones need ZIP64

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

async function crc32(blob) {
  let crc = 0xffffffff;
  for (const byte of new Uint8Array(await blob.arrayBuffer())) {
    crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

// Little-endian numbers, given as [bytes, value, bytes, value, ...].
function numbers(...pairs) {
  const bytes = [];
  for (let i = 0; i < pairs.length; i += 2) {
    for (let n = 0; n < pairs[i]; n++) bytes.push(Math.floor(pairs[i + 1] / 256 ** n) % 256);
  }
  return Uint8Array.from(bytes);
}

// files: [{name, blob}], with names that differ.
export async function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, blob } of files) {
    const bytes = new TextEncoder().encode(name);
    const size = blob.size;
    // Version 2.0, UTF-8 names, stored; the date is 1 January 1980, the earliest there is.
    const common = numbers(2, 20, 2, 0x800, 2, 0, 2, 0, 2, 0x21, 4, await crc32(blob), 4, size, 4, size, 2, bytes.length, 2, 0);
    parts.push(numbers(4, 0x04034b50), common, bytes, blob);
    directory.push(numbers(4, 0x02014b50, 2, 20), common, numbers(2, 0, 2, 0, 2, 0, 4, 0, 4, offset), bytes);
    offset += 30 + bytes.length + size;
    if (offset > LIMIT) throw new Error("the ZIP file would exceed 4 GB: save the images one by one");
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const count = files.length;
  const end = numbers(4, 0x06054b50, 2, 0, 2, 0, 2, count, 2, count, 4, size, 4, offset, 2, 0);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
