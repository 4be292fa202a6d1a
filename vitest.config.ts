import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { LongestFirst } from "./test/support/sequencer.ts";

const conditions = ["throughline-source"];
const exclude = ["**/node_modules/**", "**/dist/**"];
const latestLangGraph = fileURLToPath(
  new URL("infra/langgraph-latest/node_modules/@langchain/langgraph/dist", import.meta.url),
);

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    globalSetup: ["test/support/global-setup.ts"],
    // For what hangs, on whatever machine: more than test/support/until.ts waits for one thing.
    testTimeout: 180_000,
    hookTimeout: 180_000,
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        extends: true,
        test: {
          name: "all",
          include: [
            "packages/*/src/**/*.test.{ts,tsx}",
            "apps/*/src/**/*.test.ts",
            "examples/src/**/*.test.ts",
            "infra/**/*.test.ts",
            "test/**/*.test.ts",
          ],
          exclude,
        },
      },
      {
        extends: true,
        // What is tested with the LangGraph that is pinned here holds with the newest as well.
        resolve: {
          alias: [
            { find: /^@langchain\/langgraph$/, replacement: `${latestLangGraph}/index.js` },
            {
              find: /^@langchain\/langgraph\/prebuilt$/,
              replacement: `${latestLangGraph}/prebuilt/index.js`,
            },
          ],
        },
        test: {
          name: "langgraph-latest",
          include: ["packages/worker/src/langgraph/*.test.ts"],
          // The matrix is there with packages of its own: infra/langgraph-latest.
          exclude: [...exclude, "**/matrix.test.ts"],
        },
      },
    ],
  },
});
