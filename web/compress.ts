// Writes each file of the page in compressed forms beside it, and holds the page's size to its limit.

import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import type { Plugin } from "vite";

/** Max bytes of the whole page, all its files in gzip: the form that every browser accepts. */
const MAX_PAGE = 300_000;
/** Smaller files stay as they are: compression saves no packet. */
const MIN_FILE = 600;

function files(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? files(path) : [path];
  });
}

export function compress(): Plugin {
  let folder = "";
  return {
    name: "tailrace-compress",
    apply: "build",
    configResolved(config) {
      folder = config.build.outDir;
    },
    closeBundle() {
      let total = 0;
      for (const path of files(folder)) {
        const data = readFileSync(path);
        if (data.length < MIN_FILE) {
          total += data.length;
          continue;
        }
        const gzip = gzipSync(data, { level: 9 });
        writeFileSync(`${path}.gz`, gzip);
        writeFileSync(`${path}.br`, brotliCompressSync(data, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }));
        total += gzip.length;
      }
      if (total > MAX_PAGE) throw new Error(`the page has ${total} bytes in gzip, and may have ${MAX_PAGE}`);
    },
  };
}
