import { defineConfig } from "vitest/config";

// What needs a browser is tested in one: tests/browser.
export default defineConfig({ test: { include: ["src/**/*.test.ts"], globals: false } });
