import { defineConfig } from "vitest/config";

const conditions = ["throughline-source"];

/** Run in the copy that workspace.ts makes; its Redis is there already. */
export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    include: (process.env.MUTATE_TESTS ?? "").split(","),
    exclude: ["**/node_modules/**", "**/dist/**"],
    testTimeout: 15_000,
    hookTimeout: 15_000,
    maxWorkers: 2,
  },
});
