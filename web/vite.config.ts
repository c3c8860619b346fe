import { defineConfig } from "vite";
import { compress } from "./compress";

// All addresses are relative, so that the page works behind a path prefix. Nothing is inlined: the page's content
// security policy lets no inline code in.
export default defineConfig({
  base: "./",
  plugins: [compress()],
  build: {
    target: "es2022",
    assetsDir: "page",
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    modulePreload: { polyfill: false },
    emptyOutDir: true,
    reportCompressedSize: false,
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
});
