/** What is mutated, and the tests that are to notice. */
export interface Target {
  /** Folder or file, from the root. */
  of: string;
  tests: string[];
}

/** Left out: what needs a Cluster, which only test/e2e/cluster.test.ts starts. */
export const unmutated = /sharded-channels\.ts$|\/cluster\.ts$|\/index\.ts$|\.d\.ts$|\.test\.ts$/;

const runLog = [
  "test/conformance/run-log.test.ts",
  "packages/runlog/src/incarnation.test.ts",
  "packages/runlog/src/run-writer.test.ts",
];
const dispatch = ["packages/dispatch/src/**/*.test.ts"];

export const typescript: Target[] = [
  { of: "packages/runlog/src", tests: [...runLog, "packages/runlog/src/**/*.test.ts"] },
  { of: "packages/protocol/src/fold.ts", tests: ["packages/protocol/src/fold.test.ts"] },
  { of: "packages/dispatch/src", tests: dispatch },
];

export const lua: Target[] = [
  { of: "packages/runlog/lua", tests: runLog },
  { of: "packages/dispatch/lua", tests: dispatch },
  { of: "packages/checkpoint/lua", tests: ["packages/checkpoint/src/**/*.test.ts"] },
];
